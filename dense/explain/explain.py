"""One call for all methods that say which part of an image the answer of a network rests on.

:func:`explain` takes any module that maps images (B, C, H, W) to logits, and gives a map (B, 1, H, W).
A method is a function of a :class:`Subject` and a layer, registered by name::

    @register_method("occlusion")
    def occlusion(subject: Subject, layer: str | None, *, window: int = 8) -> Tensor:
        ...  # (B, 1, h, w)

It runs within :func:`undisturbed`: the network evaluates, its parameters take no gradient, nothing works in
place; hooks may be set without taking them off. Whatever happens, the network comes back as it was.
:meth:`Subject.gradients` gives activations and gradients at layers; ``rules`` exchange the backward pass of
operations (see :class:`BackwardRules`): guided backpropagation, excitation backpropagation and layer-wise
relevance propagation are made so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pointsuite.engine.errors import nearest

from .maps import combine_maps, gaussian_blur, normalize_map, resize_map, to_map

Layers = str | Sequence[str] | Mapping[str, float] | None
Target = int | Sequence[int] | Tensor | None
Method = Callable[..., Tensor]
METHODS: dict[str, Method] = {}
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class UnfitNetworkError(ValueError):
    """A method that cannot explain a network, whatever the image and the class."""


def register_method(name: str, *, own_layer: bool = False) -> Callable[[Method], Method]:
    """Decorator: a method of :func:`explain`, as ``method(subject, layer, **options)`` to (B, 1, h, w).

    Args:
        own_layer: it is meant for the layer that it takes by itself, as the image, not for one that suits
            other methods.
    """

    def register(method: Method) -> Method:
        if name in METHODS:
            raise KeyError(f"the method {name!r} is registered twice")
        METHODS[name] = method
        method.own_layer = own_layer
        return method

    return register


def find_method(name: str) -> Method:
    """The method of a name.

    Raises:
        ValueError: there is none; the message says which are near.
    """
    if name not in METHODS:
        raise ValueError(
            f"method: found {name!r}, wanted one of {', '.join(sorted(METHODS))}{nearest(name, METHODS)}"
        )
    return METHODS[name]


def explain(
    network: nn.Module,
    image: Tensor,
    target: Target = None,
    method: str = "norm_grad",
    layer: Layers = None,
    *,
    resize: bool | tuple[int, int] = True,
    smooth: float = 0.0,
    combine: str = "sum",
    weights: str | Sequence[float] = "uniform",
    meta_lr: float | None = None,
    negate_loss: bool = False,
    normalize: bool = False,
    reference_quirks: bool = False,
    **options: Any,
) -> Tensor:
    """How much each place of images counts for the score of a class.

    Args:
        network: any module that maps images to logits (B, K) or maps of logits (B, K, h, w). It comes back as
            it was: weights, gradients, training and ``requires_grad`` flags, hooks.
        image: (B, C, H, W) floats, as the network takes them.
        target: a class for all images, or one for each; by default the one that the network answers.
        method: a name in :data:`METHODS`.
        layer: whose output counts, by its dotted name; "" is the image. By default that of the method. Of
            several, from early to late, maps are combined, see :func:`combine_maps`; a dict of names gives
            their weights.
        resize: bilinearly to the size of the image, to (width, height), or not at all (False).
        smooth: deviation of a Gaussian that smooths the map, as a share of its longer side; 0 is none.
        combine, weights: of the maps of several layers, see :func:`combine_maps`.
        meta_lr: explain the network after one step of gradient descent on the cross entropy of the target, of
            this rate and for each image by itself; None for the network as it is.
        negate_loss: ascend in that step.
        normalize: stretch each map to 0 ... 1; a constant one is 0.
        reference_quirks: as the first published scripts, at 224 x 224 pixels whatever the image, combined by
            the plain product, each stretched over the whole batch, where a constant map is NaN.
        **options: of the method.

    Returns:
        (B, 1, H, W) float, the larger the more; (B, 1, h, w) of the layer without ``resize``.

    Raises:
        ValueError: a method, layer or option that does not exist (the nearest names are given), a target out
            of range, an image of another shape or with NaN.
    """
    run = find_method(method)
    check_options(method, run, options)
    layers = (layer,) if layer is None or isinstance(layer, str) else tuple(layer)
    if isinstance(layer, Mapping):
        weights = list(layer.values())
    if not layers:
        raise ValueError("layer: found no name, wanted some")
    size = tuple(image.shape[2:]) if isinstance(resize, bool) else tuple(resize)[::-1]
    with undisturbed(network):
        whole = Subject(network, image, target)
        parts = [whole] if meta_lr is None else whole.adapt(meta_lr, negate_loss)
        found = []
        for part in parts:
            part.layers = tuple(name for name in layers if name is not None)
            maps = [run(part, name, **options).detach() for name in layers]
            if len(maps) > 1 and not reference_quirks:
                maps = [combine_maps(maps, size, combine, weights, layers)]
            found.append(maps)
    found = [torch.cat(maps) for maps in zip(*found, strict=True)]
    if reference_quirks:
        found = [resize_map(x, (224, 224)) for x in found]
        return torch.stack([(x - x.min()) / (x.max() - x.min()) for x in found]).prod(0)
    (found,) = found
    if resize is not False:
        found = resize_map(found, size)
    if smooth:
        found = gaussian_blur(found, smooth)
    return normalize_map(found) if normalize else found


def check_options(name: str, method: Method, options: Mapping[str, Any]) -> None:
    """Raises a ValueError that names an option which a method lacks; one with ``**`` takes all."""
    parameters = signature(method).parameters.values()
    if any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            has = f"; it has {', '.join(known)}" if known else "; it has none"
            raise ValueError(f"method {name!r} has no option {option!r}{nearest(option, known, has)}")


# --------------------------------------------------------------------------------------- leaving no traces


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """A network that evaluates, whose parameters take no gradient and whose layers do not work in place.

    Gradients are on. When it ends, by an exception or not, training, ``requires_grad`` and in-place flags are
    as they were, and hooks that were set meanwhile are gone.
    """
    modules, parameters = list(network.modules()), list(network.parameters())
    training = [module.training for module in modules]
    wanting = [parameter.requires_grad for parameter in parameters]
    in_place = [module for module in modules if getattr(module, "inplace", False) is True]
    hooks = [
        (table, dict(table))
        for module in modules
        for table in (getattr(module, name, None) for name in HOOKS)
        if table is not None
    ]
    try:
        network.eval()
        for parameter in parameters:
            parameter.requires_grad_(False)
        for module in in_place:
            module.inplace = False
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, flag in zip(modules, training, strict=True):
            module.training = flag
        for parameter, flag in zip(parameters, wanting, strict=True):
            parameter.requires_grad_(flag)
        for module in in_place:
            module.inplace = True
        for table, before in hooks:
            table.clear()
            table.update(before)


# -------------------------------------------------------------------------------------------------- layers


def find_layer(network: nn.Module, name: str) -> nn.Module:
    """The module of a dotted name.

    Raises:
        ValueError: there is none; the message says which are near.
    """
    modules = dict(network.named_modules())
    if name not in modules:
        outer = name
        while outer and outer not in modules:
            outer = outer.rpartition(".")[0]
        inner = [f"{outer}.{child}".lstrip(".") for child, _ in modules[outer].named_children()]
        hint = nearest(name, modules, f"; {outer or 'the network'} has {', '.join(inner[:12]) or 'no parts'}")
        raise ValueError(f"layer: found {name!r}, wanted a module of {type(network).__name__}{hint}")
    return modules[name]


class Taps:
    """Outputs, or inputs, of layers in the next forward pass, each followed by an identity.

    What goes on is a copy, so nothing that is done in place afterwards changes what was tapped. Before the
    first tapped layer no graph is recorded.

    Args:
        network: within :func:`undisturbed`, which takes the hooks off.
        layers: dotted names; "" stands for the network's own input and is tapped by :meth:`image`. A stage
            whose blocks are called one by one gives what the last of them does.
        inputs: tap what the layers take in place of what they give.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], inputs: bool = False):
        self.found: dict[str, Tensor] = {}
        self.handles = []
        for name in layers:
            module = find_layer(network, name)
            if name:
                self._watch(module, name, inputs)

    def _watch(self, module: nn.Module, name: str, inputs: bool) -> None:
        if isinstance(module, (nn.Sequential, nn.ModuleList)) and len(module):
            self._watch(module[0 if inputs else -1], name, inputs)  # where its layers are called one by one
        if inputs:
            self.handles.append(module.register_forward_pre_hook(lambda _, args: self._tap(name, args)))
        else:
            self.handles.append(module.register_forward_hook(lambda _, args, out: self._tap(name, out)))

    def image(self, image: Tensor) -> Tensor:
        """The input of the network, tapped as the layer ""."""
        return self._tap("", image)

    def remove(self) -> None:
        """Take the hooks off; what was found stays."""
        for handle in self.handles:
            handle.remove()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.found:
            raise ValueError(
                f"layer {name!r} was not called: where a norm is merged into it, name the layer of both"
            )
        return self.found[name]

    def _tap(self, name: str, value: Any) -> Any:
        if isinstance(value, (tuple, list)):  # as tokens with the size of their grid: the first counts
            places = [i for i, part in enumerate(value) if isinstance(part, Tensor)]
            if not places:
                raise ValueError(f"layer {name!r} gave no tensor but {type(value).__name__}")
            parts = list(value)
            parts[places[0]] = self._tap(name, parts[places[0]])
            return type(value)(parts) if type(value) in (tuple, list) else type(value)(*parts)
        if not isinstance(value, Tensor):
            raise ValueError(f"layer {name!r} gave no tensor but {type(value).__name__}")
        if not value.requires_grad:
            value = value.detach().requires_grad_()
        self.found[name] = value
        return value.clone()


# ----------------------------------------------------------------------------------------- backward pass


class BackwardRules(TorchFunctionMode):
    """Exchanges the backward pass of operations, wherever a network calls them: from layers or as functions.

    Args:
        rules: by function of PyTorch (``F.relu``, ``torch.conv2d``, ``Tensor.add``); a rule is called as
            ``rule(function, args, kwargs)`` in its place, and gives its output; mostly by a
            :class:`torch.autograd.Function`.
    """

    def __init__(self, rules: Mapping[Callable, Callable[..., Tensor]]):
        super().__init__()
        self.rules = rules

    def __torch_function__(self, func, types, args=(), kwargs=None):
        rule = self.rules.get(func)
        return func(*args, **(kwargs or {})) if rule is None else rule(func, args, kwargs or {})


class OwnBackward(torch.autograd.Function):
    """``run(x)`` whose gradient by x is ``pull(x, grad)``: ``OwnBackward.apply(x, run, pull)``."""

    @staticmethod
    def forward(ctx, x: Tensor, run: Callable[[Tensor], Tensor], pull: Callable[[Tensor, Tensor], Tensor]):
        ctx.save_for_backward(x)
        ctx.pull = pull
        return run(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return ctx.pull(*ctx.saved_tensors, grad), None, None


class Subject:
    """What a method explains: a network, images and the classes asked about.

    Attributes:
        network: within :func:`undisturbed`.
        image: (B, C, H, W) floats.
        target: (B,) int64.
        call: what maps images to the network's output; the network, or one with other weights.
        layers: those that are asked about: their gradients are taken at once.
    """

    def __init__(
        self, network: nn.Module, image: Tensor, target: Target = None, call: Callable | None = None
    ):
        self.network, self.call = network, call or network
        self.image = check_image(image)
        if target is None:
            with torch.no_grad():
                target = class_scores(self.logits(self.image)).argmax(1)
        self.target = as_target(target, len(image), image.device)
        self.layers: tuple[str, ...] = ()
        self._known: dict[Any, tuple[Any, dict[str, tuple[Tensor, Tensor]]]] = {}

    def logits(self, image: Tensor) -> Tensor:
        """The network's answer: (B, K) or (B, K, h, w).

        Raises:
            ValueError: it is another thing.
        """
        output = self.call(image)
        output = getattr(output, "logits", output)
        if isinstance(output, (tuple, list)) and len(output) == 1:
            output = output[0]
        if not isinstance(output, Tensor) or output.ndim not in (2, 4) or len(output) != len(image):
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"the network gave {found}, wanted logits (B, K) or (B, K, h, w)")
        return output

    def score(self, output: Tensor, start: str = "one_hot") -> Tensor:
        """The number whose gradient is taken: logits of the targets, summed over positions and images.

        With ``start`` "pointing" the gradient of a map of logits starts as the softmax over positions of the
        target's logits, which draws it to where the class is.

        Raises:
            ValueError: a target is out of range.
        """
        if start not in ("one_hot", "pointing"):
            raise ValueError(f"start: found {start!r}, wanted 'one_hot' or 'pointing'")
        self.check_target(output)
        chosen = output[torch.arange(len(output), device=output.device), self.target].reshape(len(output), -1)
        if start == "pointing":
            return (chosen * chosen.detach().softmax(1)).sum()
        return chosen.sum()

    def check_target(self, output: Tensor) -> None:
        """Raises a ValueError where a target is none of the classes of the logits."""
        top = int(self.target.max())
        if top >= output.shape[1]:
            raise ValueError(f"target: found {top}, wanted 0 to {output.shape[1] - 1}")

    def forward(
        self,
        layers: Sequence[str],
        *,
        inputs: bool = False,
        rules: Mapping[Callable, Callable[..., Tensor]] | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """What layers give (or take, with ``inputs``) and the logits, with the graph between them."""
        taps = Taps(self.network, layers, inputs)
        try:
            with BackwardRules(rules) if rules else nullcontext():
                output = self.logits(taps.image(self.image) if "" in layers else self.image)
        finally:
            taps.remove()
        return [taps[name] for name in layers], output

    def gradients(
        self,
        layers: Sequence[str],
        *,
        inputs: bool = False,
        rules: Mapping[Callable, Callable[..., Tensor]] | None = None,
        start: str = "one_hot",
    ) -> list[tuple[Tensor, Tensor]]:
        """Activations and gradients of the score at layers, by one forward and one backward pass.

        Args:
            layers: dotted names, "" for the image.
            inputs: at what the layers take, not what they give.
            rules: of the backward pass, see :class:`BackwardRules`.
            start: see :meth:`score`.

        Returns:
            for each layer x and g, of the same shape, as the layer has it (see :meth:`to_map`).
        """
        _, known = self._known.setdefault((inputs, id(rules), start), (rules, {}))  # keeps the id its own
        if not set(layers) <= set(known):
            names = list(dict.fromkeys([*layers, *self.layers]))
            found, output = self.forward(names, inputs=inputs, rules=rules)
            grads = gradient(self.score(output, start), found, names)
            known |= {name: (x.detach(), g) for name, x, g in zip(names, found, grads, strict=True)}
        return [known[name] for name in layers]

    def adapt(self, lr: float, negate_loss: bool = False) -> list["Subject"]:
        """Each image with the network after a step of its own: parameters less ``lr`` times the gradient of
        the cross entropy of its target (of all places, for a map of logits); ``negate_loss`` adds it.
        """
        found = []
        for image, target in zip(self.image.split(1), self.target.split(1), strict=True):
            own = {name: p.detach().requires_grad_() for name, p in self.network.named_parameters()}
            output = Subject(self.network, image, target, _call_with(self.network, own)).logits(image)
            self.check_target(output)
            loss = F.cross_entropy(
                output, target.view(-1, *[1] * (output.ndim - 2)).expand(-1, *output.shape[2:])
            )
            grads = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
            step = lr if negate_loss else -lr
            with torch.no_grad():
                own = {
                    name: value.detach() if grad is None else value + step * grad
                    for (name, value), grad in zip(own.items(), grads, strict=True)
                }
            found.append(Subject(self.network, image, target, _call_with(self.network, own)))
        return found

    def to_map(self, x: Tensor) -> Tensor:
        """What a layer gives as a map (B, C, h, w): see :func:`to_map`."""
        prefix = next((n for m in self.network.modules() if (n := _prefix(m)) is not None), None)
        return to_map(x, tuple(self.image.shape[2:]), prefix)

    def default_layer(self) -> str:
        """The last layer that gives a map of more than one place on which the score depends.

        Of the trunk, where the network has a ``backbone``; linear layers and norms count as inner ones. In a
        Transformer that reads a class token the patches after the last block count for nothing: then it is
        the block before.
        """
        order: dict[str, None] = {}
        trunk = "backbone." if hasattr(self.network, "backbone") else ""
        with ExitStack() as stack:
            for name, module in self.network.named_modules():
                if name and name.startswith(trunk) and not _is_inner(module):
                    hook = lambda _, args, out, name=name: self._note(order, name, out)  # noqa: E731
                    stack.callback(module.register_forward_hook(hook).remove)
            with torch.no_grad():
                output = self.logits(self.image[:1])
        self.check_target(output)
        first = Subject(self.network, self.image[:1], self.target[:1], self.call)
        for name in reversed(order):
            try:
                ((_, g),) = first.gradients([name])
            except ValueError:
                continue
            if first.to_map(g).any():
                return name
        raise ValueError(f"{type(self.network).__name__} has no layer that gives a map; name one")

    def _note(self, order: dict[str, None], name: str, output: Any) -> None:
        if isinstance(output, (tuple, list)):
            output = next((part for part in output if isinstance(part, Tensor)), None)
        if isinstance(output, Tensor) and output.ndim in (3, 4) and output.is_floating_point():
            try:
                found = self.to_map(output)
            except ValueError:
                return
            if found.shape[2] * found.shape[3] > 1:
                order.pop(name, None)
                order[name] = None


def gradient(
    score: Tensor,
    found: Sequence[Tensor],
    names: Sequence[str | None],
    start: Tensor | None = None,
    retain: bool = False,
) -> tuple[Tensor, ...]:
    """The gradient of a score, or of a tensor with ``start``, by what layers gave.

    Raises:
        ValueError: it does not depend on one of them, which is named.
    """
    grads = [None] * len(found)
    if score.requires_grad and all(x.requires_grad for x in found):
        grads = torch.autograd.grad(score, found, start, allow_unused=True, retain_graph=retain)
    for name, grad in zip(names, grads, strict=True):
        if grad is None:
            raise ValueError(f"layer {name!r}: the score does not depend on it")
    return tuple(grads)


def _call_with(network: nn.Module, parameters: Mapping[str, Tensor]) -> Callable[[Tensor], Any]:
    return lambda image: functional_call(network, parameters, (image,))


def _is_inner(module: nn.Module) -> bool:
    """Whether a layer's output is a step within a block."""
    name = type(module).__name__
    return isinstance(module, nn.Linear) or "Norm" in name and not any(True for _ in module.children())


def _prefix(module: nn.Module) -> int | None:
    found = getattr(module, "num_prefix_tokens", None)
    return found if isinstance(found, int) else None


def class_scores(output: Tensor) -> Tensor:
    """Logits (B, K), or maps of them (B, K, h, w) by their means, to (B, K)."""
    return output if output.ndim == 2 else output.mean((2, 3))


# ----------------------------------------------------------------------------------------------- arguments


def check_image(image: Tensor) -> Tensor:
    """Images (B, C, H, W), detached.

    Raises:
        ValueError: the shape or type is another one, or there are NaNs or infinities.
    """
    if not isinstance(image, Tensor) or image.ndim != 4 or not image.numel():
        found = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"image: found {found}, wanted (B, C, H, W)")
    if not image.is_floating_point():
        raise ValueError(f"image: found {image.dtype}, wanted floats as the network takes them")
    if not image.isfinite().all():
        raise ValueError("image: found NaN or infinity, wanted finite numbers")
    return image.clone() if image.is_inference() else image.detach()


def as_target(target: int | Sequence[int] | Tensor, batch: int, device: Any = None) -> Tensor:
    """Classes asked about as (B,) int64.

    Raises:
        ValueError: their number is not that of the images, one is negative or no integer.
    """
    found = torch.as_tensor(target, device=device)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise ValueError(f"target: found {found.dtype}, wanted integers")
    if found.ndim == 0:
        found = found.expand(batch)
    if found.shape != (batch,):
        raise ValueError(
            f"target: found {tuple(found.shape)}, wanted one class or {batch}, one for each image"
        )
    if found.min() < 0:
        raise ValueError(f"target: found {int(found.min())}, wanted 0 or more")
    return found.long()

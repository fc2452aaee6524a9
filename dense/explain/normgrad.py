"""NormGrad: backpropagation saliency by extracting and aggregating, and its relatives.

Rebuffi, Fong, Ji, Vedaldi, "There and Back Again: Revisiting Backpropagation Saliency Methods", CVPR 2020,
arXiv 2004.02866. Published code: srebuffi/revisiting_saliency (no licence); ruthcfong/TorchRay, branch
normgrad (CC BY-NC 4.0).

An identity behind a layer changes nothing; but the gradient of its weights is a sum over places, of x, what
the layer gives, and g, the gradient of the score by that. One phase takes the terms of that sum apart, the
other makes one number of those of a place (:func:`extract_aggregate`). Methods differ by the identity, the
number, and by how the gradient passes nonlinearities.

Methods, for :func:`dense.explain.explain`: ``extract_aggregate``, ``gradient``, ``gradient_sum``,
``linear_approx``, ``grad_cam``, ``norm_grad``, ``norm_grad_selective``, ``norm_grad_proper``,
``guided_backprop``, ``deconvnet``, ``excitation_backprop``, ``contrastive_excitation_backprop``. By default
``gradient``, ``gradient_sum``, ``guided_backprop`` and ``deconvnet`` look at the image, the others at the
last layer that gives a map.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .explain import OwnBackward, Subject, UnfitNetworkError, find_layer, gradient, register_method

EXTRACTS = ("scaling", "bias", "conv1x1", "conv3x3", "conv3x3_depthwise")
AGGREGATES = ("sum", "norm", "filter_norm", "max")
EPSILON = 1e-20  # of excitation backpropagation: keeps 0 / 0 from being NaN


# ------------------------------------------------------------------------------------ extract and aggregate


def extract_aggregate(x: Tensor, g: Tensor, extract: str = "conv1x1", aggregate: str = "norm") -> Tensor:
    """Terms of the gradient of an identity's weights at each place, and one number of each place's.

    The identity is a ``scaling`` of each channel, v_c = x_c g_c; a ``bias``, v_c = g_c; a ``conv1x1``,
    v_ij = x_i g_j; a ``conv3x3``, v_itj(u) = x_i(u + t) g_j(u), zeros beyond the border; or a
    ``conv3x3_depthwise``, v_ct(u) = x_c(u + t) g_c(u). The number is the ``sum`` of v, its Euclidean
    ``norm``, that of its positive part (``filter_norm``), or its ``max``. Products are never built: it takes
    the memory of x.

    Args:
        x, g: (B, C, H, W) floats.
        extract: one of :data:`EXTRACTS`.
        aggregate: one of :data:`AGGREGATES`.

    Returns:
        (B, 1, H, W).

    Raises:
        ValueError: unknown words, or shapes that differ.
    """
    for word, found, known in (("extract", extract, EXTRACTS), ("aggregate", aggregate, AGGREGATES)):
        if found not in known:
            raise ValueError(f"{word}: found {found!r}, wanted one of {', '.join(known)}")
    if x.ndim != 4 or x.shape != g.shape:
        raise ValueError(f"found x {tuple(x.shape)} and g {tuple(g.shape)}, wanted both (B, C, H, W)")
    if extract in ("scaling", "bias"):
        return AGGREGATE[aggregate](x * g if extract == "scaling" else g)
    if extract == "conv3x3_depthwise":
        return _depthwise(x, g, aggregate)
    window = _box if extract == "conv3x3" else lambda y: y
    if aggregate == "sum":
        return window(_sum(x)) * _sum(g)
    if aggregate == "norm":
        return (window(_squares(x)) * _squares(g)).sqrt()
    if aggregate == "filter_norm":  # a product is positive where both factors have one sign
        parts = [window(_squares(a)) * _squares(b) for a, b in zip(_signs(x), _signs(g), strict=True)]
        return sum(parts).sqrt()
    top, low = x.amax(1, True), x.amin(1, True)
    if extract == "conv3x3":
        top, low = _window_max(top), -_window_max(-low)
    high, bottom = g.amax(1, True), g.amin(1, True)
    return torch.stack((top * high, low * bottom, top * bottom, low * high)).amax(0)


def _depthwise(x: Tensor, g: Tensor, aggregate: str) -> Tensor:
    if aggregate == "sum":
        return _sum(_box(x) * g)
    if aggregate == "norm":
        return _sum(_box(x.square()) * g.square()).sqrt()
    if aggregate == "filter_norm":
        parts = [_box(a.square()) * b.square() for a, b in zip(_signs(x), _signs(g), strict=True)]
        return _sum(sum(parts)).sqrt()
    return torch.maximum(_window_max(x) * g, -_window_max(-x) * g).amax(1, True)


def _sum(x: Tensor) -> Tensor:
    return x.sum(1, True)


def _squares(x: Tensor) -> Tensor:
    return x.square().sum(1, True)


def _signs(x: Tensor) -> tuple[Tensor, Tensor]:
    """The positive and the negative part."""
    return x.clamp(min=0), x.clamp(max=0)


def _box(x: Tensor) -> Tensor:
    """Sums of 3 x 3 places, zeros beyond the border."""
    return F.avg_pool2d(x, 3, 1, 1, divisor_override=1)


def _window_max(x: Tensor) -> Tensor:
    """Maxima of 3 x 3 places, zeros beyond the border."""
    return F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1)


AGGREGATE: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": _sum,
    "norm": lambda v: _squares(v).sqrt(),
    "filter_norm": lambda v: _squares(v.clamp(min=0)).sqrt(),
    "max": lambda v: v.amax(1, True),
}


# ------------------------------------------------------------------------------------------------- methods


def tapped(
    subject: Subject, layer: str | None, rules: Mapping | None = None, start: str = "one_hot"
) -> tuple[Tensor, Tensor]:
    """What a layer gives and the gradient by it, as maps (B, C, h, w)."""
    name = subject.default_layer() if layer is None else layer
    ((x, g),) = subject.gradients([name], rules=rules, start=start)
    return subject.to_map(x), subject.to_map(g)


@register_method("extract_aggregate")
def explain_extract_aggregate(
    subject: Subject,
    layer: str | None,
    *,
    extract: str = "conv1x1",
    aggregate: str = "norm",
    start: str = "one_hot",
) -> Tensor:
    """Any of the pairs of :func:`extract_aggregate`."""
    return extract_aggregate(*tapped(subject, layer, start=start), extract, aggregate)


@register_method("norm_grad")
def norm_grad(subject: Subject, layer: str | None, *, start: str = "one_hot") -> Tensor:
    """|x| |g|: the norm of the gradient of a 1 x 1 identity's weights."""
    return extract_aggregate(*tapped(subject, layer, start=start), "conv1x1", "norm")


@register_method("norm_grad_selective")
def norm_grad_selective(subject: Subject, layer: str | None, *, start: str = "one_hot") -> Tensor:
    """The norm of the positive part of x g."""
    return extract_aggregate(*tapped(subject, layer, start=start), "scaling", "filter_norm")


@register_method("linear_approx")
def linear_approx(subject: Subject, layer: str | None, *, start: str = "one_hot") -> Tensor:
    """The sum over channels of x g."""
    return extract_aggregate(*tapped(subject, layer, start=start), "scaling", "sum")


@register_method("grad_cam")
def grad_cam(subject: Subject, layer: str | None, *, start: str = "one_hot") -> Tensor:
    """The positive part of the sum over channels of x times the mean of g over places."""
    x, g = tapped(subject, layer, start=start)
    return _sum(x * g.mean((2, 3), True)).clamp(min=0)


@register_method("gradient", own_layer=True)
def largest_gradient(subject: Subject, layer: str | None, *, start: str = "one_hot") -> Tensor:
    """The largest magnitude of g over channels; by default at the image."""
    return tapped(subject, layer or "", start=start)[1].abs().amax(1, True)


@register_method("gradient_sum", own_layer=True)
def gradient_sum(subject: Subject, layer: str | None, *, start: str = "one_hot") -> Tensor:
    """The sum of g over channels; by default at the image."""
    return _sum(tapped(subject, layer or "", start=start)[1])


@register_method("norm_grad_proper", own_layer=True)
def norm_grad_proper(subject: Subject, layer: str | None, *, start: str = "one_hot") -> Tensor:
    """NormGrad of a convolution of the network in place of an identity: at each place the norm of what the
    kernel sees times the norm of the gradient by what it gives; bias and groups play no part.

    Args:
        layer: a convolution, or a layer of one and a norm, which are one convolution at evaluation; by
            default the last one that is called.

    Raises:
        ValueError: the layer calls no convolution, or several.
    """
    calls: list[tuple[Tensor, Tensor, dict[str, Any]]] = []
    within = [layer is None]

    def watch(func: Callable, args: Sequence, kwargs: Mapping) -> Tensor:
        call = dict(zip(CONVOLUTION, args, strict=False)) | dict(kwargs)
        y = func(**call)
        if not within[0]:
            return y
        y = y if y.requires_grad else y.detach().requires_grad_()
        calls.append((call["input"].detach(), y, call))
        return y.clone()

    if layer is not None:
        module = find_layer(subject.network, layer)
        module.register_forward_pre_hook(lambda *_: within.__setitem__(0, True))
        module.register_forward_hook(lambda *_: within.__setitem__(0, False))
    _, output = subject.forward((), rules={F.conv2d: watch})
    if layer is None:
        calls = calls[-1:]
    if len(calls) != 1:
        raise UnfitNetworkError(f"layer {layer!r}: found {len(calls)} calls of a convolution, wanted one")
    ((x, y, call),) = calls
    (g,) = gradient(subject.score(output, start), [y], [layer])
    kernel = torch.ones_like(call["weight"][:1, :1])
    how = {name: call[name] for name in ("stride", "padding", "dilation") if name in call}
    return (F.conv2d(_squares(x), kernel, **how) * _squares(g)).sqrt()


CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


# ------------------------------------------------------------------------------------------ rules of ReLUs


def _relu_rules(pull: Callable[[Tensor, Tensor], Tensor]) -> dict[Callable, Callable[..., Tensor]]:
    def rule(func: Callable, args: Sequence, kwargs: Mapping) -> Tensor:
        x = args[0] if args else kwargs["input"]
        return OwnBackward.apply(x, lambda x: x.clamp(min=0), pull)

    return dict.fromkeys((F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), rule)


GUIDED = _relu_rules(lambda x, grad: grad.clamp(min=0) * (x >= 0))
DECONVOLVED = _relu_rules(lambda x, grad: grad.clamp(min=0))


@register_method("guided_backprop", own_layer=True)
def guided_backprop(subject: Subject, layer: str | None, *, start: str = "one_hot") -> Tensor:
    """``gradient`` where ReLUs pass positive gradients only (Springenberg et al., 2015)."""
    return tapped(subject, layer or "", GUIDED, start)[1].abs().amax(1, True)


@register_method("deconvnet", own_layer=True)
def deconvnet(subject: Subject, layer: str | None, *, start: str = "one_hot") -> Tensor:
    """``gradient`` where ReLUs pass positive gradients, whatever they took (Zeiler and Fergus, 2014)."""
    return tapped(subject, layer or "", DECONVOLVED, start)[1].abs().amax(1, True)


# ----------------------------------------------------------------------------- excitation backpropagation


@dataclass
class Product:
    """A call of a convolution or a linear layer.

    Attributes:
        input: what it took.
        sign: -1 has the backward pass take its weights negated.
    """

    input: Tensor
    sign: int = 1


class Excitation:
    """Rules of excitation backpropagation (Zhang et al., "Top-down neural attention by excitation backprop",
    ECCV 2016), by which a probability of the answer goes back to those who excited it.

    Convolutions and linear layers: P_in = x f^T(P / (f(x; W+) + 1e-20); W+), W+ their positive weights,
    without bias; averages likewise; a norm at evaluation passes P on; a sum x_1 + x_2 gives each its share
    x_i / sum. All else, as ReLU and maximum, has its ordinary gradient. A convolution with a norm merged into
    it is one convolution.

    Args:
        record: keep ``products``.

    Attributes:
        products: calls of convolutions and linear layers, in their order.
    """

    def __init__(self, record: bool = True):
        self.products: list[Product] | None = [] if record else None
        self.rules = {
            F.conv2d: self.product,
            F.linear: self.product,
            F.avg_pool2d: self.average,
            F.adaptive_avg_pool2d: self.average,
            Tensor.mean: self.average,
            torch.mean: self.average,
            F.batch_norm: self.norm,
            torch.add: self.add,
            Tensor.add: self.add,
            Tensor.add_: self.add,
        }

    def product(self, func: Callable, args: Sequence, kwargs: Mapping) -> Tensor:
        call = dict(zip(CONVOLUTION, args, strict=False)) | dict(kwargs)
        x, weight = call.pop("input"), call.pop("weight")
        own = Product(x)
        if self.products is not None:
            self.products.append(own)

        def pull(x: Tensor, grad: Tensor) -> Tensor:
            positive = (own.sign * weight).clamp(min=0)
            return excite(lambda x: func(x, positive, **call | {"bias": None}), x, grad)

        return OwnBackward.apply(x, lambda x: func(x, weight, **call), pull)

    def average(self, func: Callable, args: Sequence, kwargs: Mapping) -> Tensor:
        def run(x: Tensor) -> Tensor:
            return func(x, *args[1:], **rest)

        rest = dict(kwargs)
        x = args[0] if args else rest.pop("input")
        return OwnBackward.apply(x, run, lambda x, grad: excite(run, x, grad))

    def norm(self, func: Callable, args: Sequence, kwargs: Mapping) -> Tensor:
        rest = dict(kwargs)
        x = args[0] if args else rest.pop("input")
        return OwnBackward.apply(x, lambda x: func(x, *args[1:], **rest), lambda x, grad: grad)

    def add(self, func: Callable, args: Sequence, kwargs: Mapping) -> Tensor:
        x, y = args[:2] if len(args) > 1 else (args[0], kwargs.get("other"))
        summed = isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape == y.shape and not kwargs
        if not (summed and x.requires_grad and y.requires_grad):
            return func(*args, **kwargs)
        return Shares.apply(x, y)


class Shares(torch.autograd.Function):
    """x + y, whose gradient goes to each by its share of the sum; to none where that is 0."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x + y

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, y = ctx.saved_tensors
        share = torch.where(x + y == 0, 0.0, grad / (x + y))
        return x * share, y * share


def excite(run: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Tensor:
    """x times the transpose of ``run``, which is linear, of grad / run(x)."""
    with torch.enable_grad():
        own = x.detach().requires_grad_()
        y = run(own)
        (back,) = torch.autograd.grad(y, own, grad / (y.detach() + EPSILON))
    return x * back


EXCITED = Excitation(record=False).rules


@register_method("excitation_backprop")
def excitation_backprop(subject: Subject, layer: str | None, *, start: str = "one_hot") -> Tensor:
    """The sum over channels of the probabilities of :class:`Excitation`."""
    return _sum(tapped(subject, layer, EXCITED, start)[1])


@register_method("contrastive_excitation_backprop")
def contrastive_excitation_backprop(
    subject: Subject, layer: str | None, *, contrast_layer: str | None = None, start: str = "one_hot"
) -> Tensor:
    """Excitation backpropagation of the class less that of all that speaks against it, its positive part.

    Args:
        contrast_layer: where the two are compared: between ``layer`` and the last convolution or linear
            layer, whose weights are negated for what speaks against. By default what that one takes.
    """
    name = subject.default_layer() if layer is None else layer
    names = [name] if contrast_layer is None else [name, contrast_layer]

    def run(sign: int) -> tuple[Tensor, Tensor, Tensor]:
        excitation = Excitation()
        found, output = subject.forward(names, rules=excitation.rules)
        if not excitation.products:
            raise UnfitNetworkError(
                f"{type(subject.network).__name__} has no convolution and no linear layer"
            )
        excitation.products[-1].sign = sign
        place = excitation.products[-1].input if contrast_layer is None else found[1]
        (p,) = gradient(subject.score(output, start), [place], [contrast_layer], retain=True)
        return found[0], place, p

    against = run(-1)[2]
    x, place, p = run(1)
    (p,) = gradient(place, [x], [name], p - against)
    return _sum(subject.to_map(p)).clamp(min=0)

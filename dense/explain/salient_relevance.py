"""Layer-wise relevance propagation (LRP), and the salient relevance (SR) map that is made of it.

Li et al., "Beyond saliency: understanding convolutional neural networks from saliency prediction on
layer-wise relevance propagation", Image and Vision Computing 2019, arXiv 1712.08268. Published code:
Hey1Li/Salient-Relevance-Propagation, MIT, which has the propagation alone; the map is ours, with the
constants of Goferman et al., "Context-aware saliency detection", CVPR 2010. Further rules: Bach et al., PLoS
ONE 10(7), 2015; Montavon et al., "Explaining nonlinear classification decisions with deep Taylor
decomposition", 2017.

The relevance R of x is carried as R = x g. Then the backward pass of PyTorch is the z rule (R goes to what a
sum is made of, in proportion) for whatever is linear: convolutions, norms that evaluate, means, sums of
branches, shapes; and a ReLU leaves R as it is. Only layers of another rule get a backward pass of their own,
and one pass does it all. What has no rule is refused by name: a softmax, a layer norm, the product of two
things that depend on the image.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.errors import nearest

from .explain import Subject, Target, UnfitNetworkError, gradient, register_method, undisturbed

Bounds = tuple[float | Sequence[float], float | Sequence[float]]
Part = tuple[Tensor, Tensor]  # what takes relevance, and by how much more than its share of the output
RULES = ("z", "z+", "epsilon", "alpha_beta")
CONVOLUTIONS = {f"conv{way}{n}d" for n in (1, 2, 3) for way in ("", "_transpose")}
POOLS = {f"{kind}_pool{n}d" for n in (1, 2, 3) for kind in ("avg", "adaptive_avg")}
MAX_POOLS = {f"{kind}_pool{n}d" for n in (1, 2, 3) for kind in ("max", "adaptive_max")}
# 0 at 0: all of the output's relevance is that of the input
ACTIVATIONS = {"celu", "elu", "gelu", "hardswish", "hardtanh", "leaky_relu", "mish", "prelu", "relu", "relu6",
               "selu", "silu", "softsign", "tanh", "tanhshrink"}  # fmt: skip
# linear in what depends on the image, so that the gradient is the z rule
LINEAR = {
    "add", "alpha_dropout", "amax", "batch_norm", "broadcast_to", "cat", "chunk", "clone", "concat",
    "concatenate", "contiguous", "cpu", "cuda", "cumsum", "dequantize", "double", "dropout", "dropout1d",
    "dropout2d", "dropout3d", "expand", "expand_as", "feature_alpha_dropout", "flatten", "flip", "float",
    "get", "getitem", "hstack", "index_select", "interpolate", "mean", "movedim", "narrow", "neg",
    "negative", "pad", "permute", "pixel_shuffle", "pixel_unshuffle", "positive", "ravel", "repeat",
    "requires_grad", "reshape", "reshape_as", "roll", "select", "split", "squeeze", "stack", "sub",
    "subtract", "sum", "swapaxes", "swapdims", "t", "tensor_split", "tile", "to", "transpose", "type",
    "type_as", "unbind", "unflatten", "unfold", "unsqueeze", "upsample", "view", "view_as", "vstack",
}  # fmt: skip
# linear where one factor is given
PRODUCTS = {"addcmul", "addmm", "baddbmm", "bmm", "einsum", "matmul", "mm", "mul", "multiply"}
QUOTIENTS = {"div", "divide", "true_divide", "truediv"}  # where the divisor is given


@dataclass(frozen=True)
class RelevanceRules:
    """How relevance R of a layer's output Y goes to its input X; W+ and W- are positive and negative parts.

    - "z": R_in = X * W^T (R / (Y + eps)), the bias is part of Y;
    - "z+": R_in = X * W+^T (R / (W+ X + eps)), the bias counts for nothing; for X >= 0;
    - "epsilon": R_in = X * W^T (R / (Y + epsilon sign(Y)));
    - "alpha_beta": ``alpha`` times the share in all positive contributions X W less ``beta`` times that in
      all negative ones; the bias counts for nothing;
    - "z_box", of the first layer alone: the share in X W - low W+ - high W-.

    Average pools follow "z", max-pools give all to the winner, ReLU and other activations that are 0 at 0
    leave R as it is, norms that evaluate are linear layers under "z" (as if folded into a convolution of
    that rule).

    Args:
        linear, conv: the rule of these layers.
        first: of layers that take the image itself; None is as others.
        eps: added to denominators, without regard to their sign, as published.
        epsilon: of that rule.
        alpha, beta: of that rule; alpha - beta must be 1.
        bounds: least and greatest value that an image can have, numbers or one for each channel, for "z_box".
        reference_quirks: where windows of a max-pool share their winner, only the last window in raster order
            counts, as published; else the winner gets the relevance of all.

    Raises:
        ValueError: an unknown rule or a number out of range.
    """

    linear: str = "z+"
    conv: str = "z"
    first: str | None = None
    eps: float = 1e-9
    epsilon: float = 1e-2
    alpha: float = 2.0
    beta: float = 1.0
    bounds: Bounds | None = None
    reference_quirks: bool = False

    def __post_init__(self):
        for name in ("linear", "conv", "first"):
            found, known = getattr(self, name), (*RULES, "z_box") if name == "first" else RULES
            if found not in known and not (name == "first" and found is None):
                raise ValueError(
                    f"{name}: found {found!r}, wanted one of {', '.join(known)}{nearest(found, known)}"
                )
        for name in ("eps", "epsilon"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: found {getattr(self, name)}, wanted a positive number")
        if abs(self.alpha - self.beta - 1) > 1e-6 or self.beta < 0:
            raise ValueError(
                f"alpha, beta: found {self.alpha}, {self.beta}, wanted beta >= 0 and alpha = beta + 1"
            )
        if (self.first == "z_box") != (self.bounds is not None):
            raise ValueError(
                f"bounds: found {self.bounds} for first={self.first!r}, wanted them for 'z_box' alone"
            )


class Propagation(Mapping):
    """The rules as backward passes of PyTorch's functions, for one forward pass of a network.

    Args:
        rules: of the layers.
        subject: whose network is called. Hooks on its modules tell which one asks.

    Attributes:
        bounds: of images (B, C, H, W), for "z_box": leaves whose gradients times themselves are part of R.
        first: whether a layer has taken the image itself.
    """

    def __init__(self, rules: RelevanceRules, subject: Subject):
        self.rules, self.subject = rules, subject
        self.bounds: tuple[Tensor, ...] = ()
        self.first = False
        self.places: list[tuple[str, str]] = []
        for name, module in subject.network.named_modules():
            place = (name, type(module).__name__)
            module.register_forward_pre_hook(lambda *_, place=place: self.places.append(place))
            module.register_forward_hook(lambda *_: self.places.pop() and None)
        if rules.first == "z_box":
            self.bounds = _as_bounds(rules.bounds, subject.image)

    def __getitem__(self, func: Callable) -> Callable[..., Any]:
        """The rule of any function, as :class:`~dense.explain.explain.BackwardRules` calls it."""
        name = getattr(func, "__name__", str(func)).strip("_").removesuffix("_with_indices")
        if name in CONVOLUTIONS | {"linear"}:
            return lambda _, args, kwargs: self._layer(name, *args, **kwargs)
        if name in MAX_POOLS:
            return lambda _, args, kwargs: self._max_pool(getattr(F, name), *args, **kwargs)
        if name in POOLS:
            return lambda func, args, kwargs: self._scale(func(*args, **kwargs))
        if name in ACTIVATIONS:
            return self._activate
        return lambda func, args, kwargs: self._other(name, func, args, kwargs)

    def __iter__(self) -> Iterator[Callable]:
        return iter(())

    def __len__(self) -> int:
        return 1  # a mapping that is empty counts as none

    # ------------------------------------------------------------------------------------------------- layers

    def _layer(
        self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None = None, *args, **kwargs
    ) -> Tensor:
        apply = lambda x, weight, bias=None: getattr(F, name)(x, weight, bias, *args, **kwargs)  # noqa: E731
        if weight.requires_grad:
            self._refuse("a product of two things that depend on the image")
        rule = self.rules.linear if name == "linear" else self.rules.conv
        if self.rules.first is not None and self._is_image(x):
            self.first, rule = True, self.rules.first
        if rule == "z":
            return self._scale(apply(x, weight, bias))
        with torch.no_grad():
            y = apply(x, weight, bias)
        return _with_relevance(y, self._parts(rule, x, weight, y, apply))

    def _parts(self, rule: str, x: Tensor, weight: Tensor, y: Tensor, apply: Callable) -> list[Part]:
        """What the output's relevance goes to, see :class:`RelevanceRules`."""
        eps, positive, negative = self.rules.eps, weight.clamp(min=0), weight.clamp(max=0)
        if rule == "epsilon":
            sign = torch.where(y < 0, -1.0, 1.0)
            return [(apply(x, weight), _ratio(y, y + self.rules.epsilon * sign))]
        if rule == "z+":
            z = apply(x, positive)
            return [(z, _ratio(y, z, eps))]
        if rule == "z_box":
            low, high = (bound.expand_as(x) for bound in self.bounds)
            z = apply(x, weight) - apply(low, positive) - apply(high, negative)
            return [(z, _ratio(y, z, eps))]
        above, below = x.clamp(min=0), x - x.clamp(min=0)
        gain = apply(above, positive) + apply(below, negative)
        loss = apply(above, negative) + apply(below, positive)
        return [
            (gain, self.rules.alpha * _ratio(y, gain, eps)),
            (loss, -self.rules.beta * _ratio(y, loss, -eps)),
        ]

    def _scale(self, y: Tensor) -> Tensor:
        """The z rule of what is linear but for a bias: its gradient, with eps in the denominator."""
        return _with_relevance(y, [(y, _ratio(y, y, self.rules.eps))])

    def _max_pool(self, pool: Callable, x: Tensor, *args, return_indices: bool = False, **kwargs) -> Any:
        y, winners = pool(x, *args, **kwargs, return_indices=True)
        share = _ratio(y, y, self.rules.eps)
        if self.rules.reference_quirks:
            dims = x.ndim - 2
            share = share * _is_last(winners.flatten(-dims), x.shape[-dims:].numel()).view_as(winners)
        y = _with_relevance(y, [(y, share)])
        return (y, winners) if return_indices else y

    def _activate(self, func: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        x, *rest = args
        if not x.requires_grad:
            return func(x, *rest, **kwargs)
        copy = x.detach().clone()
        y = func(copy, *rest, **kwargs)
        out = _with_relevance(y, [(x, _ratio(y, x))])
        return x.copy_(out) if y.data_ptr() == copy.data_ptr() else out  # it may work in place

    def _other(self, name: str, func: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        output = func(*args, **kwargs)
        if not any(part.requires_grad for part in _tensors(output)):
            return output
        base = name[1:] if name[:1] in ("i", "r") and name[1:] in LINEAR | PRODUCTS | QUOTIENTS else name
        factors = [*_tensors(args), *_tensors(list(kwargs.values()))]
        given = sum(not factor.requires_grad for factor in factors)
        if base in PRODUCTS and given < len(factors) - 1:
            self._refuse(f"{name}, a product of two things that depend on the image")
        divided = base in QUOTIENTS and name != f"r{base}" and not any(x.requires_grad for x in factors[1:])
        if base not in LINEAR | PRODUCTS and not divided:
            self._refuse(name)
        return output

    def _is_image(self, x: Tensor) -> bool:
        return x.shape == self.subject.image.shape and torch.equal(x, self.subject.image)

    def _refuse(self, what: str) -> None:
        name, kind = self.places[-1] if self.places else ("", type(self.subject.network).__name__)
        raise UnfitNetworkError(
            f"layer {name!r} ({kind}): found {what}, for which relevance propagation has no rule"
        )


def _with_relevance(y: Tensor, parts: Sequence[Part]) -> Tensor:
    """``y``, whose gradient is that of its parts, each times its factor."""
    out = y.detach()
    for z, factor in parts:
        out = out + (z - z.detach()) * factor.detach()  # adds 0
    return out


def _ratio(y: Tensor, z: Tensor, eps: float = 0.0) -> Tensor:
    """y / (z + eps), 0 for 0 / 0; eps is too small for half precision."""
    y, z = (x.detach().to(torch.promote_types(x.dtype, torch.float32)) for x in (y, z))
    z = z + eps
    return torch.where(z == 0, 0.0, y / torch.where(z == 0, 1.0, z)).to(y.dtype)


def _is_last(winners: Tensor, places: int) -> Tensor:
    """Which windows are the last in raster order of those with the same winner: (..., windows) bool."""
    order = torch.arange(winners.shape[-1], device=winners.device).expand_as(winners)
    last = order.new_full((*winners.shape[:-1], places), -1).scatter_reduce(-1, winners, order, "amax")
    return last.gather(-1, winners) == order


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


def _as_bounds(bounds: Bounds, image: Tensor) -> tuple[Tensor, Tensor]:
    """Leaves (B, C, H, W).

    Raises:
        ValueError: another number of channels, or the image exceeds them.
    """
    channels, found = image.shape[1], []
    for name, value in zip(("low", "high"), bounds, strict=True):
        value = torch.as_tensor(value, dtype=image.dtype, device=image.device).flatten()
        if len(value) not in (1, channels):
            raise ValueError(
                f"bounds: found {len(value)} of {name}, wanted one or {channels}, one for each channel"
            )
        found.append(value.view(-1, 1, 1).expand_as(image).clone())
    if (image < found[0]).any() or (image > found[1]).any():
        least, most = image.min().item(), image.max().item()
        raise ValueError(f"bounds: found an image of {least:.4g} to {most:.4g}, wanted it within {bounds}")
    return tuple(bound.requires_grad_() for bound in found)


# ----------------------------------------------------------------------------------------------- relevance


class Relevance(NamedTuple):
    """What :func:`propagate_relevance` finds.

    Attributes:
        image: (B, C, H, W), of each number of the images.
        layers: of what each asked layer takes, in its shape.
        logits: (B, K), of the network.
        target: (B,) int64, the classes whose logit was shared out.
    """

    image: Tensor
    layers: dict[str, Tensor]
    logits: Tensor
    target: Tensor


def propagate_relevance(
    network: nn.Module,
    image: Tensor,
    target: Target = None,
    rules: RelevanceRules | None = None,
    layers: Sequence[str] = (),
) -> Relevance:
    """Share out the logit of a class to what it was computed from, layer by layer, down to the image.

    Args:
        network: images to logits (B, K), or to maps of them, whose positions are summed. Layers and functions
            of :class:`RelevanceRules`, in any arrangement; it comes back as it was.
        image: (B, C, H, W) floats, as the network takes them.
        target: a class for all images, or one for each; by default the one that the network answers.
        rules: by default the published ones.
        layers: dotted names of layers, of whose inputs the relevance is also wanted.

    Raises:
        ValueError: as :func:`~dense.explain.explain`, and for what has no rule, by name.
    """
    with undisturbed(network):
        subject = Subject(network, image, target)
        (first, *others), output = share_relevance(subject, ["", *layers], rules, inputs=True)
        return Relevance(first, dict(zip(layers, others, strict=True)), output.detach(), subject.target)


def share_relevance(
    subject: Subject, layers: Sequence[str], rules: RelevanceRules | None = None, inputs: bool = False
) -> tuple[list[Tensor], Tensor]:
    """Relevance of what layers give (or take, with ``inputs``), and the logits; "" is the image."""
    table = Propagation(rules or RelevanceRules(), subject)
    found, output = subject.forward(layers, inputs=inputs, rules=table)
    if table.rules.first is not None and not table.first:
        raise ValueError(f"first: found {table.rules.first!r}, but no layer takes the image itself")
    names = [*layers, *("bounds" for _ in table.bounds)]
    grads = gradient(subject.score(output), [*found, *table.bounds], names)
    relevance = [x.detach() * g for x, g in zip([*found, *table.bounds], grads, strict=True)]
    relevance, bounds = relevance[: len(layers)], relevance[len(layers) :]
    if bounds and "" in layers:
        place = list(layers).index("")
        relevance[place] = relevance[place] + sum(bounds)
    return relevance, output


RULE_SETS = {
    "published": RelevanceRules(),
    "overwriting": RelevanceRules(reference_quirks=True),
    "epsilon": RelevanceRules(linear="epsilon", conv="epsilon"),
    "alpha_beta": RelevanceRules(linear="z+", conv="alpha_beta"),
}


def measure_conservation(
    network: nn.Module, image: Tensor, layers: Sequence[str], rules: RelevanceRules, target: Target = None
) -> dict[str, Tensor]:
    """Which part of the logit is there before each layer, and in the image (""): (B,) each; 1 is all of it.

    Args:
        layers: dotted names. What only some branches pass has only their part.
        network, image, rules, target: of :func:`propagate_relevance`.
    """
    found = propagate_relevance(network, image, target, rules, layers)
    start = found.logits.flatten(2).sum(2) if found.logits.ndim == 4 else found.logits
    start = start.gather(1, found.target[:, None])[:, 0]
    return {name: x.flatten(1).sum(1) / start for name, x in [("", found.image), *found.layers.items()]}


def heat_map(relevance: Tensor) -> Tensor:
    """The published picture: |R| of each image stretched to 0 ... 255 over all its numbers, cut to uint8.

    Args:
        relevance: (B, C, H, W) floats. A constant |R| gives 0.
    """
    return (255 * stretch(relevance.abs())).to(torch.uint8)


def stretch(x: Tensor) -> Tensor:
    """Each sample of (B, ...) to 0 ... 1; one that is constant, but for rounding, to 0."""
    flat = x.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    least = 64 * torch.finfo(x.dtype).eps * torch.maximum(high.abs(), low.abs())
    span = torch.where(high - low > least, high - low, torch.inf)
    return ((flat - low) / span).view_as(x)


# -------------------------------------------------------------------------------------------------- SR map


class SalientRelevance(NamedTuple):
    """What :func:`salient_relevance` finds, each map (B, 1, H, W) of 0 ... 1.

    Attributes:
        map: the SR map.
        mean_map: the mean over scales, before places far from the foci fade.
        scales: the map of each scale that was not skipped.
    """

    map: Tensor
    mean_map: Tensor
    scales: list[Tensor]


def salient_relevance(
    relevance: Tensor,
    *,
    scales: Sequence[float] = (1.0, 0.8, 0.5, 0.3),
    candidate_scales: Sequence[float] = (1.0, 0.5, 0.25),
    patch_size: int = 7,
    stride: int = 4,
    neighbors: int = 64,
    position_weight: float = 3.0,
    foci: float = 0.8,
    chunk: int = 1 << 22,
) -> SalientRelevance:
    """Areas whose relevance differs from that of other areas: context-aware saliency of a relevance map.

    At each scale s, a patch q of the resized |R| differs from a patch c, of the map at a scale s t, by
    d = ||q - c|| / sqrt(n) / (1 + 3 ||p - p'||) with n numbers a patch and centres p in units of the longer
    side of the map that a patch is of. S(q) = 1 - exp(-mean of the K smallest d). The grid of S is resized
    and
    stretched, the mean over scales M is stretched again. Foci are where M > 0.8; with the distance D to the
    nearest in units of the longer side, at most 1, the SR map is M (1 - D).

    Args:
        relevance: (B, C, H, W) signed floats; of the sign nothing is left.
        scales, candidate_scales: of s and of t.
        patch_size, stride: of patches, without padding. Scales at which no patch fits are skipped.
        neighbors: K.
        position_weight: the 3 above.
        foci: the 0.8 above.
        chunk: distances that are held at once.

    Returns:
        in the dtype of ``relevance``; computed in float64.

    Raises:
        ValueError: another shape, NaN or infinity, no patch fits at any scale, numbers out of range.
    """
    if relevance.ndim != 4 or not relevance.is_floating_point() or not relevance.numel():
        raise ValueError(
            f"relevance: found {tuple(relevance.shape)} {relevance.dtype}, wanted (B, C, H, W) floats"
        )
    if not relevance.isfinite().all():
        raise ValueError("relevance: found NaN or infinity, wanted finite numbers")
    for name, value in (
        ("patch_size", patch_size),
        ("stride", stride),
        ("neighbors", neighbors),
        ("chunk", chunk),
    ):
        if value < 1:
            raise ValueError(f"{name}: found {value}, wanted at least 1")
    if min(*scales, *candidate_scales) <= 0:
        raise ValueError(f"scales: found {min(*scales, *candidate_scales)}, wanted positive numbers")
    size = tuple(relevance.shape[2:])
    a = stretch(relevance.detach().abs().double())
    found = []
    for scale in scales:
        own = _patches(a, scale, patch_size, stride)
        if own is None:
            continue
        parts = [(t == 1, _patches(a, scale * t, patch_size, stride)) for t in candidate_scales]
        parts = [(same, part) for same, part in parts if part is not None]
        grid = torch.stack([
            _distinctness(
                own.values[i],
                [part.values[i] for _, part in parts],
                own.places,
                [part.places for _, part in parts],
                [same for same, _ in parts],
                neighbors,
                position_weight,
                chunk,
            )
            for i in range(len(a))
        ])  # fmt: skip
        grid = grid.view(-1, 1, *own.grid)
        found.append(stretch(F.interpolate(grid, size, mode="bilinear", align_corners=False)))
    if not found:
        raise ValueError(
            f"relevance: found {size}, wanted at least {patch_size} by {patch_size} at some scale"
        )
    mean_map = stretch(torch.stack(found).mean(0))
    faded = mean_map * (1 - _distance_to(mean_map > foci))
    return SalientRelevance(*(x.to(relevance) for x in (faded, mean_map)), [x.to(relevance) for x in found])


class _Patches(NamedTuple):
    values: Tensor  # (B, N, C * patch_size**2)
    places: Tensor  # (N, 2), of centres
    grid: tuple[int, int]


def _patches(a: Tensor, scale: float, patch_size: int, stride: int) -> _Patches | None:
    """Patches of maps (B, C, H, W) at a scale; None where they do not fit."""
    size = [max(1, round(scale * side)) for side in a.shape[2:]]
    if min(size) < patch_size:
        return None
    a = F.interpolate(a, size, mode="bilinear", antialias=True, align_corners=False)
    values = F.unfold(a, patch_size, stride=stride).mT
    grid = tuple((side - patch_size) // stride + 1 for side in size)
    corners = [torch.arange(n, dtype=a.dtype, device=a.device) * stride for n in grid]
    places = (torch.cartesian_prod(*corners) + patch_size / 2) / max(size)
    return _Patches(values, places, grid)


def _distinctness(
    queries: Tensor,
    candidates: Sequence[Tensor],
    places: Tensor,
    candidate_places: Sequence[Tensor],
    same: Sequence[bool],
    neighbors: int,
    position_weight: float,
    chunk: int,
) -> Tensor:
    """S of patches (N, n) among candidates, those of each scale; where ``same``, these are the patches."""
    known, sites = torch.cat(list(candidates)), torch.cat(list(candidate_places))
    own = torch.full((len(queries),), -1, device=queries.device)
    start = 0
    for part, is_same in zip(candidates, same, strict=True):
        if is_same:
            own = torch.arange(start, start + len(queries), device=queries.device)
        start += len(part)
    count = min(neighbors, len(known) - bool(own[0] >= 0))
    if count == 0:
        return queries.new_zeros(len(queries))
    rows = max(1, chunk // len(known))
    found = []
    for q, place, mine in zip(queries.split(rows), places.split(rows), own.split(rows), strict=True):
        d = torch.cdist(q, known) / q.shape[1] ** 0.5 / (1 + position_weight * torch.cdist(place, sites))
        if mine[0] >= 0:
            d.scatter_(1, mine[:, None], torch.inf)
        found.append(1 - torch.exp(-d.topk(count, largest=False).values.mean(1)))
    return torch.cat(found)


def _distance_to(foci: Tensor) -> Tensor:
    """From each place to the nearest focus, in longer sides, at most 1: bool (B, 1, H, W) to float64."""
    found = [
        distance_transform_edt(~focus) / max(focus.shape) if focus.any() else np.ones(focus.shape)
        for focus in foci[:, 0].cpu().numpy()
    ]
    return torch.from_numpy(np.stack(found)).clamp(max=1)[:, None].to(foci.device)


# ------------------------------------------------------------------------------------------------- methods


@register_method("lrp", own_layer=True)
def lrp(subject: Subject, layer: str | None, *, signed: bool = False, **rules: Any) -> Tensor:
    """|R| summed over channels, of the image or of what a layer gives; with ``signed`` the sum of R.

    ``rules`` are those of :class:`RelevanceRules`.
    """
    (relevance,), _ = share_relevance(subject, [layer or ""], make_rules(rules))
    relevance = subject.to_map(relevance) if layer else relevance
    return (relevance if signed else relevance.abs()).sum(1, keepdim=True)


@register_method("salient_relevance", own_layer=True)
def map_salient_relevance(subject: Subject, layer: str | None, **rules: Any) -> Tensor:
    """The SR map of the image's relevance, or of a layer's; ``rules`` as of :class:`RelevanceRules`."""
    (relevance,), _ = share_relevance(subject, [layer or ""], make_rules(rules))
    return salient_relevance(subject.to_map(relevance) if layer else relevance).map


def make_rules(options: Mapping[str, Any]) -> RelevanceRules:
    """Rules of options by name.

    Raises:
        ValueError: one is unknown; the message says which are near.
    """
    known = RelevanceRules.__dataclass_fields__
    for option in options:
        if option not in known:
            hint = nearest(option, known, f"; there are {', '.join(known)}")
            raise ValueError(f"relevance rules have no option {option!r}{hint}")
    return RelevanceRules(**options)

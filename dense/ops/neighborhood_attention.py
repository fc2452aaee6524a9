"""Neighborhood attention: each position attends to the window around it, which stops at the borders."""

from collections.abc import Iterator, Sequence
from itertools import groupby, product
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pointsuite.engine.backends import choose_backend, is_traced

from .chunks import fitting_rows, slices
from .windows import unfold

NUMBERS = int | Sequence[int | None] | None


class Axis(NamedTuple):
    """How queries along one axis choose keys."""

    length: int
    window: int
    dilation: int = 1
    stride: int = 1
    causal: bool = False

    def windows(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """First key, and the one after the last, of each position of a residue class of so many."""
        position = np.arange(length)
        group = position // self.stride * self.stride
        if self.causal:
            leader = np.minimum(group + self.stride - 1, length - 1)
            return np.maximum(leader - self.window + 1, 0), position + 1
        leader = np.minimum(group + self.stride // 2, length - 1)
        before = self.window // 2
        first = np.clip(leader, before, length - self.window + before) - before
        return first, first + self.window

    def classes(self) -> list[tuple[int, int, int]]:
        """Residue classes of the dilation, those of one length together: first, how many, their length."""
        short, longer = divmod(self.length, self.dilation)
        groups = ((0, longer, short + 1), (longer, self.dilation - longer, short))
        return [(first, count, length) for first, count, length in groups if count and length]


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int | Sequence[int],
    dilation: NUMBERS = 1,
    stride: NUMBERS = 1,
    causal: bool | Sequence[bool] = False,
    bias: Tensor | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    r"""Softmax attention of each position to the window of keys around it, along 1, 2 or 3 axes.

    Along an axis of length L with dilation D, a position i = p D + r sees positions u D + r of its own
    residue class r alone, which has n = ceil((L - r) / D). Of these it sees K, as its window stops at the
    borders:

    .. math:: u \in [c - a,\; c - a + K - 1], \quad a = \lfloor K / 2 \rfloor, \quad
        c = \mathrm{clamp}(p,\; a,\; n - K + a).

    With a stride s, the s positions of a group share the window of their leader, the one at s // 2 (a group
    cut off by the border has its last position at most). On a causal axis u is in [max(p - K + 1, 0), p];
    with a stride the leader is the group's last, and u in [max(leader - K + 1, 0), p]. Windows of several
    axes are products. In all, n K^R d products each way, and memory linear in the positions.

    Args:
        q, k: (B, *shape, heads, d) floating, shape of 1, 2 or 3 axes; differentiable (once).
        v: (B, *shape, heads, c) of the same dtype; differentiable (once).
        window: K of each axis, or one for all. K D must not be above L, but on causal axes.
        dilation: D of each axis, or one for all; None is 1.
        stride: s of each axis, or one for all, at most K; None is 1.
        causal: of each axis, or of all.
        bias: (heads, 2 K_1 - 1, ...) floating, added to the scaled logits: ``bias[h, K_1 - 1 + u_1 - p_1,
            ...]``, by the positions of key and query in their residue class; differentiable (once). Not on
            causal axes.
        scale: of the products of queries and keys; by default d^-0.5.
        dropout: probability that a weight is dropped; the others are scaled to the same mean.
        backend: "auto", "torch" (portable), "numba" (CPU; sums in float32, no dropout) or "triton" (CUDA; the
            same). Compiled code sees the portable form.

    Returns:
        (B, *shape, heads, c), dtype of q.

    Raises:
        ValueError: shapes that do not fit, windows, dilations or strides out of range, a bias with a causal
            axis, a backend that is unknown or cannot run there.
        TypeError: dtypes that differ or are not floating.

    Source: Hassani et al., "Neighborhood Attention Transformer", CVPR 2023; Hassani and Shi, "Dilated
    Neighborhood Attention Transformer", 2022; Hassani et al., "Generalized Neighborhood Attention", 2025.
    """
    axes = _check(q, k, v, window, dilation, stride, causal, bias, dropout)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    plain = dropout == 0
    # where windows are whole classes or blocks, each key that a tile loads is in all of its windows
    dense = all(axis.stride == axis.window or axis.length <= axis.window * axis.dilation for axis in axes)
    numba = plain and not dense and q.dtype != torch.float64 and not is_traced()
    chosen = choose_backend(backend, q, numba=numba, triton=plain)
    if chosen != "torch" and not plain:
        raise ValueError(f"backend {chosen!r} has no dropout, found {dropout}")
    if q.numel() == 0 or v.shape[-1] == 0:
        return q.new_zeros(*q.shape[:-1], v.shape[-1])
    if chosen == "numba":
        from .neighborhood_kernels import attend

        exact = [None if t is None else t.float() for t in (q, k, v, bias)]
        return attend(*exact, axes, scale).to(q.dtype)
    if chosen == "triton":
        from .triton.neighborhood_attention import attend

        return attend(q, k, v, bias, axes, scale)
    graded = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (q, k, v, bias))
    if graded and plain and not is_traced():
        return _Recomputed.apply(q, k, v, bias, axes, scale)
    return _attend(q, k, v, bias, axes, scale, dropout)


def _check(q, k, v, window, dilation, stride, causal, bias, dropout) -> tuple[Axis, ...]:
    rank = q.ndim - 3
    if rank not in (1, 2, 3) or k.shape != q.shape or v.shape[:-1] != q.shape[:-1]:
        found = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise ValueError(
            f"q, k and v must be (B, *shape, heads, d), shape of 1 to 3 axes and one for all, found {found}"
        )
    for name, tensor in (("q", q), ("k", k), ("v", v), ("bias", bias)):
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating, found {tensor.dtype}")
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(f"q, k and v must have one dtype, found {q.dtype}, {k.dtype}, {v.dtype}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, found {dropout}")
    axes = make_axes(q.shape[1:-2], window, dilation, stride, causal)
    if bias is not None:
        if any(axis.causal for axis in axes):
            raise ValueError("a bias of relative positions wants no causal axis")
        wanted = (q.shape[-2], *(2 * axis.window - 1 for axis in axes))
        if tuple(bias.shape) != wanted:
            raise ValueError(f"bias must have shape {wanted}, found {tuple(bias.shape)}")
    return axes


def per_axis(name: str, value, rank: int, default) -> tuple:
    """One value for each of ``rank`` axes, of one or of as many; None becomes the default."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * rank
    if len(values) != rank:
        raise ValueError(f"{name} must be one or {rank} values, found {value}")
    return tuple(default if v is None else v for v in values)


def make_axes(
    shape: Sequence[int],
    window: int | Sequence[int],
    dilation: NUMBERS = 1,
    stride: NUMBERS = 1,
    causal: bool | Sequence[bool] = False,
) -> tuple[Axis, ...]:
    """The axes of a map of a shape, checked; arguments as of :func:`neighborhood_attention`."""
    named = {
        "window": (window, None),
        "dilation": (dilation, 1),
        "stride": (stride, 1),
        "causal": (causal, False),
    }
    columns = [per_axis(name, value, len(shape), default) for name, (value, default) in named.items()]
    axes = tuple(Axis(*row) for row in zip(shape, *columns, strict=True))
    for i, (length, size, spread, step, is_causal) in enumerate(axes):
        for name, value in (("window", size), ("dilation", spread), ("stride", step)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, found {value!r}")
        if step > size:
            raise ValueError(f"stride must be at most the window {size}, found {step}")
        if not is_causal and size * spread > length:
            raise ValueError(
                f"axis {i} has {length} positions, wanted at least {size * spread}: "
                f"window {size} times dilation {spread}"
            )
    return axes


# ---------------------------------------------------------------------------------------------- portable form


class Run(NamedTuple):
    """Neighbouring tiles of queries along one axis, which lie to their keys in the same way."""

    dilation: int
    first_class: int
    classes: int
    count: int  # of tiles
    step: int  # from tile to tile, in positions of a class
    queries: tuple[int, int]  # first and number of the first tile's
    keys: tuple[int, int]  # first and number of those of any query in the first tile
    index: np.ndarray  # (queries, keys) places in the table of biases, -1 for keys out of the window

    def pieces(self, most: int) -> Iterator["Run"]:
        """The same tiles, at most so many at a time."""
        for piece in slices(self.count, most):
            ahead = piece.start * self.step
            queries, keys = ((first + ahead, size) for first, size in (self.queries, self.keys))
            yield self._replace(count=piece.stop - piece.start, queries=queries, keys=keys)


def find_runs(axis: Axis, tile: int) -> list[Run]:
    """The tiles of an axis, of so many queries or fewer."""
    runs = []
    for first_class, classes, length in axis.classes():
        starts, stops = axis.windows(length)

        def cut(query: int, starts=starts, stops=stops, length=length) -> tuple:
            rows = slice(query, min(query + tile, length))
            first = int(starts[rows].min())
            own, last = query - first, int(stops[rows].max())
            return own, last - first, tuple(starts[rows] - first), tuple(stops[rows] - first)

        for (own, keys, low, high), group in groupby(range(0, length, tile), cut):
            tiles = list(group)
            key, query = np.arange(keys), own + np.arange(len(low))[:, None]
            inside = (key >= np.array(low)[:, None]) & (key < np.array(high)[:, None])
            index = np.where(inside, axis.window - 1 + key - query, -1)
            queries = (tiles[0], len(low))
            spread = (axis.dilation, first_class, classes)
            runs.append(Run(*spread, len(tiles), tile, queries, (tiles[0] - own, keys), index))
    return runs


def tile_size(axis: Axis, rank: int) -> int:
    """Queries of a tile along an axis: few enough that most of their keys are in most of their windows."""
    longest = -(-axis.length // axis.dilation)
    size = max(4 if rank > 1 else 16, axis.window // 2, axis.stride)
    size = -(-size // axis.stride) * axis.stride
    return longest if longest <= max(axis.window, size) else size


def _table(runs: Sequence[Run], bias: Tensor | None, like: Tensor) -> Tensor:
    """What is added to the logits of a tile: (1, heads, queries, keys), minus infinity out of the windows."""
    rank = len(runs)
    outside = like.new_zeros(())
    table = bias if bias is None else bias.to(like.dtype)
    for i, run in enumerate(runs):
        index = torch.from_numpy(run.index).to(like.device)
        far = torch.zeros(index.shape, dtype=like.dtype, device=like.device).masked_fill_(
            index < 0, -torch.inf
        )
        outside = outside[..., None, None] + far
        if table is not None:
            # axis i of the table becomes two, queries and keys, where axes before it have become such
            table = table.index_select(1 + 2 * i, index.clamp(min=0).flatten()).unflatten(
                1 + 2 * i, index.shape
            )
    total = outside[None] if table is None else table + outside
    order = (0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2))
    return total.permute(order).flatten(1 + rank).flatten(1, rank)[None]


def _narrow(x: Tensor, runs: Sequence[Run], of_keys: bool = False) -> Tensor:
    """The part of (B, *shape, heads, d) in which the tiles lie."""
    for i, run in enumerate(runs):
        first, size = run.keys if of_keys else run.queries
        positions = (run.count - 1) * run.step + size
        start = run.first_class + first * run.dilation
        x = x.narrow(1 + i, start, (positions - 1) * run.dilation + run.classes)
    return x


def _tiles(x: Tensor, runs: Sequence[Run], of_keys: bool = False) -> Tensor:
    """The tiles of that part: a view (B, *counts, *classes, heads, *tile, d)."""
    rank = len(runs)
    for i, run in enumerate(runs):
        _, size = run.keys if of_keys else run.queries
        x = unfold(unfold(x, 1 + i, run.classes, run.dilation), 1 + i, size, run.step)
    counts, classes = range(1, rank + 1), range(rank + 3, 3 * rank + 3, 2)
    return x.permute(0, *counts, *classes, rank + 1, *range(rank + 4, 3 * rank + 3, 2), rank + 2)


def _pieces(q: Tensor, axes: Sequence[Axis]) -> Iterator[tuple[Run, ...]]:
    """Tiles that are computed at once: no temporary is larger than suits the device."""
    found = [find_runs(axis, tile_size(axis, len(axes))) for axis in axes]
    for first, *others in product(*found):
        across = q.shape[0] * q.shape[-2] * prod(run.count for run in others)
        for run in (first, *others):
            across *= run.classes * run.keys[1] * max(run.queries[1], 1)
        most = first.count if is_traced() else fitting_rows(across, q.device)
        for piece in first.pieces(most):
            yield piece, *others


def _attend_tiles(q, k, v, bias, runs, scale, dropout=0.0) -> Tensor:
    """Of parts of q, k and v, as of :func:`_narrow`: (B, *counts, *classes, heads, *tile, c)."""
    rank = len(runs)
    queries = _tiles(q, runs)
    shape = queries.shape
    q, k, v = (
        t.flatten(2 + 2 * rank, -2).flatten(0, 2 * rank)
        for t in (queries, _tiles(k, runs, True), _tiles(v, runs, True))
    )
    mask = None
    if bias is not None or any((run.index < 0).any() for run in runs):
        mask = _table(runs, bias, q)
    y = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout, scale=scale)
    return y.reshape(*shape[:-1], v.shape[-1])


def _attend(q, k, v, bias, axes, scale, dropout=0.0) -> Tensor:
    y = q.new_empty(*q.shape[:-1], v.shape[-1])
    for runs in _pieces(q, axes):
        parts = _narrow(q, runs), _narrow(k, runs, True), _narrow(v, runs, True)
        _tiles(_narrow(y, runs), runs).copy_(_attend_tiles(*parts, bias, runs, scale, dropout))
    return y


class _Recomputed(torch.autograd.Function):
    """The portable form; its gradient computes each piece anew, so that none is kept."""

    @staticmethod
    def forward(ctx, q, k, v, bias, axes, scale):
        ctx.save_for_backward(q, k, v, bias)
        ctx.axes, ctx.scale = axes, scale
        return _attend(q, k, v, bias, axes, scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        tensors = ctx.saved_tensors
        found = [
            torch.zeros_like(t) if needed else None
            for t, needed in zip(tensors, ctx.needs_input_grad, strict=False)
        ]
        for runs in _pieces(grad, ctx.axes):
            where = (runs, False), (runs, True), (runs, True)
            parts = [_narrow(t, *at).detach() for t, at in zip(tensors[:3], where, strict=True)]
            parts.append(None if tensors[3] is None else tensors[3].detach())
            wanted = [
                p.requires_grad_() for p, needed in zip(parts, ctx.needs_input_grad, strict=False) if needed
            ]
            with torch.enable_grad():
                y = _attend_tiles(*parts, runs, ctx.scale)
            grads = iter(torch.autograd.grad(y, wanted, _tiles(_narrow(grad, runs), runs)))
            for total, at in zip(found, (*where, None), strict=True):
                if total is not None:
                    (total if at is None else _narrow(total, *at)).add_(next(grads))
        return *found, None, None

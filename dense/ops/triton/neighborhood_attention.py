"""Neighborhood attention on the GPU.

A program takes a tile of queries of one residue class of a head, and goes through all keys that any of them
sees: a box, whose sides are a tile's and what the windows add (the halo). Softmax is online, so that logits
stay in registers. Maps are read where they lie, whatever their strides and dilations; tiles and boxes stop at
the ends of a class. Backward, the same tile makes the logits anew; gradients of keys, values and biases are
added up.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from pointsuite.engine.backends import device_of

from ..neighborhood_attention import Axis
from . import wide

TILES = {1: (1, 1, 64), 2: (1, 8, 8), 3: (4, 4, 4)}  # queries of a program, by the number of axes
LEAST = 16  # rows and columns of a product of matrices
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _window(p, n, K: tl.constexpr, S: tl.constexpr, CAUSAL: tl.constexpr):
    """First key, and the one after the last, of positions p in a class of n."""
    group = p // S * S
    if CAUSAL:
        leader = tl.minimum(group + S - 1, n - 1)
        first = tl.maximum(leader - K + 1, 0)
        return first, p + 1
    else:
        leader = tl.minimum(group + S // 2, n - 1)
        first = tl.minimum(tl.maximum(leader - K // 2, 0), n - K)
        return first, first + K


@triton.jit
def _box(origin, n, T: tl.constexpr, K: tl.constexpr, S: tl.constexpr, CAUSAL: tl.constexpr):
    """First key of the tile at origin, and how many there are; none for a tile that lies past the end."""
    first, _ = _window(origin, n, K, S, CAUSAL)
    _, last = _window(tl.minimum(origin + T, n) - 1, n, K, S, CAUSAL)
    return first, tl.where(origin < n, last - first, 0)


@triton.jit
def _tile(index, L, D: tl.constexpr, T: tl.constexpr):
    """Residue class, its length and where the tile begins in it, of a tile's index on an axis."""
    residue = index % D
    return residue, tl.cdiv(L - residue, D), index // D * T


@triton.jit
def _inside(p, n, u, K: tl.constexpr, S: tl.constexpr, CAUSAL: tl.constexpr):
    """Whether queries (M, 1) at p see keys (1, N) at u."""
    first, last = _window(p, n, K, S, CAUSAL)
    return (u >= first) & (u < last)


@triton.jit
def _find(
    L0,
    L1,
    L2,
    TILES1,
    TILES2,
    T: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    S: tl.constexpr,
    CAUSAL: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Of the three axes: classes of this program's tile and their lengths, positions of queries, and keys."""
    tile = tl.program_id(0)
    r0, n0, o0 = _tile(tile // (TILES1 * TILES2), L0, D[0], T[0])
    r1, n1, o1 = _tile(tile // TILES2 % TILES1, L1, D[1], T[1])
    r2, n2, o2 = _tile(tile % TILES2, L2, D[2], T[2])
    row = tl.arange(0, BLOCK_M)
    p0, p1, p2 = o0 + row // (T[1] * T[2]), o1 + row // T[2] % T[1], o2 + row % T[2]
    a0, k0 = _box(o0, n0, T[0], K[0], S[0], CAUSAL[0])
    a1, k1 = _box(o1, n1, T[1], K[1], S[1], CAUSAL[1])
    a2, k2 = _box(o2, n2, T[2], K[2], S[2], CAUSAL[2])
    return (r0, r1, r2), (n0, n1, n2), (p0, p1, p2), (a0, a1, a2), (k0, k1, k2)


@triton.jit
def _keys(start, a, k, BLOCK_N: tl.constexpr):
    """Positions of some keys of a box on the three axes, and which of them are in it."""
    column = start + tl.arange(0, BLOCK_N)
    real = column < k[0] * k[1] * k[2]
    k1, k2 = tl.maximum(k[1], 1), tl.maximum(k[2], 1)
    return a[0] + column // (k1 * k2), a[1] + column // k2 % k1, a[2] + column % k2, real


@triton.jit
def _places(u0, u1, u2, r, strides, D: tl.constexpr):
    """Offsets of positions of a class in a tensor."""
    i0, i1, i2 = u0 * D[0] + r[0], u1 * D[1] + r[1], u2 * D[2] + r[2]
    return i0.to(tl.int64) * strides[1] + i1.to(tl.int64) * strides[2] + i2.to(tl.int64) * strides[3]


@triton.jit
def _load(base, place, real, channel, stride, C: tl.constexpr):
    """(rows, channels), zeros where not real."""
    mask = real[:, None] & (channel < C)[None, :]
    return tl.load(base + place[:, None] + (channel * stride)[None, :], mask=mask, other=0)


@triton.jit
def _logits(
    q, k, bias, head, n, p, u, real, scale,
    K: tl.constexpr, S: tl.constexpr, CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """(M, N), minus infinity out of the windows; and the places of their biases."""
    logits = tl.dot(q, tl.trans(k), input_precision="ieee", out_dtype=SUM) * scale
    p0, p1, p2, u0, u1, u2 = (
        p[0][:, None],
        p[1][:, None],
        p[2][:, None],
        u[0][None, :],
        u[1][None, :],
        u[2][None, :],
    )
    inside = real[None, :] & (p0 < n[0]) & (p1 < n[1]) & (p2 < n[2])
    inside &= _inside(p0, n[0], u0, K[0], S[0], CAUSAL[0])
    inside &= _inside(p1, n[1], u1, K[1], S[1], CAUSAL[1])
    inside &= _inside(p2, n[2], u2, K[2], S[2], CAUSAL[2])
    place = head * (2 * K[0] - 1) + K[0] - 1 + u0 - p0
    place = place * (2 * K[1] - 1) + K[1] - 1 + u1 - p1
    place = place * (2 * K[2] - 1) + K[2] - 1 + u2 - p2
    if HAS_BIAS:
        logits += tl.load(bias + place, mask=inside, other=0).to(SUM)
    return tl.where(inside, logits, -float("inf")), place, inside


@triton.jit
def _forward_kernel(
    q, k, v, bias, out, sums,
    q_strides, k_strides, v_strides, out_strides,  # of (B, three axes, heads, channels)
    scale, L0, L1, L2, TILES1, TILES2, HEADS,
    T: tl.constexpr, D: tl.constexpr, K: tl.constexpr, S: tl.constexpr, CAUSAL: tl.constexpr,
    C: tl.constexpr, C_V: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    SUM: tl.constexpr = tl.float64 if q.dtype.element_ty == tl.float64 else tl.float32
    r, n, p, a, count = _find(L0, L1, L2, TILES1, TILES2, T, D, K, S, CAUSAL, BLOCK_M)
    image, head = (tl.program_id(1) // HEADS).to(tl.int64), tl.program_id(1) % HEADS
    q += image * q_strides[0] + head * q_strides[4]
    k += image * k_strides[0] + head * k_strides[4]
    v += image * v_strides[0] + head * v_strides[4]
    out += image * out_strides[0] + head * out_strides[4]
    channel, channel_v = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_V)
    real = (p[0] < n[0]) & (p[1] < n[1]) & (p[2] < n[2])
    queries = _load(q, _places(p[0], p[1], p[2], r, q_strides, D), real, channel, q_strides[5], C)
    top = tl.full((BLOCK_M,), -float("inf"), SUM)
    total = tl.zeros((BLOCK_M,), SUM)
    mean = tl.zeros((BLOCK_M, BLOCK_V), SUM)
    for start in range(0, count[0] * count[1] * count[2], BLOCK_N):
        u0, u1, u2, there = _keys(start, a, count, BLOCK_N)
        keys = _load(k, _places(u0, u1, u2, r, k_strides, D), there, channel, k_strides[5], C)
        logits, _, _ = _logits(
            queries, keys, bias, head, n, p, (u0, u1, u2), there, scale, K, S, CAUSAL, HAS_BIAS, SUM
        )
        higher = tl.maximum(top, tl.max(logits, 1))
        safe = tl.where(higher == -float("inf"), 0.0, higher)  # of queries that have seen no key so far
        weights = tl.exp2((logits - safe[:, None]) * LOG2E)
        shrink = tl.exp2((top - safe) * LOG2E)
        values = _load(v, _places(u0, u1, u2, r, v_strides, D), there, channel_v, v_strides[5], C_V)
        mean = mean * shrink[:, None]
        mean += tl.dot(weights.to(values.dtype), values, input_precision="ieee", out_dtype=SUM)
        total = total * shrink + tl.sum(weights, 1)
        top = higher
    total = tl.where(real, total, 1.0)
    place = _places(p[0], p[1], p[2], r, out_strides, D)
    mask = real[:, None] & (channel_v < C_V)[None, :]
    tl.store(out + place[:, None] + (channel_v * out_strides[5])[None, :], mean / total[:, None], mask=mask)
    i0, i1, i2 = p[0] * D[0] + r[0], p[1] * D[1] + r[1], p[2] * D[2] + r[2]
    flat = ((image * HEADS + head) * L0 + i0) * L1 * L2 + i1 * L2 + i2
    tl.store(sums + flat, top + tl.log2(total) / LOG2E, mask=real)


@triton.jit
def _backward_kernel(
    grad, q, k, v, bias, sums, means, grad_q, grad_k, grad_v, grad_bias,
    q_strides, k_strides, v_strides, grad_strides,
    own_strides, own_v_strides,  # of the gradients that are made
    scale, L0, L1, L2, TILES1, TILES2, HEADS,
    T: tl.constexpr, D: tl.constexpr, K: tl.constexpr, S: tl.constexpr, CAUSAL: tl.constexpr,
    C: tl.constexpr, C_V: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    SUM: tl.constexpr = tl.float64 if q.dtype.element_ty == tl.float64 else tl.float32
    r, n, p, a, count = _find(L0, L1, L2, TILES1, TILES2, T, D, K, S, CAUSAL, BLOCK_M)
    image, head = (tl.program_id(1) // HEADS).to(tl.int64), tl.program_id(1) % HEADS
    q += image * q_strides[0] + head * q_strides[4]
    k += image * k_strides[0] + head * k_strides[4]
    v += image * v_strides[0] + head * v_strides[4]
    grad += image * grad_strides[0] + head * grad_strides[4]
    own, own_v = (
        image * own_strides[0] + head * own_strides[4],
        image * own_v_strides[0] + head * own_v_strides[4],
    )
    channel, channel_v = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_V)
    real = (p[0] < n[0]) & (p[1] < n[1]) & (p[2] < n[2])
    queries = _load(q, _places(p[0], p[1], p[2], r, q_strides, D), real, channel, q_strides[5], C)
    grads = _load(grad, _places(p[0], p[1], p[2], r, grad_strides, D), real, channel_v, grad_strides[5], C_V)
    i0, i1, i2 = p[0] * D[0] + r[0], p[1] * D[1] + r[1], p[2] * D[2] + r[2]
    flat = ((image * HEADS + head) * L0 + i0) * L1 * L2 + i1 * L2 + i2
    total = tl.load(sums + flat, mask=real, other=0)
    mean = tl.load(means + flat, mask=real, other=0)
    of_queries = tl.zeros((BLOCK_M, BLOCK_C), SUM)
    for start in range(0, count[0] * count[1] * count[2], BLOCK_N):
        u0, u1, u2, there = _keys(start, a, count, BLOCK_N)
        keys = _load(k, _places(u0, u1, u2, r, k_strides, D), there, channel, k_strides[5], C)
        values = _load(v, _places(u0, u1, u2, r, v_strides, D), there, channel_v, v_strides[5], C_V)
        logits, bias_place, inside = _logits(
            queries, keys, bias, head, n, p, (u0, u1, u2), there, scale, K, S, CAUSAL, HAS_BIAS, SUM
        )
        weights = tl.exp2((logits - total[:, None]) * LOG2E)
        slopes = tl.dot(grads, tl.trans(values), input_precision="ieee", out_dtype=SUM)
        slopes = weights * (slopes - mean[:, None])
        if HAS_BIAS:
            tl.atomic_add(grad_bias + bias_place, slopes, mask=inside, sem="relaxed")
        slopes = (slopes * scale).to(keys.dtype)
        of_queries += tl.dot(slopes, keys, input_precision="ieee", out_dtype=SUM)
        of_keys = tl.dot(tl.trans(slopes), queries, input_precision="ieee", out_dtype=SUM)
        of_values = tl.dot(tl.trans(weights.to(grads.dtype)), grads, input_precision="ieee", out_dtype=SUM)
        place, place_v = _places(u0, u1, u2, r, own_strides, D), _places(u0, u1, u2, r, own_v_strides, D)
        mask, mask_v = there[:, None] & (channel < C)[None, :], there[:, None] & (channel_v < C_V)[None, :]
        tl.atomic_add(grad_k + own + place[:, None] + channel[None, :], of_keys, mask=mask, sem="relaxed")
        tl.atomic_add(
            grad_v + own_v + place_v[:, None] + channel_v[None, :], of_values, mask=mask_v, sem="relaxed"
        )
    place = own + _places(p[0], p[1], p[2], r, own_strides, D)
    mask = real[:, None] & (channel < C)[None, :]
    tl.store(grad_q + place[:, None] + channel[None, :], of_queries, mask=mask)


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, axes: Sequence[Axis], scale: float
) -> Tensor:
    """Like :func:`~dense.ops.neighborhood_attention`, of tensors that are checked."""
    return _Attention.apply(q, k, v, bias, tuple(axes), scale)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, bias, axes, scale):
        out, sums = forward(q, k, v, bias, axes, scale)
        ctx.save_for_backward(q, k, v, bias, out, sums)
        ctx.axes, ctx.scale = axes, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return *backward(grad, *ctx.saved_tensors, ctx.axes, ctx.scale), None, None


def forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, axes: Sequence[Axis], scale: float
) -> tuple[Tensor, Tensor]:
    """What the op returns, and the logarithms (B, heads, positions) of the sums of exponentials."""
    out = q.new_empty(*q.shape[:-1], v.shape[-1])
    grid, numbers, constants = plan(q, v, bias, axes)
    sums = q.new_empty(len(q), q.shape[-2], out[0, ..., 0, 0].numel(), dtype=wide(q.dtype))
    tensors = [_spread(t) for t in (q, k, v)]
    with device_of(q):
        _forward_kernel[grid](
            *tensors, _table(bias, q), out, sums,
            *(t.stride() for t in (*tensors, _spread(out))), scale,
            *numbers, **constants,
        )  # fmt: skip
    return out, sums


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    sums: Tensor,
    axes: Sequence[Axis],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v and bias, in their dtypes."""
    kind = wide(q.dtype)
    grid, numbers, constants = plan(q, v, bias, axes)
    made = [torch.zeros(t.shape, dtype=kind, device=q.device) for t in (q, k, v)]
    table = _table(bias, q)
    of_bias = torch.zeros(table.shape, dtype=kind, device=q.device)
    means = (grad.to(kind) * out.to(kind)).sum(-1).flatten(1, -2).mT.contiguous()
    tensors = [_spread(t) for t in (q, k, v, grad.to(q.dtype))]
    own = _spread(made[0]), _spread(made[2])
    with device_of(q):
        _backward_kernel[grid](
            tensors[3], *tensors[:3], table, sums, means, *made, of_bias,
            *(t.stride() for t in (*tensors, *own)), scale, *numbers, **constants,
        )  # fmt: skip
    return *(t.to(q.dtype) for t in made), None if bias is None else of_bias.to(bias.dtype)


def _spread(x: Tensor) -> Tensor:
    """(B, *shape, heads, d) with three axes."""
    for _ in range(6 - x.ndim):
        x = x.unsqueeze(1)
    return x


def _table(bias: Tensor | None, like: Tensor) -> Tensor:
    return like.new_zeros(1) if bias is None else bias.contiguous()


def plan(q: Tensor, v: Tensor, bias: Tensor | None, axes: Sequence[Axis]) -> tuple[tuple, tuple, dict]:
    """Grid of programs, and the kernels' numbers and constants."""
    rank, heads = len(axes), q.shape[-2]
    axes = (*(Axis(1, 1) for _ in range(3 - rank)), *axes)
    lengths = [-(-axis.length // axis.dilation) for axis in axes]
    sides = [triton.next_power_of_2(n) for n in lengths]
    tile = [min(size, side) for size, side in zip(TILES[rank], sides, strict=True)]
    width, width_v = (max(LEAST, triton.next_power_of_2(t.shape[-1])) for t in (q, v))
    large = max(width, width_v) * q.element_size() > 256
    for axis in (0, 1, 2):
        while (
            large and tile[0] * tile[1] * tile[2] > LEAST and tile[axis] > 1
        ):  # less that stays in registers
            tile[axis] //= 2
    while tile[0] * tile[1] * tile[2] < LEAST:
        tile[2] *= 2
    counts = [-(-n // size) * axis.dilation for n, size, axis in zip(lengths, tile, axes, strict=True)]
    columns = {
        name: tuple(getattr(axis, name) for axis in axes)
        for name in ("dilation", "window", "stride", "causal")
    }
    constants = {
        "T": tuple(tile),
        "D": columns["dilation"],
        "K": columns["window"],
        "S": columns["stride"],
        "CAUSAL": columns["causal"],
        "C": q.shape[-1],
        "C_V": v.shape[-1],
        "HAS_BIAS": bias is not None,
        "BLOCK_M": tile[0] * tile[1] * tile[2],
        "BLOCK_N": LEAST if large else 64,
        "BLOCK_C": width,
        "BLOCK_V": width_v,
        "num_warps": 4,
    }
    grid = (counts[0] * counts[1] * counts[2], len(q) * heads)
    return grid, (*(axis.length for axis in axes), counts[1], counts[2], heads), constants

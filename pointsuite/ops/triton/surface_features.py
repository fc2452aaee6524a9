"""Angular ordering and the 14 surface features on the GPU: all slots of a centre in one warp's registers.

Only indices, features and the points themselves touch global memory. Each expression is that of the numba
kernel in :mod:`pointsuite.ops.surface_features`, in the same order of operations.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...engine.backends import device_of
from .sorting import sort_pairs

NUM_FEATURES = 14
MAX_K = 128  # beyond, the slots of one centre no longer fit a warp's registers


@triton.jit
def _load(base, index, mask):
    """The vectors (three blocks each) at the rows `index` of a (..., 3) array."""
    place = base + index * 3
    x = tl.load(place, mask=mask, other=0)
    y = tl.load(place + 1, mask=mask, other=0)
    z = tl.load(place + 2, mask=mask, other=0)
    return x, y, z


@triton.jit
def _minus(a, b):
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


@triton.jit
def _times(a, scale):
    return a[0] * scale, a[1] * scale, a[2] * scale


@triton.jit
def _dot(a, b):
    return (a[0] * b[0] + a[1] * b[1]) + a[2] * b[2]


@triton.jit
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@triton.jit
def _fused(x, y, z):
    """x * y + z rounded once in float32, as in :mod:`pointsuite.ops.surface_features`; tl.fma is not exact in
    Triton's interpreter."""
    return (x.to(tl.float64) * y.to(tl.float64) + z.to(tl.float64)).to(x.dtype)


@triton.jit
def _fused_times(a, scale, b):
    """a * scale + b."""
    return _fused(a[0], scale, b[0]), _fused(a[1], scale, b[1]), _fused(a[2], scale, b[2])


@triton.jit
def _fused_dot(a, b):
    return _fused(a[2], b[2], _fused(a[1], b[1], a[0] * b[0]))


@triton.jit
def _fused_cross(a, b):
    x = _fused(a[1], b[2], -(a[2] * b[1]))
    y = _fused(a[2], b[0], -(a[0] * b[2]))
    z = _fused(a[0], b[1], -(a[1] * b[0]))
    return x, y, z


@triton.jit
def _length(a):
    return _root(_dot(a, a))


@triton.jit
def _root(square):
    if square.dtype == tl.float64:
        return tl.sqrt(square)
    else:
        return tl.sqrt_rn(square)  # the plain one is approximate in float32, and so is division


@triton.jit
def _quotient(x, y):
    if x.dtype == tl.float64:
        return x / y
    else:
        return tl.div_rn(x, y)


@triton.jit
def _divide(a, scale):
    return _quotient(a[0], scale), _quotient(a[1], scale), _quotient(a[2], scale)


@triton.jit
def _unit(a, EPS: tl.constexpr):
    length = _length(a) + EPS
    return _times(a, _quotient(length * 0 + 1, length))


@triton.jit
def _pick(x, chosen):
    """The one chosen value of each row, as a column."""
    return tl.sum(tl.where(chosen, x, 0), 1)[:, None]


@triton.jit(do_not_specialize=["S", "N", "K", "SHIFT"])
def _surface_kernel(
    centres,  # (B, S, 3)
    centre_normals,  # (B, S, 3)
    points,  # (B, N, 3)
    normals,  # (B, N, 3)
    origins,  # (B, S, 3)
    idx,  # (B, S, K)
    features,  # (B, S, K, 14)
    ordered,  # (B, S, K)
    S,
    N,
    K,
    SHIFT,  # in [0, K)
    LOG_S: tl.constexpr,
    LOG_K: tl.constexpr,
    EPS: tl.constexpr,
    PROPAGATION: tl.constexpr,
):
    BLOCK_S: tl.constexpr = 1 << LOG_S
    BLOCK_K: tl.constexpr = 1 << LOG_K
    program = tl.program_id(0)
    blocks = tl.cdiv(S, BLOCK_S)
    cloud = (program // blocks).to(tl.int64)
    row = (program % blocks) * BLOCK_S + tl.arange(0, BLOCK_S)[:, None]
    inside = row < S
    row = cloud * S + row
    slot = tl.broadcast_to(tl.arange(0, BLOCK_K)[None, :], (BLOCK_S, BLOCK_K))
    real = inside & (slot < K)
    points += cloud * N * 3
    normals += cloud * N * 3
    idx += row * K
    normal = _load(centre_normals, row, inside)

    # Directions in the tangent plane; a neighbour on the normal's line has none.
    x = _minus(_load(points, tl.load(idx + slot, mask=real, other=0), real), _load(centres, row, inside))
    along = _fused_dot(x, normal)
    if PROPAGATION:
        x = _fused_times(normal, -along, x)
        inward = (x[2], x[1], x[0])
        length = _root(_fused_dot(inward, inward))
    else:
        x = _minus(x, _times(normal, along))
        length = _root(_fused_dot(x, x))
    x = _divide(x, tl.where(length > 0, length, 1))

    # The angle from the longest (the first of them), as a half plane and a cosine.
    first = slot == tl.argmax(tl.where(real, length, -1), 1)[:, None]
    reference = (_pick(x[0], first), _pick(x[1], first), _pick(x[2], first))
    turn = _dot(_fused_cross(x, reference), normal)
    side = tl.where(turn > 0, 1.0, tl.where(turn < 0, -1.0, 0.0)).to(turn.dtype)
    side = tl.where(first | (slot == 0), 1, side)
    if PROPAGATION:
        cosine = _dot((x[0], x[2], x[1]), (reference[0], reference[2], reference[1]))
    else:
        cosine = _dot(x, reference)
    key = side * cosine - (1 - side)
    # Ascending in -key, so that equal keys keep their order; slots past K stay last.
    _, order = sort_pairs(tl.where(slot < K, -key, float("inf")), slot, LOG_S, LOG_K, 0)

    # Each slot's neighbour x, the one before it b and the one after it a, seen from the origin.
    at_x = tl.load(idx + order, mask=real, other=0)
    at_b = tl.load(idx + tl.gather(order, (slot + K - SHIFT) % K, 1), mask=real, other=0)
    at_a = tl.load(idx + tl.gather(order, (slot + SHIFT) % K, 1), mask=real, other=0)
    origin = _load(origins, row, inside)
    x, b, a = _load(points, at_x, real), _load(points, at_b, real), _load(points, at_a, real)
    from_b, to_a = _unit(_minus(x, b), EPS), _unit(_minus(a, x), EPS)  # offsets would be rounded
    x, b, a = _minus(x, origin), _minus(b, origin), _minus(a, origin)
    normal_x = _load(normals, at_x, real)
    normal_b = _load(normals, at_b, real)
    normal_a = _load(normals, at_a, real)
    length = _length(x)
    x, b, a = _unit(x, EPS), _unit(b, EPS), _unit(a, EPS)

    out = row * K + slot
    tl.store(ordered + out, at_x, mask=real)
    out = features + out * 14
    tl.store(out, length, mask=real)
    tl.store(out + 1, _dot(x, normal), mask=real)
    tl.store(out + 2, -_dot(x, normal_x), mask=real)
    tl.store(out + 3, _dot(x, b), mask=real)
    tl.store(out + 4, _dot(b, normal), mask=real)
    tl.store(out + 5, -_dot(b, normal_b), mask=real)
    tl.store(out + 6, -_dot(b, from_b), mask=real)
    tl.store(out + 7, -_dot(from_b, normal_x), mask=real)
    tl.store(out + 8, _dot(from_b, normal_b), mask=real)
    tl.store(out + 9, _dot(a, x), mask=real)
    tl.store(out + 10, _dot(a, to_a), mask=real)
    tl.store(out + 11, _dot(to_a, normal_a), mask=real)
    tl.store(out + 12, _dot(x, normal_a), mask=real)
    tl.store(out + 13, _dot(_cross(a, x), _cross(b, x)), mask=real)


def surface_features(
    centres: Tensor,
    centre_normals: Tensor,
    points: Tensor,
    normals: Tensor,
    idx: Tensor,
    shift: int,
    origins: Tensor | None = None,
    propagation: bool = False,
) -> tuple[Tensor, Tensor]:
    """Like :func:`pointsuite.ops.surface_features` with the reference's sign fixed, for K <= MAX_K.

    `propagation`: rounding="propagation".
    """
    batch, size, k = idx.shape
    if k > MAX_K:
        raise ValueError(f"backend 'triton' wants at most {MAX_K} neighbours, found {k}")
    features = points.new_empty(*idx.shape, NUM_FEATURES)
    ordered = torch.empty_like(idx)
    constants = surface_constants(k, propagation)
    programs = batch * triton.cdiv(size, 1 << constants["LOG_S"])
    if not programs:
        return features, ordered
    origins = centres if origins is None else origins
    with device_of(points):
        _surface_kernel[(programs,)](
            centres,
            centre_normals,
            points,
            normals,
            origins,
            idx,
            features,
            ordered,
            size,
            points.shape[1],
            k,
            shift % k,
            **constants,
        )
    return features, ordered


def surface_constants(k: int, propagation: bool = False) -> dict:
    """One warp a program, one or two slots a thread (more where a centre has more than 64)."""
    log_k = (k - 1).bit_length()
    return {
        "LOG_S": max(0, 6 - log_k),
        "LOG_K": log_k,
        "EPS": 1e-7,
        "PROPAGATION": propagation,
        "num_warps": 1,
        "enable_fp_fusion": False,
    }

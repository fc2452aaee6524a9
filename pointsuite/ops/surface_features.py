"""Order a centre's neighbours by angle and describe the surface in 14 rotation-invariant numbers.

Source: Zhang, Yang, Xiang, "RISurConv: Rotation Invariant Surface Attention-Augmented Convolutions for
3D Point Cloud Classification and Segmentation", ECCV 2024.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ..engine.parallel import jit, run_rows
from ._checks import check_cloud, check_finite, check_index, check_same, choose_neighbour_backend

NUM_FEATURES = 14
ROUNDINGS = ("abstraction", "propagation")
EPS = 1e-7  # of unit(z) = z / (|z| + EPS)


def surface_features(
    centres: Tensor,
    centre_normals: Tensor,
    points: Tensor,
    normals: Tensor,
    idx: Tensor,
    *,
    shift: int = 1,
    origins: Tensor | None = None,
    reference_sign: str = "fixed",
    rounding: str = "abstraction",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Angular ordering and the 14 surface features of every neighbour.

    Each neighbour is projected to the plane through the centre orthogonal to its normal. The neighbour
    with the longest projection is the reference; the others follow by their angle around the normal,
    beginning there. Slot i of the result then compares its neighbour x with the neighbours b = slot
    i - shift and a = slot i + shift, cyclically, by lengths and angles: |x|, and cosines between x, b, a,
    their differences and the normals of all four points.

    Args:
        centres, centre_normals: (B, S, 3) float32 or float64; unit normals.
        points, normals: (B, N, 3), same dtype; unit normals.
        idx: (B, S, K) int64, neighbours of each centre among the points. The first is treated as lying on
            the reference's side of the plane; :func:`knn` puts the centre itself there.
        shift: slots between a neighbour and those that it is compared with.
        origins: (B, S, 3) points from which the features are measured; the centres if None. The order is
            around the centres either way.
        reference_sign: "fixed" puts the reference first. "rounded" takes its side of the plane from the
            rounding of a cross product of a vector with itself, as the published code does: it lands
            first or last by chance (torch backend only, and `rounding` has no say).
        rounding: how the numbers behind the angles round, "abstraction" or "propagation": as in the set
            abstraction or in the propagation layers of the published code's reference results. Neither is
            more exact, and it matters only for the order of neighbours whose angles tie in float32::

                                     abstraction                    propagation
                v in the plane       v - (v.n) n                    fma(-v.n, n, v)
                its squared length   fma(z, z, fma(y, y, x x))      fma(x, x, fma(y, y, z z))
                cosine               (x x' + y y') + z z'           (x x' + z z') + y y'

        backend: "auto", "torch" (portable), "numba" (CPU) or "triton" (CUDA).

    Returns:
        features (B, S, K, 14) in the dtype of the points and the ordered idx (B, S, K) int64. Equal keys
        keep their order. No gradient: the features are constants of training.

    Raises:
        ValueError: wrong shapes, indices out of range, NaN or infinity, mixed devices.
        TypeError: wrong dtypes.
    """
    for name, cloud in (("centres", centres), ("points", points)):
        check_cloud(name, cloud)
    check_same("centres", centres, "points", points)
    for name, cloud, like_name, like in (
        ("centre_normals", centre_normals, "centres", centres),
        ("normals", normals, "points", points),
        ("origins", centres if origins is None else origins, "centres", centres),
    ):
        check_same(name, cloud, like_name, like)
        if cloud.shape != like.shape:
            raise ValueError(
                f"{name} must have the shape of {like_name}, {tuple(like.shape)}, found {tuple(cloud.shape)}"
            )
    check_index("idx", idx, points, ndim=3)
    if idx.shape[1] != centres.shape[1] or idx.shape[2] < 1:
        raise ValueError(f"idx must have shape (B, {centres.shape[1]}, K >= 1), found {tuple(idx.shape)}")
    if reference_sign not in ("fixed", "rounded"):
        raise ValueError(f"reference_sign must be 'fixed' or 'rounded', found {reference_sign!r}")
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {ROUNDINGS}, found {rounding!r}")
    if reference_sign == "fixed":
        backend = choose_neighbour_backend(backend, points, idx.shape[2])
    else:
        backend = "torch"
    arrays = (centres, centre_normals, points, normals, centres if origins is None else origins)
    fixed = reference_sign == "fixed"
    propagation = fixed and rounding == "propagation"
    return _features(*(a.detach() for a in arrays), idx, shift, fixed, propagation, backend)


@torch.library.custom_op("pointsuite::surface_features", mutates_args=())
def _features(
    centres: Tensor,
    centre_normals: Tensor,
    points: Tensor,
    normals: Tensor,
    origins: Tensor,
    idx: Tensor,
    shift: int,
    fixed: bool,
    propagation: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    check_finite("centres", centres)
    check_finite("centre_normals", centre_normals)
    check_finite("points", points)
    check_finite("normals", normals)
    low, high = int(idx.min()), int(idx.max())
    if low < 0 or high >= points.shape[1]:
        raise ValueError(f"idx must lie in [0, {points.shape[1]}), found {low} to {high}")
    arrays = [a.contiguous() for a in (centres, centre_normals, points, normals, origins, idx)]
    if backend == "triton":
        from .triton.surface_features import surface_features as surface_features_triton

        return surface_features_triton(*arrays[:4], arrays[5], shift, arrays[4], propagation)
    if backend == "torch":
        return _features_torch(*arrays, shift, fixed, propagation)
    features = points.new_empty(*idx.shape, NUM_FEATURES)
    ordered = torch.empty_like(arrays[5])
    rows = idx.shape[0] * idx.shape[1]
    outputs = (features.numpy(), ordered.numpy())
    run_rows(_feature_rows, rows, *(a.numpy() for a in arrays), shift, propagation, *outputs, grain=8)
    return features, ordered


@_features.register_fake
def _(centres, centre_normals, points, normals, origins, idx, shift, fixed, propagation, backend):
    return points.new_empty(*idx.shape, NUM_FEATURES), torch.empty_like(
        idx, memory_format=torch.contiguous_format
    )


def _unit(vector: Tensor) -> Tensor:
    return vector / (vector.norm(dim=-1, keepdim=True) + EPS)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    x, y, z = (a * b).unbind(-1)
    return x + y + z


def _wide(x: Tensor) -> Tensor:
    return x if x.device.type == "mps" else x.double()  # Apple's GPUs have no float64


def _fused_torch(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Like `_fused`."""
    return (_wide(x) * _wide(y) + _wide(z)).to(x.dtype)


def _fused_dot(a: Tensor, b: Tensor) -> Tensor:
    (ax, ay, az), (bx, by, bz) = a.unbind(-1), b.unbind(-1)
    return _fused_torch(az, bz, _fused_torch(ay, by, ax * bx))


def _fused_cross(a: Tensor, b: Tensor) -> Tensor:
    (ax, ay, az), (bx, by, bz) = a.unbind(-1), b.unbind(-1)
    x = _fused_torch(ay, bz, -(az * by))
    y = _fused_torch(az, bx, -(ax * bz))
    z = _fused_torch(ax, by, -(ay * bx))
    return torch.stack([x, y, z], -1)


def _order_torch(offset: Tensor, normal: Tensor, fixed: bool, propagation: bool) -> Tensor:
    """Slots by descending key: offset (B, S, K, 3) from the centre, its normal (B, S, 3) -> (B, S, K)."""
    normal = normal[:, :, None]
    # The published run whose signs "rounded" repeats has plain sums along the normal in all its layers.
    along = (_fused_dot if fixed else _dot)(offset, normal)[..., None]
    flat = _fused_torch(-along, normal, offset) if propagation else offset - along * normal
    inward = flat.flip(-1) if propagation else flat
    square = _fused_dot(inward, inward)
    length = _wide(square).sqrt().to(square.dtype)[..., None]  # float32 roots are not exact on every CPU
    direction = flat / torch.where(length > 0, length, 1)
    reference = (length == length.amax(2, keepdim=True)).to(torch.uint8).argmax(2, keepdim=True)  # the first
    first = direction.gather(2, reference.expand(-1, -1, -1, 3))
    side = _dot(_fused_cross(direction, first), normal).sign()
    side[..., 0] = 1
    if fixed:
        side.scatter_(2, reference[..., 0], 1)
    axes = [0, 2, 1] if propagation else [0, 1, 2]
    cosine = _dot(direction[..., axes], first[..., axes])
    return (side * cosine - (1 - side)).sort(dim=-1, descending=True, stable=True).indices


def _features_torch(centres, centre_normals, points, normals, origins, idx, shift, fixed, propagation):
    batch = torch.arange(len(points), device=points.device)[:, None, None]
    slot = _order_torch(points[batch, idx] - centres[:, :, None], centre_normals, fixed, propagation)
    idx = idx.gather(2, slot)
    p, nx = points[batch, idx], normals[batch, idx]
    x, nb, na = p - origins[:, :, None], nx.roll(shift, 2), nx.roll(-shift, 2)
    normal = centre_normals[:, :, None]
    # Neighbours are subtracted themselves: far from the origin their offsets are rounded.
    ux, uxb = _unit(x), _unit(p - p.roll(shift, 2))
    ub, ua, uax = ux.roll(shift, 2), ux.roll(-shift, 2), uxb.roll(-shift, 2)
    features = [
        x.norm(dim=-1),
        _dot(ux, normal),
        -_dot(ux, nx),
        _dot(ux, ub),
        _dot(ub, normal),
        -_dot(ub, nb),
        -_dot(ub, uxb),
        -_dot(uxb, nx),
        _dot(uxb, nb),
        _dot(ua, ux),
        _dot(ua, uax),
        _dot(uax, na),
        _dot(ux, na),
        _dot(torch.linalg.cross(ua, ux, dim=-1), torch.linalg.cross(ub, ux, dim=-1)),
    ]
    return torch.stack(features, -1), idx


@jit
def _fused(x, y, z):
    """x * y + z rounded once in float32, as the published code's library rounds its products, norms and cross
    products: the order of neighbours at nearly equal angles hangs on it."""
    return np.float64(x) * np.float64(y) + np.float64(z)


@jit
def _dot3(a, i, b, j):
    return a[i, 0] * b[j, 0] + a[i, 1] * b[j, 1] + a[i, 2] * b[j, 2]


@jit
def _feature_rows(
    centres, centre_normals, points, normals, origins, idx, shift, propagation, features, ordered, start, stop
):
    """Rows [start, stop) of the flattened (B * S) centres."""
    size, count = idx.shape[1], idx.shape[2]
    real = points.dtype.type  # a plain 1 would turn float32 into float64
    zero, one, eps = real(0), real(1), real(EPS)
    flat = np.empty((count, 3), points.dtype)
    length = np.empty(count, points.dtype)
    key = np.empty(count, points.dtype)
    slot = np.empty(count, np.int64)
    unit = np.empty((count, 3), points.dtype)  # unit(x)
    edge = np.empty((count, 3), points.dtype)  # unit(x - b), so that slot a holds unit(a - x)
    around = np.empty((count, 3), points.dtype)  # the neighbours' normals
    for row in range(start, stop):
        b, s = row // size, row % size
        centre, origin = centres[b, s], origins[b, s]
        n = centre_normals[b, s]

        reference = 0
        for i in range(count):
            j = idx[b, s, i]
            x, y, z = points[b, j, 0] - centre[0], points[b, j, 1] - centre[1], points[b, j, 2] - centre[2]
            along = real(_fused(z, n[2], real(_fused(y, n[1], x * n[0]))))
            if propagation:
                x = real(_fused(-along, n[0], x))
                y = real(_fused(-along, n[1], y))
                z = real(_fused(-along, n[2], z))
            else:
                x, y, z = x - along * n[0], y - along * n[1], z - along * n[2]
            first, last = (z, x) if propagation else (x, z)
            far = real(math.sqrt(real(_fused(last, last, real(_fused(y, y, first * first))))))
            if far > 0:
                x, y, z = x / far, y / far, z / far
            flat[i, 0], flat[i, 1], flat[i, 2], length[i] = x, y, z, far
            if far > length[reference]:
                reference = i
        rx, ry, rz = flat[reference, 0], flat[reference, 1], flat[reference, 2]
        for i in range(count):
            x, y, z = flat[i, 0], flat[i, 1], flat[i, 2]
            cx = real(_fused(y, rz, -(z * ry)))
            cy = real(_fused(z, rx, -(x * rz)))
            cz = real(_fused(x, ry, -(y * rx)))
            turn = cx * n[0] + cy * n[1] + cz * n[2]
            side = one if i == 0 or i == reference or turn > 0 else -one if turn < 0 else zero
            cosine = x * rx + z * rz + y * ry if propagation else x * rx + y * ry + z * rz
            value = side * cosine - (one - side)
            place = i
            while place > 0 and key[place - 1] < value:  # descending; equal keys keep their order
                key[place], slot[place] = key[place - 1], slot[place - 1]
                place -= 1
            key[place], slot[place] = value, i

        for i in range(count):
            j = idx[b, s, slot[i]]
            ordered[b, s, i] = j
            x, y, z = points[b, j, 0] - origin[0], points[b, j, 1] - origin[1], points[b, j, 2] - origin[2]
            far = math.sqrt(x * x + y * y + z * z)
            scale = one / (far + eps)
            unit[i, 0], unit[i, 1], unit[i, 2], length[i] = x * scale, y * scale, z * scale, far
            around[i, 0], around[i, 1], around[i, 2] = normals[b, j, 0], normals[b, j, 1], normals[b, j, 2]
        for i in range(count):
            p, q = points[b, ordered[b, s, i]], points[b, ordered[b, s, (i - shift) % count]]
            x, y, z = p[0] - q[0], p[1] - q[1], p[2] - q[2]  # offsets from a far origin are rounded
            scale = one / (math.sqrt(x * x + y * y + z * z) + eps)
            edge[i, 0], edge[i, 1], edge[i, 2] = x * scale, y * scale, z * scale
        for i in range(count):
            before, after = (i - shift) % count, (i + shift) % count
            out = features[b, s, i]
            ux, uy, uz = unit[i, 0], unit[i, 1], unit[i, 2]
            bx, by, bz = unit[before, 0], unit[before, 1], unit[before, 2]
            ax, ay, az = unit[after, 0], unit[after, 1], unit[after, 2]
            out[0] = length[i]
            out[1] = ux * n[0] + uy * n[1] + uz * n[2]
            out[2] = -_dot3(unit, i, around, i)
            out[3] = _dot3(unit, i, unit, before)
            out[4] = bx * n[0] + by * n[1] + bz * n[2]
            out[5] = -_dot3(unit, before, around, before)
            out[6] = -_dot3(unit, before, edge, i)
            out[7] = -_dot3(edge, i, around, i)
            out[8] = _dot3(edge, i, around, before)
            out[9] = _dot3(unit, after, unit, i)
            out[10] = _dot3(unit, after, edge, after)
            out[11] = _dot3(edge, after, around, after)
            out[12] = _dot3(unit, i, around, after)
            # (unit(a) x unit(x)) . (unit(b) x unit(x))
            px, py, pz = ay * uz - az * uy, az * ux - ax * uz, ax * uy - ay * ux
            qx, qy, qz = by * uz - bz * uy, bz * ux - bx * uz, bx * uy - by * ux
            out[13] = px * qx + py * qy + pz * qz

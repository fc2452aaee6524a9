"""Points (N, C >= 3), x, y, z first, to voxels: Zhou and Tuzel, "VoxelNet", CVPR 2018, section 2.1.

Sizes (3,) or () and ranges (6,), the lowest x, y, z, then the highest, are in the points' unit; a voxel's
lowest faces are its own. Voxels are (z, y, x) int32, from 0. No gradient.
"""

import torch
from torch import Tensor

from ._checks import check_shape


def dynamic_voxelize_forward(points, voxel_size, coors_range, coors, NDim=3):
    """Fill ``coors`` (N, 3) with each point's voxel; -1 of points outside or not finite."""
    voxel, inside, _ = _locate(points, voxel_size, coors_range, NDim)
    coors.copy_(torch.where(inside[:, None], voxel.flip(1), -1))


def hard_voxelize_forward(
    points,
    voxel_size,
    coors_range,
    voxels,
    coors,
    num_points_per_voxel,
    voxel_num,
    max_points,
    max_voxels,
    NDim=3,
    deterministic=True,
):
    """The first ``max_points`` points of each of the first ``max_voxels`` voxels, both as points come.

    Fills the first rows of ``voxels`` (max_voxels, max_points, C), which are zero elsewhere, ``coors``
    (max_voxels, 3) and ``num_points_per_voxel`` (max_voxels,), and their number. It is always deterministic.
    """
    voxel, inside, grid = _locate(points, voxel_size, coors_range, NDim)
    number = inside.nonzero()[:, 0]
    x, y, z = voxel[number].unbind(1)
    _, voxel_of = ((z * grid[1] + y) * grid[0] + x).unique(return_inverse=True)
    # points sorted by voxel, and in their own order within
    voxel_of, order = voxel_of.sort(stable=True)
    number = number[order]
    counts = voxel_of.bincount()
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(number), device=points.device) - starts[voxel_of]
    taken = number[starts].argsort()[:max_voxels]  # voxels by their first points
    rank = torch.full_like(counts, max_voxels)
    rank[taken] = torch.arange(len(taken), device=points.device)
    kept = (rank[voxel_of] < max_voxels) & (place < max_points)
    voxels[rank[voxel_of[kept]], place[kept]] = points[number[kept]].to(voxels.dtype)
    coors[: len(taken)] = voxel[number[starts[taken]]].flip(1).to(coors.dtype)
    num_points_per_voxel[: len(taken)] = counts[taken].clamp(max=max_points).to(num_points_per_voxel.dtype)
    voxel_num.fill_(len(taken))


def _locate(points, voxel_size, coors_range, num_dims) -> tuple[Tensor, Tensor, list[int]]:
    """Voxels (N, 3) int64: x, y, z; which points have one; and the grid."""
    if num_dims != 3:
        raise ValueError(f"voxels must have 3 dimensions, found {num_dims}")
    if points.ndim != 2 or points.shape[1] < 3 or not points.is_floating_point():
        raise ValueError(f"points must be floating (N, C >= 3), found {points.dtype} {tuple(points.shape)}")
    check_shape(coors_range, "the range of the points", (6,))
    if voxel_size.ndim:
        check_shape(voxel_size, "voxel_size", (3,))
    size, (low, high) = voxel_size.expand(3), coors_range.reshape(2, 3)
    grid = ((high - low) / size + 0.5).floor()
    if not ((size > 0) & (high > low) & (grid < 2**31)).all():
        raise ValueError(
            f"no grid: voxels of {size.tolist()} from {low.tolist()} to {high.tolist()}; wanted: positive "
            "sizes, and a range that grows, by less than 2 ** 31 voxels along an axis"
        )
    if grid.double().prod() >= 2**62:
        raise ValueError(
            f"too fine a grid: {[int(n) for n in grid]} voxels along x, y, z, wanted < 2 ** 62 in all"
        )
    wide = points[:, :3] if points.dtype == torch.float64 else points[:, :3].float()
    low, size, end = (t.to(wide) for t in (low, size, grid))
    voxel = ((wide - low) / size).floor()
    inside = ((voxel >= 0) & (voxel < end)).all(1)
    return torch.where(inside[:, None], voxel, 0).long(), inside, [int(n) for n in grid]

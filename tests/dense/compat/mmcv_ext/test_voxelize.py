import pytest
import torch
from mmcv.ops import Voxelization, voxelization

from ...ops import reference

SIZE, RANGE = [0.5, 0.25, 1.0], [-2.0, -3, -1, 2, 3, 1.6]  # the last voxel ends at 2


def make(dtype=torch.float64, num=400):
    return torch.rand(num, 4, dtype=dtype) * 7 - 3.5


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(("max_points", "max_voxels"), [(1, 1), (2, 1000), (35, 20), (3, 40)])
def test_hard(max_points, max_voxels, deterministic):
    points = make()
    wanted = reference.voxelize(points.tolist(), SIZE, RANGE[:3], RANGE[3:], max_points, max_voxels)
    layer = Voxelization(SIZE, RANGE, max_points, (max_voxels, 7), deterministic)
    voxels, places, counts = layer(points)
    assert (voxels.dtype, places.dtype, counts.dtype) == (torch.float64, torch.int32, torch.int32)
    assert voxels.shape == (len(wanted), max_points, 4) and len(wanted) <= max_voxels
    assert [tuple(p) for p in places.tolist()] == list(wanted)
    for voxel, count, inside in zip(voxels, counts, wanted.values(), strict=True):
        assert voxel[:count].tolist() == inside and not voxel[count:].any()
    assert len(layer.eval()(points)[0]) == min(
        7, len(reference.voxelize(points.tolist(), SIZE, RANGE[:3], RANGE[3:], 1, 7))
    )


def test_dynamic():
    points = make()
    found = Voxelization(SIZE, RANGE, -1)(points)
    assert found.dtype == torch.int32 and torch.equal(found, voxelization(points, SIZE, RANGE, 5, -1))
    voxels = reference.voxelize(points.tolist(), SIZE, RANGE[:3], RANGE[3:], 400, 400)
    place = {tuple(point): voxel for voxel, inside in voxels.items() for point in inside}
    assert [tuple(v) for v in found.tolist()] == [place.get(tuple(p), (-1, -1, -1)) for p in points.tolist()]


def test_by_hand():
    points = torch.tensor([[0.5, 0, 0], [1.0, 1, 1], [2, 0, 0], [-0.1, 0, 0], [0, 0.9, 1.9], [0.9, 0, 0]])
    bounds = [0.0, 0, 0, 2, 2, 2]
    wanted = [[0, 0, 0], [1, 1, 1], [-1] * 3, [-1] * 3, [1, 0, 0], [0, 0, 0]]  # z, y, x
    assert voxelization(points, [1.0, 1, 1], bounds, -1, -1).tolist() == wanted
    assert voxelization(points, 1.0, bounds, -1, -1).tolist() == wanted
    voxels, places, counts = voxelization(points, [1.0, 1, 1], bounds, 1, 2)
    assert places.tolist() == [[0, 0, 0], [1, 1, 1]] and counts.tolist() == [1, 1]
    assert torch.equal(voxels, points[:2, None])


def test_a_full_house_still_takes_points_of_its_voxels():
    points = torch.tensor([[0.1, 0, 0], [1.1, 0, 0], [0.2, 0, 0]])
    voxels, _, counts = voxelization(points, [1.0, 1, 1], [0.0, 0, 0, 2, 1, 1], 5, 1)
    assert counts.tolist() == [2] and torch.equal(voxels[0, :2], points[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype):
    points = make(dtype)
    voxels, places, counts = voxelization(points.T.contiguous().T, SIZE, RANGE, 3, 50)
    assert voxels.dtype == dtype
    wide = voxelization(points.float(), SIZE, RANGE, 3, 50)
    assert torch.equal(voxels.float(), wide[0])
    assert torch.equal(places, wide[1]) and torch.equal(counts, wide[2])


def test_points_nowhere():
    points = torch.tensor([[torch.nan, 0, 0], [torch.inf, 0, 0], [0, -torch.inf, 0], [1e30, 0, 0], [0, 0, 0]])
    found = voxelization(points, SIZE, RANGE, -1, -1)
    assert (found >= 0).all(1).tolist() == [False] * 4 + [True]
    for some in (points[:4], points[:0]):
        voxels, places, counts = voxelization(some, SIZE, RANGE, 3, 50)
        assert (voxels.shape, places.shape, counts.shape) == ((0, 3, 3), (0, 3), (0,))


@pytest.mark.parametrize(
    ("points", "size", "bounds", "message"),
    [
        (
            torch.zeros(4, 2),
            SIZE,
            RANGE,
            r"points must be floating \(N, C >= 3\), found torch.float32 \(4, 2\)",
        ),
        (torch.zeros(4, 3).int(), SIZE, RANGE, r"found torch.int32 \(4, 3\)"),
        (torch.zeros(4, 3), [1.0, 1], RANGE, r"voxel_size must be \(3,\), found \(2,\)"),
        (torch.zeros(4, 3), SIZE, RANGE[:4], r"range of the points must be \(6,\), found \(4,\)"),
        (torch.zeros(4, 3), [1.0, 0, 1], RANGE, r"no grid: voxels of \[1.0, 0.0, 1.0\]"),
        (torch.zeros(4, 3), SIZE, RANGE[3:] + RANGE[:3], "a range that grows"),
        (torch.zeros(4, 3), [torch.nan, 1, 1], RANGE, "no grid"),
        (torch.zeros(4, 3), [1e-6] * 3, [-1000.0] * 3 + [1000.0] * 3, "too fine a grid: .2000000000, "),
    ],
)
def test_bad_input(points, size, bounds, message):
    for max_points in (-1, 5):
        with pytest.raises(ValueError, match=message):
            voxelization(points, size, bounds, max_points, 10)

"""Warps against analytic ones: flows, masks, pictures."""

from math import cos, radians, sin

import numpy as np
import pytest
import torch

from dense.base.datasets import seeded
from dense.matching.warps import RandomWarp, Warp, cell_centres

from .toy import blobs

IDENTITY = torch.eye(3, dtype=torch.float64)


def affine(matrix, shift=(0, 0)):
    found = IDENTITY.clone()
    found[:2, :2] = torch.tensor(matrix)
    found[:2, 2] = torch.tensor(shift)
    return Warp.from_matrix(found)


def test_cells():
    cells = cell_centres(4)
    assert cells.shape == (4, 4, 2)
    assert cells[0, :, 0].tolist() == [-0.75, -0.25, 0.25, 0.75] and set(cells[1, :, 1].tolist()) == {-0.25}


@pytest.mark.parametrize("grid", [1, 4, 7])
def test_no_motion(grid):
    flow, valid = Warp.from_matrix(IDENTITY).flow(grid)
    assert flow.shape == (2, grid, grid) and flow.dtype == torch.float32 and valid.dtype == torch.bool
    assert valid.all() and flow.abs().max() < 1e-7


def test_shift_by_cells():
    """The target shows at a cell what the source has two cells to the right and one above."""
    flow, valid = affine([[1.0, 0], [0, 1]], (2 * 2 / 8, -1 * 2 / 8)).flow(8)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[1:, :-2] = True
    assert valid.equal(inside)
    assert (flow[0][valid] == 2).all() and (flow[1][valid] == -1).all()
    assert (flow[:, ~valid] == 0).all()


def test_rotation_about_the_centre():
    angle = radians(30)
    warp = affine([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    flow, valid = warp.flow(16)
    rows, columns = np.mgrid[:16, :16] - 7.5
    wanted = np.stack(
        (cos(angle) * columns - sin(angle) * rows - columns, sin(angle) * columns + cos(angle) * rows - rows)
    )
    np.testing.assert_allclose(flow[:, valid], wanted[:, valid], atol=1e-5)
    end = wanted + np.stack((columns, rows))
    np.testing.assert_array_equal(valid, (np.abs(end) <= 8).all(0))
    assert 0 < valid.sum() < 256


def test_homography_of_points():
    matrix = torch.tensor([[1.1, 0.2, 0.1], [-0.1, 0.9, -0.2], [0.3, -0.2, 1.0]], dtype=torch.float64)
    points = torch.rand(9, 2, dtype=torch.float64) * 2 - 1
    wanted = torch.cat((points, torch.ones(9, 1)), 1).double() @ matrix.T
    wanted = wanted[:, :2] / wanted[:, 2:]
    for scale in (1, -2.5):  # homographies are equal up to a factor
        torch.testing.assert_close(Warp.from_matrix(scale * matrix)(points), wanted)
    for wrong in (torch.eye(2), torch.zeros(3, 3)):
        with pytest.raises(ValueError, match="a homography is"):
            Warp.from_matrix(wrong)


def test_what_lies_behind_the_horizon_is_not_valid():
    matrix = IDENTITY.clone()
    matrix[2, 0] = -2.0  # the horizon is at x = 0.5
    warp = Warp.from_matrix(matrix)
    flow, valid = warp.flow(16)
    columns = cell_centres(16)[0, :, 0]
    assert not valid[:, columns >= 0.5].any() and valid[:, columns < 0].any()
    assert flow.isfinite().all()
    image = np.full((16, 16, 3), 200, np.uint8)
    assert warp.apply(image).dtype == np.uint8


def test_spline_takes_its_points_where_they_go():
    generator = torch.Generator().manual_seed(0)
    target, source = torch.rand(2, 7, 2, generator=generator, dtype=torch.float64)
    warp = Warp.from_points(target, source)
    torch.testing.assert_close(warp(target), source)
    # of an affine map, it bends nothing
    matrix = torch.tensor([[0.9, 0.3], [-0.2, 1.1]], dtype=torch.float64)
    warp = Warp.from_points(target, target @ matrix.T + 0.1)
    torch.testing.assert_close(
        warp.coefficients[3:], torch.zeros(7, 2, dtype=torch.float64), atol=1e-9, rtol=0
    )
    others = torch.rand(5, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(warp(others), others @ matrix.T + 0.1)


def test_spline_by_hand():
    """One coordinate of a spline by the formula, written out."""
    target = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1], [0, 0]], dtype=torch.float64)
    source = target.clone()
    source[4] += torch.tensor([0.2, -0.1])
    warp = Warp.from_points(target, source)
    x, y = 0.3, -0.4
    basis = [1.0, x, y]
    for cx, cy in target.tolist():
        r = ((x - cx) ** 2 + (y - cy) ** 2) ** 0.5
        basis.append(r**2 * np.log(r))
    wanted = np.array(basis) @ warp.coefficients.numpy()
    np.testing.assert_allclose(warp(torch.tensor([[x, y]], dtype=torch.float64))[0], wanted)
    with pytest.raises(torch.linalg.LinAlgError):
        Warp.from_points(torch.zeros(4, 2), torch.zeros(4, 2))


def test_pictures_shift_exactly():
    image = np.asarray(blobs((16, 16), np.random.default_rng(0)))
    found = affine([[1.0, 0], [0, 1]], (2 * 3 / 16, 2 * -2 / 16)).apply(image)
    wanted = np.zeros_like(image)
    wanted[2:, :-3] = image[:-2, 3:]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kind", ["affine", "homography", "tps"])
def test_flow_says_where_the_picture_comes_from(kind):
    """A picture whose colours are its coordinates shows, warped, the flow."""
    size = 64
    rows, columns = np.mgrid[:size, :size]
    image = np.stack((columns, rows, 0 * rows), -1).astype(np.uint8) * 3
    for seed in range(4):
        with seeded(seed):
            found = RandomWarp(kinds=(kind,))({"img": image})
        np.testing.assert_array_equal(found["source_img"], image)
        flow, valid = found["warp"].flow(size)
        inner = valid & (found["warp"](cell_centres(size)).abs() < 1 - 2 / size).all(-1)
        assert inner.sum() > 200
        shown = found["target_img"][..., :2].astype(float) / 3
        wanted = flow.numpy().transpose(1, 2, 0) + np.stack((columns, rows), -1)
        assert np.abs(shown - wanted)[inner.numpy()].max() < 0.2
        # coarser grids ask for the same flow, where their middles are
        coarse, _ = found["warp"].flow(size // 2)
        mean = torch.nn.functional.avg_pool2d(flow[None], 2)[0] / 2
        both = torch.nn.functional.avg_pool2d(valid[None].float(), 2)[0] == 1
        assert (coarse - mean)[:, both].abs().max() < 0.02


def test_random_warps_are_within_their_limits():
    drawn = RandomWarp(kinds=("affine",), rotation=10, scale=1.5, stretch=1, shear=0, shift=0.1)
    angles, scales, shifts = [], [], []
    for seed in range(60):
        with seeded(seed):
            warp = drawn.draw()
        matrix = warp.coefficients[1:].T
        scale = matrix.det().sqrt()
        torch.testing.assert_close(matrix @ matrix.T, scale**2 * torch.eye(2, dtype=torch.float64))
        scales.append(scale)
        angles.append(torch.atan2(matrix[1, 0], matrix[0, 0]).rad2deg())
        shifts.append(warp.coefficients[0].abs().max())
        with seeded(seed):
            assert drawn.draw().coefficients.equal(warp.coefficients)
    assert 1 / 1.5 <= min(scales) < 0.75 and 1.3 < max(scales) <= 1.5
    assert -10 <= min(angles) < -8 and 8 < max(angles) <= 10 and 0.08 < max(shifts) <= 0.1


def test_bad_input():
    with pytest.raises(ValueError, match=r"warps are .*, found \['spline'\]"):
        RandomWarp(kinds=("spline",))
    with pytest.raises(ValueError, match=r"a.png: is \(8, 6, 3\), wanted a square: add RandomResizedCrop"):
        RandomWarp()({"img": np.zeros((8, 6, 3), np.uint8), "img_path": "a.png"})

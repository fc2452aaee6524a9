"""Flows of keypoints and keypoints of flows, against loops that follow the protocol word by word."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from dense.matching.metrics import (
    PCK,
    FlowError,
    end_point_error,
    keypoint_accuracy,
    keypoint_flow,
    transfer_keypoints,
)
from dense.matching.warps import Warp


def points(count, size, seed):
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * size


def flow_by_loops(source, target, grid, size, box):
    step = size // grid
    flow = np.zeros((2, grid, grid))
    for row in range(grid):
        for column in range(grid):
            middle = np.array((column * step + step // 2, row * step + step // 2))
            inside = [i for i, p in enumerate(target.numpy()) if (np.abs(p - middle) <= box // 2).all()]
            if inside:
                mean = np.mean([target[i].numpy() for i in inside], axis=0)
                for i in inside:
                    flow[:, row, column] = (source[i].numpy() - mean) / step
    return flow


@pytest.mark.parametrize(("grid", "size", "box"), [(16, 256, 35), (8, 128, 35), (16, 128, 20), (10, 96, 9)])
def test_keypoint_flow(grid, size, box):
    for seed in range(3):
        source, target = points(9, size, seed), points(9, size, seed + 10)
        found = keypoint_flow(source, target, grid, size, box)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, flow_by_loops(source, target, grid, size, box), atol=1e-5)


def test_keypoint_flow_by_hand():
    """A point in the middle of a cell, row 1 and column 2; a box of 35 around it holds 3 x 3 middles."""
    target = torch.tensor([[40.0, 24.0]])
    flow = keypoint_flow(target + torch.tensor([[32.0, -16.0]]), target, 16)
    assert flow[:, 1, 2].tolist() == [2.0, -1.0]
    assert (flow != 0).any(0).nonzero().tolist() == [[r, c] for r in (0, 1, 2) for c in (1, 2, 3)]
    edge = keypoint_flow(target, torch.tensor([[40.0 + 17, 24.0]]), 16)
    assert (edge[:, 1, 2] != 0).any(), "the edges of a box belong to it"
    assert (keypoint_flow(target, torch.tensor([[40.0 + 17.01, 24.0]]), 16)[:, 1, 2] == 0).all()
    # two points in one cell: from their mean to the last one's source
    two = torch.tensor([[38.0, 24.0], [42.0, 24.0]])
    flow = keypoint_flow(torch.tensor([[0.0, 0.0], [56.0, 24.0]]), two, 16)
    assert flow[:, 1, 2].tolist() == [1.0, 0.0]
    assert keypoint_flow(torch.zeros(0, 2), torch.zeros(0, 2), 16).abs().sum() == 0
    with pytest.raises(ValueError, match=r"\(n, 2\) twice, found \(1, 2\) and \(2, 2\)"):
        keypoint_flow(target, two, 16)


def test_end_point_error():
    flow, target = torch.zeros(2, 2, 3, 3), torch.zeros(2, 2, 3, 3)
    target[0, :, 1, 1] = torch.tensor([3.0, 4.0])
    target[1, 0, 0, 0] = 1.0
    assert end_point_error(flow, target) == pytest.approx(3.0)
    valid = torch.zeros(2, 3, 3, dtype=torch.bool)
    assert end_point_error(flow, target, valid) == 0
    valid[0, 1, 1] = valid[0, 0, 0] = True
    assert end_point_error(flow, target, valid) == pytest.approx(2.5)


def test_a_perfect_flow_has_a_gradient():
    target = torch.rand(1, 2, 4, 4)
    flow = target.clone().requires_grad_()
    (grad,) = torch.autograd.grad(end_point_error(flow, target), flow)
    assert (grad == 0).all()
    flow = (target + 1).double().requires_grad_()
    torch.autograd.gradcheck(lambda x: end_point_error(x, target.double()), flow)


@pytest.mark.parametrize(("grid", "size"), [(16, 256), (8, 96), (32, 32)])
def test_transfer_is_the_enlarged_flow(grid, size):
    flow = torch.randn(2, grid, grid, generator=torch.Generator().manual_seed(0))
    wanted = points(20, size + 8, 0) - 4  # some are outside
    large = interpolate(flow[None], (size, size), mode="bilinear", align_corners=False)[0] * (size / grid)
    whole = wanted.trunc().clamp(0, size - 1).long()
    estimate = whole + large[:, whole[:, 1], whole[:, 0]].T
    torch.testing.assert_close(
        transfer_keypoints(flow, wanted, size, whole=True), estimate, atol=1e-4, rtol=1e-4
    )
    # between pixels: bilinear
    middle = torch.tensor([[10.5, 11.0]])
    between = middle + (large[:, 11, 10] + large[:, 11, 11]) / 2
    torch.testing.assert_close(transfer_keypoints(flow, middle, size), between, atol=1e-4, rtol=1e-4)


def test_true_flow_of_lone_keypoints_is_right():
    source, target = points(30, 256, 0), (torch.arange(5) * 48 + 24.0)
    target = torch.cartesian_prod(target, target)
    flow = keypoint_flow(source[:25], target, 16, box=15)
    found = transfer_keypoints(flow, target, 256, whole=True)
    # bilinear between the point's cell and empty ones: only cells whose middle is the pixel's are exact
    assert keypoint_accuracy(found, source[:25], 256) == 100
    dense = torch.full((2, 16, 16), 1.0)
    assert keypoint_accuracy(transfer_keypoints(dense, target, 256, whole=True), target + 16, 1e-3) == 100


def sample(distance, base, category="cup"):
    wanted = torch.zeros(4, 2)
    found = torch.zeros(4, 2)
    found[:, 0] = torch.tensor(distance, dtype=torch.float32)
    return {"pred_points": found, "source_points": wanted, "pck_base": base, "category": category}


def test_pck():
    metric = PCK(alphas=(0.05, 0.1), classwise=True)
    metric.process(None, [sample([0, 5, 10, 11], 100), sample([0, 0, 0, 0], 1, "fish")])
    found = metric.evaluate(2)
    assert found == {
        "pck/0.05": 75.0,
        "pck/0.1": 87.5,
        "pck/0.05/cup": 50.0,
        "pck/0.1/cup": 75.0,
        "pck/0.05/fish": 100.0,
        "pck/0.1/fish": 100.0,
    }
    with pytest.raises(ValueError, match="alphas must be numbers above 0"):
        PCK(alphas=(0.1, 0))
    with pytest.raises(ValueError, match="cup.png: a keypoint is found at a place that is not finite"):
        PCK().process(None, [{**sample([0, 0, 0, float("nan")], 1), "target_path": "cup.png"}])


def test_the_published_base_of_pf_willow():
    """Keypoints that span 156.8 pixels and reach to 210.8: published code takes 211.8."""
    wanted = torch.tensor([[54.0, 100.0], [210.8, 180.0]])
    found = wanted + torch.tensor([0.0, 18.0])
    sample = {"pred_points": found, "source_points": wanted, "pck_base": 156.8}
    for base, right in (("pair", 0.0), ("largest_coordinate", 100.0)):
        metric = PCK(alphas=(0.1,), base=base)  # 15.68 and 21.18 pixels
        metric.process(None, [sample])
        assert metric.compute_metrics(metric.results) == {"0.1": right}
    with pytest.raises(ValueError, match="base must be one of"):
        PCK(base="image")


def test_flow_error():
    shift = torch.eye(3)
    shift[0, 2] = 0.5  # 4 cells of 16
    warp = Warp.from_matrix(shift)
    flow, _ = warp.flow(16)
    metric = FlowError()
    metric.process(None, [{"pred_flow": flow, "warp": warp, "size": 64}])
    metric.process(None, [{"pred_flow": 0 * flow, "warp": warp, "size": 64}])
    found = metric.evaluate(2)
    assert found["flow/epe"] == pytest.approx(8.0) and found["flow/1px"] == found["flow/5px"] == 50.0
    shift[0, 2] = 9.0
    away = FlowError()
    away.process(None, [{"pred_flow": flow, "warp": Warp.from_matrix(shift), "size": 64}])
    with pytest.raises(ValueError, match="no pair has a cell that lies inside of both images"):
        away.compute_metrics(away.results)

"""The model: losses of warps and keypoints, predictions."""

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from dense.base.preprocessors import IMAGENET_MEAN, IMAGENET_STD
from dense.matching.metrics import end_point_error, keypoint_flow, transfer_keypoints
from dense.matching.model import DenseMatcher
from dense.matching.sample import MatchDataSample
from dense.matching.transforms import PackPair
from dense.matching.warps import RandomWarp, Warp
from dense.registry import MODELS

from .toy import ToyMatcher, blobs


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DenseMatcher(ToyMatcher())


def make_warp(seed):
    image = np.asarray(blobs((32, 32), np.random.default_rng(seed)))
    return PackPair()(RandomWarp()({"img": image, "sample_idx": seed}))


def make_points(seed):
    rng = np.random.default_rng(seed)
    sample = {"sample_idx": seed, "threshold": "image"}
    for side in ("source", "target"):
        sample[f"{side}_img"] = np.asarray(blobs((32, 32), rng))
        sample[f"{side}_points"] = rng.uniform(0, 31, (5, 2)).astype(np.float32)
    return PackPair()(sample)


def test_pairs_are_stacked_and_normalised(model):
    batch = pseudo_collate([make_warp(0), make_points(1)])
    found = model.data_preprocessor(batch)["inputs"]
    assert found.shape == (2, 2, 3, 32, 32) and found.dtype == torch.float32
    mean, std = (torch.tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(found[1, 0], (batch["inputs"][1][0] - mean) / std)
    stacked = model.data_preprocessor({**batch, "inputs": torch.stack(batch["inputs"])})["inputs"]
    assert stacked.equal(found)
    with pytest.raises(ValueError, match="images of one batch must have one size"):
        model.data_preprocessor({"inputs": [torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 4, 4)]})


def test_losses_of_warps_and_keypoints(model):
    batch = pseudo_collate([make_warp(0), make_points(1), make_warp(2)])
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode="loss")
    assert list(losses) == ["loss_level1", "loss_level2"]
    flows = model(data["inputs"])
    for (name, loss), flow, grid in zip(losses.items(), flows, (4, 8), strict=True):
        first, second, third = batch["data_samples"]
        errors = []
        for sample, found in zip((first, third), (flow[0], flow[2]), strict=True):
            target, valid = sample.warp.flow(grid)
            errors.append((found - target).norm(dim=0)[valid])
        target = keypoint_flow(second.source_points, second.target_points, grid, 32, 35)
        errors.append((flow[1] - target).norm(dim=0)[(target != 0).any(0)])
        torch.testing.assert_close(loss, torch.cat(errors).mean(), msg=name)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in model.network.parameters())


def test_a_batch_without_truth_has_a_loss_of_zero(model):
    sample = make_points(0)
    away = torch.eye(3)
    away[0, 2] = 50.0
    sample["data_samples"].warp = Warp.from_matrix(away)
    losses = model(**model.data_preprocessor(pseudo_collate([sample]), True), mode="loss")
    sum(losses.values()).backward()
    assert all(loss == 0 for loss in losses.values())
    assert all((p.grad == 0).all() for p in model.network.parameters())


def test_predict(model):
    batch = pseudo_collate([make_points(i) for i in range(3)])
    model.eval()
    samples = model.test_step(batch)
    flow, confidence = model.network.match(*model.data_preprocessor(batch)["inputs"].unbind(1))
    for i, sample in enumerate(samples):
        assert sample.index == i and sample.pred_flow.equal(flow[i])
        assert sample.pred_confidence.equal(confidence[i])
        wanted = transfer_keypoints(flow[i], sample.target_points, 32, whole=True)
        torch.testing.assert_close(sample.pred_points, wanted)
    assert "pred_points" not in model.test_step(pseudo_collate([make_warp(0)]))[0]


def test_bad_calls(model):
    with pytest.raises(ValueError, match=r"must be \(B, 2, C, S, S\), found \(1, 3, 8, 8\)"):
        model(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"must be \(B, 2, C, S, S\), found \(1, 2, 3, 8, 16\)"):
        model(torch.zeros(1, 2, 3, 8, 16))
    inputs = torch.zeros(1, 2, 3, 16, 16)
    with pytest.raises(ValueError, match="mode must be .*, found 'train'"):
        model(inputs, mode="train")
    with pytest.raises(ValueError, match="sample 7: has neither a warp nor keypoints to learn from"):
        model(inputs, [MatchDataSample(metainfo={"index": 7})], mode="loss")


def test_it_learns_warps():
    torch.manual_seed(0)
    model = MODELS.build({"type": "DenseMatcher", "network": {"type": "ToyMatcher"}})
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    data = model.data_preprocessor(pseudo_collate([make_warp(i) for i in range(8)]), True)
    history = []
    for _ in range(40):
        loss = sum(model(**data, mode="loss").values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]


def test_example_inputs(model):
    model.network = MODELS.build({"type": "dense.NoMotion", "grid": 4})
    (pairs,) = model.example_inputs(3, (32, 32))
    assert pairs.shape == (3, 2, 3, 32, 32)
    assert model(pairs)[0].shape == (3, 2, 4, 4)


def test_errors_use_the_whole_batch():
    flow = torch.zeros(2, 2, 2, 2)
    target = torch.zeros(2, 2, 2, 2)
    target[0, 0] = 4.0
    target[1, 0, 0, 0] = 9.0
    assert end_point_error(flow, target) == pytest.approx((4 * 4 + 9) / 5)

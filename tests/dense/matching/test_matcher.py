"""The model: losses of warps and keypoints, predictions; and what users call."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from PIL import Image

from dense.data import IMAGENET_MEAN, IMAGENET_STD
from dense.matching.data_sample import MatchDataSample
from dense.matching.matcher import DenseMatcher, Matcher
from dense.matching.metrics import end_point_error, keypoint_flow, transfer_keypoints
from dense.matching.transforms import PackPair
from dense.matching.warps import RandomWarp, Warp
from dense.registry import MODELS
from pointsuite.engine.checkpoint import CheckpointError, save_checkpoint

from .toy import CONFIG, ToyMatcher, blobs


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


def test_published_weights_are_named_as_here(model):
    model.network.convert_official = lambda state: {key.upper(): value for key, value in state.items()}
    assert list(model.convert_official({"a": torch.zeros(1)})) == ["network.A"]


# ---------------------------------------------------------------------------------------------------- users


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(CONFIG)
    return Config.fromfile(path)


class Shift(torch.nn.Module):
    """All moves by two cells of eight to the right and one up."""

    def match(self, source, target):
        flow = torch.tensor([2.0, -1.0])[None, :, None, None].expand(len(source), 2, 8, 8)
        return flow, torch.full((len(source), 8, 8), 0.5)


def test_pictures_of_any_size(config, tmp_path):
    matcher = Matcher(config)
    matcher.model.network = Shift()
    source, target = blobs((80, 48), np.random.default_rng(0)), blobs((32, 64), np.random.default_rng(1))
    source.save(tmp_path / "source.png")
    target.convert("L").save(tmp_path / "target.png")
    found = matcher(tmp_path / "source.png", str(tmp_path / "target.png"), points=[[7.5, 31.5], [3, 10]])
    assert found.flow.shape == (64, 32, 2) and found.confidence.shape == (64, 32)
    assert found.warped.shape == (64, 32, 3) and found.warped.dtype == np.uint8
    assert (found.confidence == 0.5).all()
    # a quarter of the side to the right, an eighth up: (8, 32) of 32 x 64 goes to (40, 18) of 80 x 48
    np.testing.assert_allclose(found.points[0], (8 / 32 * 80 + 20 - 0.5, 32 / 64 * 48 - 6 - 0.5), atol=1e-4)
    for x, y in ((3, 10), (20, 50)):
        wanted = ((x + 0.5) / 32 * 80 + 20 - 0.5 - x, (y + 0.5) / 64 * 48 - 6 - 0.5 - y)
        np.testing.assert_allclose(found.flow[y, x], wanted, atol=1e-4)
    np.testing.assert_allclose(found.points[1], found.flow[10, 3] + (3, 10), atol=1e-4)
    assert (found.warped[:7] == 0).all() and (found.warped[:, 24:] == 0).all()
    pixels = np.asarray(source)
    same = matcher(pixels, pixels)
    np.testing.assert_array_equal(same.warped[6:, :60], pixels[:-6, 20:])
    assert same.points.shape == (0, 2)


def test_weights_of_a_run(config, tmp_path):
    torch.manual_seed(5)
    model = MODELS.build({**config.model, "type": "dense.DenseMatcher"})
    path = tmp_path / "epoch_1.pth"
    save_checkpoint({"state_dict": model.state_dict(), "meta": {}}, path)
    matcher = Matcher(tmp_path / "toy.py", path)
    picture = np.asarray(blobs((32, 32), np.random.default_rng(0)))
    batch = {"inputs": [torch.from_numpy(np.stack([picture, picture]).transpose(0, 3, 1, 2).copy())]}
    wanted = model.eval().test_step(batch)[0].pred_flow
    assert matcher.model.test_step(batch)[0].pred_flow.equal(wanted)
    assert not Matcher(config).model.test_step(batch)[0].pred_flow.equal(wanted)
    save_checkpoint({"state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match="epoch_1.pth"):
        Matcher(config, path)


def test_bad_pictures_and_points(config, tmp_path):
    matcher = Matcher(config)
    picture = np.zeros((16, 20, 3), np.uint8)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(OSError, match="text.png: not an image that can be read"):
        matcher(tmp_path / "text.png", picture)
    with pytest.raises(FileNotFoundError, match="none.png"):
        matcher(picture, tmp_path / "none.png")
    with pytest.raises(
        ValueError, match=r"the target is an array \(16, 20\) of uint8, wanted uint8 \(H, W, 3\)"
    ):
        matcher(picture, picture[..., 0])
    with pytest.raises(ValueError, match="the source is an array .* of float32"):
        matcher(picture.astype(np.float32), picture)
    with pytest.raises(
        ValueError, match=r"a point is at \(20, 5\), wanted it in the target of 20 x 16 pixels"
    ):
        matcher(picture, picture, points=[[1, 1], [20, 5]])
    with pytest.raises(ValueError, match=r"points are \(3,\), wanted \(n, 2\)"):
        matcher(picture, picture, points=[1, 2, 3])
    config.test_dataloader.dataset.pipeline = []
    with pytest.raises(ValueError, match="its test pipeline has no ResizePair"):
        Matcher(config)
    Image.fromarray(picture[..., 0]).save(tmp_path / "grey.png")
    assert matcher(tmp_path / "grey.png", picture).flow.shape == (16, 20, 2)


def test_errors_use_the_whole_batch():
    flow = torch.zeros(2, 2, 2, 2)
    target = torch.zeros(2, 2, 2, 2)
    target[0, 0] = 4.0
    target[1, 0, 0, 0] = 9.0
    assert end_point_error(flow, target) == pytest.approx((4 * 4 + 9) / 5)

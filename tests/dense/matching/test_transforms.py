"""Pairs are read, mirrored, cut, resized and packed with all that lies in them."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from dense.base.datasets import seeded
from dense.matching.transforms import PHOTOMETRIC, LoadPair, PackPair, RandomPhotometric, ResizePair
from dense.matching.warps import RandomWarp

from .toy import blobs


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(0)
    sample = {"category": "cup", "sample_idx": 3, "threshold": "image"}
    for side, size in (("source", (60, 40)), ("target", (30, 50))):
        path = tmp_path / f"{side}.png"
        blobs(size, rng).save(path)
        points = rng.uniform(5, np.array(size) - 5, (4, 2)).astype(np.float32)
        sample |= {f"{side}_path": str(path), f"{side}_points": points, f"{side}_box": (4.0, 6.0, 26.0, 33.0)}
    return sample


def test_load(pair):
    loaded = LoadPair()(pair)
    assert loaded["source_img"].shape == (40, 60, 3) and loaded["target_img"].shape == (50, 30, 3)
    assert loaded["source_points"] is pair["source_points"]
    mirrored = LoadPair()({**pair, "flip": True})
    np.testing.assert_array_equal(mirrored["target_img"], loaded["target_img"][:, ::-1])
    np.testing.assert_allclose(mirrored["target_points"][:, 0], 30 - pair["target_points"][:, 0])
    np.testing.assert_array_equal(mirrored["target_points"][:, 1], pair["target_points"][:, 1])
    assert mirrored["target_box"] == (4.0, 6.0, 26.0, 33.0) and mirrored["source_box"] == (
        34.0,
        6.0,
        56.0,
        33.0,
    )


@pytest.mark.parametrize(("x", "y"), [(-10, 5), (5, 60), (63.1, 5), (5, -2.1)])
def test_points_outside_of_their_image(pair, x, y):
    pair["source_points"][2] = x, y
    with pytest.raises(
        OSError, match=rf"source.png: found a keypoint at \({x}, {y}\), wanted it inside of 60 x 40"
    ):
        LoadPair()(pair)


def test_points_on_the_border_pass(pair):
    pair["source_points"][:2] = [(60, 40), (-1, 0)]
    LoadPair()(pair)


def test_resize(pair):
    loaded = LoadPair()(pair)
    resized = ResizePair(20)(loaded)
    for side, (width, height) in (("source", (60, 40)), ("target", (30, 50))):
        image = Image.fromarray(loaded[f"{side}_img"]).resize((20, 20), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(resized[f"{side}_img"], np.asarray(image))
        scale = np.array((20 / width, 20 / height))
        np.testing.assert_allclose(resized[f"{side}_points"], loaded[f"{side}_points"] * scale, rtol=1e-6)
        np.testing.assert_allclose(
            resized[f"{side}_box"], (np.reshape((4, 6, 26, 33), (2, 2)) * scale).ravel(), rtol=1e-6
        )


def test_crops_hold_the_object(pair):
    loaded = LoadPair()(pair)
    windows = set()
    for seed in range(40):
        random.seed(seed)
        cropped = ResizePair(256, crop_prob=1.0)(loaded)
        for side in ("source", "target"):
            assert cropped[f"{side}_img"].shape == (256, 256, 3)
            left, top, right, bottom = cropped[f"{side}_box"]
            assert -1e-3 <= left < right <= 256 + 1e-3 and -1e-3 <= top < bottom <= 256 + 1e-3
            points = cropped[f"{side}_points"]
            assert points.min() >= 0 and points.max() <= 255
        windows.add(cropped["source_box"])
        # the affine map of the box is that of the points that were not clamped
        box, points = np.array(cropped["source_box"]), cropped["source_points"]
        scale = (box[2:] - box[:2]) / (22, 27)
        wanted = (pair["source_points"] - (4, 6)) * scale + box[:2]
        np.testing.assert_allclose(points, wanted.clip(0, 255), atol=1e-3)
    assert len(windows) > 30


def test_a_crop_shows_what_its_points_say():
    """The pixel at a point keeps its colour: pixels are large squares, so interpolation is of no matter."""
    image = np.zeros((40, 40, 3), np.uint8)
    image[16:24, 8:16] = 255
    sample = {
        f"{side}_{key}": value
        for side in ("source", "target")
        for key, value in {
            "img": image,
            "points": np.array([[12.0, 20.0], [12.0, 30.0]], np.float32),
            "box": (8.0, 16.0, 24.0, 34.0),
        }.items()
    }
    for seed in range(10):
        random.seed(seed)
        found = ResizePair(64, crop_prob=1.0)(sample)
        (x, y), (u, v) = found["source_points"].round().astype(int)
        assert (found["source_img"][y, x] == 255).all() and (found["source_img"][v, u] == 0).all()


def test_photometric_changes_each_image_for_itself():
    image = np.asarray(blobs((24, 24), np.random.default_rng(0)))
    sample = {"source_img": image, "target_img": image, "other": 1}
    with seeded(1):
        found = RandomPhotometric(prob=1.0)(sample)
    with seeded(1):
        again = RandomPhotometric(prob=1.0)(sample)
    assert found["other"] == 1 and set(found) == set(sample)
    for side in ("source_img", "target_img"):
        assert found[side].dtype == np.uint8 and found[side].shape == image.shape
        np.testing.assert_array_equal(found[side], again[side])
    assert (found["source_img"] != found["target_img"]).any()
    kept = RandomPhotometric(prob=0.0)(sample)
    np.testing.assert_array_equal(kept["source_img"], image)


def test_photometric_operations():
    assert list(PHOTOMETRIC) == [
        "grey",
        "posterize",
        "equalize",
        "sharpen",
        "brightness_contrast",
        "solarize",
        "jitter",
    ]
    image = blobs((24, 24), np.random.default_rng(0))
    for name, change in PHOTOMETRIC.items():
        with seeded(0):
            found = change(image)
        assert found.mode == "RGB" and found.size == image.size, name
        assert (np.asarray(found) != np.asarray(image)).any(), name
    grey = np.asarray(PHOTOMETRIC["grey"](image))
    assert (grey == grey[..., :1]).all()
    assert set(np.unique(np.asarray(PHOTOMETRIC["posterize"](image)) & 15)) == {0}


@pytest.mark.parametrize(("kind", "base"), [("image", 64), ("box", 27 * 64 / 40), ("keypoints", None)])
def test_pack(pair, kind, base):
    packed = PackPair()(ResizePair(64)(LoadPair()({**pair, "threshold": kind})))
    inputs, sample = packed["inputs"], packed["data_samples"]
    assert inputs.shape == (2, 3, 64, 64) and inputs.dtype == torch.uint8
    assert (sample.index, sample.category, sample.size) == (3, "cup", 64)
    assert sample.source_points.dtype == torch.float32 and sample.source_points.shape == (4, 2)
    if base is None:
        base = np.ptp(pair["source_points"] * (64 / 60, 64 / 40), axis=0).max()
    assert sample.pck_base == pytest.approx(base, rel=1e-5)
    assert "warp" not in sample


def test_pack_says_what_is_wrong(pair):
    with pytest.raises(
        ValueError, match="source.png: images are .* wanted squares of one size: add ResizePair"
    ):
        PackPair()(LoadPair()(pair))
    pair["source_points"][:] = 7
    with pytest.raises(ValueError, match="source.png: the extent of its keypoints is 0, wanted more than 0"):
        PackPair()(ResizePair(64)(LoadPair()({**pair, "threshold": "keypoints"})))


def test_pack_a_warp():
    image = np.asarray(blobs((24, 24), np.random.default_rng(0)))
    packed = PackPair()(RandomWarp()({"img": image, "img_path": "a.png", "sample_idx": 1}))
    assert packed["inputs"].shape == (2, 3, 24, 24) and packed["data_samples"].index == 1
    assert packed["data_samples"].warp.flow(4)[0].shape == (2, 4, 4)
    assert "pck_base" not in packed["data_samples"]

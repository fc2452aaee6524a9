import random

import numpy as np
import pytest
import torch
from PIL import Image

from dense.classification.transforms import (
    OPERATIONS,
    ColorJitter,
    PackImage,
    RandAugment,
    RandomBlur,
    RandomPadCrop,
    RandomResizedCrop,
    RandomRotation,
)

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)


# ------------------------------------------------------------------------------------- RandomResizedCrop


def test_crop_covers_the_ranges():
    random.seed(0)
    crop = RandomResizedCrop(16, area=(0.2, 0.9), aspect=2)
    areas, aspects, lefts = [], [], []
    for _ in range(500):
        x, y, w, h = crop._box(80, 60)
        assert x >= 0 and y >= 0 and x + w <= 80 and y + h <= 60
        areas.append(w * h / 4800), aspects.append(w / h), lefts.append(x / max(80 - w, 1))
    assert 0.19 < min(areas) < 0.25 and 0.8 < max(areas) < 0.93
    assert 0.48 < min(aspects) < 0.6 and 1.8 < max(aspects) < 2.1
    assert min(lefts) == 0 and max(lefts) == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (20, 30)])
def test_crop_of_any_image(size):
    image = np.full((*size, 3), 7, np.uint8)
    found = RandomResizedCrop(8)({"img": image, "gt_label": 1})
    assert found["img"].shape == (8, 8, 3) and (found["img"] == 7).all() and found["img_shape"] == (8, 8)


def test_crop_of_the_whole_image_is_the_image():
    found = RandomResizedCrop(20, area=(1, 1), aspect=1)({"img": PICTURE[:, :20]})
    assert (found["img"] == PICTURE[:, :20]).all()


def test_crop_falls_back_to_the_middle():
    assert RandomResizedCrop(8, area=(1, 1), aspect=2)._box(100, 10) == (40, 0, 20, 10)


def test_pad_crop():
    image = np.arange(1, 1 + 6 * 7 * 3, dtype=np.uint8).reshape(6, 7, 3)
    padded = np.zeros((10, 11, 3), np.uint8)
    padded[2:8, 2:9] = image
    wanted = {padded[y : y + 6, x : x + 6].tobytes() for y in range(5) for x in range(6)}
    random.seed(0)
    crop = RandomPadCrop(6, padding=2)
    samples = [crop({"img": image, "gt_label": 1}) for _ in range(400)]
    assert {sample["img"].tobytes() for sample in samples} == wanted  # all of them, no other
    assert samples[0]["img_shape"] == (6, 6) and samples[0]["gt_label"] == 1
    assert (RandomPadCrop(6)({"img": image[:, :6]})["img"] == image[:, :6]).all()
    with pytest.raises(ValueError, match="8 x 9 pixels with its border, wanted at least 9"):
        RandomPadCrop(9, padding=1)({"img": image})


# ------------------------------------------------------------------------------------------ RandAugment

FILL = (1, 2, 3)


def operate(name, level, sign=1, image=PICTURE):
    return np.asarray(OPERATIONS[name](Image.fromarray(image), level, sign, FILL))


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_operations_change_more_at_higher_levels(name):
    fixed = ("autocontrast", "equalize", "invert")
    dull = PICTURE // 2 + 30
    changes = [np.abs(operate(name, level, 1, dull).astype(int) - dull).mean() for level in (0, 0.5, 1)]
    if name in fixed:
        assert changes[0] == changes[2] > 0
    else:
        assert changes[0] == 0 and 0 < changes[1] < changes[2]
    assert operate(name, 1, -1).shape == PICTURE.shape


def test_operations_by_hand():
    ramp = np.repeat(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(100, axis=0)
    assert (operate("invert", 1, 1, ramp) == 255 - ramp).all()
    assert (operate("posterize", 1, 1, ramp) == ramp & 0b11110000).all()
    assert (operate("solarize", 0.5, 1, ramp) == np.where(ramp < 128, ramp, 255 - ramp)).all()
    assert (operate("solarize_add", 1, 1, ramp) == np.where(ramp < 128, ramp + 110, ramp)).all()
    assert (operate("brightness", 1, -1, ramp) <= ramp // 10 + 1).all()
    moved = operate("translate_x", 1, 1, ramp)
    assert (moved[:, :55] == ramp[:, 45:]).all() and (moved[:, 56:] == FILL).all()
    moved = operate("translate_y", 1, -1, ramp)
    assert (moved[45:] == ramp[:55]).all() and (moved[:44] == FILL).all()
    sheared = operate("shear_x", 1, 1, ramp)  # pixel x of row y comes from x + 0.3 y
    assert np.abs(sheared[50, 10:60, 0].astype(int) - (2 * (np.arange(10, 60) + 15))).max() <= 1
    turned = operate("rotate", 1, 1, ramp.transpose(1, 0, 2))  # 30 degrees against the clock
    assert np.abs(turned[50, 50].astype(int) - 99).max() <= 2 and (turned[0, 0] == FILL).all()


def test_rand_augment_is_of_its_generator():
    def run(seed, **kwargs):
        random.seed(seed)
        return RandAugment(**kwargs)({"img": PICTURE, "gt_label": 1})["img"]

    assert (run(0, prob=1) == run(0, prob=1)).all()
    results = {run(seed, prob=1).tobytes() for seed in range(40)}
    assert len(results) > 30
    assert (run(0, prob=0) == PICTURE).all() and (run(0, num=0) == PICTURE).all()
    unchanged = sum((run(seed, num=1) == PICTURE).all() for seed in range(300))
    assert 110 < unchanged < 190  # half of them


def test_rand_augment_levels(monkeypatch):
    levels = []
    monkeypatch.setitem(OPERATIONS, "rotate", lambda image, level, sign, fill: levels.append(level) or image)
    monkeypatch.setattr(random, "choices", lambda names, k: ["rotate"] * k)
    random.seed(0)
    RandAugment(num=500, magnitude=9, std=0.5, prob=1)({"img": PICTURE})
    assert abs(np.mean(levels) - 0.9) < 0.01 and 0.04 < np.std(levels) < 0.055 and max(levels) == 1


# --------------------------------------------------------------------------------------------- PackImage


def test_pack():
    packed = PackImage()({"img": PICTURE[:, ::-1], "gt_label": 4, "sample_idx": 2, "ori_shape": (5, 6)})
    assert packed["inputs"].equal(torch.tensor(PICTURE[:, ::-1].transpose(2, 0, 1).copy()))
    sample = packed["data_samples"]
    assert sample.gt_label == 4 and sample.metainfo == {
        "index": 2,
        "ori_shape": (5, 6),
        "img_shape": (20, 30),
    }
    assert "gt_label" not in PackImage()({"img": PICTURE})["data_samples"]


# -------------------------------------------------------------------------- rotation, colours, blur


def changed(transform, image=PICTURE, seed=0):
    random.seed(seed)
    found = transform({"img": image, "gt_label": 3})
    assert found["gt_label"] == 3 and found["img"].shape == image.shape and found["img"].dtype == np.uint8
    return found["img"]


def test_rotation_turns_by_drawn_angles():
    image = np.full((21, 21, 3), 200, np.uint8)
    turned = [changed(RandomRotation(90), image, seed) for seed in range(20)]
    assert {int(found[0, 0, 0]) for found in turned} == {0}  # black comes in
    assert len({int((found == 0).sum()) for found in turned}) > 10
    assert (changed(RandomRotation(1), image) == 200).all()
    assert (changed(RandomRotation(0)) == PICTURE).all()
    assert changed(RandomRotation(90), image)[10, 10, 0] == 200


def test_colour_jitter():
    assert (changed(ColorJitter()) == PICTURE).all()
    grey = np.full((4, 4, 3), 100, np.uint8)
    levels = [int(changed(ColorJitter(brightness=0.3), grey, seed)[0, 0, 0]) for seed in range(60)]
    assert 69 <= min(levels) < 78 and 122 < max(levels) <= 130
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    turned = {tuple(changed(ColorJitter(hue=0.5), red, seed)[0, 0] > 128) for seed in range(40)}
    assert len(turned) > 3
    assert changed(ColorJitter(saturation=1.0), red, 3).min() >= 0
    with pytest.raises(ValueError, match="of hue up to 0.5, found"):
        ColorJitter(hue=0.6)


def test_blur_keeps_constants_and_spreads_points():
    image = np.zeros((5, 7, 3), np.uint8)
    image[2, 3] = 240
    found = changed(RandomBlur((1e3, 1e3)), image)
    assert (found[1:4, 2:5] == 27).all() and found.sum() == 9 * 27 * 3  # a ninth each
    assert (changed(RandomBlur((0.1, 0.1)), image) == image).all()
    grey = np.full((1, 4, 3), 9, np.uint8)
    assert (changed(RandomBlur(), grey) == grey).all()

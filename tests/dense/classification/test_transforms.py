import random

import numpy as np
import pytest
import torch
from PIL import Image

from dense.classification.transforms import OPERATIONS, PackImage, RandAugment, RandomResizedCrop
from dense.data import LoadImage

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)


def load(path):
    return LoadImage()({"img_path": str(path), "gt_label": 3})


# -------------------------------------------------------------------------------------------- LoadImage


def test_load_rgb(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    found = load(tmp_path / "a.png")
    assert (found["img"] == PICTURE).all() and found["img"].dtype == np.uint8
    assert found["img_shape"] == found["ori_shape"] == (20, 30) and found["gt_label"] == 3


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_load_modes(tmp_path, mode):
    image = Image.fromarray(PICTURE).convert("RGBA" if mode == "PA" else mode)
    path = tmp_path / ("a.png" if mode in ("L", "LA", "1", "P", "PA", "RGBA") else "a.tif")
    if mode == "PA":
        image = image.quantize()
    if mode == "HSV":  # which no file holds
        image, path = image.convert("RGB"), tmp_path / "a.png"
    image.save(path)
    found = load(path)["img"]
    assert found.shape == PICTURE.shape and found.dtype == np.uint8
    grey = np.abs(np.ptp(found.astype(int), axis=2)).max()
    assert (grey == 0) == (mode in ("L", "LA", "1"))
    if mode == "RGBA":
        assert (found == PICTURE).all()


def test_load_palette_with_transparency(tmp_path):
    image = Image.fromarray(PICTURE // 128 * 255).quantize(8)
    image.save(tmp_path / "a.png", transparency=bytes([0, 100, 255, 255, 255, 255, 255, 255]))
    assert (load(tmp_path / "a.png")["img"] == np.asarray(image.convert("RGB"))).all()


def test_load_16_bits(tmp_path):
    levels = RNG.integers(0, 65536, (20, 30)).astype(np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(levels).save(tmp_path / name)
        assert (load(tmp_path / name)["img"] == (levels >> 8)[..., None]).all()
    Image.fromarray(levels.astype(np.int32)).save(tmp_path / "b.tif")
    assert (load(tmp_path / "b.tif")["img"] == (levels >> 8)[..., None]).all()
    import cv2

    color = RNG.integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "c.png"), color[..., ::-1])
    assert (load(tmp_path / "c.png")["img"] == color >> 8).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_load_upright(tmp_path, orientation):
    """The file holds the picture turned; its tag says how to turn it back."""
    turned = {
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.transpose(1, 0, 2),
        6: PICTURE.transpose(1, 0, 2)[::-1],
        7: PICTURE.transpose(1, 0, 2)[::-1, ::-1],
        8: PICTURE.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "a.png", exif=exif)
    found = load(tmp_path / "a.png")
    assert found["ori_shape"] == (20, 30) and (found["img"] == PICTURE).all()


def test_load_refuses_by_name(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "deep.tif")
    for name, content in {"cut.jpg": data[:-300], "text.png": b"no image", "empty.gif": b""}.items():
        (tmp_path / name).write_bytes(content)
    for name in ("cut.jpg", "text.png", "empty.gif", "float.tif", "deep.tif"):
        with pytest.raises(OSError, match=f"{name}: not an image that can be read"):
            load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        load(tmp_path / "none.png")


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

import numpy as np
import pytest
import torch

from dense.registry import METRICS
from dense.restoration.degradations import imresize
from dense.restoration.metrics import compare, psnr, ssim, to_levels, to_y


def test_psnr_by_hand():
    a = np.full((4, 4, 3), 100, np.uint8)
    assert psnr(a, a) == float("inf")
    assert psnr(a, a + 1) == pytest.approx(20 * np.log10(255))  # 48.1308
    b = a.copy()
    b[0, 0, 0] += 48
    assert psnr(a, b) == pytest.approx(10 * np.log10(255**2 / 48))  # 48^2 / 48 numbers


def test_ssim_against_explicit_windows():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (14, 13, 2)).astype(np.uint8)
    b = np.clip(a + rng.normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    distance = np.add.outer((np.arange(11) - 5) ** 2, (np.arange(11) - 5) ** 2)
    weights = np.exp(-distance / 4.5)
    weights /= weights.sum()
    values = []
    for channel in range(2):
        for y in range(4):
            for x in range(3):
                p, q = (image[y : y + 11, x : x + 11, channel].astype(float) for image in (a, b))
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
                cov = (weights * (p - mp) * (q - mq)).sum()
                c1, c2 = 6.5025, 58.5225
                values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    assert ssim(a, b) == pytest.approx(np.mean(values), abs=1e-12)
    assert ssim(a, a) == pytest.approx(1)
    flat = np.full((11, 11, 1), 50), np.full((11, 11, 1), 200)
    assert ssim(*flat) == pytest.approx((2 * 50 * 200 + 6.5025) / (50**2 + 200**2 + 6.5025))
    with pytest.raises(ValueError, match="found 10 x 40"):
        ssim(np.zeros((10, 40, 1)), np.zeros((10, 40, 1)))


def test_luma_and_levels():
    colours = np.uint8([[[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0]]])
    np.testing.assert_allclose(to_y(colours)[0, :, 0], [235, 16, 81.481, 144.553], atol=1e-4)
    assert to_y(colours).dtype == np.float32
    grey = np.uint8([[[9]]])
    assert to_y(grey) is grey
    levels = to_levels(np.array([-1, 0.5 / 255, 1.5 / 255, 0.999, 3.0]))
    assert levels.dtype == np.uint8 and levels.tolist() == [0, 0, 2, 255, 255]


def test_compare_crops_and_converts():
    rng = np.random.default_rng(0)
    good = rng.random((20, 24, 3))
    bad = good.copy()
    bad[:2] = 0
    assert compare(bad, good, crop_border=2)[0] == float("inf")
    assert compare(bad, good)[0] < 20
    grey = good[..., :1], bad[..., :1]
    assert compare(*grey, channels="y") == compare(*grey, channels="rgb")
    assert compare(good, bad, channels="y") != compare(good, bad, channels="rgb")
    with pytest.raises(ValueError, match="one shape"):
        compare(good, good[1:])
    with pytest.raises(ValueError, match="found 'cmyk'"):
        compare(good, good, channels="cmyk")


def sample(pred, gt, dataset):
    return {
        "pred": torch.from_numpy(pred.transpose(2, 0, 1)),
        "gt": torch.from_numpy(gt.transpose(2, 0, 1)),
        "dataset": dataset,
        "img_path": f"{dataset}/0.png",
    }


def test_metric_by_data_set():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (24, 28, 3)).astype(np.uint8) for _ in range(3)]
    poor = [imresize(image, 0.5) for image in images]
    metric = METRICS.build({"type": "dense.ImageQuality", "crop_border": 2})
    for image, small, name in zip(images, poor, ["A", "A", "B"], strict=True):
        pred = (image / 255 + (0.02 if name == "A" else 0)).astype(np.float32)
        inputs = torch.from_numpy(small.transpose(2, 0, 1))
        metric.process({"inputs": [inputs]}, [sample(pred, image, name)])
    found = metric.evaluate(3)
    assert list(found) == [f"{d}/{m}" for d in "AB" for m in ("psnr", "ssim", "psnr_input", "ssim_input")]
    assert found["B/psnr"] == float("inf") and found["B/ssim"] == pytest.approx(1)
    expected = [
        compare(imresize(small, 2.0), image, 2) for small, image in zip(poor[:2], images[:2], strict=True)
    ]
    assert found["A/psnr_input"] == pytest.approx(np.mean(expected, 0)[0])
    assert found["A/ssim_input"] == pytest.approx(np.mean(expected, 0)[1])


def test_metric_errors():
    metric = METRICS.build({"type": "dense.ImageQuality"})
    image = np.zeros((12, 12, 3), np.uint8)
    bad = np.full((12, 12, 3), np.nan, np.float32)
    inputs = {"inputs": [torch.zeros(3, 12, 12, dtype=torch.uint8)]}
    with pytest.raises(ValueError, match="A/0.png: the restored image is not finite"):
        metric.process(inputs, [sample(bad, image, "A")])
    with pytest.raises(ValueError, match=r"A/0.png: images must have one shape"):
        metric.process(inputs, [sample(np.zeros((11, 12, 3), np.float32), image, "A")])
    with pytest.raises(ValueError, match="found 'hsv'"):
        METRICS.build({"type": "dense.ImageQuality", "channels": "hsv"})

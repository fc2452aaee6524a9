"""The loss: against windows one by one, identical frames, gradient, bad input."""

import pytest
import torch
from torch.autograd import gradcheck

from dense.video.losses import MiddleFrameLoss, ssim_and_difference


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def naive(a, b):
    """Both means for images (H, W), by loops over the windows."""
    offsets = torch.arange(-5.0, 6, dtype=a.dtype)
    window = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / 4.5)
    window = window / window.sum()
    similarities, differences = [], []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = (image[y : y + 11, x : x + 11] for image in (a, b))
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            both = (window * (p - mean_p) * (q - mean_q)).sum()
            light = (2 * mean_p * mean_q + 1e-4) / (mean_p**2 + mean_q**2 + 1e-4)
            similarities.append(light * (2 * both + 9e-4) / (var_p + var_q + 9e-4))
            differences.append((window * (p - q).abs()).sum())
    return torch.stack(similarities).mean(), torch.stack(differences).mean()


def test_equals_loops():
    a = torch.rand(13, 14, dtype=torch.float64)
    b = (a + 0.2 * torch.randn_like(a)).clamp(0, 1)
    found, wanted = ssim_and_difference(a, b), naive(a, b)
    torch.testing.assert_close(found, wanted)
    loss = MiddleFrameLoss(0.25)(2 * a - 1, 2 * b - 1)
    torch.testing.assert_close(loss, 0.75 * (1 - wanted[0]) + 0.25 * wanted[1])


def test_identical_frames_cost_nothing():
    frames = 2 * torch.rand(2, 3, 1, 16, 20) - 1
    assert MiddleFrameLoss()(frames, frames).item() == pytest.approx(0, abs=1e-6)
    assert MiddleFrameLoss()(frames, frames.flip(0)).item() > 0.3


def test_mean_over_frames():
    a, b = torch.rand(2, 2, 3, 1, 16, 20)
    loss = MiddleFrameLoss()
    each = [loss(p, q) for p, q in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)]
    torch.testing.assert_close(loss(a, b), torch.stack(each).mean())


def test_gradient():
    a, b = torch.rand(2, 1, 12, 11, dtype=torch.float64, requires_grad=True)
    assert gradcheck(MiddleFrameLoss(), (a, b))


def test_bad_input():
    with pytest.raises(ValueError, match=r"one shape, found \(1, 12, 12\) and \(2, 12, 12\)"):
        ssim_and_difference(torch.zeros(1, 12, 12), torch.zeros(2, 12, 12))
    with pytest.raises(ValueError, match=r"at least 11, found \(1, 10, 12\)"):
        ssim_and_difference(torch.zeros(1, 10, 12), torch.zeros(1, 10, 12))
    with pytest.raises(ValueError, match="share must be in 0..1, found 2"):
        MiddleFrameLoss(2)

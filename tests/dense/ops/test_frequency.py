"""Half spectra against sums, and what their inverse makes of those that are of no real map."""

import pytest
import torch

from dense.ops import half_spectrum, invert_half_spectrum

SIZES = [(6, 8), (5, 7), (7, 6), (1, 5), (4, 1), (2, 2), (1, 1)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def maps(size, batch=2, channels=3):
    return torch.randn(batch, *size, channels, dtype=torch.float64)


def waves(size):
    """exp(-2 pi i k n / N) of both axes: (N, N) each."""
    steps = (torch.outer(torch.arange(n), torch.arange(n)).double() / n for n in size)
    return [torch.polar(torch.ones_like(s), -2 * torch.pi * s) for s in steps]


@pytest.mark.parametrize("size", SIZES)
def test_spectrum_by_sums(size):
    x = maps(size)
    along_h, along_w = waves(size)
    wanted = torch.einsum("kh,lw,bhwc->bklc", along_h, along_w, x.to(torch.complex128))
    found = half_spectrum(x)
    assert found.shape == (2, size[0], size[1] // 2 + 1, 3)
    torch.testing.assert_close(found, wanted[:, :, : found.shape[2]] / (size[0] * size[1]) ** 0.5)


@pytest.mark.parametrize("size", SIZES)
def test_parseval(size):
    x = maps(size)
    power = half_spectrum(x).abs().square()
    mirrored = power[:, :, 1 : (size[1] + 1) // 2]  # of the other half
    torch.testing.assert_close(power.sum() + mirrored.sum(), x.square().sum())


@pytest.mark.parametrize("size", SIZES)
def test_inverse_restores(size):
    x = maps(size)
    torch.testing.assert_close(invert_half_spectrum(half_spectrum(x), size[1]), x)


@pytest.mark.parametrize("size", SIZES)
def test_inverse_of_any_spectrum(size):
    """It is the real part of the sum over both halves: of the outer columns the mean with their mirrors."""
    height, width = size
    spectrum = torch.randn(2, height, width // 2 + 1, 3, dtype=torch.complex128)
    along_h, along_w = (wave.conj() for wave in waves(size))
    wanted = torch.zeros(2, height, width, 3, dtype=torch.float64)
    for k in range(width // 2 + 1):
        column = torch.einsum("hl,blc->bhc", along_h, spectrum[:, :, k])
        count = 1 if k in (0, width / 2) else 2
        wanted += count * (column[:, :, None] * along_w[k, :, None]).real
    found = invert_half_spectrum(spectrum.clone(), width)
    torch.testing.assert_close(found, wanted / (height * width) ** 0.5)


@pytest.mark.parametrize("size", [(3, 4), (4, 3)])
def test_gradient(size):
    spectrum = torch.randn(1, size[0], size[1] // 2 + 1, 2, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: invert_half_spectrum(s, size[1]), spectrum)


def test_a_width_that_does_not_fit():
    with pytest.raises(ValueError, match=r"width 6 must be \(B, H, 4, C\), found \(1, 5, 3, 2\)"):
        invert_half_spectrum(torch.zeros(1, 5, 3, 2, dtype=torch.complex64), 6)

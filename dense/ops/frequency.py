"""Filters in the frequency domain."""

import torch
from torch import Tensor


def half_spectrum(x: Tensor) -> Tensor:
    """Fourier transform of real maps, orthonormal, without the frequencies that mirror others.

    Args:
        x: (B, H, W, C), float32 or float64.

    Returns:
        (B, H, W // 2 + 1, C), complex.
    """
    return torch.fft.rfft2(x, dim=(1, 2), norm="ortho")


def invert_half_spectrum(spectrum: Tensor, width: int) -> Tensor:
    """The real maps of any half spectra, orthonormal.

    What filters have changed is in general no half spectrum of real values, and libraries differ in what
    their inverse makes of it. Here it is inverted along H, then, as of real values, along W: the imaginary
    parts of the first column and, of an even width, of the last one, which a real inverse takes to be real,
    are dropped.

    Args:
        spectrum: (B, H, W // 2 + 1, C), complex.
        width: W, which the spectrum leaves open by one.

    Returns:
        (B, H, W, C), real.

    Raises:
        ValueError: a width that the spectrum cannot be of.
    """
    if spectrum.ndim != 4 or spectrum.shape[2] != width // 2 + 1:
        raise ValueError(
            f"a spectrum of width {width} must be (B, H, {width // 2 + 1}, C), found {tuple(spectrum.shape)}"
        )
    rows = torch.fft.ifft(spectrum, dim=1, norm="ortho")
    rows.imag[:, :, 0] = 0
    if width % 2 == 0:
        rows.imag[:, :, width // 2] = 0
    return torch.fft.irfft(rows, width, dim=2, norm="ortho")

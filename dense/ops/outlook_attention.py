"""Values of windows mixed by matrices that are given, and added where windows overlap."""

from math import isqrt

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pointsuite.engine.backends import choose_inference_kernel
from pointsuite.engine.parallel import run_rows


def outlook_attention(
    weights: Tensor, values: Tensor, *, stride: int = 1, padding: int = 0, backend: str = "auto"
) -> Tensor:
    """Mix the values of each window of a map, and sum over the windows that cover a pixel.

    Window (a, b) begins at pixel (a * stride - padding, b * stride - padding). Pixels outside of the map have
    the value 0, and what they would get is dropped.

    Args:
        weights: (B, ceil(H / stride), ceil(W / stride), heads, K * K, K * K): of each window, what each of
            its pixels takes of each, both row by row.
        values: (B, H, W, C) of the same dtype, C a multiple of heads.
        stride: pixels between windows.
        padding: of the first window, pixels before the map, less than K.
        backend: "auto", "torch" (portable) or "numba" (float32 on a CPU, without gradient).

    Returns:
        (B, H, W, C).

    Raises:
        ValueError: shapes that do not fit, a backend that is unknown or cannot run there.

    Source: Yuan et al., "VOLO: Vision Outlooker for Visual Recognition", TPAMI 2022, arXiv 2106.13112.
    """
    size = _check(weights, values, stride, padding)
    if choose_inference_kernel(backend, weights, values) == "numba":
        return _run(weights, values, size, stride, padding)
    height, width = values.shape[1:3]
    rows, columns, heads = weights.shape[1:4]
    # what all windows cover
    sides = [(count - 1) * stride + size for count in (rows, columns)]
    below, right = (
        side - padding - length for side, length in zip(sides, (height, width), strict=True)
    )  # negative where strides skip pixels
    padded = F.pad(values, (0, 0, padding, right, padding, below))
    windows = padded.unfold(1, size, stride).unfold(2, size, stride)  # (B, rows, columns, C, K, K)
    y = weights @ windows.flatten(4).unflatten(3, (heads, -1)).mT  # (B, rows, columns, heads, K * K, d)
    y = y.permute(0, 3, 5, 4, 1, 2).flatten(4).flatten(1, 3)  # (B, C * K * K, windows)
    y = F.fold(y, sides, size, stride=stride)
    return F.pad(y, (-padding, -right, -padding, -below)).permute(0, 2, 3, 1)


def _check(weights: Tensor, values: Tensor, stride: int, padding: int) -> int:
    """K."""
    if stride < 1:
        raise ValueError(f"stride must be at least 1, found {stride}")
    if values.ndim != 4:
        raise ValueError(f"values must be (B, H, W, C), found {tuple(values.shape)}")
    batch, height, width, channels = values.shape
    windows = (batch, -(-height // stride), -(-width // stride))
    size = isqrt(int(weights.shape[-1])) if weights.ndim == 6 else 0
    heads = weights.shape[3] if size else 0
    if not heads or weights.shape != (*windows, heads, size**2, size**2) or channels % heads:
        shape = ", ".join(map(str, windows))
        raise ValueError(
            f"weights must be ({shape}, heads, K * K, K * K), heads a divisor of the {channels} channels, "
            f"found {tuple(weights.shape)}"
        )
    if not 0 <= padding < size:
        raise ValueError(f"padding must be within 0..{size - 1} for windows of {size}, found {padding}")
    return size


def _run(weights: Tensor, values: Tensor, size: int, stride: int, padding: int) -> Tensor:
    heads = weights.shape[3]
    values = values.detach().contiguous().unflatten(3, (heads, -1))
    out = torch.zeros_like(values)
    arrays = [t.numpy() for t in (weights.detach().contiguous(), values, out)]
    run_rows(_mix, len(values) * heads, *arrays, size, stride, padding)
    return out.flatten(3)


@numba.njit(nogil=True, cache=True, boundscheck=False, fastmath={"contract", "nsz"})
def _mix(weights, values, out, size, stride, padding, start, stop):
    """Heads [start, stop) of all images."""
    _, rows, columns, heads = weights.shape[:4]
    height, width, channels = values.shape[1], values.shape[2], values.shape[4]
    places = np.empty((size * size, 3), np.int64)  # of a window's pixels on the map
    total = np.empty(channels, np.float32)
    for job in range(start, stop):
        b, h = job // heads, job % heads
        for row in range(rows):
            for column in range(columns):
                count = 0
                for t in range(size * size):
                    y, x = row * stride - padding + t // size, column * stride - padding + t % size
                    if 0 <= y < height and 0 <= x < width:
                        places[count, 0], places[count, 1], places[count, 2] = t, y, x
                        count += 1
                matrix = weights[b, row, column, h]
                for i in range(count):
                    shares = matrix[places[i, 0]]
                    total[:] = 0
                    for j in range(count):
                        share, source = shares[places[j, 0]], values[b, places[j, 1], places[j, 2], h]
                        for c in range(channels):
                            total[c] += share * source[c]
                    target = out[b, places[i, 1], places[i, 2], h]
                    for c in range(channels):
                        target[c] += total[c]

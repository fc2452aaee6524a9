"""Context mixing: each position makes the weights of a window around it, which stops at the borders."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pointsuite.engine.backends import choose_backend, is_traced

from .chunks import slices
from .neighborhood_attention import Axis, make_axes

NUMBERS = 2**19  # weights of an image that are there at once


def context_mixing(
    q: Tensor, taps: Tensor, offset: Tensor, bias: Tensor, v: Tensor, window: int, *, backend: str = "auto"
) -> Tensor:
    r"""Depthwise convolution with kernels that each position makes for itself, softmaxes over their taps.

    .. math:: y_n = \sum_t \mathrm{softmax}_t(q_n \cdot k_t + o_t + b_{w(n) + t - n})\; v_{w(n) + t}

    The window of K x K taps t that begins at w(n) has n in its middle, but stops at the borders: w(n) =
    clamp(n - floor(K / 2), 0, side - K) on either axis. So a tap is a place in the window, and b alone knows
    how it lies to n. The weights of all positions are never there at once.

    Args:
        q: (B, H, W, G, d) floating, H and W at least K; differentiable.
        taps: (B, G, K * K, d), k of the places of a window, row by row; differentiable.
        offset: (K * K,), o; differentiable.
        bias: (G, 2 K - 1, 2 K - 1), b by position of the value minus that of the query, plus K - 1;
            differentiable.
        v: (B, H, W, G, c); differentiable. All are of one dtype.
        window: K, odd.
        backend: "auto", "torch" (portable) or "triton" (CUDA; sums in float32, the gradient is that of the
            portable form). Compiled code sees the portable form.

    Returns:
        (B, H, W, G, c).

    Raises:
        ValueError: shapes that do not fit, a window that is even or larger than the map, a backend that is
            unknown or cannot run there.
        TypeError: dtypes that differ or are not floating.

    Source: Lou, Yu, "OverLoCK: An Overview-first-Look-Closely-next ConvNet with Context-Mixing Dynamic
    Kernels", CVPR 2025, arXiv 2502.20087.
    """
    axes = _check(q, taps, offset, bias, v, window)
    chosen = choose_backend(backend, q, triton=not is_traced() and q.dtype != torch.float64)
    if v.numel() == 0:
        return torch.zeros_like(v)
    if chosen == "triton":
        from .triton.context_mixing import mix

        return mix(q, taps, offset, bias, v, window)
    return mix_portably(q, taps, offset, bias, v, axes)


def _check(q, taps, offset, bias, v, window) -> tuple[Axis, Axis]:
    if q.ndim != 5 or v.ndim != 5 or v.shape[:4] != q.shape[:4]:
        found = f"{tuple(q.shape)} and {tuple(v.shape)}"
        raise ValueError(f"q and v must be (B, H, W, G, d) and (B, H, W, G, c), found {found}")
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be odd, found {window}")
    axes = make_axes(q.shape[1:3], window)
    batch, _, _, groups, width = q.shape
    wanted = {
        "taps": (taps, (batch, groups, window**2, width)),
        "offset": (offset, (window**2,)),
        "bias": (bias, (groups, 2 * window - 1, 2 * window - 1)),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape}, found {tuple(tensor.shape)}")
    dtypes = {tensor.dtype for tensor in (q, taps, offset, bias, v)}
    if len(dtypes) > 1 or not q.is_floating_point():
        found = ", ".join(sorted(map(str, dtypes)))
        raise TypeError(f"q, taps, offset, bias and v must be floating, of one dtype, found {found}")
    return axes


def mix_portably(
    q: Tensor, taps: Tensor, offset: Tensor, bias: Tensor, v: Tensor, axes: tuple[Axis, Axis]
) -> Tensor:
    """:func:`context_mixing` as products of matrices, some rows of the map at a time."""
    size, width = axes[0].window, q.shape[2]
    top, left = (axis.windows(axis.length)[0] for axis in axes)
    rows, columns = (_places(first, size, q.device) for first in (top, left))
    most = max(1, NUMBERS // (q.shape[3] * width * size**2))
    across = list(find_runs(left, max(size, 16)))

    def mix_rows(start: int, stop: int) -> Tensor:
        """Of rows whose windows begin at the same one."""
        queries = q[:, start:stop].permute(0, 3, 1, 2, 4).flatten(2, 3)  # (B, G, R * W, d)
        table = bias[:, rows[start:stop]].index_select(3, columns.flatten()).unflatten(3, columns.shape)
        table = (table + offset.view(size, 1, size)).transpose(2, 3)  # (G, R, W, K, K)
        weights = (queries @ taps.mT + table.reshape(len(table), -1, size**2)).softmax(-1)
        weights = weights.view(*weights.shape[:2], stop - start, width, size, size)
        values = v[:, top[start] : top[start] + size].permute(0, 3, 1, 2, 4)  # (B, G, K, W, c)
        pieces = []
        for first, last, step in across:
            part = weights[:, :, :, first:last]
            if step:
                part = _spread(part)
            seen = values[:, :, :, left[first] : left[first] + part.shape[-1]]
            y = part.reshape(*part.shape[:2], -1, size * part.shape[-1]) @ seen.flatten(2, 3)
            pieces.append(y.unflatten(2, (stop - start, last - first)))
        return torch.cat(pieces, 3).permute(0, 2, 3, 1, 4)

    recompute = torch.is_grad_enabled() and not is_traced()
    options = {"use_reentrant": False, "preserve_rng_state": False}
    bands = [
        (first + piece.start, first + piece.stop)
        for first, last, _ in find_runs(top, 1)
        for piece in slices(last - first, most)
    ]
    if recompute:
        return torch.cat([checkpoint(mix_rows, *band, **options) for band in bands], 1)
    y = torch.empty_like(v, memory_format=torch.contiguous_format)
    for start, stop in bands:
        y[:, start:stop] = mix_rows(start, stop)
    return y


def find_runs(first: np.ndarray, most: int) -> Iterator[tuple[int, int, int]]:
    """Neighbouring queries along an axis, from their windows' beginnings: (start, stop, step), where those of
    step 0 have the same window, and those of step 1, so many or fewer, the next one each.
    """
    start = 0
    while start < len(first):
        stop = start + 1
        while stop < len(first) and first[stop] == first[start]:
            stop += 1
        if stop == start + 1:
            while stop < min(len(first), start + most) and (
                stop + 1 == len(first) or first[stop + 1] > first[stop]
            ):
                stop += 1
            yield start, stop, 1
        else:
            yield start, stop, 0
        start = stop


def _places(first: np.ndarray, size: int, device: torch.device) -> Tensor:
    """Index into the table of biases along an axis: (queries, K)."""
    return torch.from_numpy((first - np.arange(len(first)))[:, None] + np.arange(size) + size - 1).to(device)


def _spread(weights: Tensor) -> Tensor:
    """Weights of windows, each of which begins one further, among all their values: (..., T, K, K) to
    (..., T, K, K + T - 1).
    """
    count, size = weights.shape[-3], weights.shape[-1]
    padded = F.pad(weights.transpose(-3, -2), (0, count)).flatten(-2)[..., :-count]
    return padded.unflatten(-1, (count, size + count - 1)).transpose(-3, -2)

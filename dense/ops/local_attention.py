"""Products of each pixel with the square window around it: local attention without copies of the windows."""

from math import isqrt, prod

import numba
import torch
from torch import Tensor
from torch.nn import functional as F

from pointsuite.engine.backends import choose_backend, is_traced
from pointsuite.engine.parallel import run_rows


def local_logits(query: Tensor, key: Tensor, window_size: int = 3, *, backend: str = "auto") -> Tensor:
    """Inner product of each query with the keys of its window.

    Args:
        query, key: (..., H, W, d) floating, of one shape and dtype; differentiable, also twice.
        window_size: K, odd; the pixel is in the middle.
        backend: "auto", "torch" (portable) or "numba" (CPU; 16-bit numbers are summed in float32). Compiled
            code sees the portable form.

    Returns:
        (..., H, W, K * K), the window row by row; 0 where it leaves the map (see :func:`local_mask`).

    Raises:
        ValueError: shapes that do not fit, a bad window_size, a backend that is unknown or cannot run there.
        TypeError: dtypes that differ or are not floating.
    """
    _check("query", query, "key", key, window_size)
    if query.shape != key.shape:
        raise ValueError(f"query and key must have one shape, found {tuple(query.shape)}, {tuple(key.shape)}")
    if choose_backend(backend, query, numba=not is_traced()) == "torch":
        return torch.stack([(query * k).sum(-1) for k in _shifts(key, window_size)], -1)
    exact = torch.promote_types(query.dtype, torch.float32)
    return _Logits.apply(query.to(exact), key.to(exact), window_size).to(query.dtype)


def local_sum(weights: Tensor, values: Tensor, *, backend: str = "auto") -> Tensor:
    """Weighted sum of the values of each pixel's window.

    Args:
        weights: (..., H, W, K * K) floating, K odd, as of :func:`local_logits`; differentiable, also twice.
            Where the window leaves the map they do not matter, if finite.
        values: (..., H, W, d) of the same dtype; differentiable, also twice.
        backend: as of :func:`local_logits`.

    Returns:
        (..., H, W, d).

    Raises:
        ValueError: shapes that do not fit, a backend that is unknown or cannot run there.
        TypeError: dtypes that differ or are not floating.
    """
    count = int(weights.shape[-1]) if weights.ndim else 1  # a tensor, where code is traced
    window_size = isqrt(count) | 1
    _check("weights", weights, "values", values, window_size)
    wanted = (*values.shape[:-1], window_size**2)
    if weights.shape != wanted:
        raise ValueError(f"weights must have shape {wanted}, found {tuple(weights.shape)}")
    if choose_backend(backend, values, numba=not is_traced()) == "torch":
        parts = zip(weights.split(1, -1), _shifts(values, window_size), strict=True)
        return sum(w * v for w, v in parts)
    exact = torch.promote_types(values.dtype, torch.float32)
    return _Sum.apply(weights.to(exact), values.to(exact), window_size).to(values.dtype)


def local_mask(
    height: int, width: int, window_size: int = 3, device: torch.device | str | None = None
) -> Tensor:
    """Which pixels of the windows of a map lie on it: (H, W, K * K) bool."""
    offsets = torch.arange(window_size, device=device) - window_size // 2
    rows, columns = (torch.arange(size, device=device)[:, None] + offsets for size in (height, width))
    rows, columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)  # (H, K), (W, K)
    return (rows[:, None, :, None] & columns[:, None]).flatten(2)


def _check(first_name: str, first: Tensor, second_name: str, second: Tensor, window_size: int) -> None:
    for name, tensor in ((first_name, first), (second_name, second)):
        if tensor.ndim < 3:
            raise ValueError(f"{name} must have three axes or more, found shape {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating, found {tensor.dtype}")
    if first.dtype != second.dtype:
        raise TypeError(
            f"{first_name} and {second_name} must have one dtype, found {first.dtype}, {second.dtype}"
        )
    if window_size < 1 or window_size % 2 == 0:
        raise ValueError(f"window_size must be odd and positive, found {window_size}")


def _shifts(x: Tensor, window_size: int) -> list[Tensor]:
    """(..., H, W, c) as each place of the window sees it, zeros outside: K * K views of that shape."""
    height, width = x.shape[-3:-1]
    radius = window_size // 2
    x = F.pad(x, (0, 0, radius, radius, radius, radius))
    places = [(top, left) for top in range(window_size) for left in range(window_size)]
    return [x[..., top : top + height, left : left + width, :] for top, left in places]


# Both gradients are products of the same two kinds. With o(t) the offset of place t, and -t its mirror image,
#   logits[n, t] = q[n] . k[n + o(t)],
#   dq[n] = sum_t g[n, t] k[n + o(t)],
#   dk[m] = sum_t g[m - o(t), t] q[m - o(t)]: the sum over m's window with the weight g[m + o(t), -t] at t.


class _Logits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, window_size):
        ctx.save_for_backward(query, key)
        out = query.new_empty(*query.shape[:-1], window_size**2)
        _run(_logits, query, key, out, window_size)
        return out

    @staticmethod
    def backward(ctx, grad):
        query, key = ctx.saved_tensors
        return local_sum(grad, key), local_sum(_mirror(grad), query), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights, values, window_size):
        ctx.save_for_backward(weights, values)
        ctx.window_size = window_size
        out = values.new_empty(values.shape)
        _run(_sum, weights, values, out, window_size)
        return out

    @staticmethod
    def backward(ctx, grad):
        weights, values = ctx.saved_tensors
        return local_logits(grad, values, ctx.window_size), local_sum(_mirror(weights), grad), None


def _mirror(weights: Tensor) -> Tensor:
    """The weight that each pixel has in the windows of its neighbours: (..., H, W, K * K) to the same."""
    count = weights.shape[-1]
    shifts = _shifts(weights, isqrt(count))
    return torch.stack([shifts[t][..., count - 1 - t] for t in range(count)], -1)


def _run(kernel, maps: Tensor, windows: Tensor, out: Tensor, window_size: int) -> None:
    """Call a kernel on the rows of all maps; ``windows`` gets zeros around it, so that none leaves it."""
    radius = window_size // 2
    height, width = out.shape[-3:-1]
    windows = F.pad(windows.detach(), (0, 0, radius, radius, radius, radius))
    offsets = tuple(y * (width + 2 * radius) + x for y in range(window_size) for x in range(window_size))
    count = prod(out.shape[:-3])
    arrays = [t.detach().contiguous().view(count, *t.shape[-3:]).numpy() for t in (maps, windows, out)]
    run_rows(kernel, count * height, *arrays, offsets)


# Inner products may be summed in any order, so that they vectorise. The offsets of a window's places, in
# pixels from its first, are a tuple: its length is a constant to the compiler.
_jit = numba.njit(nogil=True, cache=True, boundscheck=False, fastmath={"reassoc", "contract", "nsz"})


@_jit
def _logits(query, key, out, offsets, start, stop):
    """Rows [start, stop) of all maps."""
    _, height, width, channels = query.shape
    windows = key.reshape(key.shape[0], key.shape[1] * key.shape[2], channels)
    for row in range(start, stop):
        b, y = row // height, row % height
        for x in range(width):
            q, logits, first = query[b, y, x], out[b, y, x], y * key.shape[2] + x
            for t in range(len(offsets)):
                k = windows[b, first + offsets[t]]
                logits[t] = 0
                total = logits[t]
                for c in range(channels):
                    total += q[c] * k[c]
                logits[t] = total


@_jit
def _sum(weights, values, out, offsets, start, stop):
    """Rows [start, stop) of all maps."""
    _, height, width, channels = out.shape
    windows = values.reshape(values.shape[0], values.shape[1] * values.shape[2], channels)
    for row in range(start, stop):
        b, y = row // height, row % height
        for x in range(width):
            w, result, first = weights[b, y, x], out[b, y, x], y * values.shape[2] + x
            for c in range(channels):
                total = w[0] * windows[b, first, c]
                for t in range(1, len(offsets)):
                    total += w[t] * windows[b, first + offsets[t], c]
                result[c] = total

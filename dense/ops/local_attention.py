"""Products of each pixel with the window around it: local attention without copies of the windows."""

from math import isqrt, prod

import numba
import torch
from torch import Tensor
from torch.nn import functional as F

from pointsuite.engine.backends import choose_backend, is_traced
from pointsuite.engine.parallel import run_rows

from .windows import Size, pair


def local_logits(
    query: Tensor, key: Tensor, window_size: Size = 3, *, dilation: int = 1, backend: str = "auto"
) -> Tensor:
    """Inner product of each query with the keys of its window.

    Args:
        query, key: (..., H, W, d) floating, of one shape and dtype; differentiable, also twice.
        window_size: K, or K and L of rows and columns, odd; the pixel is in the middle.
        dilation: pixels from a place of the window to the next.
        backend: "auto", "torch" (portable) or "numba" (CPU; 16-bit numbers are summed in float32). Compiled
            code sees the portable form.

    Returns:
        (..., H, W, K * L), the window row by row; 0 where it leaves the map (see :func:`local_mask`).

    Raises:
        ValueError: shapes that do not fit, a bad window_size, a backend that is unknown or cannot run there.
        TypeError: dtypes that differ or are not floating.
    """
    window = _check("query", query, "key", key, window_size, dilation)
    if query.shape != key.shape:
        raise ValueError(f"query and key must have one shape, found {tuple(query.shape)}, {tuple(key.shape)}")
    if choose_backend(backend, query, numba=not is_traced()) == "torch":
        return torch.stack([(query * k).sum(-1) for k in _shifts(key, window, dilation)], -1)
    exact = torch.promote_types(query.dtype, torch.float32)
    return _Logits.apply(query.to(exact), key.to(exact), window, dilation).to(query.dtype)


def local_sum(
    weights: Tensor,
    values: Tensor,
    window_size: Size | None = None,
    *,
    dilation: int = 1,
    backend: str = "auto",
) -> Tensor:
    """Weighted sum of the values of each pixel's window.

    Args:
        weights: (..., H, W, K * L) floating, as of :func:`local_logits`; differentiable, also twice. Where
            the window leaves the map they do not matter, if finite.
        values: (..., H, W, d) of the same dtype; differentiable, also twice.
        window_size, dilation: as there; by default the window is square.
        backend: as of :func:`local_logits`.

    Returns:
        (..., H, W, d).

    Raises:
        ValueError: shapes that do not fit, a backend that is unknown or cannot run there.
        TypeError: dtypes that differ or are not floating.
    """
    count = int(weights.shape[-1]) if weights.ndim else 1  # a tensor, where code is traced
    window = _check("weights", weights, "values", values, window_size or isqrt(count) | 1, dilation)
    wanted = (*values.shape[:-1], prod(window))
    if weights.shape != wanted:
        raise ValueError(f"weights must have shape {wanted}, found {tuple(weights.shape)}")
    if choose_backend(backend, values, numba=not is_traced()) == "torch":
        parts = zip(weights.split(1, -1), _shifts(values, window, dilation), strict=True)
        return sum(w * v for w, v in parts)
    exact = torch.promote_types(values.dtype, torch.float32)
    return _Sum.apply(weights.to(exact), values.to(exact), window, dilation).to(values.dtype)


def local_mask(
    height: int,
    width: int,
    window_size: Size = 3,
    device: torch.device | str | None = None,
    *,
    dilation: int = 1,
) -> Tensor:
    """Which pixels of the windows of a map lie on it: (H, W, K * L) bool."""
    rows, columns = (
        torch.arange(size, device=device)[:, None]
        + dilation * (torch.arange(side, device=device) - side // 2)
        for size, side in zip((height, width), pair(window_size), strict=True)
    )
    rows, columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)  # (H, K), (W, L)
    return (rows[:, None, :, None] & columns[:, None]).flatten(2)


Window = tuple[int, int]


def _check(
    first_name: str, first: Tensor, second_name: str, second: Tensor, window_size: Size, dilation: int
) -> Window:
    for name, tensor in ((first_name, first), (second_name, second)):
        if tensor.ndim < 3:
            raise ValueError(f"{name} must have three axes or more, found shape {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating, found {tensor.dtype}")
    if first.dtype != second.dtype:
        raise TypeError(
            f"{first_name} and {second_name} must have one dtype, found {first.dtype}, {second.dtype}"
        )
    window = (window_size, window_size) if isinstance(window_size, int) else tuple(window_size)
    if len(window) != 2 or any(side < 1 or side % 2 == 0 for side in window):
        raise ValueError(f"window_size must be odd and positive, found {window_size}")
    if dilation < 1:
        raise ValueError(f"dilation must be at least 1, found {dilation}")
    return window


def _pad(x: Tensor, window: Window, dilation: int) -> Tensor:
    """(..., H, W, c) with zeros around it, so that no window leaves it."""
    rows, columns = (side // 2 * dilation for side in window)
    return F.pad(x, (0, 0, columns, columns, rows, rows))


def _places(window: Window, dilation: int) -> list[tuple[int, int]]:
    """Row and column of each place of a window, from its first."""
    return [(dilation * y, dilation * x) for y in range(window[0]) for x in range(window[1])]


def _shifts(x: Tensor, window: Window, dilation: int) -> list[Tensor]:
    """(..., H, W, c) as each place of the window sees it, zeros outside: K * L views of that shape."""
    height, width = x.shape[-3:-1]
    x, places = _pad(x, window, dilation), _places(window, dilation)
    return [x[..., top : top + height, left : left + width, :] for top, left in places]


# Both gradients are products of the same two kinds. With o(t) the offset of place t, and -t its mirror image,
#   logits[n, t] = q[n] . k[n + o(t)],
#   dq[n] = sum_t g[n, t] k[n + o(t)],
#   dk[m] = sum_t g[m - o(t), t] q[m - o(t)]: the sum over m's window with the weight g[m + o(t), -t] at t.


class _Logits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, window, dilation):
        ctx.save_for_backward(query, key)
        ctx.window, ctx.dilation = window, dilation
        out = query.new_empty(*query.shape[:-1], prod(window))
        _run(_logits, query, key, out, window, dilation)
        return out

    @staticmethod
    def backward(ctx, grad):
        query, key = ctx.saved_tensors
        window, how = ctx.window, {"dilation": ctx.dilation}
        mirrored = _mirror(grad, window, ctx.dilation)
        return local_sum(grad, key, window, **how), local_sum(mirrored, query, window, **how), None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights, values, window, dilation):
        ctx.save_for_backward(weights, values)
        ctx.window, ctx.dilation = window, dilation
        out = values.new_empty(values.shape)
        _run(_sum, weights, values, out, window, dilation)
        return out

    @staticmethod
    def backward(ctx, grad):
        weights, values = ctx.saved_tensors
        window, how = ctx.window, {"dilation": ctx.dilation}
        mirrored = _mirror(weights, window, ctx.dilation)
        return local_logits(grad, values, window, **how), local_sum(mirrored, grad, window, **how), None, None


def _mirror(weights: Tensor, window: Window, dilation: int) -> Tensor:
    """The weight that each pixel has in the windows of its neighbours: (..., H, W, K * L) to the same."""
    count = weights.shape[-1]
    shifts = _shifts(weights, window, dilation)
    return torch.stack([shifts[t][..., count - 1 - t] for t in range(count)], -1)


def _run(kernel, maps: Tensor, windows: Tensor, out: Tensor, window: Window, dilation: int) -> None:
    """Call a kernel on the rows of all maps; ``windows`` gets zeros around it, so that none leaves it."""
    height = out.shape[-3]
    windows = _pad(windows.detach(), window, dilation)
    offsets = tuple(y * windows.shape[-2] + x for y, x in _places(window, dilation))
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

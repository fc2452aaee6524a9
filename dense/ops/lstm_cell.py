"""The step of an LSTM from its gates to its states."""

import numba
import numpy as np
import torch
from torch import Tensor

from pointsuite.engine.backends import choose_inference_kernel
from pointsuite.engine.parallel import run_rows


def lstm_cell(gates: Tensor, cell: Tensor | None = None, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    r"""Hidden state and cell state of maps.

    .. math:: c = \sigma(f) c' + \sigma(i) \tanh(g), \qquad h = \sigma(o) \tanh(c)

    Args:
        gates: (B, 4 F, H, W) floating: i, f, g and o one after the other.
        cell: c' (B, F, H, W) of the same dtype; zeros by default.
        backend: "auto", "torch" (portable, differentiable) or "numba" (float32 on a CPU, no gradient,
            channels-last in memory; within 4e-7 of the portable one). Compiled code sees the portable form.

    Returns:
        h and c, each (B, F, H, W).

    Raises:
        ValueError: shapes that do not fit, a backend that is unknown or cannot run there.
        TypeError: dtypes that differ or are not floating.
    """
    if gates.ndim != 4 or gates.shape[1] % 4:
        raise ValueError(f"gates must be (B, 4 F, H, W), found {tuple(gates.shape)}")
    features = gates.shape[1] // 4
    wanted = (len(gates), features, *gates.shape[2:])
    if cell is not None and cell.shape != wanted:
        raise ValueError(f"the cell state must be {wanted}, found {tuple(cell.shape)}")
    if not gates.is_floating_point() or (cell is not None and cell.dtype != gates.dtype):
        found = gates.dtype if cell is None else f"{gates.dtype} and {cell.dtype}"
        raise TypeError(f"gates and cell state must be floating, of one dtype, found {found}")
    tensors = [gates] if cell is None else [gates, cell]
    if choose_inference_kernel(backend, *tensors) == "torch":
        enter, keep, new, show = gates.chunk(4, 1)
        entered = enter.sigmoid() * new.tanh()
        cell = entered if cell is None else keep.sigmoid() * cell + entered
        return show.sigmoid() * cell.tanh(), cell
    pixels = gates.detach().permute(0, 2, 3, 1).reshape(-1, 4 * features).contiguous()
    hidden, after = pixels.new_empty(2, len(pixels), features)
    if cell is None:
        before = torch.zeros_like(after)
    else:
        before = cell.detach().permute(0, 2, 3, 1).reshape(-1, features).contiguous()
    run_rows(_step, len(pixels), *(x.numpy() for x in (pixels, before, hidden, after)), grain=64)
    batch, _, height, width = wanted
    return tuple(x.view(batch, height, width, features).permute(0, 3, 1, 2) for x in (hidden, after))


# NaN must come through, so the compiler may not assume that there is none. Python's check of divisors would
# keep it from vectorising.
_jit = numba.njit(
    nogil=True, cache=True, boundscheck=False, error_model="numpy", fastmath={"contract", "nsz"}
)
_ONE, _TWO, _HALF, _QUARTER, _MOST = (np.float32(x) for x in (1, 2, 0.5, 0.25, 9))
_BLOCK = 32  # pixels
_UP = tuple(np.float32(x / 34459425) for x in (34459425, 4729725, 135135, 990, 1))
_DOWN = tuple(np.float32(x / 34459425) for x in (34459425, 16216200, 945945, 13860, 45))


@_jit
def _tanh(x):
    """Lambert's continued fraction p / q at x / 4, doubled twice: p, q = 2 p q, p^2 + q^2.

    Nothing but products, sums and a quotient: it vectorises, which the library's exponential does not.
    """
    x = _MOST if x > _MOST else x
    x = -_MOST if x < -_MOST else x
    u = x * _QUARTER
    s = u * u
    p = u * (_UP[0] + s * (_UP[1] + s * (_UP[2] + s * (_UP[3] + s * _UP[4]))))
    q = _DOWN[0] + s * (_DOWN[1] + s * (_DOWN[2] + s * (_DOWN[3] + s * _DOWN[4])))
    p, q = _TWO * p * q, p * p + q * q
    return _TWO * p * q / (p * p + q * q)


@_jit
def _step(gates, before, hidden, after, start, stop):
    """Pixels [start, stop), in blocks that fit the fastest cache: long loops of one kind vectorise."""
    features = before.shape[1]
    scale = np.full((_BLOCK, 4, features), _HALF)  # sigmoid(x) = (1 + tanh(x / 2)) / 2
    scale[:, 2] = _ONE
    ones = np.full((_BLOCK, features), _ONE)
    active = np.empty_like(scale)
    shown = np.empty((_BLOCK, features), np.float32)
    for first in range(start, stop, _BLOCK):
        count = min(_BLOCK, stop - first)
        _tanh_all(gates[first : first + count].reshape(-1), scale.reshape(-1), active.reshape(-1))
        for n in range(count):
            enter, keep, new = active[n, 0], active[n, 1], active[n, 2]
            old, cell = before[first + n], after[first + n]
            for k in range(features):
                cell[k] = _HALF * ((_ONE + keep[k]) * old[k] + (_ONE + enter[k]) * new[k])
        _tanh_all(after[first : first + count].reshape(-1), ones.reshape(-1), shown.reshape(-1))
        for n in range(count):
            show, c, h = active[n, 3], shown[n], hidden[first + n]
            for k in range(features):
                h[k] = _HALF * (_ONE + show[k]) * c[k]


@_jit
def _tanh_all(x, scale, out):
    for k in range(len(x)):
        out[k] = _tanh(scale[k] * x[k])

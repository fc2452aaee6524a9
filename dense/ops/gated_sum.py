"""Maps with gates of positions and of channels, summed."""

import torch
from torch import Tensor

from pointsuite.engine.backends import choose_inference_kernel
from pointsuite.engine.parallel import jit, run_rows


def gated_sum(x: Tensor, positions: Tensor, channels: Tensor, *, backend: str = "auto") -> Tensor:
    r"""Sum of n maps, each with a factor of each position and one of each channel.

    .. math:: y[b, p, c] = \sum_n x[b, p, n, c] \; positions[b, p, n] \; channels[b, n, c]

    Args:
        x: (B, P, n, C) floating.
        positions: (B, P, n).
        channels: (B, n, C).
        backend: "auto", "torch" (portable) or "numba" (CPU, float32, without gradient: in one pass).

    Returns:
        (B, P, C).

    Raises:
        ValueError: shapes that do not fit, a backend that is unknown or cannot run there.
    """
    if x.ndim != 4 or positions.shape != x.shape[:3] or channels.shape != x.shape[::2] + x.shape[3:]:
        found = f"{tuple(x.shape)}, {tuple(positions.shape)} and {tuple(channels.shape)}"
        raise ValueError(f"wanted (B, P, n, C), (B, P, n) and (B, n, C), found {found}")
    if choose_inference_kernel(backend, x, positions, channels) == "numba" and x.numel():
        out = x.new_empty(len(x), x.shape[1], x.shape[3])
        arrays = [t.detach().contiguous().numpy() for t in (x, positions, channels)]
        run_rows(_gated_sum, out.shape[0] * out.shape[1], *arrays, out.numpy(), grain=64)
        return out
    y = x.new_zeros(())
    for i in range(x.shape[2]):
        y = torch.addcmul(y, x[:, :, i] * positions[:, :, i, None], channels[:, None, i])
    return y


@jit
def _gated_sum(x, positions, channels, out, start, stop):
    """Positions [start, stop) of all samples."""
    count = x.shape[1]
    for row in range(start, stop):
        b, p = row // count, row % count
        result = out[b, p]
        for c in range(len(result)):
            result[c] = x[b, p, 0, c] * (positions[b, p, 0] * channels[b, 0, c])
        for i in range(1, x.shape[2]):
            gate, own, factors = positions[b, p, i], x[b, p, i], channels[b, i]
            for c in range(len(result)):
                result[c] += own[c] * (gate * factors[c])

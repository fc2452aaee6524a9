"""Maps times gates of rows, columns and channels."""

import torch
from torch import Tensor

from pointsuite.engine.backends import choose_inference_kernel
from pointsuite.engine.parallel import jit, run_rows


def coordinate_product(
    x: Tensor, rows: Tensor, columns: Tensor, channels: Tensor | None = None, *, backend: str = "auto"
) -> Tensor:
    r"""A map times the product of a gate of its row and one of its column, plus a gate of its channel.

    .. math:: y[b, c, i, j] = x[b, c, i, j] \; (rows[b, c, i] \, columns[b, c, j] + channels[b, c])

    Args:
        x: (B, C, H, W) floating.
        rows: (B, C, H).
        columns: (B, C, W).
        channels: (B, C); none for 0.
        backend: "auto", "torch" (portable: two passes, the gates and the product, which ``torch.compile``
            makes one) or "numba" (CPU, float32, without gradient: one pass).

    Returns:
        (B, C, H, W), with x's order in memory if that is channels last, else contiguous.

    Raises:
        ValueError: shapes that do not fit, a backend that is unknown or cannot run there.
    """
    fits = x.ndim == 4 and rows.shape == x.shape[:3] and columns.shape == x.shape[:2] + x.shape[3:]
    if not fits or (channels is not None and channels.shape != x.shape[:2]):
        parts = [tuple(t.shape) for t in (x, rows, columns, channels) if t is not None]
        raise ValueError(f"wanted (B, C, H, W), (B, C, H), (B, C, W) and (B, C), found {parts}")
    tensors = [x, rows, columns, *([] if channels is None else [channels])]
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    if choose_inference_kernel(backend, *tensors) == "numba" and x.numel():
        shift = x.new_zeros(x.shape[:2]) if channels is None else channels
        gates = (rows.mT, columns.mT, shift) if channels_last else (rows, columns, shift)
        arrays = [t.detach().contiguous().numpy() for t in gates]
        source = (x.permute(0, 2, 3, 1) if channels_last else x).detach().contiguous()
        out = torch.empty_like(source)
        kernel = _positions if channels_last else _planes
        run_rows(kernel, len(x) * source.shape[1], source.numpy(), *arrays, out.numpy(), grain=8)
        return out.permute(0, 3, 1, 2) if channels_last else out
    if channels_last:  # gates in the map's order, or products take strides
        rows, columns = (gate.mT.contiguous().mT for gate in (rows, columns))
    gate = rows[..., None] * columns[:, :, None]
    if channels is not None:
        gate = gate + channels[:, :, None, None]
    return x * gate


@jit
def _positions(x, rows, columns, channels, out, start, stop):
    """Rows [start, stop) of pixels, of all samples (B, H, W, C)."""
    height = x.shape[1]
    for row in range(start, stop):
        b, i = row // height, row % height
        across, shift = rows[b, i], channels[b]
        for j in range(x.shape[2]):
            own, result, down = x[b, i, j], out[b, i, j], columns[b, j]
            for c in range(len(result)):
                result[c] = own[c] * (across[c] * down[c] + shift[c])


@jit
def _planes(x, rows, columns, channels, out, start, stop):
    """Channels [start, stop), of all samples (B, C, H, W)."""
    count = x.shape[1]
    for plane in range(start, stop):
        b, c = plane // count, plane % count
        down, shift = columns[b, c], channels[b, c]
        for i in range(x.shape[2]):
            own, result, across = x[b, c, i], out[b, c, i], rows[b, c, i]
            for j in range(len(result)):
                result[j] = own[j] * (across * down[j] + shift)

"""Pick rows of per-point values by index."""

import torch
from torch import Tensor
from torch.nn.functional import embedding

from ._checks import check_index


def gather_points(values: Tensor, idx: Tensor) -> Tensor:
    """Return values[b, idx[b, ...]] for every cloud b.

    Args:
        values: (B, N, C), any floating dtype; differentiable.
        idx: (B, ...) int64 in [0, N).

    Returns:
        (B, ..., C).

    Raises:
        ValueError: wrong shape, mixed devices or batch sizes.
        TypeError: idx is not int64.
        IndexError: on the CPU, an index out of range (CUDA asserts on the device).
    """
    if values.ndim != 3:
        raise ValueError(f"values must have shape (B, N, C), found {tuple(values.shape)}")
    check_index("idx", idx, values)
    batch, size, channels = values.shape
    compiling = torch.compiler.is_compiling()  # batches may have any size, and values are unknown
    if compiling or batch > 1:
        known = not compiling and not idx.is_cuda and idx.numel()
        if known and not (int(idx.min()) >= 0 and int(idx.max()) < size):
            raise IndexError(f"idx must lie in [0, {size}), found {int(idx.min())} to {int(idx.max())}")
        first = size * torch.arange(batch, device=idx.device)
        idx = idx + first.view(-1, *[1] * (idx.ndim - 1))
    return embedding(idx, values.reshape(batch * size, channels))

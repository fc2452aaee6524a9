"""Triton kernels of the operators, one file an operator. Importing this package does not import Triton.

Each file has ``forward`` and ``backward``, for arguments that `dense.ops` has checked, of any strides. Sums
and coordinates are float32 (float64 where the tensors are); gradients of maps are summed there by atomic
additions, whose order, and with it the last bit, changes from run to run. Offsets are 64 bits wide.
"""

import torch


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums of numbers of `dtype`."""
    return torch.promote_types(dtype, torch.float32)

"""Triton kernels of the operators, one file an operator. Importing this package does not import Triton.

Each file has ``forward`` and ``backward``, for arguments that `dense.ops` has checked, of any strides. Sums
and coordinates are float32 (float64 where the tensors are); gradients of maps are summed there by atomic
additions, whose order, and with it the last bit, changes from run to run. Offsets are 64 bits wide.
"""

import contextlib
import os

import torch
from torch import Tensor


def device_of(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Context in which to launch kernels on `tensor`; ValueError where Triton cannot run on it."""
    if tensor.is_cuda:
        return torch.cuda.device(tensor.device)
    if os.environ.get("TRITON_INTERPRET") == "1":
        return contextlib.nullcontext()
    raise ValueError(
        f"backend 'triton' wants CUDA tensors, found {tensor.device}"
        " (TRITON_INTERPRET=1, set before Triton is imported, runs the kernels on CPU tensors, slowly)"
    )


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums of numbers of `dtype`."""
    return torch.promote_types(dtype, torch.float32)

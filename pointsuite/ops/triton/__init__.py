"""Triton kernels of the point operators, one file an operator. Importing this package does not import Triton.

The functions take arguments that `pointsuite.ops` has checked and made contiguous. Products and sums are
rounded one by one, in the written order (`enable_fp_fusion=False`), so that a GPU makes the same discrete
choices as a CPU. Kernels are not specialised on sizes, so a new size does not wait for the compiler.
Gathering and interpolation have no kernel: PyTorch's indexing is already bound by memory.
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

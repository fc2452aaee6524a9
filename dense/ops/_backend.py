"""Which implementation an operator runs."""

import functools
from importlib.util import find_spec

import torch
from torch import Tensor

BACKENDS = ("auto", "torch", "triton")


def choose_backend(backend: str, tensor: Tensor, kernel: str) -> str:
    """Resolve "auto": the kernel in ``triton/<kernel>.py`` for CUDA tensors, portable torch elsewhere."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, found {backend!r}")
    if backend == "auto":
        return "triton" if tensor.is_cuda and _has_kernel(kernel) else "torch"
    return backend


@functools.cache
def _has_kernel(kernel: str) -> bool:
    try:
        return bool(find_spec("triton") and find_spec(f"dense.ops.triton.{kernel}"))
    except ModuleNotFoundError:  # no folder of kernels
        return False


def choose_inference_kernel(backend: str, *tensors: Tensor) -> str:
    """Resolve "auto" of an operator whose numba kernel is for float32 on a CPU and has no gradient.

    Raises:
        ValueError: an unknown backend, or "numba" for other tensors.
    """
    if backend not in ("auto", "torch", "numba"):
        raise ValueError(f"backend must be 'auto', 'torch' or 'numba', found {backend!r}")
    graded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    fits = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    if backend == "numba" and (graded or not fits):
        found = "a gradient" if graded else f"{tensors[0].dtype} on {tensors[0].device}"
        raise ValueError(f"backend 'numba' wants float32 on a CPU without gradient, found {found}")
    if backend != "auto":
        return backend
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack()
    return "numba" if fits and not graded and not traced else "torch"

"""Which implementation an operator runs."""

import functools
from importlib.util import find_spec

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

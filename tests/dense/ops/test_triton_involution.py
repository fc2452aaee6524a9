"""Convolution with kernels of positions on the GPU: its kernels in Triton's interpreter, and compiled."""

import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")
from dense.ops import involution

from .test_triton_compile import NoDriver, compiled, facts

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WAYS = ("forward", "backward")


def results(backend, x, kernels, grad):
    leaves = [t.detach().requires_grad_() for t in (x, kernels)]
    y = involution(*leaves, backend=backend)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y))]


@pytest.mark.parametrize(
    ("shape", "size", "groups", "dtype"),
    [
        ((2, 9, 14, 16), (3, 3), 2, torch.float32),
        ((1, 5, 30, 45), (1, 5), 3, torch.float64),  # more than a tile, and more channels than a piece
        ((1, 3, 4, 80), (5, 3), 40, torch.float16),  # more kernels than a piece
        ((1, 2, 2, 4), (3, 3), 4, torch.bfloat16),
    ],
)
def test_equals_portable_form(shape, size, groups, dtype):
    """Against float64; sizes that no tile divides, strided tensors."""
    torch.manual_seed(0)
    x = torch.randn(*shape[:3], shape[3] + 3, device=DEVICE, dtype=dtype)[..., 2:-1]
    kernels = torch.randn(*shape[:3], groups, *size, device=DEVICE, dtype=dtype).permute(0, 1, 2, 4, 5, 3)
    grad = torch.randn(shape, device=DEVICE, dtype=dtype).transpose(1, 2).contiguous().transpose(1, 2)
    found = results("triton", x, kernels, grad)
    for f, w in zip(found, results("torch", x.double(), kernels.double(), grad), strict=True):
        assert f.dtype == dtype
        assert (f - w).norm() <= 2 * torch.finfo(dtype).eps * w.norm()


@pytest.mark.parametrize(
    "kernels",
    [["128 16 float32"], pytest.param(["256 32 bfloat16", "96 12 float64"], marks=pytest.mark.slow)],
    ids=["common", "other"],
)
def test_compiles(kernels, tmp_path):
    """For a GPU that is not there."""
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-m", __name__, *kernels], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert [fact["kernel"] for fact in found] == [f"{kernel} {way}" for kernel in kernels for way in WAYS]
    for fact in found:
        assert fact["shared"] <= 227 * 1024 and fact["fences"] == [], fact


def compile_kernels(channels: int, groups: int, dtype: str) -> list:
    """What forward and backward launch on a GPU."""
    from triton.runtime import driver

    from dense.ops.triton import involution as module

    driver.set_active(NoDriver())
    x = torch.zeros(1, 14, 14, channels, dtype=getattr(torch, dtype))
    kernels = torch.zeros(1, 14, 14, 3, 3, groups, dtype=x.dtype)
    with compiled(module) as binaries:
        module.backward(module.forward(x, kernels), x, kernels)
    return binaries


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        channels, groups, dtype = argument.split()
        for way, binary in zip(WAYS, compile_kernels(int(channels), int(groups), dtype), strict=True):
            print(json.dumps({"kernel": f"{argument} {way}", **facts(binary)}), flush=True)

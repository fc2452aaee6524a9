import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")
from dense.ops import neighborhood_attention

from .test_triton_compile import NoDriver, compiled, facts

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WAYS = ("forward", "backward")
KERNELS = ["32 bfloat16 2"]
MORE = ["32 float32 2", "5 float16 1", "64 float32 3", "256 float32 2", "32 float64 2"]


def results(backend, tensors, *arguments, grad):
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    y = neighborhood_attention(*leaves[:3], *arguments, bias=leaves[3], backend=backend)
    return [y.detach(), *torch.autograd.grad(y, [t for t in leaves if t is not None], grad.to(y))]


@pytest.mark.parametrize(
    ("shape", "window", "dilation", "stride", "causal", "dtype"),
    [
        ((5, 11), (3, 4), (1, 2), (1, 3), False, torch.float32),
        ((70,), 5, 1, 2, True, torch.float32),  # more than a tile
        ((3, 4, 6), 3, (1, 1, 2), 1, (True, False, False), torch.float64),
        ((9, 10), 7, 1, 1, False, torch.float16),
    ],
)
def test_equals_portable_form(shape, window, dilation, stride, causal, dtype):
    """Against float64; sizes that no tile divides, strided tensors, values narrower than keys."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, *shape, 2, 10, device=DEVICE, dtype=dtype)[..., 1:w] for w in (7, 7, 4))
    bias = None
    if causal is False:
        sizes = (window,) * len(shape) if isinstance(window, int) else window
        bias = torch.randn(2, *(2 * size - 1 for size in sizes), device=DEVICE, dtype=dtype)
    tensors, grad = (q, k, v, bias), torch.randn(v.shape, device=DEVICE)
    arguments = window, dilation, stride, causal
    found = results("triton", tensors, *arguments, grad=grad)
    exact = [None if t is None else t.double() for t in tensors]
    for f, w in zip(found, results("torch", exact, *arguments, grad=grad), strict=True):
        assert f.dtype == dtype
        assert (f - w).norm() <= 3 * torch.finfo(dtype).eps * w.norm()


@pytest.mark.parametrize(
    "kernels", [KERNELS, pytest.param(MORE, marks=pytest.mark.slow)], ids=["common", "other"]
)
def test_compiles(kernels, tmp_path):
    """For a GPU that is not there."""
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-m", __name__, *kernels], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert [fact["kernel"] for fact in found] == [f"{kernel} {way}" for kernel in kernels for way in WAYS]
    for fact in found:
        assert fact["shared"] <= 227 * 1024, fact
        assert not [f for f in fact["fences"] if "acq_rel" in f or "membar" in f], fact  # of additions


def compile_kernels(channels: int, dtype: str, rank: int) -> list:
    """What forward and backward launch on a GPU."""
    from triton.runtime import driver

    from dense.ops.neighborhood_attention import make_axes
    from dense.ops.triton import neighborhood_attention as kernels

    driver.set_active(NoDriver())
    shape, window = (29, 30, 31)[:rank], 3 if rank == 3 else 7
    q = torch.zeros(1, *shape, 2, channels, dtype=getattr(torch, dtype))
    bias, axes = torch.zeros(2, *[2 * window - 1] * rank), make_axes(shape, window)
    with compiled(kernels) as binaries:
        out, sums = kernels.forward(q, q, q, bias, axes, 1.0)
        kernels.backward(out, q, q, q, bias, out, sums, axes, 1.0)
    return binaries


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        width, kind, axes = argument.split()
        for way, binary in zip(WAYS, compile_kernels(int(width), kind, int(axes)), strict=True):
            print(json.dumps({"kernel": f"{argument} {way}", **facts(binary)}), flush=True)

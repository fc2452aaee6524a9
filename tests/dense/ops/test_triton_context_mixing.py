import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")
from dense.ops import context_mixing

from .test_triton_compile import NoDriver, compiled, facts

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def results(backend, tensors, size, grad):
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = context_mixing(*leaves, size, backend=backend)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y))]


@pytest.mark.parametrize(
    ("size", "height", "width", "dtype"),
    [(3, 5, 9, torch.float32), (5, 5, 14, torch.float32), (3, 9, 10, torch.float16)],  # the last: two tiles
)
def test_equals_portable_form(size, height, width, dtype):
    """Against float64; channels that are no power of two, strided tensors."""
    torch.manual_seed(0)
    q, v = (torch.randn(2, height, width, 2, 8, device=DEVICE, dtype=dtype)[..., 1:w] for w in (6, 4))
    shapes = ((2, 2, size**2, 5), (size**2,), (2, 2 * size - 1, 2 * size - 1))
    taps, offset, bias = (torch.randn(shape, device=DEVICE, dtype=dtype) for shape in shapes)
    tensors, grad = (q, taps, offset, bias, v), torch.randn(v.shape, device=DEVICE)
    found = results("triton", tensors, size, grad)
    wanted = results("torch", [t.double() for t in tensors], size, grad)
    for i, (f, w) in enumerate(zip(found, wanted, strict=True)):
        assert f.dtype == dtype
        # gradients are those of the portable form, which sums in the tensors' own dtype
        assert (f - w).norm() <= (20 if i else 3) * torch.finfo(dtype).eps * w.norm()


def test_compiles(tmp_path):
    """For a GPU that is not there, of the widths of a variant."""
    kernels = ["16 float32", "14 bfloat16"]
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-m", __name__, *kernels], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert [fact["kernel"] for fact in found] == kernels
    for fact in found:
        assert fact["shared"] <= 227 * 1024 and fact["fences"] == [], fact


def compile_kernel(channels: int, dtype: str):
    """What an inference launches on a GPU."""
    from triton.runtime import driver

    from dense.ops.triton import context_mixing as kernels

    driver.set_active(NoDriver())
    q = torch.zeros(1, 14, 14, 2, channels, dtype=getattr(torch, dtype))
    taps, offset, bias = (q.new_zeros(shape) for shape in ((1, 2, 169, channels), (169,), (2, 25, 25)))
    with compiled(kernels) as binaries:
        kernels.forward(q, taps, offset, bias, q, 13)
    return binaries[0]


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        width, kind = argument.split()
        print(json.dumps({"kernel": argument, **facts(compile_kernel(int(width), kind))}), flush=True)

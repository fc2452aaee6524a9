import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")
from dense.ops import lightning_attention

from .test_triton_compile import NoDriver, compiled, facts

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = ("states", "carry", "outputs")


def results(backend, tensors, slopes, grads):
    leaves = [t.detach().requires_grad_() for t in tensors]
    found = lightning_attention(*leaves[:3], slopes, leaves[3], backend=backend)
    given = [grad.to(y) for grad, y in zip(grads, found, strict=True)]
    return [*(y.detach() for y in found), *torch.autograd.grad(found, leaves, given)]


@pytest.mark.parametrize(
    ("n", "d", "e", "dtype"),
    [(1, 5, 3, torch.float32), (66, 66, 18, torch.float32), (65, 8, 8, torch.bfloat16)],
)
def test_equals_portable_form(n, d, e, dtype):
    """Against float64, of strided tensors: a part of a chunk, widths of more than one tile."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, n, 2, width, device=DEVICE, dtype=dtype).transpose(1, 2) for width in (d, d, e))
    state, slopes = torch.randn(1, 2, d, e, device=DEVICE), torch.tensor([0.0, 0.1], device=DEVICE)
    tensors, grads = (q, k, v, state), (torch.randn_like(v), torch.randn_like(state))
    found = results("triton", tensors, slopes, grads)
    wanted = results("torch", [t.double() for t in tensors], slopes, grads)
    kinds = [dtype, torch.float32, dtype, dtype, dtype, torch.float32]
    for f, w, kind in zip(found, wanted, kinds, strict=True):
        assert f.dtype == kind
        assert (f - w).norm() <= 5 * torch.finfo(dtype).eps * w.norm()


@pytest.mark.parametrize("kernel", ["128 bfloat16", pytest.param("256 float32", marks=pytest.mark.slow)])
def test_compiles(kernel, tmp_path):
    """For a GPU that is not there, of the widths of a variant, without relative positions and with them."""
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-m", __name__, kernel], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert [fact["kernel"] for fact in found] == [f"{kernel} {name}" for name in KERNELS]
    assert all(fact["shared"] <= 227 * 1024 for fact in found), found


def compile_kernels(width: int, dtype: str) -> list:
    """What a training step launches on a GPU, backwards in time."""
    from triton.runtime import driver

    from dense.ops.triton import lightning_attention as kernels

    driver.set_active(NoDriver())
    q, v = torch.zeros(1, 2, 200, width, dtype=getattr(torch, dtype)), torch.zeros(1, 2, 200, 128)
    with compiled(kernels) as binaries:
        kernels.scan(q, q, v.to(q), torch.zeros(2), torch.zeros(1, 2, width, 128), True)
    return binaries


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        width, kind = argument.split()
        for name, binary in zip(KERNELS, compile_kernels(int(width), kind), strict=True):
            print(json.dumps({"kernel": f"{argument} {name}", **facts(binary)}), flush=True)

"""Every kernel compiles for a GPU that is not there. Run as a script, this file compiles and prints facts."""

import contextlib
import json
import os
import re
import subprocess
import sys
from unittest import mock

import pytest

pytest.importorskip("triton")

WAYS = ("forward", "backward")
SMALL = ["attention 32 float32", "attention 32 bfloat16", "avg 256 float32"]
LARGE = ["attention 1 float32", "attention 33 float16", "attention 256 float32", "attention 32 float64"]
LARGE += ["avg 256 bfloat16", "avg 1 float32", "avg 300 float16", "avg 256 float64"]
LARGE += ["max 256 float32", "max 1 bfloat16", "max 64 float64"]


@pytest.mark.parametrize(
    "kernels", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["small", "large"]
)
def test_compiles(kernels, tmp_path):
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, __file__, *kernels], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert [fact["kernel"] for fact in found] == [f"{kernel} {way}" for kernel in kernels for way in WAYS]
    for fact in found:
        name, size, dtype, way = fact["kernel"].split()
        assert fact["shared"] <= 227 * 1024 and fact["fences"] == [], fact
        wide = size in ("32", "256")  # channels of which a thread takes sixteen bytes at once
        if way == "forward":
            assert fact["barriers"] == 0, fact
            assert fact["wide_reads"] >= 4 * wide, fact
        else:
            assert fact["wide_sums"] >= 4 * (wide and name != "max" and dtype != "float64"), fact
        if name != "attention" and way == "backward":
            assert not fact["contracted"], fact  # the places of the samples are those of the portable form


class NoDriver:
    """What Triton asks of a GPU's driver before it compiles a kernel."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def compile_kernels(name: str, size: int, dtype: str) -> list:
    """What forward and backward launch on a GPU, for heads or maps of `size` channels."""
    import torch
    from triton.runtime import driver

    from dense.ops.triton import ms_deform_attn, roi_align

    driver.set_active(NoDriver())
    dtype = getattr(torch, dtype)
    if name == "attention":
        levels = torch.tensor([[2, 2], [1, 2]]), torch.tensor([0, 4])
        arguments = torch.zeros(1, 6, 8, size, dtype=dtype), *levels
        arguments += torch.zeros(1, 3, 8, 2, 4, 2), torch.zeros(1, 3, 8, 2, 4)
        with compiled(ms_deform_attn) as binaries:
            ms_deform_attn.backward(ms_deform_attn.forward(*arguments), *arguments)
    else:
        maps, rois, arguments = (
            torch.zeros(1, size, 4, 5, dtype=dtype),
            torch.zeros(2, 5),
            (0.25, 0, name, True),
        )
        with compiled(roi_align) as binaries:
            pooled, *places = roi_align.forward(maps, rois, (7, 7), *arguments)
            roi_align.backward(pooled, rois, maps.shape, *arguments, *places)
    return binaries


@contextlib.contextmanager
def compiled(module):
    """Kernels of the module that are launched are compiled only, and put in the list."""
    binaries = []

    class Compile:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return lambda *args, **kwargs: binaries.append(self.kernel.warmup(*args, grid=grid, **kwargs))

    names = [name for name in vars(module) if name.endswith("_kernel")]
    replaced = {name: Compile(getattr(module, name)) for name in names}
    with mock.patch.multiple(module, device_of=lambda tensor: contextlib.nullcontext(), **replaced):
        yield binaries


def facts(binary) -> dict:
    ptx = binary.asm["ptx"]
    return {
        "shared": binary.metadata.shared,
        "barriers": ptx.count("bar.sync"),
        "fences": re.findall(r"(?:fence|membar|acq_rel)\S*", ptx),
        "contracted": "fma" in ptx,
        "wide_reads": len(re.findall(r"ld\.global\S*(?:v4\.b32|v2\.b64)", ptx)),
        "wide_sums": len(re.findall(r"atom\.global\S*v4\.f32", ptx)),
    }


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, size, dtype = argument.split()
        for way, binary in zip(WAYS, compile_kernels(name, int(size), dtype), strict=True):
            print(json.dumps({"kernel": f"{argument} {way}", **facts(binary)}), flush=True)

"""Every kernel compiles for a GPU that is not there. Run as a script, this file compiles and prints facts."""

import json
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("triton")

SMALL = ["knn 32 fp32", "resident 1024 fp32", "streamed 0 fp32", "surface 8 fp32"]
LARGE = [
    "knn 32 fp64",
    "knn 64 fp32",
    "knn 128 fp32",
    "knn 128 fp64",
    "resident 1 fp32",
    "resident 8192 fp32",
    "resident 4096 fp64",
    "streamed 0 fp64",
    "surface 1 fp32",
    "surface 6 fp64",
    "surface 64 fp32",
    "surface 128 fp64",
]


@pytest.mark.parametrize(
    "kernels", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["small", "large"]
)
def test_compiles_without_contraction_or_approximation(kernels, tmp_path):
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, __file__, *kernels], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    facts = [json.loads(line) for line in run.stdout.splitlines()]
    assert [fact["kernel"] for fact in facts] == kernels
    for fact in facts:
        assert fact["inexact"] == [], fact


def compile_kernel(name: str, size: int, dtype: str, capability: int = 90) -> dict:
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pointsuite.ops.triton import farthest_point_sample, knn, surface_features

    value = "*" + dtype
    torch_dtype = {"fp32": torch.float32, "fp64": torch.float64}[dtype]
    kernel, constants = {
        "knn": (knn._knn_kernel, lambda: knn.knn_constants(size, torch_dtype)),
        "resident": (
            farthest_point_sample._resident_kernel,
            lambda: farthest_point_sample.resident_constants(size),
        ),
        "streamed": (farthest_point_sample._streamed_kernel, farthest_point_sample.STREAMED_CONSTANTS.copy),
        "surface": (surface_features._surface_kernel, lambda: surface_features.surface_constants(size)),
    }[name]
    constants = constants()
    options = {option: constants.pop(option) for option in ("num_warps", "enable_fp_fusion")}
    constants["counts"] = None
    types = {"start": "*i64", "idx": "*i64", "ordered": "*i64", "buffer": "*i32"}
    types |= dict.fromkeys(("S", "N", "K", "SHIFT"), "i32") | dict.fromkeys(constants, "constexpr")
    signature = {argument: types.get(argument, value) for argument in kernel.arg_names}
    constants = {argument: constant for argument, constant in constants.items() if argument in signature}
    source = ASTSource(kernel, signature, constants)
    ptx = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]
    return {
        "kernel": f"{name} {size} {dtype}",
        "inexact": sorted(set(re.findall(r"\b(?:fma|(?:div|sqrt|rcp)\.(?:approx|full))\S*", ptx))),
    }


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, size, dtype = argument.split()
        print(json.dumps(compile_kernel(name, int(size), dtype)), flush=True)

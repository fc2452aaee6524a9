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
    "search 32 fp32",
    "search 128 fp64",
    "boxed 32768 fp32",
    "boxed 16777216 fp32",
    "boxed 1000000 fp64",
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


# One multiplication unit a precision: 16-bit numbers go to the tensor cores, float32 never as TF32.
ATTENTION = ["_neighbour_sum_kernel 8", "_neighbour_kernel 8", "_row_sum_kernel 64"]
ATTENTION += ["_neighbour_grad_kernel 8", "_neighbour_kernel 64", "_neighbour_grad_kernel 64"]
ATTENTION += ["_point_kernel 64", "_point_value_grad_kernel 64", "_point_grad_kernel 64"]


@pytest.mark.parametrize(
    "kernels",
    [ATTENTION[:3], pytest.param(ATTENTION[3:], marks=pytest.mark.slow)],
    ids=["small", "large"],
)
def test_attention_compiles(kernels, tmp_path):
    kernels = [f"{kernel} {dtype}" for kernel in kernels for dtype in ("fp32", "bf16")]
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, __file__, *kernels], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    for line in run.stdout.splitlines():
        fact = json.loads(line)
        assert fact["matrix_unit"] is (fact["kernel"].endswith("bf16")), fact
        assert fact["shared"] <= 227 * 1024, fact


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
        "search": (knn._search_kernel, lambda: knn.search_constants(size, torch_dtype)),
        "boxed": (farthest_point_sample._boxed_kernel, lambda: farthest_point_sample.boxed_constants(size)),
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
    types |= {"turns": "*i64", "places": "*i64", "names": "*i32", "firsts": "*i32"}
    types |= dict.fromkeys(("FIRST", "S", "M", "N", "K", "SHIFT"), "i32") | dict.fromkeys(
        constants, "constexpr"
    )
    signature = {argument: types.get(argument, value) for argument in kernel.arg_names}
    constants = {argument: constant for argument, constant in constants.items() if argument in signature}
    source = ASTSource(kernel, signature, constants)
    ptx = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]
    return {
        "kernel": f"{name} {size} {dtype}",
        "inexact": sorted(set(re.findall(r"\b(?:fma|(?:div|sqrt|rcp)\.(?:approx|full))\S*", ptx))),
    }


def compile_attention(name: str, size: int, dtype: str, capability: int = 90) -> dict:
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pointsuite.ops.triton import neighbour_attention, point_attention

    kernel = getattr(neighbour_attention if "neighbour" in name else point_attention, name)
    if "neighbour" in name:
        constants, _ = neighbour_attention.constants_of((1, 16, size, 64), 96)
    else:
        constants, _, tiles = point_attention.constants_of((1, 1, size, 64), torch.empty(1, 1, size, 96))
        constants |= {"TILES": tiles, "EPS": 1e-9, "OF_KEY": True, "BLOCK_OUT": 16}
    options = {"num_warps": constants.pop("num_warps")}
    types = dict.fromkeys(("partial", "inverse", "common", "logsum", "rows", "y"), "*fp32")
    types |= dict.fromkeys(("S", "SPLITS", "N", "COUNT"), "i32") | dict.fromkeys(constants, "constexpr")
    signature = {argument: types.get(argument, "*" + dtype) for argument in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, type_ in enumerate(signature.values()) if type_[0] == "*"
    }
    constants = {argument: constant for argument, constant in constants.items() if argument in signature}
    source = ASTSource(kernel, signature, constants, aligned)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return {
        "kernel": f"{name} {size} {dtype}",
        "matrix_unit": bool(re.search(r"mma", binary.asm["ptx"])),
        "shared": binary.metadata.shared,
    }


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, size, dtype = argument.split()
        compile_one = compile_attention if name.startswith("_") else compile_kernel
        print(json.dumps(compile_one(name, int(size), dtype)), flush=True)

"""Products of matrices a tile at a time, for kernels.

Products of 16-bit numbers are summed in float32; those of float32 numbers are not rounded to TF32.
"""

import triton
import triton.language as tl


@triton.jit
def load_tile(base, row, real, column, WIDTH: tl.constexpr, SIZE: tl.constexpr):
    """Some of SIZE columns of the rows named by `row`, each of WIDTH numbers; zero where not `real`."""
    mask = real[:, None] & (column < SIZE)[None, :]
    return tl.load(base + row[:, None] * WIDTH + column[None, :], mask=mask, other=0)


@triton.jit
def products(
    a,
    row_a,
    real_a,
    WIDTH_A: tl.constexpr,
    b,
    row_b,
    real_b,
    WIDTH_B: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Inner products of SIZE numbers, each row of `a` with each of `b`."""
    total = tl.zeros((row_a.shape[0], row_b.shape[0]), tl.float32)
    for first in range(0, SIZE, BLOCK):
        column = first + tl.arange(0, BLOCK)
        left = load_tile(a, row_a, real_a, column, WIDTH_A, SIZE)
        right = load_tile(b, row_b, real_b, column, WIDTH_B, SIZE)
        total = tl.dot(left, tl.trans(right), total, input_precision="ieee")
    return total


@triton.jit
def multiply(weights, values):
    """weights @ values, multiplied in the dtype of the values and summed in float32."""
    return tl.dot(weights.to(values.dtype), values, input_precision="ieee")


def block_size(size: int, limit: int) -> int:
    """A power of two for the matrix units: 16 at least."""
    return min(limit, max(16, triton.next_power_of_2(size)))

"""Bitonic sorting of (key, value) pairs inside a kernel, along the last axis of (rows, columns) blocks.

Pairs are compared by key, then by value. Both sizes are powers of two, given by their logarithms.
"""

import triton
import triton.language as tl


@triton.jit
def _partner(x, axis: tl.constexpr):
    """The other element of each pair along an axis of length two, exactly."""
    if x.dtype == tl.float32:
        bits = x.to(tl.int32, bitcast=True)
    elif x.dtype == tl.float64:
        bits = x.to(tl.int64, bitcast=True)
    else:
        bits = x
    # Integer sums wrap, so this is exact; the compiler sees through it to a register move or a shuffle.
    return (tl.sum(bits, axis, keep_dims=True) - bits).to(x.dtype, bitcast=True)


@triton.jit
def _position(dims: tl.constexpr, axis: tl.constexpr):
    """0 and 1 along `axis` of a (2, 2, ..., 2) block of `dims` axes."""
    return tl.reshape(tl.arange(0, 2), [1] * axis + [2] + [1] * (dims - axis - 1))


@triton.jit
def _order_pairs(key, value, descending, dims: tl.constexpr, axis: tl.constexpr):
    """Put the two pairs along `axis` in order: one step of the network."""
    other_key, other_value = _partner(key, axis), _partner(value, axis)
    behind = (key > other_key) | ((key == other_key) & (value > other_value))
    swap = behind != ((descending ^ _position(dims, axis)) != 0)
    return tl.where(swap, other_key, key), tl.where(swap, other_value, value)


@triton.jit
def _merge(key, value, descending, stage: tl.constexpr, dims: tl.constexpr):
    """Sort each run of 2**stage pairs, all of them bitonic, of a hypercube (2, 2, ..., 2)."""
    for i in tl.static_range(stage):
        key, value = _order_pairs(key, value, descending, dims, dims - stage + i)
    return key, value


@triton.jit
def sort_pairs(key, value, log_rows: tl.constexpr, log_columns: tl.constexpr, descending: tl.constexpr):
    """Sort each row, ascending or (descending=1) descending."""
    dims: tl.constexpr = log_rows + log_columns
    shape: tl.constexpr = key.shape
    key, value = tl.reshape(key, [2] * dims), tl.reshape(value, [2] * dims)
    for stage in tl.static_range(1, log_columns):
        # Runs alternate between the two directions, so that two neighbours make one bitonic run.
        key, value = _merge(key, value, _position(dims, dims - 1 - stage), stage, dims)
    key, value = _merge(key, value, descending, log_columns, dims)
    return tl.reshape(key, shape), tl.reshape(value, shape)


@triton.jit
def keep_smallest(key, value, new_key, new_value, log_rows: tl.constexpr, log_columns: tl.constexpr):
    """Of an ascending and a descending list, the smaller half of all pairs, ascending."""
    dims: tl.constexpr = log_rows + log_columns
    shape: tl.constexpr = key.shape
    behind = (key > new_key) | ((key == new_key) & (value > new_value))
    key, value = tl.where(behind, new_key, key), tl.where(behind, new_value, value)
    key, value = _merge(tl.reshape(key, [2] * dims), tl.reshape(value, [2] * dims), 0, log_columns, dims)
    return tl.reshape(key, shape), tl.reshape(value, shape)

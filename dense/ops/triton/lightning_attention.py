"""Lightning attention on the GPU: a scan on two levels.

First every chunk makes what it adds to the state, all at the same time. Then one pass over the chunks, of few
numbers, adds these up with decay: the state before each chunk. Then every chunk makes its outputs, of the
pairs within it and of that state, again all at the same time. Nothing of n x n is made, and any n will do:
the last chunk may be a part of one.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pointsuite.engine.backends import device_of

CHUNK = 64
LEAST = 16  # rows and columns of a product of matrices
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _load(base, row, rows, column, columns, stride_row, stride_column):
    """(rows, columns) in float32, zeros past the ends."""
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    place = row.to(tl.int64)[:, None] * stride_row + column[None, :] * stride_column
    return tl.load(base + place, mask=mask, other=0).to(tl.float32)


@triton.jit
def _decay(slope, distance):
    """exp(-slope * distance), where no distance below 0 counts."""
    return tl.exp2(-slope * tl.maximum(distance, 0).to(tl.float32) * LOG2E)


@triton.jit
def _states_kernel(
    k, v, slopes, states,
    k_strides, v_strides,  # of (B, heads, n, channels); states is contiguous
    N, HEADS, CHUNKS, D, E,
    REVERSE: tl.constexpr, T: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """What a chunk adds to the state: the sum of far * k v^T."""
    tiles = tl.cdiv(E, BLOCK_E)
    chunk, tile = tl.program_id(0) % CHUNKS, tl.program_id(1)
    image, head = (tl.program_id(0) // CHUNKS // HEADS).to(tl.int64), tl.program_id(0) // CHUNKS % HEADS
    row = tl.arange(0, T)
    length = tl.minimum(N - chunk * T, T)
    d = tile // tiles * BLOCK_D + tl.arange(0, BLOCK_D)
    e = tile % tiles * BLOCK_E + tl.arange(0, BLOCK_E)
    k += image * k_strides[0] + head * k_strides[1]
    v += image * v_strides[0] + head * v_strides[1]
    place = chunk * T + row
    keys = _load(k, place, N, d, D, k_strides[2], k_strides[3])
    values = _load(v, place, N, e, E, v_strides[2], v_strides[3])
    distance = row + 1 if REVERSE else length - 1 - row
    keys *= _decay(tl.load(slopes + head), distance)[:, None]
    added = tl.dot(tl.trans(keys), values, input_precision=PRECISION)
    states += ((image * HEADS + head) * CHUNKS + chunk) * D * E
    tl.store(states + d[:, None] * E + e[None, :], added, mask=(d < D)[:, None] & (e < E)[None, :])


@triton.jit
def _carry_kernel(
    states, slopes, state, after,  # all contiguous
    N, HEADS, CHUNKS, NUMBERS,
    REVERSE: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What the chunks add becomes, in its place, the state before each of them, in order."""
    row, number = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = number < NUMBERS
    slope = tl.load(slopes + row % HEADS)
    carried = tl.load(state + row * NUMBERS + number, mask=mask, other=0)
    for step in range(0, CHUNKS):
        chunk = CHUNKS - 1 - step if REVERSE else step
        place = states + (row * CHUNKS + chunk) * NUMBERS + number
        added = tl.load(place, mask=mask, other=0)
        tl.store(place, carried, mask=mask)
        carried = carried * _decay(slope, tl.minimum(N - chunk * T, T)) + added
    tl.store(after + row * NUMBERS + number, carried, mask=mask)


@triton.jit
def _outputs_kernel(
    q, k, v, slopes, states, out,
    q_strides, k_strides, v_strides,  # of (B, heads, n, channels); states and out are contiguous
    N, HEADS, CHUNKS, D, E,
    REVERSE: tl.constexpr, T: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Of a chunk: the pairs within it, and what the state before it says."""
    chunk, tile = tl.program_id(0) % CHUNKS, tl.program_id(1)
    image, head = (tl.program_id(0) // CHUNKS // HEADS).to(tl.int64), tl.program_id(0) // CHUNKS % HEADS
    row, e = tl.arange(0, T), tile * BLOCK_E + tl.arange(0, BLOCK_E)
    length, slope = tl.minimum(N - chunk * T, T), tl.load(slopes + head)
    place = chunk * T + row
    q += image * q_strides[0] + head * q_strides[1]
    k += image * k_strides[0] + head * k_strides[1]
    v += image * v_strides[0] + head * v_strides[1]
    states += ((image * HEADS + head) * CHUNKS + chunk) * D * E
    near = _decay(slope, length - 1 - row if REVERSE else row + 1)
    weights = tl.zeros((T, T), tl.float32)
    y = tl.zeros((T, BLOCK_E), tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        queries = _load(q, place, N, d, D, q_strides[2], q_strides[3])
        keys = _load(k, place, N, d, D, k_strides[2], k_strides[3])
        before = _load(states, d, D, e, E, E, 1)
        weights += tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        y += tl.dot(queries * near[:, None], before, input_precision=PRECISION)
    distance = row[None, :] - row[:, None] if REVERSE else row[:, None] - row[None, :]
    weights = tl.where(distance >= 0, weights * _decay(slope, distance), 0.0)
    values = _load(v, place, N, e, E, v_strides[2], v_strides[3])
    y += tl.dot(weights, values, input_precision=PRECISION)
    out += (image * HEADS + head) * N * E
    mask = (place < N)[:, None] & (e < E)[None, :]
    tl.store(out + place.to(tl.int64)[:, None] * E + e[None, :], y, mask=mask)


def scan(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """What :func:`dense.ops.lightning_attention.scan_portably` computes, in its dtypes; not of float64."""
    batch, heads, n, d = q.shape
    e, chunks = v.shape[3], triton.cdiv(n, CHUNK)
    states = state.new_empty(batch, heads, chunks, d, e)
    state, after = state.contiguous(), torch.empty_like(state, memory_format=torch.contiguous_format)
    out = v.new_empty(batch, heads, n, e)
    block_d, block_e = (max(LEAST, min(64, triton.next_power_of_2(width))) for width in (d, e))
    options = {
        "REVERSE": reverse,
        "T": CHUNK,
        "BLOCK_D": block_d,
        "BLOCK_E": block_e,
        # ten bits of a fraction hold the halves exactly
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
    }
    across, rows = triton.cdiv(e, block_e), batch * heads
    sizes = (n, heads, chunks, d, e)
    with device_of(q):
        _states_kernel[rows * chunks, triton.cdiv(d, block_d) * across](
            k, v, slopes, states, k.stride(), v.stride(), *sizes, **options
        )
        _carry_kernel[rows, triton.cdiv(d * e, 256)](
            states, slopes, state, after, n, heads, chunks, d * e, reverse, CHUNK, 256
        )
        _outputs_kernel[rows * chunks, across](
            q, k, v, slopes, states, out, q.stride(), k.stride(), v.stride(), *sizes, **options
        )
    return out, after

"""Neighborhood attention on CPUs in float32: numba kernels of :func:`dense.ops.neighborhood_attention`.

A window's keys along the last axis are neighbours in memory. So logits are computed eight keys at a time,
from keys whose channels are rows, and sums of values some channels at a time. Windows that eight does not
divide go on into zeros, and their weights there are zero. Nothing is kept of a query but what is of the size
of a query.
"""

from collections.abc import Sequence
from math import prod

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor
from torch.nn import functional as F

from pointsuite.engine.parallel import run_rows

from .neighborhood_attention import Axis

LANES = 8  # keys or channels at a time
CACHE_LINE = 16  # numbers
# of the polynomial that is exp(x) for abs(x) <= log(2) / 2 to the last bit of float32
COEFFICIENTS = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    0.5,
    1.0,
    1.0,
)


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, axes: Sequence[Axis], scale: float
) -> Tensor:
    """Like :func:`~dense.ops.neighborhood_attention`, of float32 tensors whose shapes are checked."""
    return _Attention.apply(q, k, v, bias, tuple(axes), scale)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, bias, axes, scale):
        ctx.save_for_backward(q, k, v, bias)
        ctx.axes, ctx.scale = axes, scale
        plan = Plan(q, axes)
        out = plan.zeros(v)
        arrays = plan.rows(scale * q), plan.columns(k), plan.rows(v), plan.bias(bias), out
        run_rows(_forward, plan.problems * plan.lines, *arrays, *plan.tables)
        return plan.undo(out, v)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        q, k, v, bias = ctx.saved_tensors
        plan = Plan(q, ctx.axes)
        own = plan.rows(ctx.scale * q), plan.rows(grad)
        others = plan.columns(k), plan.columns(v), plan.rows(k)
        table = plan.bias(bias)
        wanted = plan.zeros(q), plan.zeros(k), plan.zeros(v)
        # a bias's gradient is summed by problems, which run at the same time
        of_bias = np.zeros(
            (plan.problems, *table.shape[1:]) if bias is not None else (0, 1, 1, 1), np.float32
        )
        run_rows(_backward, plan.problems, *own, *others, table, *wanted, of_bias, *plan.tables)
        grads = [plan.undo(array, like) for array, like in zip(wanted, (q, k, v), strict=True)]
        grads[0] *= ctx.scale
        if bias is not None:
            summed = torch.from_numpy(of_bias).unflatten(0, (len(q), q.shape[-2], -1)).sum((0, 2))
            bias = summed.reshape(bias.shape)
        return *grads, bias, None, None


class Plan:
    """How tensors (B, *shape, heads, d) lie for the kernels: as problems that have nothing to do with each
    other, each a residue class of a head of a sample, and in it lines of neighbours on the last axis.

    Args:
        q: queries.
        axes: of their shape.
    """

    def __init__(self, q: Tensor, axes: Sequence[Axis]):
        self.axes = (*(Axis(1, 1) for _ in range(3 - len(axes))), *axes)
        self.heads = q.shape[-2]
        self.spread = [axis.dilation for axis in self.axes]
        self.sizes = [-(-axis.length // axis.dilation) for axis in self.axes]
        self.problems = len(q) * self.heads * prod(self.spread)
        self.lines = self.sizes[0] * self.sizes[1]
        windows = [self._windows(axis, size) for axis, size in zip(self.axes, self.sizes, strict=True)]
        self.tables = (*windows, tuple(axis.window for axis in self.axes), self.heads)

    @staticmethod
    def _windows(axis: Axis, size: int) -> np.ndarray:
        """First key and the one after the last of each position of each class; none where there is no
        position.
        """
        table = np.zeros((axis.dilation, size, 2), np.int64)
        for first, count, length in axis.classes():
            table[first : first + count, :length] = np.stack(axis.windows(length), -1)
        return table

    def zeros(self, like: Tensor) -> np.ndarray:
        """(problems, lines, positions, channels)."""
        channels = -(-like.shape[-1] // LANES) * LANES
        return np.zeros((self.problems, self.lines, self.sizes[2], channels), np.float32)

    def _split(self, x: Tensor) -> Tensor:
        """(B, *shape, heads, d) to (B, heads, classes of three axes, three axes, d), which eight divides."""
        x = x.detach().reshape(len(x), *(axis.length for axis in self.axes), self.heads, -1)
        pad = [
            size * d - axis.length for size, d, axis in zip(self.sizes, self.spread, self.axes, strict=True)
        ]
        more = -x.shape[-1] % LANES
        if more or any(pad):
            x = F.pad(x, (0, more, 0, 0, 0, pad[2], 0, pad[1], 0, pad[0]))
        for i, parts in enumerate(zip(self.sizes, self.spread, strict=True)):
            x = x.unflatten(1 + 2 * i, parts)
        return x.permute(0, 7, 2, 4, 6, 1, 3, 5, 8)

    def rows(self, x: Tensor) -> np.ndarray:
        """(problems, lines, positions, d), channels as neighbours."""
        x = self._split(x).contiguous()
        return x.view(self.problems, self.lines, -1, x.shape[-1]).numpy()

    def columns(self, x: Tensor) -> np.ndarray:
        """(problems, lines, d, positions), positions as neighbours, with eight of zeros or more behind.

        Lines are odd multiples of a cache line, so that the channels of a position are not all in one place
        of the cache.
        """
        lines = -(-(self.sizes[2] + LANES) // CACHE_LINE) | 1
        x = F.pad(self._split(x).mT, (0, lines * CACHE_LINE - self.sizes[2]))
        return x.view(self.problems, self.lines, *x.shape[-2:]).numpy()

    def bias(self, bias: Tensor | None) -> np.ndarray:
        """(heads, 2 K_1 - 1, ..., 2 K_3 - 1); of no heads where there is none."""
        if bias is None:
            return np.zeros((0, 1, 1, 1), np.float32)
        shape = (2 * axis.window - 1 for axis in self.axes)
        return bias.detach().reshape(self.heads, *shape).contiguous().numpy()

    def undo(self, array: np.ndarray, like: Tensor) -> Tensor:
        """The opposite of :meth:`rows`, with the shape of ``like``."""
        x = torch.from_numpy(array).view(-1, self.heads, *self.spread, *self.sizes, array.shape[-1])
        x = x.permute(0, 5, 2, 6, 3, 7, 4, 1, 8)
        for i in range(3):
            x = x.flatten(1 + i, 2 + i)
        x = x[:, : self.axes[0].length, : self.axes[1].length, : self.axes[2].length, :, : like.shape[-1]]
        return x.reshape(like.shape)


# Eight lanes go on side by side, in the order of the keys or channels that they sum over. What they do is
# built from vector instructions, as compilers do not see that the arrays have nothing in common.
_jit = numba.njit(nogil=True, cache=True, boundscheck=False, fastmath={"contract", "nsz"})
_NUMBER = ir.FloatType()
_LANES = ir.VectorType(_NUMBER, LANES)


def _make_products(vectors: int, queries: int, chains: int):
    """A function that adds products of numbers and rows. For n below ``vectors``, g below ``queries``, i
    below ``count`` and j below 8,

        ``out[g leap + n ahead + j] = start[g leap + n ahead + j] + sum_i x[g jump + i] rows[n hop + i step +
        j]``

    where ``chains`` of i go on side by side. Of arrays it is given addresses: they cost least to hand on.
    """

    @intrinsic
    def products(typingctx, x, jump, count, rows, step, hop, start, out, ahead, leap):
        def generate(context, builder, signature, args):
            x, jump, count, rows, step, hop, start, out, ahead, leap = args
            x, rows, start, out = (
                builder.inttoptr(base, _NUMBER.as_pointer()) for base in (x, rows, start, out)
            )
            number, width = ir.IntType(64), ir.Constant(ir.IntType(64), chains)
            pairs = [(query, vector) for query in range(queries) for vector in range(vectors)]

            def lanes(base, place):
                return builder.bitcast(builder.gep(base, [place]), _LANES.as_pointer())

            def result(base, query, vector):
                across = builder.mul(leap, number(query))
                return lanes(base, builder.add(across, builder.mul(ahead, number(vector))))

            sums = [{pair: cgutils.alloca_once(builder, _LANES) for pair in pairs} for _ in range(chains)]
            for chain, own in enumerate(sums):
                for pair, total in own.items():
                    first = _LANES(None) if chain else builder.load(result(start, *pair), align=4)
                    builder.store(first, total)

            def add(i, own):
                factors, place = [], builder.mul(i, step)
                for query in range(queries):
                    factor = builder.add(i, builder.mul(jump, number(query)))
                    factor = builder.load(builder.gep(x, [factor]))
                    factor = builder.insert_element(_LANES(ir.Undefined), factor, ir.IntType(32)(0))
                    spread = ir.VectorType(ir.IntType(32), LANES)(None)
                    factors.append(builder.shuffle_vector(factor, _LANES(ir.Undefined), spread))
                for vector in range(vectors):
                    row = lanes(rows, builder.add(place, builder.mul(hop, number(vector))))
                    row = builder.load(row, align=4)
                    for query, factor in enumerate(factors):
                        total = own[query, vector]
                        product = builder.fmul(factor, row, flags=("contract",))
                        builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)

            whole = builder.udiv(count, width)
            with cgutils.for_range(builder, whole) as loop:
                for chain, own in enumerate(sums):
                    add(builder.add(builder.mul(loop.index, width), number(chain)), own)
            done = builder.mul(whole, width)
            if chains > 1:
                with cgutils.for_range(builder, builder.sub(count, done)) as loop:
                    add(builder.add(done, loop.index), sums[0])
            for pair in pairs:
                total = builder.load(sums[0][pair])
                for own in sums[1:]:
                    total = builder.fadd(total, builder.load(own[pair]))
                builder.store(total, result(out, *pair), align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), generate

    return products


_one_four, _one_two, _one_one = _make_products(4, 1, 1), _make_products(2, 1, 2), _make_products(1, 1, 4)
_two_four, _two_two, _two_one = _make_products(4, 2, 1), _make_products(2, 2, 1), _make_products(1, 2, 2)


@_jit
def _add(queries, vectors, x, jump, count, rows, step, hop, start, out, ahead, leap):
    """The products of one or two queries and any number of vectors."""
    while vectors:
        if queries == 2:
            if vectors >= 4:
                done = 4
                _two_four(x, jump, count, rows, step, hop, start, out, ahead, leap)
            elif vectors >= 2:
                done = 2
                _two_two(x, jump, count, rows, step, hop, start, out, ahead, leap)
            else:
                done = 1
                _two_one(x, jump, count, rows, step, hop, start, out, ahead, leap)
        elif vectors >= 4:
            done = 4
            _one_four(x, jump, count, rows, step, hop, start, out, ahead, leap)
        elif vectors >= 2:
            done = 2
            _one_two(x, jump, count, rows, step, hop, start, out, ahead, leap)
        else:
            done = 1
            _one_one(x, jump, count, rows, step, hop, start, out, ahead, leap)
        vectors -= done
        rows, start, out = rows + 4 * done * hop, start + 4 * done * ahead, out + 4 * done * ahead


@_jit
def _mix(queries, weights, jump, count, rows, channels, out):
    """Adds so many rows, by the weights of each query, to its channels, which eight divides."""
    _add(queries, channels // LANES, weights, jump, count, rows, channels, LANES, out, out, LANES, channels)


@intrinsic
def _exponentials(typingctx, logits, count):
    """Exponentials of so many logits at an address, which eight divides, less the largest, in place; returns
    their sum.

    They are powers of two, whose exponents are written into the bits of numbers, times polynomials of the
    rest.
    """

    def generate(context, builder, signature, args):
        array = builder.inttoptr(args[0], _NUMBER.as_pointer())
        blocks = builder.udiv(args[1], ir.Constant(ir.IntType(64), LANES))
        bits = ir.VectorType(ir.IntType(32), LANES)

        def all_lanes(value, kind=_LANES):
            return ir.Constant(kind, [value] * LANES)

        def at(block):
            place = builder.mul(block, ir.Constant(ir.IntType(64), LANES))
            return builder.bitcast(builder.gep(array, [place]), _LANES.as_pointer())

        def lanes(value):
            return [builder.extract_element(value, ir.IntType(32)(i)) for i in range(LANES)]

        def larger(x, y):
            return builder.select(builder.fcmp_ordered(">", x, y), x, y)

        def madd(x, y, z):
            return builder.fadd(builder.fmul(x, y, flags=("contract",)), z, flags=("contract",))

        most = cgutils.alloca_once_value(builder, all_lanes(-np.inf))
        with cgutils.for_range(builder, blocks) as loop:
            builder.store(larger(builder.load(at(loop.index), align=4), builder.load(most)), most)
        first, *others = lanes(builder.load(most))
        for other in others:
            first = larger(first, other)
        top = _LANES(ir.Undefined)
        for i in range(LANES):
            top = builder.insert_element(top, first, ir.IntType(32)(i))

        sums = cgutils.alloca_once_value(builder, all_lanes(0.0))
        with cgutils.for_range(builder, blocks) as loop:
            x = builder.fsub(builder.load(at(loop.index), align=4), top)
            low = builder.fcmp_ordered("<", x, all_lanes(-87.0))
            x = builder.select(low, all_lanes(-87.0), x)
            # adding 1.5 * 2**23 rounds to a whole number, which then lies in the lowest bits
            shifted = madd(x, all_lanes(1.4426950216293335), all_lanes(12582912.0))
            whole = builder.fsub(shifted, all_lanes(12582912.0))
            x = madd(whole, all_lanes(-0.693359375), x)
            x = madd(whole, all_lanes(2.1219444170128554e-4), x)
            y = all_lanes(COEFFICIENTS[0])
            for coefficient in COEFFICIENTS[1:]:
                y = madd(y, x, all_lanes(coefficient))
            exponent = builder.add(builder.bitcast(shifted, bits), all_lanes(127, bits))
            power = builder.bitcast(builder.shl(exponent, all_lanes(23, bits)), _LANES)
            y = builder.fmul(y, power)
            builder.store(y, at(loop.index), align=4)
            builder.store(builder.fadd(builder.load(sums), y), sums)
        total = _NUMBER(0.0)
        for lane in lanes(builder.load(sums)):
            total = builder.fadd(total, lane)
        return total

    return types.float32(types.int64, types.int64), generate


@_jit
def _rooms(sizes):
    """For what is added to the logits of two queries, and for their weights."""
    count = 2 * sizes[0] * sizes[1] * ((sizes[2] + LANES - 1) // LANES) * LANES
    return np.empty(count, np.float32), np.empty(count, np.float32)


@_jit
def _fill(start, queries, bias, place, lines, windows, x, first, width, padded):
    """What is added to the logits of queries at x, x + 1: biases, and minus infinity out of their windows.

    Args:
        start: room for it, a line of ``padded`` numbers after the other.
        bias, place: flat table; where the bias of a key and query would be that are both first on the last
            axis, and the strides of the first two axes.
        lines: how many lines a window has on the first two axes.
        windows: (positions, 2) first key and the one after the last, on the last axis.
        first, width: of the keys of all queries.
    """
    t = 0
    for query in range(x, x + queries):
        for u0 in range(lines[0]):
            for u1 in range(lines[1]):
                for j in range(padded):
                    start[t + j] = -np.inf
                where = place[0] + u0 * place[1] + u1 * place[2] + first - query
                for j in range(windows[query, 0] - first, windows[query, 1] - first):
                    start[t + j] = bias[where + j] if bias.size > 0 else np.float32(0)
                t += padded


@_jit
def _weigh(queries, query, columns, channels, positions, start, window, lines, padded, weights):
    """Weights of neighbouring queries to the same keys, a line of ``padded`` after the other, before they are
    divided by their sums, which are returned.

    Args:
        queries, query: how many, at most two; the address of their channels.
        columns: address of the keys of their problem, as columns.
        channels, positions: numbers of a query, and of a line of keys.
        start: what is added to their logits, see :func:`_fill`.
        window: (first, after the last) on the first two axes, first on the third.
        lines: of the second axis.
        weights: room for them.
    """
    (a0, b0), (a1, b1), a2 = window
    stride, leap = channels * positions, (b0 - a0) * (b1 - a1) * padded
    t, added, own = 0, start.ctypes.data, weights.ctypes.data
    for u0 in range(a0, b0):
        first = columns + 4 * ((u0 * lines + a1) * stride + a2)
        for block in range(0, padded, LANES):
            at = 4 * (t + block)
            _add(
                queries, b1 - a1, query, channels, channels, first + 4 * block, positions, stride,
                added + at, own + at, padded, leap,
            )  # fmt: skip
        t += (b1 - a1) * padded
    total = _exponentials(own, leap)
    return total, _exponentials(own + 4 * leap, leap) if queries == 2 else total


@_jit
def _place(problem, line, lines, windows, heads, sizes, bias):
    """Of a line: its windows on the first two axes, the class of the last, and where its biases are.

    That is the place of the bias of a key and query that are both first on the last axis, and the strides of
    the first two axes.
    """
    w0, w1, w2 = windows
    c2, rest = problem % w2.shape[0], problem // w2.shape[0]
    c1, rest = rest % w1.shape[0], rest // w1.shape[0]
    c0, head = rest % w0.shape[0], rest // w0.shape[0] % heads
    y0, y1 = line // lines, line % lines
    (a0, b0), (a1, b1) = (w0[c0, y0, 0], w0[c0, y0, 1]), (w1[c1, y1, 0], w1[c1, y1, 1])
    s1 = bias.shape[3]
    s0 = bias.shape[2] * s1
    first = head * bias.shape[1] * s0 + (sizes[0] - 1 + a0 - y0) * s0 + (sizes[1] - 1 + a1 - y1) * s1
    return (a0, b0), (a1, b1), c2, (first + sizes[2] - 1, s0, s1)


@_jit
def _forward(q, kt, v, bias, out, w0, w1, w2, sizes, heads, start, stop):
    """Lines [start, stop) of all problems."""
    _, lines, positions, channels = q.shape
    width, rows, length = v.shape[3], w1.shape[1], kt.shape[3]
    (added, weights), flat_bias = _rooms(sizes), bias.reshape(-1)
    for index in range(start, stop):
        problem, line = index // lines, index % lines
        (a0, b0), (a1, b1), c2, place = _place(problem, line, rows, (w0, w1, w2), heads, sizes, bias)
        if (b0 - a0) * (b1 - a1) == 0:
            continue
        columns, windows = kt.ctypes.data + 4 * problem * lines * channels * length, w2[c2]
        x, known = 0, (-1, 0, 0, 0, 0)
        while x < positions and windows[x, 1] > windows[x, 0]:
            first, last = windows[x, 0], windows[x, 1]
            padded, queries = (last - first + LANES - 1) // LANES * LANES, 1
            if x + 1 < positions and windows[x + 1, 1] > last - 1 and windows[x + 1, 1] - first <= padded:
                last, queries = windows[x + 1, 1], 2
            ahead = x + queries - 1  # neighbours inside lie to their keys as those before them do
            kind = queries, first - x, last - x, windows[x, 1] - x, windows[ahead, 0] - x
            if kind != known:
                known = kind
                _fill(
                    added,
                    queries,
                    flat_bias,
                    place,
                    (b0 - a0, b1 - a1),
                    windows,
                    x,
                    first,
                    last - first,
                    padded,
                )
            at = index * positions + x
            query, to = q.ctypes.data + 4 * at * channels, out.ctypes.data + 4 * at * width
            window, leap = ((a0, b0), (a1, b1), first), (b0 - a0) * (b1 - a1) * padded
            totals = _weigh(queries, query, columns, channels, length, added, window, rows, padded, weights)
            weight = weights.ctypes.data
            for u0 in range(a0, b0):
                for u1 in range(a1, b1):
                    row = ((problem * lines + u0 * rows + u1) * positions + first) * width
                    _mix(queries, weight, leap, last - first, v.ctypes.data + 4 * row, width, to)
                    weight += 4 * padded
            for own in range(queries):
                result, total = out[problem, line, x + own], totals[own]
                for c in range(width):
                    result[c] /= total
            x += queries


@_jit
def _backward(q, grad, kt, vt, k, bias, of_q, of_k, of_v, of_bias, w0, w1, w2, sizes, heads, start, stop):
    """Problems [start, stop)."""
    _, lines, positions, channels = q.shape
    width, rows, length = grad.shape[3], w1.shape[1], kt.shape[3]
    (added, weights), (_, slopes), flat_bias = _rooms(sizes), _rooms(sizes), bias.reshape(-1)
    for index in range(start * lines, stop * lines):
        problem, line = index // lines, index % lines
        (a0, b0), (a1, b1), c2, place = _place(problem, line, rows, (w0, w1, w2), heads, sizes, bias)
        if (b0 - a0) * (b1 - a1) == 0:
            continue
        base, windows = problem * lines, w2[c2]
        columns = kt.ctypes.data + 4 * base * channels * length
        x = 0
        while x < positions and windows[x, 1] > windows[x, 0]:
            a2, b2 = windows[x, 0], windows[x, 1]
            padded = (b2 - a2 + LANES - 1) // LANES * LANES
            _fill(added, 1, flat_bias, place, (b0 - a0, b1 - a1), windows, x, a2, b2 - a2, padded)
            at = index * positions + x
            window = (a0, b0), (a1, b1), a2
            query, own_grad = q.ctypes.data + 4 * at * channels, grad.ctypes.data + 4 * at * width
            total, _ = _weigh(1, query, columns, channels, length, added, window, rows, padded, weights)
            mean, t = np.float32(0), 0
            for u0 in range(a0, b0):
                for u1 in range(a1, b1):
                    for j in range(padded):
                        slopes[t + j] = 0
                    first = vt.ctypes.data + 4 * ((base + u0 * rows + u1) * width * length + a2)
                    to = slopes.ctypes.data + 4 * t
                    _add(1, padded // LANES, own_grad, 0, width, first, length, LANES, to, to, LANES, 0)
                    for j in range(b2 - a2):
                        weights[t + j] /= total
                        mean += weights[t + j] * slopes[t + j]
                    t += padded
            for i in range(t):
                slopes[i] = weights[i] * (slopes[i] - mean)
            t, of_query = 0, of_q.ctypes.data + 4 * at * channels
            for u0 in range(a0, b0):
                for u1 in range(a1, b1):
                    first = (base + u0 * rows + u1) * positions + a2
                    slope, weight = slopes.ctypes.data + 4 * t, weights.ctypes.data + 4 * t
                    _mix(1, slope, 0, b2 - a2, k.ctypes.data + 4 * first * channels, channels, of_query)
                    of_key = of_k.ctypes.data + 4 * first * channels
                    of_value = of_v.ctypes.data + 4 * first * width
                    for j in range(b2 - a2):
                        _mix(1, slope + 4 * j, 0, 1, query, channels, of_key + 4 * j * channels)
                        _mix(1, weight + 4 * j, 0, 1, own_grad, width, of_value + 4 * j * width)
                    if of_bias.size > 0:
                        i0, i1 = sizes[0] - 1 + u0 - line // rows, sizes[1] - 1 + u1 - line % rows
                        own = of_bias[problem, i0, i1]
                        for j in range(b2 - a2):
                            own[sizes[2] - 1 + a2 + j - x] += slopes[t + j]
                    t += padded
            x += 1

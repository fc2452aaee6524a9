"""Kernelised attention with relative positions: Toeplitz products, by pairs, by FFT or by blocks."""

from functools import lru_cache
from math import log2, prod

import torch
from torch import Tensor
from torch.nn import functional as F

from .chunks import map_chunks

METHODS = ("pairs", "fft", "blocks")
SHORTEST_FFT = 256  # below, the error of an FFT buys nothing
# in multiply-adds of pairs, measured on one core of a CPU: a multiply-add of the FFT, and what is done with
# the weight of a pair besides the sums over m and c
FFT_COST, PAIR_COST = 18.0, 140
SMALLEST_BLOCK = 64
Shape = tuple[int, ...]


def draw_features(
    count: int,
    head_dims: int,
    *,
    orthogonal: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Rows of N(0, I) for positive random features.

    Args:
        count: m, how many rows.
        head_dims: d.
        orthogonal: rows are orthogonal in blocks of d, of lengths as N(0, I) has them (chi of d degrees).
        generator: of a CPU; by default the global one.

    Returns:
        (m, d), float32.
    """
    if count < 1 or head_dims < 1:
        raise ValueError(f"features want positive numbers of rows and columns, found {count} and {head_dims}")
    rows = torch.randn(count, head_dims, generator=generator)
    if not orthogonal:
        return rows
    lengths = rows.norm(dim=1, keepdim=True)
    blocks = -(-count // head_dims)
    squares = torch.randn(blocks, head_dims, head_dims, generator=generator)
    directions, upper = torch.linalg.qr(squares)
    # so that no direction is likelier than others, whatever signs the library chooses
    directions = directions * upper.diagonal(dim1=1, dim2=2).sign()[:, None]
    return lengths * directions.flatten(0, 1)[:count]


def break_even(num_features: int, value_dims: int) -> int:
    """From which length on the FFT is faster than all pairs.

    A pair costs about m + c + :data:`PAIR_COST`, the FFT :data:`FFT_COST` times n log2(2 n) m (c + 1).

    Args:
        num_features: m.
        value_dims: c.
    """
    ratio = FFT_COST * num_features * (value_dims + 1) / (num_features + value_dims + PAIR_COST)
    length = SHORTEST_FFT
    while length < ratio * log2(2 * length):
        length += max(1, length // 64)
    return length


def toeplitz_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    features: Tensor,
    bias: Tensor | None = None,
    *,
    normalize: bool = True,
    causal: bool = False,
    clip: int | None = None,
    grid: tuple[int, int] | None = None,
    key_mask: Tensor | None = None,
    bias_bound: float | None = None,
    method: str | None = None,
    eps: float = 1e-12,
) -> Tensor:
    r"""Attention whose weights are a kernel of query and key, times a factor of their offset,

    .. math:: y_i = \frac{\sum_j e^{b_{j-i}} \, \phi(q_i)^\top \phi(k_j) \, v_j}
                         {\sum_j e^{b_{j-i}} \, \phi(q_i)^\top \phi(k_j)}, \qquad
              \phi(x) = m^{-1/2} \exp(W x - |x|^2 / 2).

    The mean over W of :math:`\phi(x)^\top \phi(y)` is exp(x y). With ``normalize`` queries and keys have
    length one, so that this is the exponential of their cosine; else both are divided by d^(1/4), and it is
    softmax attention's. The weights are positive and sum to one; adding a constant to the table changes
    nothing.

    The factors of all pairs are a Toeplitz matrix, of a grid one of such blocks. Three ways to one result:

    - "pairs": n^2 (m + c) products a head, some rows at a time;
    - "fft": the matrix in a circulant one, n log n m (c + 1), some columns of values at a time. Its error is
      relative to the largest term: outputs whose factors are all small beside others lose digits, so keep
      the table within a few units, by ``bias_bound`` or otherwise. A causal attention's first 256 queries,
      which see few keys, are taken by pairs;
    - "blocks": of a clipped table, whose factors are constant beyond +-K: pairs within neighbouring blocks
      of at least K positions, sums of all others. n K (m + c) + n m (c + 1), exact.

    Fewer queries than keys are the last ones, by pairs, as where a model speaks word by word.

    By default blocks for a clipped table from four blocks on, else the FFT from :func:`break_even` on. Sums
    run in float32 at least. Un-normalised, the largest key of each feature makes its scale, so that in a
    causal attention a later key may let earlier ones underflow; where all weights do, the output is zero.

    Source: Luo et al., "Stable, Fast and Accurate: Kernelized Attention with Relative Positional Encoding",
    NeurIPS 2021, arXiv 2106.12566.

    Args:
        q: (B, heads, M, d), M <= N.
        k: (B, heads, N, d).
        v: (B, heads, N, c).
        features: W, (m, d), see :func:`draw_features`.
        bias: b, a table for each head: (heads, 2 N - 1), of offset j - i at (j - i) + N - 1; with ``clip``
            (heads, 2 K + 1), at clamp(j - i, -K, K) + K; with ``grid`` (heads, 2 H - 1, 2 W - 1), of rows
            and columns. None for zeros.
        normalize: queries and keys to length one (at least ``eps``).
        causal: leave out j > i, by the factors; on a grid in the order of rows.
        clip: K, beyond which offsets count as K.
        grid: (H, W), H W = N, row by row.
        key_mask: (B, N), True where a key counts. Outputs of queries that see none are zero.
        bias_bound: b becomes s tanh(b / s) with this s.
        method: "pairs", "fft" or "blocks"; by default the fastest.
        eps: the smallest length that ``normalize`` divides by.

    Returns:
        (B, heads, M, c), of the dtype of v.

    Raises:
        ValueError: shapes, options or a method that do not fit; a bound that is not positive.
    """
    kind = _check(q, k, v, features, bias, causal, clip, grid, key_mask, bias_bound, method)
    dtype, length = v.dtype, k.shape[2]
    with torch.autocast(v.device.type, enabled=False):
        exact = torch.promote_types(dtype, torch.float32)
        q, k, v, features = (x.to(exact) for x in (q, k, v, features))
        unseen = None if key_mask is None else ~key_mask[:, None, :, None]
        if unseen is not None:  # padding may be anything
            k, v = k.masked_fill(unseen, 0), v.masked_fill(unseen, 0)
        q, k = (_exponents(x, features, normalize, eps) for x in (q, k))  # (B, heads, N, m)
        if unseen is not None:
            k = k.masked_fill(unseen, float("-inf"))
        if normalize:  # a bound in which no other position has a part
            largest = features.norm(dim=1)
        else:  # of each feature, which the queries give back
            largest = k.detach().amax(-2, keepdim=True).nan_to_num(neginf=0.0)
        k, q = (k - largest).exp(), q + largest
        q = (q - q.detach().amax(-1, keepdim=True)).exp()
        factors = _factors(bias, length, grid, causal, clip, bias_bound, q)
        values = torch.cat((v, torch.ones_like(v[..., :1])), -1)  # of the ones comes the denominator
        sides = grid or (length,)
        if kind == "blocks":
            sums = _by_blocks(q, k, values, factors)
        elif kind == "fft":
            factors = _unclip(factors, length, clip)
            sums = _by_fft(q, k, values, factors, sides)
            if causal and length > SHORTEST_FFT:  # first queries see little, beside which errors are large
                first = _by_pairs(q[:, :, :SHORTEST_FFT], k, values, factors, sides, 0)
                sums = torch.cat((first, sums[:, :, SHORTEST_FFT:]), 2)
        else:
            start = length - q.shape[2]
            sums = _by_pairs(q, k, values, _unclip(factors, length, clip), sides, start)
        y, total = sums[..., :-1], sums[..., -1:]
        y = y / torch.where(total > 0, total, 1.0)  # none where all weights are below what a float can be
        if key_mask is None:
            return y.to(dtype)
        sees = key_mask.cumsum(1) > 0 if causal else key_mask.any(1, keepdim=True).expand_as(key_mask)
        sees = sees[:, None, length - q.shape[2] :, None]
        return y.masked_fill(~sees, 0).to(dtype)


def _exponents(x: Tensor, features: Tensor, normalize: bool, eps: float) -> Tensor:
    """W x - |x|^2 / 2, without what is the same for all x of length one: (B, heads, N, m)."""
    if normalize:
        return F.normalize(x, dim=-1, eps=eps) @ features.mT
    x = x * x.shape[-1] ** -0.25
    return x @ features.mT - x.square().sum(-1, keepdim=True) / 2


def _factors(
    bias: Tensor | None,
    length: int,
    grid: tuple[int, int] | None,
    causal: bool,
    clip: int | None,
    bound: float | None,
    like: Tensor,
) -> Tensor:
    """exp(b), at most 1 and zero for what a causal attention leaves out: a table as ``bias``."""
    sides = grid or (length if clip is None else clip + 1,)
    shape = tuple(2 * side - 1 for side in sides)
    if bias is None:
        bias = like.new_zeros(like.shape[1], *shape)
    bias = bias.to(like.dtype)
    if bound is not None:
        bias = bound * (bias / bound).tanh()
    if causal:
        places = torch.arange(shape[0] if grid is None else shape[0] * shape[1], device=bias.device)
        later = places.view(shape) > places[-1] // 2  # the offset of none is in the middle
        bias = bias.masked_fill(later, float("-inf"))
    return (bias - bias.detach().flatten(1).amax(1).view(-1, *[1] * len(sides))).exp()


def _unclip(factors: Tensor, length: int, clip: int | None) -> Tensor:
    """A clipped table for all offsets: (heads, 2 N - 1)."""
    if clip is None:
        return factors
    offsets = torch.arange(1 - length, length, device=factors.device)
    return factors[:, offsets.clamp(-clip, clip) + clip]


def _by_pairs(q: Tensor, k: Tensor, values: Tensor, factors: Tensor, sides: Shape, start: int) -> Tensor:
    """(B, heads, M, c + 1), of queries from the place ``start`` on, some at a time."""
    places = [torch.arange(side, device=q.device) for side in sides]
    if len(sides) == 2:
        places = [axis.flatten() for axis in torch.meshgrid(*places, indexing="ij")]

    def sums(rows: slice) -> Tensor:
        offsets = [
            axis - axis[start:][rows, None] + side - 1 for axis, side in zip(places, sides, strict=True)
        ]
        weights = (q[:, :, rows] @ k.mT) * factors[(slice(None), *offsets)]
        return weights @ values

    return map_chunks(sums, q.shape[2], k.shape[2], dim=2)


def _by_fft(q: Tensor, k: Tensor, values: Tensor, factors: Tensor, sides: Shape) -> Tensor:
    """(B, heads, N, c + 1), some columns of values at a time."""
    dims = tuple(range(-len(sides), 0))
    padded = tuple(fast_length(2 * side - 1) for side in sides)
    # a query's place minus a key's is the negative of an offset, modulo the padded length
    margins = [
        margin for full, side in zip(padded, sides, strict=True) for margin in (full - 2 * side + 1, 0)
    ]
    kernel = F.pad(factors.flip(dims), margins[::-1]).roll([1 - side for side in sides], dims)
    spectrum = torch.fft.rfftn(kernel, dim=dims)[:, None, None]
    inside = (..., *(slice(side) for side in sides))
    q, k, values = (x.mT.contiguous() for x in (q, k, values))  # positions last: (B, heads, m or c + 1, N)

    def sums(columns: slice) -> Tensor:
        terms = k[:, :, None] * values[:, :, columns, None]  # (B, heads, columns, m, N)
        transformed = torch.fft.rfftn(terms.unflatten(-1, sides), padded, dims)
        terms = torch.fft.irfftn(spectrum * transformed, padded, dims)[inside]
        return (q[:, :, None] * terms.flatten(4)).sum(3)

    return map_chunks(sums, values.shape[2], k.shape[2] * prod(padded), dim=2).mT


def _by_blocks(q: Tensor, k: Tensor, values: Tensor, factors: Tensor) -> Tensor:
    """(B, heads, N, c + 1), of a clipped table (heads, 2 K + 1)."""
    length, clip = q.shape[2], factors.shape[1] // 2
    size = max(clip, SMALLEST_BLOCK)
    fill = -length % size
    q, k, values = (F.pad(x, (0, 0, 0, fill)).unflatten(2, (-1, size)) for x in (q, k, values))
    near = (F.pad(x, (0, 0, 0, 0, 1, 1)) for x in (k, values))  # a block of zeros at both ends
    near_k, near_values = (torch.cat((x[:, :, :-2], x[:, :, 1:-1], x[:, :, 2:]), 3) for x in near)
    columns = torch.arange(-size, 2 * size, device=q.device)
    offsets = columns - torch.arange(size, device=q.device)[:, None]
    weights = (q @ near_k.mT) * factors[:, None, offsets.clamp(-clip, clip) + clip]
    sums = weights @ near_values  # (B, heads, blocks, size, c + 1)
    blocks = k.mT @ values  # (B, heads, blocks, m, c + 1)
    before = F.pad(blocks.cumsum(2), (0, 0, 0, 0, 2, 0))[:, :, :-2]  # of blocks two or more before
    after = F.pad(blocks.flip(2).cumsum(2).flip(2), (0, 0, 0, 0, 0, 2))[:, :, 2:]
    first, last = (factors[:, i, None, None, None] for i in (0, -1))
    far = q @ (first * before + last * after)
    return (sums + far).flatten(2, 3)[:, :, :length]


@lru_cache(256)
def fast_length(length: int) -> int:
    """The smallest number from ``length`` on without a prime factor above 5."""
    best = 1 << (length - 1).bit_length()
    five = 1
    while five < best:
        odd = five
        while odd < best:
            best = min(best, odd << max(0, (-(-length // odd) - 1).bit_length()))
            odd *= 3
        five *= 5
    return best


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    features: Tensor,
    bias: Tensor | None,
    causal: bool,
    clip: int | None,
    grid: tuple[int, int] | None,
    key_mask: Tensor | None,
    bound: float | None,
    method: str | None,
) -> str:
    """The method to take."""
    fit = all(x.ndim == 4 for x in (q, k, v)) and k.shape[2] > 0
    fit = fit and k.shape[:3] == v.shape[:3] and 0 < q.shape[2] <= k.shape[2]
    if not fit or (*q.shape[:2], q.shape[3]) != (*k.shape[:2], k.shape[3]):
        found = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(
            f"q, k and v must be (B, heads, M <= N, d), (B, heads, N, d), (B, heads, N, c), found {found}"
        )
    heads, length, width = k.shape[1:]
    if features.ndim != 2 or features.shape[1] != width or not len(features):
        raise ValueError(f"features must be (m, {width}), found {tuple(features.shape)}")
    if clip is not None and (clip < 1 or grid is not None):
        raise ValueError(f"clip must be 1 or more and goes with no grid, found clip {clip} and grid {grid}")
    if grid is not None and (len(grid) != 2 or grid[0] * grid[1] != length):
        raise ValueError(f"grid must have {length} places, found {grid}")
    sides = grid or (length if clip is None else clip + 1,)
    table = (heads, *(2 * side - 1 for side in sides))
    if bias is not None and bias.shape != table:
        raise ValueError(f"bias must be {table}, found {tuple(bias.shape)}")
    if key_mask is not None and (key_mask.shape != (len(q), length) or key_mask.dtype != torch.bool):
        found = f"{tuple(key_mask.shape)} of {key_mask.dtype}"
        raise ValueError(f"key_mask must be ({len(q)}, {length}) of torch.bool, found {found}")
    if bound is not None and bound <= 0:
        raise ValueError(f"bias_bound must be positive, found {bound}")
    allowed = ("pairs",) if q.shape[2] < length else METHODS if clip is not None else METHODS[:2]
    if method is not None and method not in allowed:
        raise ValueError(f"method must be one of {allowed} here, found {method!r}")
    if method is not None or len(allowed) == 1:
        return method or "pairs"
    if clip is not None and length >= 4 * max(clip, SMALLEST_BLOCK):
        return "blocks"
    return "fft" if length >= break_even(len(features), v.shape[-1]) else "pairs"

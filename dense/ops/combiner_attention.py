"""Full attention at the cost of a sparse one: some positions singly, all others by summaries of regions."""

from collections.abc import Callable
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

FACTORIZATIONS = ("fixed", "mixture", "vertical", "horizontal", "rowmajor", "logsparse")
SUMMARIES = ("max", "cumsum")
Summarize = Callable[[Tensor], Tensor]


def default_segment(length: int) -> int:
    """About the square root of a length, so that segments and their number are balanced."""
    return max(1, isqrt(max(length - 1, 0)) + 1)


def combiner_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    factorization: str = "fixed",
    segment: int | None = None,
    *,
    causal: bool = True,
    summary: str = "max",
    summarize: Summarize | None = None,
    key_mask: Tensor | None = None,
    reference_quirks: bool = False,
) -> Tensor:
    r"""Attention as a conditional expectation: one softmax over positions j and over regions R of others,

    .. math:: y_i = \sum_j p_j v_j + \sum_R p_R V_R, \quad p = \mathrm{softmax}(q_i k_j, \, q_i K_R), \quad
              V_R = \sum_{j \in R} \mathrm{softmax}_j(Q_R \, k_j) \, v_j,

    with :math:`Q_R` and :math:`K_R` the largest of each channel in the region. Every position that i may see
    gets a positive weight. Positions stand in rows of L: position p is in row s and column u.

    ============= ===================================== ==================================================
    factorization one by one                            regions
    ============= ===================================== ==================================================
    "fixed"       the own row up to p                   each earlier row
    "vertical"    the own row up to p, the own column   every other column of the earlier rows
    "horizontal"  the same                              each earlier row left of u, and right of u
    "mixture"     the same                              those of both, which overlap
    "rowmajor"    the own row up to p                   each earlier row, see below
    "logsparse"   p                                     blocks of 1, 2, 4, ... positions before p that make
                                                        up all: of level l where floor(p / 2^l) is odd
    ============= ===================================== ==================================================

    Of "rowmajor" the region is attended from within: :math:`F_{t,u}` is what row t's own attention gives the
    query in its column u, and p sees it as a value, with a key that ``summarize`` makes of it.

    Bidirectional, "fixed" and "rowmajor" lose their masks: all of the own row, and every row, also the own
    one, as a region. The axial ones see the whole row and column one by one and have regions of both sides
    (above and below, and left and right of the row or column that i sees); "logsparse" sees the block beside
    its own at each level.

    Any length is padded to whole rows, and the padding left out. The cost is n (L + n / L) for "fixed" and
    "rowmajor", n (2 L + 3 n / L) for "mixture", n log n for "logsparse". Sums run in float32 at least.

    Source: Ren et al., "Combiner: Full Attention Transformer with Sparse Computation Cost", NeurIPS 2021,
    arXiv 2107.05768. Vertical and horizontal are the mixture's halves, and the bidirectional log-sparse form
    is the causal one mirrored.

    Args:
        q: (B, heads, N, d), divided by the square root of d.
        k: (B, heads, N, d).
        v: (B, heads, N, c).
        factorization: see above.
        segment: L, by default about the square root of N. Of "logsparse" nothing.
        causal: i sees no later position.
        summary: "max", or "cumsum": axial regions have the sum of queries and keys instead, as the published
            TensorFlow version.
        summarize: of "rowmajor", from F (B, heads, S * L, c), of rows padded with zeros, to keys
            (B, heads, S * L, d).
        key_mask: (B, N), True where a position is no padding; padding is seen by itself alone, and by
            "rowmajor" as a query of zeros.
        reference_quirks: as published: "logsparse" lacks the last level where N - 1 is a power of two, so
            that the last position sees itself alone; the bidirectional "mixture" counts the own position
            twice, and a region without positions has a key of zeros and the mean of its line as a value.

    Returns:
        (B, heads, N, c), of the dtype of v.

    Raises:
        ValueError: shapes that do not fit, an unknown word, or options that exclude each other.
    """
    _check(q, k, v, factorization, segment, summary, summarize, key_mask)
    dtype, length = v.dtype, q.shape[2]
    with torch.autocast(v.device.type, enabled=False):
        exact = torch.promote_types(dtype, torch.float32)
        q, k, v = (x.to(exact) for x in (q, k, v))
        there = q.new_ones(1, 1, length, dtype=torch.bool) if key_mask is None else key_mask[:, None]
        if factorization == "logsparse":
            return _log_sparse(q, k, v, there, causal, reference_quirks).to(dtype)
        size = default_segment(length) if segment is None else segment
        fill = -length % size
        q, k, v = (F.pad(x, (0, 0, 0, fill)).unflatten(2, (-1, size)) for x in (q, k, v))
        there = F.pad(there, (0, fill)).unflatten(2, (-1, size))  # (B or 1, 1, S, L)
        if factorization == "fixed":
            y = _fixed(q, k, v, there, causal)
        elif factorization == "rowmajor":
            y = _row_major(q, k, v, there, causal, summarize)
        else:
            parts = ("vertical", "horizontal") if factorization == "mixture" else (factorization,)
            y = _axial(q, k, v, there, causal, parts, summary == "cumsum", reference_quirks)
        return y.flatten(2, 3)[:, :, :length].to(dtype)


def joint_softmax(*parts: tuple[Tensor, Tensor]) -> list[Tensor]:
    """One softmax over several sets of logits (..., M_i), each with a mask that broadcasts: its parts.

    Every row must have a logit that counts.
    """
    logits = [logits.masked_fill(~mask, float("-inf")) for logits, mask in parts]
    return list(torch.cat(logits, -1).softmax(-1).split([x.shape[-1] for x in logits], -1))


def _inner_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Of a region's own positions; uniform where there are none, which nobody then looks at."""
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(-1)


def _before(count: int, device: torch.device, diagonal: int = -1) -> Tensor:
    """(count, count): True where a column is before its row, with ``diagonal=0`` also at it."""
    return torch.ones(count, count, dtype=torch.bool, device=device).tril(diagonal)


def _largest(x: Tensor, mask: Tensor) -> Tensor:
    """(..., M, d), of the M that ``mask`` (..., M) leaves, to (..., d); zero where there are none."""
    found = x.masked_fill(~mask[..., None], float("-inf")).amax(-2)
    return found.masked_fill(~mask.any(-1)[..., None], 0)


def _own_row_and_rows(there: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """What a position sees of its own row and of the rows as regions: (B or 1, 1, S, L or 1, L or S)."""
    rows, size = there.shape[2:]
    own, seen = there[..., None, :], there.any(-1)[:, :, None, None]
    if causal:
        own, seen = own & _before(size, there.device, 0), seen & _before(rows, there.device)[:, None]
    return own | torch.eye(size, dtype=torch.bool, device=there.device), seen  # padding sees itself


def _fixed(q: Tensor, k: Tensor, v: Tensor, there: Tensor, causal: bool) -> Tensor:
    """(B, heads, S, L, d) and (B or 1, 1, S, L) to (B, heads, S, L, c)."""
    rows, size = there.shape[2:]
    query, key = (_largest(x, there) for x in (q, k))  # (B, heads, S, d)
    inner = _inner_softmax((k @ query[..., None]).squeeze(-1), there)  # (B, heads, S, L)
    value = (inner[..., None, :] @ v).squeeze(-2)  # (B, heads, S, c)
    own, seen = _own_row_and_rows(there, causal)
    w_own, w_rows = joint_softmax((q @ k.mT, own), (q @ key[:, :, None].mT, seen))
    return w_own @ v + w_rows @ value[:, :, None]


def _row_major(q: Tensor, k: Tensor, v: Tensor, there: Tensor, causal: bool, summarize: Summarize) -> Tensor:
    """(B, heads, S, L, d) and (B or 1, 1, S, L) to (B, heads, S, L, c)."""
    rows, size = there.shape[2:]
    logits = q @ k.mT  # (B, heads, S, L, L), of each row
    inner = logits.masked_fill(~there[..., None], 0)  # padding asks for nothing
    value = _inner_softmax(inner, there[..., None, :]) @ v  # F
    key = summarize(value.flatten(2, 3)).to(q.dtype).unflatten(2, (rows, size))
    own, seen = _own_row_and_rows(there, causal)
    q, key, value = (x.transpose(2, 3) for x in (q, key, value))  # (B, heads, L, S, d)
    w_own, w_rows = joint_softmax((logits, own), ((q @ key.mT).transpose(2, 3), seen))
    return w_own @ v + (w_rows.transpose(2, 3) @ value).transpose(2, 3)


def _axial(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    there: Tensor,
    causal: bool,
    parts: tuple[str, ...],
    sums: bool,
    quirks: bool,
) -> Tensor:
    """(B, heads, S, L, d) and (B or 1, 1, S, L) to (B, heads, S, L, c)."""
    rows, size = there.shape[2:]
    device, quirks = q.device, quirks and not causal
    own_row, own_column = (torch.eye(n, dtype=torch.bool, device=device) for n in (rows, size))
    others = _before(rows, device) if causal else ~own_row
    seen_columns = there[..., None, :]  # (..., S, L, L), of the own row
    if causal:
        seen_columns = seen_columns & _before(size, device, 0)
    seen_columns = seen_columns | own_column  # padding sees itself
    above = others | own_row if quirks else others
    seen_rows = there.mT[..., None, :, :] & above[:, None, :]  # (..., S, L, S), of the own column
    columns = [x.transpose(2, 3) for x in (q, k, v)]  # (B, heads, L, S, d)
    # what a query sees in its row, (B, heads, S, L, .), and in its column, (B, heads, L, S, .)
    by_row = [(q @ k.mT, seen_columns, v)]
    by_column = [((columns[0] @ columns[1].mT).transpose(2, 3), seen_rows, columns[2])]
    if "vertical" in parts:
        for later in (False, True)[: 1 if causal else 2]:
            key, value, some = _running(*columns, there.mT, later, sums)  # (B, heads, L, S, .), (..., L, S)
            some = torch.ones_like(some) if quirks else some
            mask = some.mT[..., None, :] & ~own_column  # (..., S, L, L)
            by_row.append((q @ key.transpose(2, 3).mT, mask, value.transpose(2, 3)))
    if "horizontal" in parts:
        for later in (False, True):
            key, value, some = _running(q, k, v, there, later, sums)  # (B, heads, S, L, .), (..., S, L)
            some = torch.ones_like(some) if quirks else some
            mask = some.mT[..., None, :, :] & others[:, None, :]  # (..., S, L, S)
            logits = (columns[0] @ key.transpose(2, 3).mT).transpose(2, 3)
            by_column.append((logits, mask, value.transpose(2, 3)))
    weights = joint_softmax(*[(logits, mask) for logits, mask, _ in by_row + by_column])
    y = sum(w @ value for w, (*_, value) in zip(weights, by_row, strict=False))
    for w, (*_, value) in zip(weights[len(by_row) :], by_column, strict=True):
        y = y + (w.transpose(2, 3) @ value).transpose(2, 3)
    return y


def _running(
    q: Tensor, k: Tensor, v: Tensor, there: Tensor, later: bool, sums: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Summaries of the positions before (or after) each one of its line.

    Args:
        q, k, v: (B, heads, lines, M, d).
        there: (B or 1, 1, lines, M).
        later: of the positions after it.
        sums: queries and keys are added up; else the largest of each channel.

    Returns:
        Keys (B, heads, lines, M, d), values (B, heads, lines, M, c), and whether there are any positions,
        (B or 1, 1, lines, M); without any the key is zero and the value a mean of the whole line.
    """
    if later:
        key, value, some = _running(q.flip(3), k.flip(3), v.flip(3), there.flip(-1), False, sums)
        return key.flip(3), value.flip(3), some.flip(-1)
    seen = there[..., None, :] & _before(there.shape[-1], q.device)  # (..., lines, M, M)
    some = seen.any(-1)
    if sums:
        query, key = (x.masked_fill(~there[..., None], 0) for x in (q, k))
        query, key = (x.cumsum(3) - x for x in (query, key))
    else:
        query, key = (
            F.pad(x.masked_fill(~there[..., None], float("-inf")).cummax(3)[0], (0, 0, 1, 0))[..., :-1, :]
            for x in (q, k)
        )
        query, key = (x.masked_fill(~some[..., None], 0) for x in (query, key))
    return key, _inner_softmax(query @ k.mT, seen) @ v, some


def _log_sparse(q: Tensor, k: Tensor, v: Tensor, there: Tensor, causal: bool, quirks: bool) -> Tensor:
    """(B, heads, N, d) to (B, heads, N, c)."""
    length = q.shape[2]
    levels = (length - 1).bit_length()
    if quirks and causal:
        levels = max(length - 2, 0).bit_length()
    total = max(1 << levels, length)
    fill = (1 << (total - 1).bit_length()) - length
    q, k, v = (F.pad(x, (0, 0, 0, fill)) for x in (q, k, v))
    there = F.pad(there, (0, fill))  # (B or 1, 1, N)
    logits, masks, values = [(q * k).sum(-1)], [torch.ones_like(there)], []
    for level in range(levels):
        # pairs of blocks: the second sees the first and, unless causal, the first the second
        shape = (-1, 2, 1 << level)
        blocks = [x.unflatten(2, shape)[:, :, :, : 1 if causal else 2] for x in (q, k, v)]
        inside = there.unflatten(2, shape)[:, :, :, : 1 if causal else 2]
        query, key = (_largest(x, inside) for x in blocks[:2])  # (B, heads, pairs, 1 or 2, d)
        inner = _inner_softmax((blocks[1] @ query[..., None]).squeeze(-1), inside)
        value = (inner[..., None, :] @ blocks[2]).squeeze(-2).flip(3)  # (B, heads, pairs, 1 or 2, c)
        some = inside.any(-1).flip(3)
        seeing = q.unflatten(2, shape)[:, :, :, 1 if causal else 0 :]
        found = (seeing @ key.flip(3)[..., None]).squeeze(-1)  # (B, heads, pairs, 1 or 2, size)
        if causal:  # the first sees nothing
            found, some = F.pad(found, (0, 0, 1, 0)), F.pad(some, (1, 0))
            value = F.pad(value, (0, 0, 1, 0))
        logits.append(found.flatten(2))
        masks.append(some.repeat_interleave(1 << level, 3).flatten(2))
        values.append(value)
    w_own, *weights = joint_softmax(
        *[(x[..., None], m[..., None]) for x, m in zip(logits, masks, strict=True)]
    )
    y = w_own * v
    for w, value in zip(weights, values, strict=True):
        w = w.unflatten(2, (*value.shape[2:4], -1))
        y = y + (w * value[..., None, :]).flatten(2, 4)
    return y[:, :, :length]


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    factorization: str,
    segment: int | None,
    summary: str,
    summarize: Summarize | None,
    key_mask: Tensor | None,
) -> None:
    if q.ndim != 4 or q.shape != k.shape or v.ndim != 4 or v.shape[:3] != q.shape[:3] or not q.shape[2]:
        found = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        wanted = "(B, heads, N, d), (B, heads, N, d), (B, heads, N, c)"
        raise ValueError(f"q, k and v must be {wanted}, found {found}")
    if factorization not in FACTORIZATIONS:
        raise ValueError(f"factorization must be one of {FACTORIZATIONS}, found {factorization!r}")
    if segment is not None and segment < 1:
        raise ValueError(f"segment must be 1 or more, found {segment}")
    if summary not in SUMMARIES:
        raise ValueError(f"summary must be one of {SUMMARIES}, found {summary!r}")
    if summary == "cumsum" and factorization not in ("mixture", "vertical", "horizontal"):
        raise ValueError(f"summary 'cumsum' is of running regions, which {factorization!r} has not")
    if key_mask is not None and (key_mask.shape != (len(q), q.shape[2]) or key_mask.dtype != torch.bool):
        found = f"{tuple(key_mask.shape)} of {key_mask.dtype}"
        raise ValueError(f"key_mask must be ({len(q)}, {q.shape[2]}) of torch.bool, found {found}")
    if (summarize is None) == (factorization == "rowmajor"):
        raise ValueError(f"summarize is of 'rowmajor' and of nothing else, found {factorization!r}")

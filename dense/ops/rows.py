"""Functions of all pairs of positions, some rows at a time: memory linear in the number of positions."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PAIRS = 1 << 18  # of a piece, and of each sample and head: 1 MB in float32


def map_rows(
    function: Callable[[slice], Tensor], rows: int, columns: int, *, dim: int = 1, pairs: int | None = None
) -> Tensor:
    """``function`` of ``slice(0, rows)``, computed for some rows at a time and put together along ``dim``.

    Where there are several pieces, the gradient computes each anew, so that none is kept. How the rows are
    cut depends on nothing but ``rows``, ``columns`` and ``pairs``: not on the batch.

    Args:
        function: maps a slice of rows to a tensor that has these rows along ``dim``.
        rows: how many there are.
        columns: with how many positions a row makes pairs.
        pairs: of a piece, about; None for :data:`PAIRS`.
    """
    step = max(1, (pairs or PAIRS) // max(1, columns))
    if step >= rows:
        return function(slice(0, rows))
    pieces = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    if torch.is_grad_enabled():
        return torch.cat(
            [checkpoint(function, piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces],
            dim,
        )
    return torch.cat([function(piece) for piece in pieces], dim)

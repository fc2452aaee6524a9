"""Some rows at a time: how many suit a device, and functions of all pairs of positions."""

from collections.abc import Callable, Iterator
from functools import reduce

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# numbers of the largest temporaries: what caches of a CPU hold, what keeps another device busy
NUMBERS_ON_CPU, NUMBERS = 2**20, 2**26
PAIRS = 2**18  # of positions in a piece, and of each sample and head: 1 MB in float32


def fitting_rows(numbers: int, device: torch.device) -> int:
    """How many rows of so many numbers suit a device, at least one."""
    return max(1, (NUMBERS_ON_CPU if device.type == "cpu" else NUMBERS) // max(1, numbers))


def rows_at_once(rows: int, numbers: int, device: torch.device) -> int:
    """:func:`fitting_rows` of an inference; all of them for a gradient, which keeps the numbers anyway, and
    in compiled code.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return max(1, rows)
    return fitting_rows(numbers, device)


def slices(rows: int, step: int) -> Iterator[slice]:
    """All rows, ``step`` at a time."""
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def map_chunks(
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
    pieces = list(_compute_chunks(function, rows, columns, pairs))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)


def sum_chunks(
    function: Callable[[slice], Tensor], rows: int, columns: int, *, pairs: int | None = None
) -> Tensor:
    """As :func:`map_chunks`, for a ``function`` that sums over its rows: the pieces are added."""
    return reduce(torch.add, _compute_chunks(function, rows, columns, pairs))


def _compute_chunks(
    function: Callable[[slice], Tensor], rows: int, columns: int, pairs: int | None
) -> Iterator[Tensor]:
    step = max(1, (pairs or PAIRS) // max(1, columns))
    if step >= rows:
        yield function(slice(0, rows))
        return
    for piece in slices(rows, step):
        if torch.is_grad_enabled():
            yield checkpoint(function, piece, use_reentrant=False, preserve_rng_state=False)
        else:
            yield function(piece)

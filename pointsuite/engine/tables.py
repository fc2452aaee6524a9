"""Tables of plain text."""

from collections.abc import Sequence


def align_columns(rows: Sequence[Sequence[str]], left: int | None = 1) -> str:
    """A line for each row of cells; rows may be of different lengths.

    The first ``left`` columns (None: all) are flush left, the others flush right.
    """
    count = max(map(len, rows), default=0)
    full = [[*row, *[""] * (count - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    flush_left = count if left is None else left
    lines = (
        "  ".join(
            cell.ljust(width) if i < flush_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in full
    )
    return "\n".join(line.rstrip() for line in lines)

"""What a point file holds once it is read, and the checks that every format shares."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from pointsuite.engine.errors import UsageError
from pointsuite.engine.files import decode_text

LARGEST, SMALLEST = 1e12, 1e-12  # coordinate and extent: beyond, float32 loses products of three distances
ROOM, GROWTH = 64 << 20, 8  # bytes that any file may unpack to; more, up to so many times its size
_BLOCK = 1 << 18  # rows that are checked at once, so that checks need little memory


class PointFileError(UsageError):
    """A file that cannot be read right; its one line names the file, what was found and what was wanted."""


class Arrays(dict):
    """What a reader found: arrays by name (points, normals, colors, part, faces).

    Attributes:
        notes: what it left out or had to decide, for the one who reads the file.
        up: the axis that points up.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.notes: list[str] = []
        self.up = "z"


class _Fields(NamedTuple):
    points: np.ndarray  # float32 (N, 3), finite, N >= 1
    normals: np.ndarray | None = None  # float32 (N, 3), unit length; a zero normal stays zero
    colors: np.ndarray | None = None  # float32 (N, 3) in 0..1
    part: np.ndarray | None = None  # int64 (N,)


class PointFile(_Fields):
    """A cloud: a tuple of points, normals, colors and part.

    Attributes:
        offset: float64 (3,), to be added to the points for the coordinates of the file; zero where float32
            holds these as they are.
        notes: what was left out of the file or had to be decided, a line each.
        up: the axis that points up, as a data set says; "z" where nothing does.
    """

    offset: np.ndarray
    notes: tuple[str, ...]
    up: str

    def __new__(
        cls, *args, offset: Sequence[float] = (0, 0, 0), notes: Iterable[str] = (), up: str = "z", **kwargs
    ):
        cloud = super().__new__(cls, *args, **kwargs)
        cloud.offset = np.array(offset, np.float64)
        cloud.notes = tuple(notes)
        cloud.up = up
        return cloud

    def _replace(self, **changes) -> "PointFile":
        return type(self)(**{**self._asdict(), **changes}, **vars(self))


def checked(
    points, normals=None, colors=None, part=None, *, drop_nan: bool = False, notes: Iterable[str] = ()
) -> PointFile:
    """The arrays that a reader found, checked and converted; its PointFileError has no file name yet.

    Args:
        drop_nan: leave out points of which a coordinate, normal or colour is NaN or infinite.
        notes: of the reader, which go before those of this function.
    """
    notes = list(notes)
    points = _rows(points, "points")
    count = len(points)
    if count == 0:
        raise PointFileError("found no points, wanted at least 1")
    arrays = {"points": points, "normals": normals, "colors": colors}
    arrays = {name: _rows(array, name, count) for name, array in arrays.items() if array is not None}
    if part is not None:
        part = _whole_numbers(np.asarray(part), count)
    if drop_nan:
        kept = np.logical_and.reduce([_finite(array) for array in arrays.values()])
        if not kept.all():
            notes.append(f"left out {count - kept.sum()} of {count} points that are NaN or infinite")
            if not kept.any():
                raise PointFileError(
                    f"found {count} points that are all NaN or infinite, wanted one at least"
                )
            arrays = {name: array[kept] for name, array in arrays.items()}
            part = None if part is None else part[kept]
    points, offset = single_precision(arrays["points"], notes)
    normals, colors = arrays.get("normals"), arrays.get("colors")
    if normals is not None:
        normals = _unit_normals(normals)
        if flat := count_zero(normals):
            notes.append(
                f"found {flat} of {len(normals)} normals of length 0: --estimate-normals, or "
                "normals='estimate', makes others"
            )
    if colors is not None:
        colors = _unit_colors(colors, notes)
    return PointFile(points, normals, colors, part, offset=offset, notes=notes)


def single_precision(points: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates as float32 (N, 3), and the offset, float64 (3,), that was subtracted before.

    It is zero unless float32 would move a point by more than a millionth of the extent, or by more than
    0.001: so much is lost far from the origin.

    Args:
        points: numbers (N, 3), N >= 1.
        notes: gets a line that says the offset.

    Raises:
        PointFileError: NaN or infinity; coordinates so large, or so close to each other, that distances in
            float32 overflow or vanish; points that already their own type cannot tell apart.
    """
    single = _finite_float32(points, "points")
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    largest, extent = max(-low.min(), high.max()), (high - low).max()
    found = f"found coordinates up to {largest:.6g} over an extent of {extent:.6g}"
    if largest > LARGEST or 0 < extent < SMALLEST:
        raise PointFileError(
            f"{found}, wanted at most {LARGEST:g} and at least {SMALLEST:g}: choose another unit of length"
        )
    if points.dtype.kind == "f" and points.dtype.itemsize < 8:
        if np.spacing(points.dtype.type(largest)) > 1e-3 * extent > 0:
            notes.append(f"{found}: as {points.dtype}, the file itself has lost what is finer")
    elif np.spacing(largest) > 1e-3 * extent > 0:
        raise PointFileError(f"{found}, which float64 cannot tell apart, wanted points nearer to the origin")
    loss = _loss(points, single, np.zeros(3))
    if loss <= min(1e-6 * extent, 1e-3) or extent == 0:
        return single, np.zeros(3)
    offset = (low + high) / 2
    if extent > 2:
        offset = np.round(offset)
    for rows in _blocks(len(points)):
        single[rows] = points[rows].astype(np.float64) - offset
    if _loss(points, single, offset) >= loss:
        return points.astype(np.float32), np.zeros(3)
    notes.append(
        f"subtracted ({', '.join(f'{x:.12g}' for x in offset)}), kept as the offset, as float32 would have "
        f"rounded coordinates up to {largest:.9g} by {loss:.2g}"
    )
    return single, offset


def typed(values: np.ndarray, kind: np.dtype | str) -> np.ndarray:
    """Numbers of a text as the type that its header declares.

    Args:
        values: float64 (N,); floats stay as they are.

    Raises:
        PointFileError: one that is no whole number of a declared integer, or beyond its range.
    """
    kind = np.dtype(kind)
    if kind.kind == "f":
        return values
    limits = np.iinfo(kind)
    with np.errstate(invalid="ignore"):
        wrong = ~((np.floor(values) == values) & (values >= limits.min) & (values <= limits.max))
    if wrong.any():
        raise PointFileError(
            f"found {values[wrong.argmax()]:g}, wanted numbers of type {kind}, {limits.min}..{limits.max}"
        )
    return values.astype(kind)


def check_room(needed: int, stored: int, what: str) -> None:
    """Refuse what would unpack to far more bytes than the file holds, before memory is taken for it."""
    if needed > max(ROOM, GROWTH * stored):
        raise PointFileError(
            f"found {what} of {needed} bytes in a file of {stored}, wanted at most "
            f"{ROOM >> 20} MB, or {GROWTH} times the file"
        )


def text_of(data: bytes) -> str:
    """The text of a file; PointFileError names what is no text."""
    try:
        return decode_text(data)
    except ValueError:
        if b"\0" in data or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise PointFileError("found binary data, wanted text") from None
        return data.decode("latin-1")  # comments may be in any of the old encodings; numbers read the same


def filled_lines(data: bytes) -> list[str]:
    """The lines of a text file, without comments (`#`) and blank lines."""
    # At line ends only: str.splitlines would break at "\x85", half an "Å" in an old encoding, too.
    lines = (line.partition("#")[0].strip() for line in split_lines(text_of(data)) if line)
    return [line for line in lines if line]


def split_lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def parse_numbers(fields: Sequence[str], kind: type = float) -> list:
    """Numbers of text; unlike Python, `1_0` is none. Raises PointFileError."""
    try:
        if any("_" in field for field in fields):
            raise ValueError
        return [kind(field) for field in fields]
    except ValueError:
        found = " ".join(fields)[:60]
        raise PointFileError(f"found {found!r}, wanted {'whole ' * (kind is int)}numbers") from None


def _blocks(count: int) -> Iterable[slice]:
    return (slice(first, first + _BLOCK) for first in range(0, count, _BLOCK))


def _rows(array, name: str, count: int | None = None) -> np.ndarray:
    array = np.asarray(array)
    wanted = f"wanted numbers of shape ({'N' if count is None else count}, 3)"
    if array.dtype.kind not in "iuf":
        raise PointFileError(f"found {name} of type {array.dtype}, {wanted}")
    if array.ndim != 2 or array.shape[1] != 3 or count not in (None, len(array)):
        raise PointFileError(f"found {name} of shape {array.shape}, {wanted}")
    return array


def _finite(array: np.ndarray) -> np.ndarray:
    """Which rows (N,) are numbers."""
    return np.isfinite(array).all(axis=1)


def _finite_float32(array: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite and is counted here
        array = array.astype(np.float32)
    bad = np.flatnonzero(~_finite(array))
    if len(bad):
        raise PointFileError(
            f"found {len(bad)} of {len(array)} {name} that are NaN or infinite (the first in row {bad[0]}), "
            "wanted finite numbers, or drop_nan to leave them out"
        )
    return array


def _loss(points: np.ndarray, single: np.ndarray, offset: np.ndarray) -> float:
    """The largest error of a coordinate."""
    if points.dtype == np.float32 and not offset.any():
        return 0.0
    return max(
        float(np.abs(points[rows].astype(np.float64) - offset - single[rows]).max())
        for rows in _blocks(len(points))
    )


def _unit_normals(normals: np.ndarray) -> np.ndarray:
    unit = _finite_float32(normals, "normals")
    for rows in _blocks(len(unit)):
        block = unit[rows].astype(np.float64)
        length = np.linalg.norm(block, axis=1, keepdims=True)
        unit[rows] = block / np.where(length > 0, length, 1)
    return unit


def count_zero(vectors: np.ndarray) -> int:
    """How many rows have no other number than 0."""
    return len(vectors) - int(vectors.any(axis=1).sum())


def _unit_colors(colors: np.ndarray, notes: list[str]) -> np.ndarray:
    kind, colors = colors.dtype, _finite_float32(colors, "colors")
    low, high = colors.min(), colors.max()
    full = full_brightness(kind, high)
    if kind.kind == "f" and full == 65535 and (np.floor(colors) != colors).any():
        full = 255
    if low < 0 or high > full:
        raise PointFileError(f"found colors from {low:g} to {high:g}, wanted 0..1, 0..255 or 0..65535")
    if full > 1 if kind.kind == "f" else kind.itemsize > 1:
        notes.append(f"took the colors, of type {kind} and up to {high:g}, to be in 0..{full}")
    colors /= np.float32(full)
    return colors


def full_brightness(kind: np.dtype, most: float) -> int:
    """The number that is full brightness among colours of a type, the largest of which is `most`.

    Floats up to 1 are in 0..1, and one byte in its range. All else is in 0..255 as far as it reaches no
    further, and then in 0..65535; but where the type is not of 16 bits, a little beyond 255 is a mistake.
    """
    if kind.kind == "f" and most <= 1:
        return 1
    if kind.itemsize == 1:
        return int(np.iinfo(kind).max)
    wide = most > 255 if kind == np.uint16 else most > 1023
    return 65535 if wide else 255


def _whole_numbers(part: np.ndarray, count: int) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        whole = part.dtype.kind in "iuf" and ((np.floor(part) == part) & (abs(part) < 2.0**31)).all()
    if not whole or part.shape != (count,):
        raise PointFileError(f"found part {part.dtype} {part.shape}, wanted whole numbers ({count},)")
    return part.astype(np.int64)

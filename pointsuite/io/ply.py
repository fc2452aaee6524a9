"""PLY: ascii and binary, points or a mesh. The data must be exactly as long as the header says."""

import operator
import re
import struct
from array import array
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pointsuite.io.fields import by_name
from pointsuite.io.point_file import Arrays, PointFileError, parse_numbers, text_of, typed
from pointsuite.io.triangulate import check_count, triangulate

_CODES = {
    code: code_of
    for code_of, names in {
        "b": ("char", "int8"),
        "B": ("uchar", "uint8"),
        "h": ("short", "int16"),
        "H": ("ushort", "uint16"),
        "i": ("int", "int32"),
        "I": ("uint", "uint32"),
        "f": ("float", "float32"),
        "d": ("double", "float64"),
    }.items()
    for code in names
}  # PLY's names of the types to those of `struct` and numpy
_HEADER = 1 << 20  # bytes
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


class _Property(NamedTuple):
    name: str
    code: str
    length_code: str | None = None  # of a list: the type of its length


class _Element(NamedTuple):
    name: str
    count: int
    properties: list[_Property]


def read_ply(data: bytes) -> Arrays:
    """The vertices' points, normals, colors and part, called as in `pointsuite.io.fields`; and faces, as
    triangles: of polygons, strips (tristrips) and fans (trifans). Other elements are named in the notes."""
    order, elements, start = _header(data)
    source = _Binary(data, start, order) if order else _Ascii(data[start:])
    arrays, faces, notes, left = None, [], [], []
    for element in elements:
        if element.name == "vertex":
            arrays = _vertices(element, source)
        elif element.name in _SURFACES:
            if arrays is not None:
                check_count(element.count, len(arrays["points"]))
            faces.append((_SURFACES[element.name], *_faces(element, source)))
        else:
            source.lists(element)
            left += [element.name] * (element.count > 0)
    if source.at != source.size:
        raise PointFileError(
            f"found {source.size} {source.unit} after the header, wanted {source.at} by its counts"
        )
    if arrays is None:
        raise PointFileError(f"found the elements {[e.name for e in elements]}, wanted a vertex element")
    triangles = []
    for cut, sizes, corners in faces:
        found, more = triangulate(arrays["points"], *cut(sizes, corners))
        triangles.append(found)
        notes += more
    arrays["faces"] = np.concatenate(triangles) if triangles else np.empty((0, 3), np.int64)
    if left:
        notes.append(f"left out the elements {', '.join(left)}")
    arrays.notes += notes
    return arrays


def _header(data: bytes) -> tuple[str, list[_Element], int]:
    """The byte order ("" for ascii), the elements and where the data begins."""
    if not re.match(rb"ply[ \t]*\r?\n", data):
        raise PointFileError(f"found {data[:20]!r} as the first bytes, wanted a PLY header")
    end = re.compile(rb"^end_header[ \t]*\r?\n", re.MULTILINE).search(data, 0, _HEADER)
    if end is None:
        raise PointFileError("found no end of the PLY header, wanted a line end_header")
    order, elements = None, []
    for raw in data[: end.start()].splitlines()[1:]:
        line = raw.decode("latin-1")
        match line.split():
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", name, "1.0"] if name in _ORDERS and order is None:
                order = _ORDERS[name]
            case ["element", name, count] if count.isdecimal() and len(count) < 16:
                elements.append(_Element(name, int(count), []))
            case ["property", "list", length, kind, name] if elements and _CODES.get(length, "f") not in "fd":
                elements[-1].properties.append(_Property(name, _code(kind, line), _CODES[length]))
            case ["property", kind, name] if elements:
                elements[-1].properties.append(_Property(name, _code(kind, line)))
            case _:
                raise PointFileError(f"found the header line {line[:60]!r}, wanted PLY 1.0")
    if order is None:
        raise PointFileError("found no format line in the PLY header, wanted ascii or binary")
    for what, names in [
        ("elements", elements),
        *((f"properties of {e.name}", e.properties) for e in elements),
    ]:
        names = [each.name for each in names]
        if len(set(names)) < len(names):
            raise PointFileError(f"found the {what} {names[:20]}, wanted none nor a name twice")
    return order, elements, end.end()


def _code(kind: str, line: str) -> str:
    if kind not in _CODES:
        raise PointFileError(f"found the header line {line[:60]!r}, wanted a type of {sorted(_CODES)}")
    return _CODES[kind]


class _Binary:
    """The bytes behind the header, and how far they were read; an ascii file's numbers look the same."""

    unit = "bytes"

    def __init__(self, data: bytes, start: int, order: str):
        self.data, self.order, self.at = memoryview(data)[start:], order, 0
        self.size = len(self.data)

    def width(self, code: str) -> int:
        return struct.calcsize(code)

    def table(self, codes: list[str], count: int) -> list[np.ndarray]:
        """Columns of these types."""
        row = np.dtype([(str(i), self.order + code) for i, code in enumerate(codes)])
        table = np.frombuffer(self.data, row, count, self.advance(row.itemsize * count))
        return [table[name] for name in row.names]

    def advance(self, size: int) -> int:
        """Where the next `size` bytes begin."""
        start, self.at = self.at, self.at + size
        if self.at > self.size:
            raise PointFileError(
                f"found {self.size} {self.unit} after the header, wanted at least {self.at} by its counts"
            )
        return start

    def lists(self, element: _Element, wanted: str | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """Pass over the rows of an element; of its list `wanted` the lengths and the numbers in a row."""
        codes = [code for p in element.properties for code in (p.length_code, p.code) if code]
        if not codes:
            raise PointFileError(f"found no properties of the element {element.name}, wanted some")
        least = sum(self.width(p.length_code or p.code) for p in element.properties)
        start = self.advance(least * element.count)  # no file is shorter than without anything in its lists
        if not any(p.length_code for p in element.properties) or not element.count:
            return (np.empty(0, np.int64),) * 2
        self.at = start
        return self._equal_lists(element, wanted) or self._any_lists(element, wanted)

    def _equal_lists(self, element: _Element, wanted: str | None) -> tuple[np.ndarray, np.ndarray] | None:
        """Where all rows are as long as the first: at once."""
        fields, at, place = [], self.at, None
        for p in element.properties:
            length = 1
            if p.length_code:
                if at + self.width(p.length_code) > self.size:
                    return None
                length = self._length(self._reader(p.length_code)(self.data, at))
                fields.append((f"n{len(fields)}", p.length_code, 1, length))
                at += self.width(p.length_code)
            if p.name == wanted:
                place = len(fields)
            fields.append((f"v{len(fields)}", p.code, length, None))
            at += length * self.width(p.code)
        rows = self._rows(fields, element.count)
        if rows is None:
            return None
        for name, _, _, length in fields:
            if length is not None and (rows[name] != length).any():
                return None
        self.advance((at - self.at) * element.count)
        if place is None:
            return (np.empty(0, np.int64),) * 2
        values = rows[fields[place][0]]
        return np.full(element.count, values.shape[1]), values.reshape(-1)

    def _rows(self, fields: list[tuple], count: int):
        row = np.dtype(
            [(name, self.order + code, (n,) if name[0] == "v" else ()) for name, code, n, _ in fields]
        )
        fits = row.itemsize * count <= self.size - self.at
        return np.frombuffer(self.data, row, count, self.at) if fits else None

    def _any_lists(self, element: _Element, wanted: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Row by row."""
        lengths, values = array("q"), self._buffer()
        steps = [(p, self._reader(p.length_code), self.width(p.code)) for p in element.properties]
        at, length = self.at, 1
        for _ in range(element.count):
            for p, read, width in steps:
                if read is not None:
                    start, at = at, at + self.width(p.length_code)
                    if at > self.size:
                        break
                    length = self._length(read(self.data, start))
                stop = at + (width if read is None else length * width)
                if p.name == wanted:
                    lengths.append(length)
                    values += self.data[at:stop]
                at = stop
            if at > self.size:
                break
        self.advance(at - self.at)
        kind = next((p.code for p in element.properties if p.name == wanted), "i")
        return np.asarray(lengths), self._typed(values, kind)

    def _buffer(self) -> bytearray | array:
        return bytearray()

    def _reader(self, code: str | None) -> Callable | None:
        """What reads one number of this type: (data, place) -> number."""
        if code is None:
            return None
        unpack = struct.Struct((self.order or "<") + code).unpack_from
        return lambda data, at: unpack(data, at)[0]

    def _typed(self, values: bytearray, code: str) -> np.ndarray:
        return np.frombuffer(values, self.order + code)

    @staticmethod
    def _length(number: float) -> int:
        if not (number >= 0 and number % 1 == 0):
            raise PointFileError(f"found a list of {number:g} numbers, wanted 0 or more")
        return int(number)


class _Ascii(_Binary):
    """All numbers of the text, each of width 1."""

    unit = "numbers"

    def __init__(self, data: bytes):
        fields = text_of(data).split()
        values = array("d")
        for first in range(0, len(fields), 3):
            values.extend(parse_numbers(fields[first : first + 3]))
        self.data, self.at, self.size = values, 0, len(values)

    def width(self, code: str) -> int:
        return 1

    def table(self, codes: list[str], count: int) -> list[np.ndarray]:
        start = self.advance(count * len(codes))
        table = np.asarray(self.data)[start : self.at].reshape(count, len(codes))
        return [typed(column, code) for column, code in zip(table.T, codes, strict=True)]

    def _buffer(self) -> bytearray | array:
        return array("d")

    def _reader(self, code: str | None) -> Callable | None:
        return None if code is None else operator.getitem

    def _typed(self, values: array, code: str) -> np.ndarray:
        return typed(np.asarray(values), code)

    def _rows(self, fields: list[tuple], count: int) -> dict[str, np.ndarray] | None:
        width = sum(n for _, _, n, _ in fields)
        if width * count > self.size - self.at:
            return None
        table = np.asarray(self.data)[self.at : self.at + width * count].reshape(count, width)
        rows, first = {}, 0
        for name, code, n, _ in fields:
            column = table[:, first : first + n]
            rows[name] = typed(column.reshape(-1), code).reshape(count, n) if name[0] == "v" else column[:, 0]
            first += n
        return rows


def _vertices(element: _Element, source: _Binary) -> Arrays:
    names = [p.name for p in element.properties]
    if any(p.length_code for p in element.properties):
        raise PointFileError(f"found the vertex properties {names[:20]}, wanted x, y, z and no lists")
    if not names:
        raise PointFileError("found no properties of the element vertex, wanted x, y and z")
    columns = source.table([p.code for p in element.properties], element.count)
    return by_name(names, columns, "vertex properties")


def _faces(element: _Element, source: _Binary) -> tuple[np.ndarray, np.ndarray]:
    """The lengths of the lists of vertices, and these in a row."""
    for p in element.properties:
        if p.name in ("vertex_indices", "vertex_index") and p.length_code and p.code not in "fd":
            return source.lists(element, p.name)
    names = [p.name for p in element.properties]
    raise PointFileError(f"found the face properties {names}, wanted a list vertex_indices of whole numbers")


def _polygons(sizes: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return sizes, corners


def _strips(sizes: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each corner from the third on makes a triangle with the two before it; every other one is turned."""
    ends, run, along = _runs(sizes, corners)
    a, b, c = (ends[i : len(ends) - 2 + i] for i in range(3))
    kept = (a >= 0) & (b >= 0) & (c >= 0)
    odd = along[: len(kept)] % 2 == 1
    triangles = np.stack([np.where(odd, b, a), np.where(odd, a, b), c], axis=1)
    return _distinct(triangles[kept])


def _fans(sizes: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each corner from the third on makes a triangle with the first and the one before it."""
    ends, run, along = _runs(sizes, corners)
    kept = (ends[1:] >= 0) & (ends[:-1] >= 0) & (along[:-1] > 0)
    triangles = np.stack([ends[run[:-1]], ends[:-1], ends[1:]], axis=1)
    return _distinct(triangles[kept])


def _runs(sizes: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lists with a -1 after each, where the run of each entry begins, and how far along that it is."""
    if (corners < -1).any():
        raise PointFileError(
            f"found the vertex {corners.min()} in a strip, wanted -1 between strips or a vertex"
        )
    ends = np.insert(corners.astype(np.int64), np.cumsum(sizes), -1)
    place = np.arange(len(ends))
    begins = np.r_[True, ends[:-1] < 0] if len(ends) else np.zeros(0, bool)
    run = np.maximum.accumulate(np.where(begins, place, 0))
    return ends, run, place - run


def _distinct(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without those that repeat a corner, which only lead from one strip to the next."""
    a, b, c = triangles.T
    triangles = triangles[(a != b) & (b != c) & (c != a)]
    return np.full(len(triangles), 3), triangles.reshape(-1)


_SURFACES = {"face": _polygons, "tristrips": _strips, "tristrip": _strips, "trifans": _fans, "trifan": _fans}

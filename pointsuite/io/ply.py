"""PLY: ascii and binary, points or a mesh. The data must be exactly as long as the header says."""

import struct
from typing import NamedTuple

import numpy as np

from pointsuite.io.mesh import triangles
from pointsuite.io.point_file import PointFileError

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
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


class _Property(NamedTuple):
    name: str
    code: str
    length_code: str | None = None  # of a list: the type of its length


class _Element(NamedTuple):
    name: str
    count: int
    properties: list[_Property]


def read_ply(data: bytes) -> dict[str, np.ndarray]:
    """Points, normals, colors and part of the vertices (where they have them) and the faces as triangles."""
    order, elements, start = _header(data)
    source = _Binary(data[start:], order) if order else _Ascii(data[start:])
    mesh, polygons = None, []
    for element in elements:
        if element.name == "vertex":
            mesh = _vertices(element, source)
        elif element.name == "face":
            polygons = _polygons(element, source)
        else:
            _rows(element, source)
    if source.at != source.size:
        raise PointFileError(
            f"found {source.size} {source.unit} after the header, wanted {source.at} by its counts"
        )
    if mesh is None:
        raise PointFileError(f"found the elements {[e.name for e in elements]}, wanted a vertex element")
    return mesh | {"faces": triangles(polygons, len(mesh["points"]))}


def _header(data: bytes) -> tuple[str, list[_Element], int]:
    """The byte order ("" for ascii), the elements and where the data begins."""
    if not data.startswith(b"ply"):
        raise PointFileError(f"found {data[:20]!r} as the first bytes, wanted a PLY header")
    stop = data.find(b"end_header")
    start = data.find(b"\n", stop) + 1
    if stop < 0 or start == 0:
        raise PointFileError("found no end of the PLY header, wanted a line end_header")
    order, elements = None, []
    for raw in data[:stop].splitlines()[1:]:
        line = raw.decode("latin-1")
        match line.split():
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", name, "1.0"] if name in _ORDERS:
                order = _ORDERS[name]
            case ["element", name, count] if count.isdecimal():
                elements.append(_Element(name, int(count), []))
            case ["property", "list", length, kind, name] if elements and _CODES.get(length, "f") not in "fd":
                elements[-1].properties.append(_Property(name, _code(kind, line), _CODES[length]))
            case ["property", kind, name] if elements:
                elements[-1].properties.append(_Property(name, _code(kind, line)))
            case _:
                raise PointFileError(f"found the header line {line[:60]!r}, wanted PLY 1.0")
    if order is None:
        raise PointFileError("found no format line in the PLY header, wanted ascii or binary")
    return order, elements, start


def _code(kind: str, line: str) -> str:
    if kind not in _CODES:
        raise PointFileError(f"found the header line {line[:60]!r}, wanted a type of {sorted(_CODES)}")
    return _CODES[kind]


class _Binary:
    unit = "bytes"

    def __init__(self, data: bytes, order: str):
        self.data, self.order, self.at, self.size = data, order, 0, len(data)

    def take(self, code: str, count: int) -> tuple:
        layout = f"{self.order}{count}{code}"
        return struct.unpack_from(layout, self.data, self._advance(struct.calcsize(layout)))

    def columns(self, codes: list[str], count: int) -> list[np.ndarray]:
        row = np.dtype([(str(i), self.order + code) for i, code in enumerate(codes)])
        table = np.frombuffer(self.data, row, count, self._advance(row.itemsize * count))
        return [table[name] for name in row.names]

    def _advance(self, size: int) -> int:
        start, self.at = self.at, self.at + size
        if self.at > self.size:
            raise PointFileError(
                f"found {self.size} {self.unit} after the header, wanted at least {self.at} by its counts"
            )
        return start


class _Ascii(_Binary):
    unit = "numbers"

    def __init__(self, data: bytes):
        self.data = data.split()
        self.at, self.size = 0, len(self.data)

    def take(self, code: str, count: int) -> list:
        start = self._advance(count)
        fields = self.data[start : start + count]
        try:
            return [float(field) if code in "fd" else int(field) for field in fields]
        except ValueError:
            raise PointFileError(f"found {b' '.join(fields)[:60]!r}, wanted {count} numbers") from None

    def columns(self, codes: list[str], count: int) -> list[np.ndarray]:
        table = np.array(self.take("d", count * len(codes)), np.float64)
        return list(table.reshape(count, len(codes)).T)


def _vertices(element: _Element, source: _Binary) -> dict[str, np.ndarray]:
    names = [p.name for p in element.properties]
    codes = {p.name: p.code for p in element.properties if not p.length_code}
    if len(codes) < len(names) or not codes.keys() >= set("xyz"):
        raise PointFileError(
            f"found the vertex properties {names}, wanted x, y, z and no lists nor a name twice"
        )
    columns = dict(zip(names, source.columns(list(codes.values()), element.count), strict=True))
    arrays = {"points": np.stack([columns[name] for name in "xyz"], axis=1)}
    if columns.keys() >= {"nx", "ny", "nz"}:
        arrays["normals"] = np.stack([columns[name] for name in ("nx", "ny", "nz")], axis=1)
    rgb = ("red", "green", "blue")
    if columns.keys() >= set(rgb):
        colors = np.stack([columns[name] for name in rgb], axis=1).astype(np.float64)
        # Whole numbers say by their type what full brightness is, also in an ascii file.
        arrays["colors"] = colors / (1 if codes["red"] in "fd" else np.iinfo(codes["red"]).max)
    for name in {"part", "label"} & columns.keys():
        arrays["part"] = columns[name]
    return arrays


def _polygons(element: _Element, source: _Binary) -> list:
    for i, (name, code, length_code) in enumerate(element.properties):
        if name in ("vertex_indices", "vertex_index") and length_code and code not in "fd":
            return [row[i] for row in _rows(element, source)]
    names = [p.name for p in element.properties]
    raise PointFileError(f"found the face properties {names}, wanted a list vertex_indices of whole numbers")


def _rows(element: _Element, source: _Binary) -> list[list]:
    """For each row the values of each property: a sequence, of one number where the property is no list."""
    if not element.properties:
        raise PointFileError(f"found no properties of the element {element.name}, wanted some")
    rows = []
    for _ in range(element.count):
        row = []
        for _, code, length_code in element.properties:
            length = source.take(length_code, 1)[0] if length_code else 1
            if length < 0:
                raise PointFileError(f"found a list of {length} numbers, wanted 0 or more")
            row.append(source.take(code, length))
        rows.append(row)
    return rows

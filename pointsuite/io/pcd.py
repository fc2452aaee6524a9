"""PCD, the Point Cloud Library's format: ascii, binary and binary_compressed."""

import struct
from array import array

import numpy as np

from pointsuite.io.fields import by_name
from pointsuite.io.point_file import Arrays, PointFileError, check_room, filled_lines, parse_numbers, typed

_KEYWORDS = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_LINE = 1 << 16  # bytes that a line of the header may have, or a point
_TYPES = {"F4", "F8", "U1", "U2", "U4", "U8", "I1", "I2", "I4", "I8"}


def read_pcd(data: bytes) -> Arrays:
    """Points, and normals, colors (also packed: rgb, rgba) and part, called as in `pointsuite.io.fields`."""
    header, start = _header(data)
    names, row, count = _layout(header)
    columns, notes = _READERS[header["DATA"][0]](data[start:], row, count)
    packed = next((name for name in ("rgb", "rgba") if name in names), None)
    if packed is not None:
        at = names.index(packed)
        kind = row[at].base
        if kind.itemsize != 4:
            raise PointFileError(f"found {packed} of {kind.itemsize} bytes, wanted 4")
        value = columns[at].astype(kind).view(np.uint32)  # 0xAARRGGBB, whatever the type
        # first among the names, so that they go before columns that are called r, g and b
        columns = [(value >> shift & 255).astype(np.uint8) for shift in (16, 8, 0)] + columns
        names = ["red", "green", "blue", *names[:at], "_", *names[at + 1 :]]
    arrays = by_name(names, columns, "fields")
    arrays.notes = notes + arrays.notes
    return arrays


def _header(data: bytes) -> tuple[dict[str, list[str]], int]:
    """The header's values by keyword, and where the data begins."""
    header, start = {}, 0
    while "DATA" not in header:
        stop = data.find(b"\n", start, start + _LINE)
        line = data[start : stop if stop >= 0 else start + _LINE].decode("latin-1")
        keyword, *values = line.partition("#")[0].split() or [""]
        keyword = "FIELDS" if keyword == "COLUMNS" else keyword  # as versions before 0.7 have it
        if stop < 0 or (keyword and (keyword not in _KEYWORDS or not values)):
            raise PointFileError(
                f"found the header line {line[:30]!r}, wanted one that begins with {' '.join(_KEYWORDS)}"
            )
        if keyword and keyword in header:
            raise PointFileError(f"found {keyword} twice in the PCD header, wanted it once")
        header[keyword] = values
        start = stop + 1
    missing = [k for k in ("FIELDS", "SIZE", "TYPE", "WIDTH", "HEIGHT", "POINTS") if k not in header]
    if missing:
        raise PointFileError(f"found no {' or '.join(missing)} in the PCD header, wanted each")
    if header["DATA"][0] not in _READERS:
        raise PointFileError(f"found DATA {header['DATA'][0][:30]}, wanted {', '.join(_READERS)}")
    return header, start


def _layout(header: dict[str, list[str]]) -> tuple[list[str], np.dtype, int]:
    """The fields' names, the type of a row (its fields named by position: `_` may occur twice), the rows."""
    names, kinds, sizes = header["FIELDS"], header["TYPE"], _counts(header, "SIZE")
    counts = _counts(header, "COUNT") if "COUNT" in header else [1] * len(names)
    width, height, count = (_counts(header, key)[0] for key in ("WIDTH", "HEIGHT", "POINTS"))
    if width * height != count:
        raise PointFileError(f"found WIDTH {width} x HEIGHT {height}, POINTS {count}, wanted them to agree")
    types = [f"{kind}{size}" for kind, size in zip(kinds, sizes, strict=False)]
    if not len(names) == len(kinds) == len(sizes) == len(counts) or not set(types) <= _TYPES or 0 in counts:
        raise PointFileError(
            f"found FIELDS {names}, SIZE {sizes}, TYPE {kinds}, COUNT {counts}, wanted a count and "
            f"one of {' '.join(sorted(_TYPES))} a field"
        )
    if sum(size * n for size, n in zip(sizes, counts, strict=True)) > _LINE:
        raise PointFileError(f"found SIZE {sizes}, COUNT {counts}, wanted at most {_LINE} bytes a point")
    fields = [(str(i), f"<{t.lower()}", (n,)) for i, (t, n) in enumerate(zip(types, counts, strict=True))]
    return names, np.dtype(fields), count


def _counts(header: dict[str, list[str]], key: str) -> list[int]:
    if not all(value.isdecimal() and len(value) < 10 for value in header[key]):
        raise PointFileError(f"found {key} {' '.join(header[key])[:60]}, wanted whole numbers below 10^9")
    return [int(value) for value in header[key]]


def _ascii(data: bytes, row: np.dtype, count: int) -> tuple[list[np.ndarray], list[str]]:
    widths = [row[name].shape[0] for name in row.names]
    lines = filled_lines(data)
    if len(lines) != count:
        raise PointFileError(f"found {len(lines)} lines of data, wanted {count} by the header")
    numbers = array("d")
    for line in lines:
        fields = line.split()
        if len(fields) != sum(widths):
            raise PointFileError(f"found the line {line[:60]!r}, wanted {sum(widths)} numbers")
        numbers.extend(parse_numbers(fields))
    table = np.array(numbers, np.float64).reshape(-1, sum(widths))
    columns = []
    for name, first in zip(row.names, np.cumsum([0, *widths]), strict=False):
        columns.append(typed(table[:, first], row[name].base))
    return columns, []


def _binary(data: bytes, row: np.dtype, count: int) -> tuple[list[np.ndarray], list[str]]:
    size = count * row.itemsize
    padding = len(data) - size
    if padding < 0 or data[size:].strip(b"\0\r\n "):
        raise PointFileError(
            f"found {len(data)} bytes of data, wanted {count} x {row.itemsize} by the header"
        )
    table = np.frombuffer(data, row, count)
    return [table[name][:, 0] for name in row.names], _left(padding)


def _binary_compressed(data: bytes, row: np.dtype, count: int) -> tuple[list[np.ndarray], list[str]]:
    packed, full = struct.unpack_from("<II", data) if len(data) >= 8 else (0, 0)
    if len(data) < 8 + packed or full != count * row.itemsize:
        raise PointFileError(
            f"found {len(data)} bytes that announce {packed} packed and {full} unpacked bytes, "
            f"wanted 8 + {packed} bytes and {count} x {row.itemsize} unpacked by the header"
        )
    check_room(full, len(data), "points")
    raw = data[8 : 8 + packed]
    if packed != full:  # what does not get smaller is stored as it is
        raw = _lzf_decompress(raw, full)
    columns, start = [], 0
    for name in row.names:  # unlike in a binary file, all values of a field lie together
        values = np.frombuffer(raw, row[name].base, count * row[name].shape[0], start)
        columns.append(values.reshape(count, -1)[:, 0])
        start += values.nbytes
    return columns, _left(len(data) - 8 - packed)


def _left(padding: int) -> list[str]:
    return [f"left out {padding} bytes after the data"] if padding else []


def _lzf_decompress(data: bytes, size: int) -> bytes:
    """LZF (Marc Lehmann): runs of literal bytes, and references to what is already unpacked."""
    out, at = bytearray(), 0
    try:
        while at < len(data):
            control, at = data[at], at + 1
            if control < 32:
                out += data[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length, at = length + data[at], at + 1
            length += 2
            first = len(out) - ((control & 31) << 8) - data[at] - 1
            at += 1
            if first < 0:
                raise IndexError
            piece = out[first : first + length]
            out += (piece * (length // len(piece) + 1))[:length]  # a reference may run into what it writes
            if len(out) > size:
                break
    except IndexError:
        out.clear()
    if len(out) != size or at != len(data):
        raise PointFileError(f"found damaged compressed data, wanted {len(data)} bytes that unpack to {size}")
    return bytes(out)


_READERS = {"ascii": _ascii, "binary": _binary, "binary_compressed": _binary_compressed}

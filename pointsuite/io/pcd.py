"""PCD, the Point Cloud Library's format: ascii, binary and binary_compressed."""

import struct

import numpy as np

from pointsuite.io.point_file import PointFileError

_KEYWORDS = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_TYPES = {"F4", "F8", "U1", "U2", "U4", "U8", "I1", "I2", "I4", "I8"}


def read_pcd(data: bytes) -> dict[str, np.ndarray]:
    """Points, and normals, colors (a packed rgb or rgba) and part (label) where the file has them."""
    header, start = _header(data)
    names, row, count = _layout(header)
    columns = _READERS[header["DATA"][0]](data[start:], row, count)
    columns = dict(zip(names, columns, strict=True))
    if not columns.keys() >= set("xyz"):
        raise PointFileError(f"found the fields {names}, wanted x, y and z")
    arrays = {"points": np.stack([columns[name] for name in "xyz"], axis=1)}
    normal = ("normal_x", "normal_y", "normal_z")
    if columns.keys() >= set(normal):
        arrays["normals"] = np.stack([columns[name] for name in normal], axis=1)
    for name in {"rgb", "rgba"} & columns.keys():
        if columns[name].itemsize != 4:
            raise PointFileError(f"found {name} of {columns[name].itemsize} bytes, wanted 4")
        packed = columns[name].copy().view(np.uint32)  # 0xAARRGGBB, whatever the type
        arrays["colors"] = np.stack([packed >> shift & 255 for shift in (16, 8, 0)], axis=1).astype(np.uint8)
    if "label" in columns:
        arrays["part"] = columns["label"]
    return arrays


def _header(data: bytes) -> tuple[dict[str, list[str]], int]:
    """The header's values by keyword, and where the data begins."""
    header, start = {}, 0
    while "DATA" not in header:
        stop = data.find(b"\n", start)
        line = data[start : stop if stop >= 0 else len(data)].decode("latin-1")
        keyword, *values = line.partition("#")[0].split() or [""]
        if stop < 0 or (keyword and (keyword not in _KEYWORDS or not values)):
            raise PointFileError(
                f"found the header line {line[:30]!r}, wanted one that begins with {' '.join(_KEYWORDS)}"
            )
        header[keyword] = values
        start = stop + 1
    missing = [k for k in ("FIELDS", "SIZE", "TYPE", "WIDTH", "HEIGHT", "POINTS") if k not in header]
    if missing:
        raise PointFileError(f"found no {' or '.join(missing)} in the PCD header, wanted each")
    if header["DATA"][0] not in _READERS:
        raise PointFileError(f"found DATA {header['DATA'][0]}, wanted {', '.join(_READERS)}")
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
    fields = [(str(i), f"<{t.lower()}", (n,)) for i, (t, n) in enumerate(zip(types, counts, strict=True))]
    return names, np.dtype(fields), count


def _counts(header: dict[str, list[str]], key: str) -> list[int]:
    if not all(value.isdecimal() and len(value) < 10 for value in header[key]):
        raise PointFileError(f"found {key} {' '.join(header[key])[:60]}, wanted whole numbers below 10^9")
    return [int(value) for value in header[key]]


def _ascii(data: bytes, row: np.dtype, count: int) -> list[np.ndarray]:
    widths = [row[name].shape[0] for name in row.names]
    lines = [fields for line in data.splitlines() if (fields := line.split())]
    if len(lines) != count:
        raise PointFileError(f"found {len(lines)} lines of data, wanted {count} by the header")
    wrong = next((line for line in lines if len(line) != sum(widths)), None)
    if wrong is not None:
        raise PointFileError(f"found the line {b' '.join(wrong)[:60]!r}, wanted {sum(widths)} numbers")
    columns = []
    for name, first in zip(row.names, np.cumsum([0, *widths]), strict=False):
        kind = row[name].base
        number = float if kind.kind == "f" else int
        try:
            with np.errstate(over="ignore"):  # becomes infinite, which is refused later
                columns.append(np.array([number(line[first]) for line in lines], kind))
        except (ValueError, OverflowError) as error:
            raise PointFileError(f"found {error}, wanted numbers of type {kind}") from None
    return columns


def _binary(data: bytes, row: np.dtype, count: int) -> list[np.ndarray]:
    if len(data) != count * row.itemsize:
        raise PointFileError(
            f"found {len(data)} bytes of data, wanted {count} x {row.itemsize} by the header"
        )
    table = np.frombuffer(data, row)
    return [table[name][:, 0] for name in row.names]


def _binary_compressed(data: bytes, row: np.dtype, count: int) -> list[np.ndarray]:
    packed, full = struct.unpack_from("<II", data) if len(data) >= 8 else (0, 0)
    if len(data) != 8 + packed or full != count * row.itemsize:
        raise PointFileError(
            f"found {len(data)} bytes that announce {packed} packed and {full} unpacked bytes, "
            f"wanted 8 + {packed} bytes and {count} x {row.itemsize} unpacked by the header"
        )
    raw = _lzf_decompress(data[8:], full)
    columns, start = [], 0
    for name in row.names:  # unlike in a binary file, all values of a field lie together
        values = np.frombuffer(raw, row[name].base, count * row[name].shape[0], start)
        columns.append(values.reshape(count, -1)[:, 0])
        start += values.nbytes
    return columns


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
    except IndexError:
        out.clear()
    if len(out) != size or at != len(data):
        raise PointFileError(f"found damaged compressed data, wanted {len(data)} bytes that unpack to {size}")
    return bytes(out)


_READERS = {"ascii": _ascii, "binary": _binary, "binary_compressed": _binary_compressed}

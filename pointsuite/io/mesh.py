"""Meshes: OFF and OBJ files, and points drawn uniformly from a surface."""

import re
from array import array

import numpy as np

from pointsuite.io.point_file import Arrays, PointFileError, filled_lines, parse_numbers
from pointsuite.io.triangulate import check_count, triangulate, vector_areas

_KEYWORD = re.compile(r"((?:ST|C|N)*)(4?n?)OFF(?![A-Za-z])")
_BLOCK = 1 << 18  # triangles that are measured at once
_CORNER = re.compile(r"(-?\d+)(/-?\d*(/-?\d+)?)?")
# of OBJ files, beside v, vn and f: they do not move the surface
# fmt: off
_IGNORED = {
    "vt", "vp", "g", "o", "s", "mg", "p", "l", "usemtl", "mtllib", "usemap", "maplib", "bevel", "c_interp",
    "d_interp", "lod", "shadow_obj", "trace_obj", "call", "csh", "cstype", "deg", "bmat", "step", "curv",
    "curv2", "surf", "parm", "trim", "hole", "scrv", "sp", "end", "con", "ctech", "stech",
}
# fmt: on


def read_off(data: bytes) -> Arrays:
    """Object File Format, also with the counts glued to the keyword, as in many files of ModelNet40.

    NOFF and COFF: a normal, then a colour of 3 or 4 numbers, behind the coordinates; STOFF: 2 more.
    """
    lines = filled_lines(data)
    keyword = _KEYWORD.match(lines[0]) if lines else None
    if keyword is None:
        raise PointFileError(f"found {_quote(lines)} as the first line, wanted OFF")
    if keyword[2]:
        raise PointFileError(f"found {keyword[0]}, wanted OFF of three dimensions")
    rest = lines[0][keyword.end() :].strip()
    lines = [rest, *lines[1:]] if rest else lines[1:]
    fields = lines[0].split() if lines else []
    counts = parse_numbers(fields, int)
    if len(counts) not in (2, 3) or min(counts) < 0:
        raise PointFileError(f"found {_quote(lines)} after OFF, wanted the counts of vertices and faces")
    num_vertices, num_faces = counts[:2]
    if len(lines) - 1 != num_vertices + num_faces:
        raise PointFileError(
            f"found {len(lines) - 1} lines of data, wanted {num_vertices} vertices + {num_faces} faces"
        )
    check_count(num_faces, num_vertices)
    behind = [name for letter, name in (("N", "normals"), ("C", "colors")) if letter in keyword[1]]
    arrays = _off_vertices(lines[1 : 1 + num_vertices], behind, 2 if "ST" in keyword[1] else 0)
    sizes, corners = array("q"), array("q")
    for line in lines[1 + num_vertices :]:
        fields = line.split()
        (count,) = parse_numbers(fields[:1], int)
        colour = len(fields) - 1 - count
        if not 0 <= count < len(fields) or colour > 4:
            raise PointFileError(f"found the face {line[:60]!r}, wanted a count and that many vertex indices")
        sizes.append(count)
        corners.extend(_indices(fields[1 : 1 + count]))
        parse_numbers(fields[1 + count :])
    return _with_faces(arrays, sizes, corners)


def _off_vertices(lines: list[str], names: list[str], more: int) -> Arrays:
    """`names` are of what follows the coordinates; `more`, of how many numbers go unused at the end."""
    least = 3 + 3 * len(names) + more
    width = len(lines[0].split()) if lines and "colors" in names else least
    if width not in (least, least + 1):  # with an alpha
        width = least
    table = _table(lines, width, "3 coordinates" if width == 3 else f"{width} numbers")
    arrays = Arrays(points=table[:, :3])
    for i, name in enumerate(names):
        arrays[name] = table[:, 3 + 3 * i : 6 + 3 * i]
    return arrays


def read_obj(data: bytes) -> Arrays:
    """Wavefront OBJ: `v`, `f`, and for a cloud `vn`; other statements do not move the surface."""
    points, colors, normals = array("d"), array("d"), array("d")
    sizes, corners = array("q"), array("q")
    for line in filled_lines(data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")):
        keyword, *fields = line.split()
        if keyword == "v":
            if len(fields) not in (3, 4, 6, 7):
                raise PointFileError(f"found the vertex {' '.join(fields)[:60]!r}, wanted 3 coordinates")
            numbers = parse_numbers(fields)
            points.extend(numbers[:3])
            if len(fields) > 4:
                colors.extend(numbers[3:6])
        elif keyword == "vn":
            if len(fields) != 3:
                raise PointFileError(f"found the normal {' '.join(fields)[:60]!r}, wanted 3 numbers")
            normals.extend(parse_numbers(fields))
        elif keyword == "f":
            count = len(points) // 3
            if len(fields) < 3:
                raise PointFileError(f"found the face {line[:60]!r}, wanted 3 corners or more")
            if "/" in line:
                if not all(map(_CORNER.fullmatch, fields)):
                    raise PointFileError(f"found {line[:60]!r}, wanted whole numbers, as in f 1/1 2/2 3/3")
                fields = [field.partition("/")[0] for field in fields]
            # Indices count from 1, negative ones back from the last vertex so far; 0 is no vertex.
            numbers = _indices(fields)
            sizes.append(len(numbers))
            corners.extend(i - 1 if i > 0 else count + i if i < 0 else -1 for i in numbers)
        elif keyword not in _IGNORED:
            raise PointFileError(f"found the line {line[:60]!r}, wanted one of v, vn, vt, f, ...")
    arrays = Arrays(points=_three(points))
    if colors:
        if len(colors) != len(points):
            found = f"{len(colors) // 3} colors of {len(points) // 3} vertices"
            raise PointFileError(f"found {found}, wanted one of each, or none")
        arrays["colors"] = _three(colors)
    if normals and not sizes:
        if len(normals) == len(points):
            arrays["normals"] = _three(normals)
        else:
            found = f"{len(normals) // 3} normals (vn), as there are {len(points) // 3} vertices and no faces"
            arrays.notes.append(f"left out {found}")
    return _with_faces(arrays, sizes, corners)


def sample_surface(vertices, faces, num_points: int, seed: int = 0, colors=None) -> dict[str, np.ndarray]:
    """`num_points` points, uniform by area, with the normals of their triangles.

    Args: vertices (V, 3); faces int (T, 3), counter-clockwise seen from outside; colors optional (V, 3).
    Returns points and normals (num_points, 3) float64, colors where given; the same for the same seed.
    Raises PointFileError where the surface has no area.
    """
    vertices = np.asarray(vertices, np.float64)
    area = np.concatenate(
        [
            np.linalg.norm(vector_areas(vertices, faces[i : i + _BLOCK]), axis=1)
            for i in range(0, len(faces), _BLOCK)
        ]
    )
    if not area.sum() > 0:
        raise PointFileError(f"found {len(faces)} triangles of area 0, wanted a surface to sample")
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(faces), num_points, p=area / area.sum())
    root, along = np.sqrt(rng.random(num_points)), rng.random(num_points)
    weight = np.stack([1 - root, root * (1 - along), root * along], axis=1)  # barycentric, uniform
    sampled = {
        "points": np.einsum("nk,nkd->nd", weight, vertices[faces[chosen]]),
        "normals": vector_areas(vertices, faces[chosen]) / area[chosen, None],
    }
    if colors is not None:
        sampled["colors"] = np.einsum("nk,nkd->nd", weight, np.asarray(colors, np.float64)[faces[chosen]])
    return sampled


def _with_faces(arrays: Arrays, sizes: array, corners: array) -> Arrays:
    arrays["faces"], notes = triangulate(arrays["points"], sizes, corners)
    arrays.notes.extend(notes)
    return arrays


def _three(numbers: array) -> np.ndarray:
    return np.array(numbers, np.float64).reshape(-1, 3)


def _table(lines: list[str], width: int, wanted: str) -> np.ndarray:
    numbers = array("d")
    for line in lines:
        fields = line.split()
        if len(fields) != width:
            raise PointFileError(f"found the vertex {line[:60]!r}, wanted {wanted}")
        numbers.extend(parse_numbers(fields))
    return np.array(numbers, np.float64).reshape(-1, width)


def _indices(fields: list[str]) -> list[int]:
    """Whole numbers; what no file has as many vertices as is cut to a number that none has."""
    most = 2**62
    return [max(-most, min(i, most)) for i in parse_numbers(fields, int)]


def _quote(lines: list[str]) -> str:
    return repr(lines[0][:40]) if lines else "nothing"

"""Meshes: OFF and OBJ files, and points drawn uniformly from a surface."""

import re

import numpy as np

from pointsuite.io.point_file import PointFileError, filled_lines


def read_off(data: bytes) -> dict[str, np.ndarray]:
    """Object File Format, also with the counts glued to the keyword, as in many files of ModelNet40."""
    lines = filled_lines(data)
    keyword = re.match(r"(ST|C|N)*OFF", lines[0]) if lines else None
    if keyword is None:
        raise PointFileError(f"found {_quote(lines)} as the first line, wanted OFF")
    rest = lines[0][keyword.end() :].strip()
    lines = [rest, *lines[1:]] if rest else lines[1:]
    counts = _numbers(lines[0].split()[:2], int) if lines else []
    if len(counts) < 2 or min(counts) < 0:
        raise PointFileError(f"found {_quote(lines)} after OFF, wanted the counts of vertices and faces")
    num_vertices, num_faces = counts
    if len(lines) - 1 != num_vertices + num_faces:
        raise PointFileError(
            f"found {len(lines) - 1} lines of data, wanted {num_vertices} vertices + {num_faces} faces"
        )
    vertices = [line.split() for line in lines[1 : 1 + num_vertices]]
    if keyword[0] != "OFF":  # colours, normals or texture coordinates follow
        vertices = [v[:3] for v in vertices]
    polygons = []
    for line in lines[1 + num_vertices :]:
        fields = line.split()
        (count,) = _numbers(fields[:1], int)
        if not 0 <= count < len(fields):
            raise PointFileError(f"found the face {line[:60]!r}, wanted a count and that many vertex indices")
        polygons.append(_numbers(fields[1 : 1 + count], int))  # a colour may follow the corners
    return {"points": _vertex_array(vertices), "faces": triangles(polygons, num_vertices)}


def read_obj(data: bytes) -> dict[str, np.ndarray]:
    """Wavefront OBJ: `v` and `f` lines; texture, normal, group and material lines do not move the surface."""
    vertices, colors, polygons = [], [], []
    for line in filled_lines(data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")):
        keyword, *fields = line.split()
        if keyword == "v":
            vertices.append(fields[:3])
            colors.append(fields[3:6])
        elif keyword == "f":
            corners = _numbers([field.partition("/")[0] for field in fields], int)
            # Indices count from 1, negative ones back from the last vertex so far; 0 is no vertex.
            polygons.append([i - 1 if i > 0 else len(vertices) + i if i < 0 else -1 for i in corners])
    mesh = {"points": _vertex_array(vertices), "faces": triangles(polygons, len(vertices))}
    if colors and all(len(color) == 3 for color in colors):
        mesh["colors"] = _vertex_array(colors)
    return mesh


def triangles(polygons: list, num_vertices: int) -> np.ndarray:
    """int64 (T, 3): each polygon as a fan. Points and edges (fewer than three corners) have no surface."""
    for polygon in polygons:
        if len(polygon) and not (min(polygon) >= 0 and max(polygon) < num_vertices):
            raise PointFileError(
                f"found a face of vertices {list(polygon)[:8]}, wanted 0..{num_vertices - 1}"
            )
    fans = [(p[0], p[i], p[i + 1]) for p in polygons for i in range(1, len(p) - 1)]
    return np.array(fans, np.int64).reshape(-1, 3)


def sample_surface(vertices, faces, num_points: int, seed: int = 0, colors=None) -> dict[str, np.ndarray]:
    """`num_points` points, uniform by area, with the normals of their triangles.

    Args: vertices (V, 3); faces int (T, 3), counter-clockwise seen from outside; colors optional (V, 3).
    Returns points and normals (num_points, 3) float64, colors where given; the same for the same seed.
    Raises PointFileError where the surface has no area.
    """
    corners = np.asarray(vertices, np.float64)[faces]  # (T, 3 corners, 3)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    if not area.sum() > 0:
        raise PointFileError(f"found {len(faces)} triangles of area 0, wanted a surface to sample")
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(faces), num_points, p=area / area.sum())
    root, along = np.sqrt(rng.random(num_points)), rng.random(num_points)
    weight = np.stack([1 - root, root * (1 - along), root * along], axis=1)  # barycentric, uniform
    sampled = {
        "points": np.einsum("nk,nkd->nd", weight, corners[chosen]),
        "normals": cross[chosen] / area[chosen, None],
    }
    if colors is not None:
        sampled["colors"] = np.einsum("nk,nkd->nd", weight, np.asarray(colors, np.float64)[faces[chosen]])
    return sampled


def _vertex_array(rows: list[list[str]]) -> np.ndarray:
    wrong = next((row for row in rows if len(row) != 3), None)
    if wrong is not None:
        raise PointFileError(f"found the vertex {' '.join(wrong)[:60]!r}, wanted 3 coordinates")
    return np.array([_numbers(row, float) for row in rows], np.float64).reshape(-1, 3)


def _numbers(fields: list[str], kind: type) -> list:
    try:
        return [kind(field) for field in fields]
    except ValueError:
        found = " ".join(fields)[:60]
        raise PointFileError(f"found {found!r}, wanted {'whole ' * (kind is int)}numbers") from None


def _quote(lines: list[str]) -> str:
    return repr(lines[0][:40]) if lines else "nothing"

"""Polygons cut into triangles, also concave ones."""

import numpy as np

from pointsuite.io.point_file import PointFileError

MOST = 5_000  # corners of a concave polygon
_WORK, _ROUNDS = (
    1e9,
    50_000,
)  # sums over concave polygons: of squared corners, of the different numbers of corners
_BLOCK = 1 << 18  # corners that are cut at once
_ROOM, _PER_VERTEX = 1_000_000, 16  # triangles that any mesh may have; more, so many times its vertices
_FLAT = 1e-9  # of a polygon's area: what a triangle may lie on the wrong side for want of digits


def triangulate(
    vertices: np.ndarray, counts: np.ndarray, corners: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Triangles of polygons, in their order; the same surface whichever corner a polygon begins with.

    A polygon that can be fanned from its first corner is: each convex one can. Other ones lose an ear at a
    time, in the plane across their vector area. Polygons of fewer than three corners have no surface.

    Args:
        vertices: float (V, 3).
        counts: int (P,), corners of each polygon.
        corners: int (sum of counts,), indices of vertices, those of a polygon in a row.

    Returns:
        int64 (T, 3), and notes about polygons that have no right surface.

    Raises:
        PointFileError: no such vertex; concave polygons of too many corners.
    """
    counts, corners = np.asarray(counts, np.int64), np.asarray(corners)
    first = np.cumsum(counts) - counts
    wrong = ~((corners >= 0) & (corners < len(vertices)))
    if wrong.any():
        at = np.searchsorted(first, wrong.argmax(), side="right") - 1
        face = [int(i) for i in corners[first[at] : first[at] + counts[at]][:8]]
        raise PointFileError(f"found a face of vertices {face}, wanted 0..{len(vertices) - 1}")
    notes = []
    few = counts < 3
    if few.any():
        notes.append(f"left out {few.sum()} faces of fewer than 3 corners")
        first, counts = first[~few], counts[~few]
    fan = counts - 2
    check_count(int(fan.sum()), len(vertices))
    start = np.cumsum(fan) - fan  # a polygon's first triangle
    step = np.arange(fan.sum()) - np.repeat(start, fan)
    base = np.repeat(first, fan)
    triangles = np.stack([corners[base], corners[base + step + 1], corners[base + step + 2]], axis=1)
    triangles = triangles.astype(np.int64)
    many = np.flatnonzero(counts > 3)
    concave = many[_folded(vertices, triangles, start[many], fan[many])]
    if len(concave):
        crossing = _mend(vertices, triangles, corners, first, counts, start, concave)
        if crossing:
            notes.append(f"cut {crossing} faces that cross themselves as well as could be")
    return triangles, notes


def check_count(faces: int, vertices: int) -> None:
    """Refuse far more faces than so many vertices make up, before memory and time are spent on them."""
    if faces > max(_ROOM, _PER_VERTEX * vertices):
        raise PointFileError(
            f"found {faces} faces of {vertices} vertices, wanted at most {_PER_VERTEX} a vertex"
        )


def vector_areas(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Twice the vector areas (..., 3) of triangles (..., 3)."""
    origin = vertices[triangles[..., 0]]
    return np.cross(vertices[triangles[..., 1]] - origin, vertices[triangles[..., 2]] - origin)


def _folded(vertices, triangles, start, fan) -> np.ndarray:
    """Which of the polygons with these fans have a triangle that looks against the whole."""
    if not len(start):
        return np.zeros(0, bool)
    rows = np.repeat(start - np.cumsum(fan) + fan, fan) + np.arange(fan.sum())
    areas = vector_areas(vertices, triangles[rows])
    first = np.cumsum(fan) - fan
    whole = np.add.reduceat(areas, first)
    along = np.einsum("td,td->t", areas, np.repeat(whole, fan, axis=0))
    return np.minimum.reduceat(along, first) < -_FLAT * (whole**2).sum(axis=1)


def _mend(vertices, triangles, corners, first, counts, start, concave) -> int:
    """Put right triangles in place of the fans of these polygons; returns how many cross themselves."""
    four = concave[counts[concave] == 4]
    turned = corners[first[four, None] + [1, 2, 3, 0]].astype(np.int64)
    pairs = turned[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3)
    wrong = _folded(vertices, pairs, 2 * np.arange(len(four)), np.full(len(four), 2))
    triangles[start[four[~wrong], None] + [0, 1]] = pairs.reshape(-1, 2, 3)[~wrong]
    crossing = int(wrong.sum())
    _check_work(counts[concave][counts[concave] > 4])
    for size in np.unique(counts[concave]):
        if size == 4:
            continue
        alike = concave[counts[concave] == size]
        for some in np.array_split(alike, -(-len(alike) * size // _BLOCK)):
            rows = corners[first[some, None] + np.arange(size)].astype(np.int64)
            ears, crosses = _clip_ears(_flattened(vertices[rows]))
            triangles[start[some, None] + np.arange(size - 2)] = np.take_along_axis(
                rows, ears.reshape(len(rows), -1), axis=1
            ).reshape(ears.shape)
            crossing += int(crosses.sum())
    return crossing


def _check_work(sizes: np.ndarray) -> None:
    """Refuse concave polygons that would take minutes."""
    work, rounds = (sizes.astype(float) ** 2).sum(), np.unique(sizes).sum()
    if len(sizes) and (sizes.max() > MOST or work > _WORK or rounds > _ROUNDS):
        raise PointFileError(
            f"found {len(sizes)} concave faces of up to {sizes.max()} corners, wanted fewer, at most {MOST}"
        )


def _flattened(points: np.ndarray) -> np.ndarray:
    """Polygons (P, N, 3), each in its own plane: (P, N, 2), counter-clockwise, of extent 1."""
    points = points - points[:, :1]
    area = np.cross(points[:, 1:-1], points[:, 2:]).sum(axis=1)
    length = np.linalg.norm(area, axis=1, keepdims=True)
    normal = np.where(length > 0, area / np.where(length > 0, length, 1), [0.0, 0.0, 1.0])
    across = np.cross(normal, np.eye(3)[np.abs(normal).argmin(axis=1)])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    flat = points @ np.stack([across, np.cross(normal, across)], axis=2)
    return flat / np.maximum(np.ptp(flat, axis=1).max(axis=1), np.finfo(float).tiny)[:, None, None]


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the signed area of triangles, corners (..., 2): positive counter-clockwise."""
    (ax, ay), (bx, by), (cx, cy) = (np.moveaxis(x, -1, 0) for x in (a, b, c))
    return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)


def _are_ears(xy: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Whether the triangle at corner `at` (P,) of each polygon (P, N, 2) is part of it and holds no other
    corner that looks inwards."""
    rows, size = np.arange(len(xy)), xy.shape[1]
    a, b, c = (xy[rows, (at + step) % size] for step in (-1, 0, 1))
    inside = _turn(np.roll(xy, 1, axis=1), xy, np.roll(xy, -1, axis=1)) <= 0
    for one, other in ((a, b), (b, c), (c, a)):
        inside &= _turn(one[:, None], other[:, None], xy) >= 0
    for corner in (a, b, c):  # also another at its place, as where a slit joins a hole to the border
        inside &= (xy != corner[:, None]).any(axis=2)
    return (_turn(a, b, c) >= -1e-14) & ~inside.any(axis=1)


def _clip_ears(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (P, N - 2, 3) of polygons (P, N, 2), and which (P,) cross themselves: no ear is left."""
    count, size = xy.shape[:2]
    rows = np.arange(count)
    order = np.tile(np.arange(size), (count, 1))
    ear = np.stack([_are_ears(xy, np.full(count, i)) for i in range(size)], axis=1)
    found, crosses = np.empty((count, size - 2, 3), np.int64), np.zeros(count, bool)
    for step, left in enumerate(range(size, 3, -1)):
        stuck = np.flatnonzero(~ear.any(axis=1) & ~crosses)
        if len(stuck):  # corners look outwards once their neighbours are gone: try all again
            again = [_are_ears(xy[stuck], np.full(len(stuck), i)) for i in range(left)]
            ear[stuck] = np.stack(again, axis=1)
            crosses[stuck] = ~ear[stuck].any(axis=1)
        at = ear.argmax(axis=1)
        found[:, step] = order[rows[:, None], (at[:, None] + [-1, 0, 1]) % left]
        kept = np.arange(left) != at[:, None]
        xy, order, ear = (x[kept].reshape(count, left - 1, *x.shape[2:]) for x in (xy, order, ear))
        for neighbour in ((at - 1) % (left - 1), at % (left - 1)):
            ear[rows, neighbour] = _are_ears(xy, neighbour)
    found[:, -1] = order
    return found, crosses

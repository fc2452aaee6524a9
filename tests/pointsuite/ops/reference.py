"""Brute-force answers in plain NumPy loops, to compare every backend with."""

import numpy as np


def squared_distances(query, points):
    """(S, N) in the points' dtype, summed as the operators promise: (xx + yy) + zz."""
    x, y, z = np.moveaxis(query[:, None] - points[None], -1, 0)
    return x * x + y * y + z * z


def knn(query, points, k):
    """(S, k) indices ascending by (distance, index), and the squared distances."""
    distance = squared_distances(query, points)
    order = np.lexsort((np.broadcast_to(np.arange(len(points)), distance.shape), distance))[:, :k]
    return order, np.take_along_axis(distance, order, 1)


def farthest_point_sample(points, num_samples, start=0):
    nearest = np.full(len(points), np.inf)
    chosen = [start]
    for _ in range(num_samples - 1):
        nearest = np.minimum(nearest, squared_distances(points[chosen[-1:]], points)[0])
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)


def unit(vector):
    return vector / (np.linalg.norm(vector) + 1e-7)


def surface_features(centre, normal, points, normals, idx, shift):
    """One centre: features (K, 14) and ordered idx (K,), straight from the paper's definitions."""
    flat = np.array([points[j] - centre - ((points[j] - centre) @ normal) * normal for j in idx])
    length = np.linalg.norm(flat, axis=1)
    direction = np.array([f / n if n > 0 else 0 * f for f, n in zip(flat, length, strict=True)])
    reference = int(length.argmax())
    keys = []
    for i, w in enumerate(direction):
        side = np.sign(np.cross(w, direction[reference]) @ normal)
        side = 1 if i in (0, reference) else side
        keys.append(side * (w @ direction[reference]) - (1 - side))
    idx = idx[np.argsort(-np.array(keys), kind="stable")]
    rows = []
    for i in range(len(idx)):
        j, jb, ja = idx[i], idx[(i - shift) % len(idx)], idx[(i + shift) % len(idx)]
        x, b, a = points[j] - centre, points[jb] - centre, points[ja] - centre
        n, nx, nb, na = normal, normals[j], normals[jb], normals[ja]
        rows.append(
            [
                np.linalg.norm(x),
                unit(x) @ n,
                -unit(x) @ nx,
                unit(x) @ unit(b),
                unit(b) @ n,
                -unit(b) @ nb,
                unit(b) @ unit(b - x),
                -unit(x - b) @ nx,
                unit(x - b) @ nb,
                unit(a) @ unit(x),
                unit(a) @ unit(a - x),
                unit(a - x) @ na,
                unit(x) @ na,
                np.cross(unit(a), unit(x)) @ np.cross(unit(b), unit(x)),
            ]
        )
    return np.array(rows), idx

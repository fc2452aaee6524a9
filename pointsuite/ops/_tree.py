"""A kd-tree over each cloud of a batch, for the CPU: neighbour search and farthest point sampling walk it.

The tree is implicit. Every node cuts its points in half by rank along its box's longest side, so node j of
level l holds the points [n * j >> l, n * (j + 1) >> l) of its cloud's n, in the tree's order; the nodes of a
cloud are numbered from 1 (the root), and the children of i are 2i and 2i + 1. Nothing is stored but boxes.
"""

from typing import NamedTuple

import numpy as np
import torch

from ..engine.parallel import jit, run_rows

GRAIN = 16384  # points that are worth another thread


class Tree(NamedTuple):
    columns: np.ndarray  # (B, 3, N): the points in the tree's order
    order: np.ndarray  # (B, N) int64: their indices in the cloud
    boxes: np.ndarray  # (B, 2 << depth, 6): lowest and highest coordinates of each node; infinite if empty


def build_tree(points: np.ndarray, counts: np.ndarray, leaf: int) -> Tree:
    """Trees over the first `counts` (B,) points of the clouds (B, N, 3), at most `leaf` points a leaf."""
    batch, size = points.shape[:2]
    depth = max(0, -(-size // leaf) - 1).bit_length()
    columns = np.ascontiguousarray(points.transpose(0, 2, 1))
    order = np.empty((batch, size), np.int64)
    order[:] = np.arange(size)
    tree = Tree(columns, order, np.empty((batch, 2 << depth, 6), points.dtype))
    # Level by level until there is a subtree for each thread, then whole subtrees: threads meet seldom.
    shared = min(depth, (2 * torch.get_num_threads() - 1).bit_length())
    for top, bottom in [(level, level + 1) for level in range(shared)] + [(shared, depth + 1)]:
        grain = (GRAIN << top) // size + 1
        run_rows(_build, batch << top, *tree, counts, top, bottom, grain=grain)
    return tree


@jit
def box_distance(box, x, y, z):
    """Squared distance from a point to a box: by monotone rounding never above that to a point inside."""
    dx = max(box[0] - x, x - box[3], 0)
    dy = max(box[1] - y, y - box[4], 0)
    dz = max(box[2] - z, z - box[5], 0)
    return dx * dx + dy * dy + dz * dz


@jit
def _build(columns, order, boxes, counts, top, bottom, start, stop):
    """Box and split the nodes of levels [top, bottom) under the nodes [start, stop) of level `top`."""
    leaves = boxes.shape[1] // 2
    sample = np.empty(15, columns.dtype)
    for row in range(start, stop):
        b, root = row >> top, row - (row >> top << top)
        n = counts[b]
        for level in range(top, bottom):
            for j in range(root << (level - top), (root + 1) << (level - top)):
                first, last = n * j >> level, n * (j + 1) >> level
                node = (1 << level) + j
                box = boxes[b, node]
                for axis in range(3):
                    values = columns[b, axis]
                    low, high = columns.dtype.type(np.inf), columns.dtype.type(-np.inf)
                    for i in range(first, last):
                        low = min(low, values[i])
                        high = max(high, values[i])
                    box[axis], box[axis + 3] = low, high
                if node < leaves:
                    axis = 0
                    for other in range(1, 3):
                        if box[other + 3] - box[other] > box[axis + 3] - box[axis]:
                            axis = other
                    middle = n * (2 * j + 1) >> (level + 1)
                    _select(columns[b], order[b], axis, first, last, middle, sample)


@jit
def _select(columns, order, axis, first, last, middle, sample):
    """Reorder [first, last): no key before `middle` is above any from it on.

    The pivot is the key of a sample whose rank in it is that of `middle` in the range.
    """
    keys = columns[axis]
    while first < middle < last:
        size = last - first
        count = len(sample) if size > 256 else 3
        for s in range(count):
            key, place = keys[first + size * s // count], s
            while place > 0 and sample[place - 1] > key:
                sample[place] = sample[place - 1]
                place -= 1
            sample[place] = key
        pivot = sample[(middle - first) * count // size]
        split = _partition(columns, order, axis, first, last, pivot, False)
        if split == first:  # the pivot is the lowest key: past all its equals, or done
            split = _partition(columns, order, axis, first, last, pivot, True)
            if split >= middle:
                return
        if split > middle:
            last = split
        else:
            first = split


@jit
def _partition(columns, order, axis, first, last, pivot, equal):
    """Move the keys below the pivot (or equal to it, if asked) to the front; returns where they end.

    Every step swaps, needed or not: a branch on the keys would be mispredicted half of the time.
    """
    keys, xs, ys, zs = columns[axis], columns[0], columns[1], columns[2]
    split = first
    for i in range(first, last):
        below = (keys[i] < pivot) | (equal & (keys[i] == pivot))
        xs[i], xs[split] = xs[split], xs[i]
        ys[i], ys[split] = ys[split], ys[i]
        zs[i], zs[split] = zs[split], zs[i]
        order[i], order[split] = order[split], order[i]
        split += below
    return split

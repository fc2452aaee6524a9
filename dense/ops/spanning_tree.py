"""The tree that pairwise weights say most for."""

import numpy as np
import torch
from torch import Tensor


def maximum_spanning_tree(weights: Tensor) -> Tensor:
    """The rooted tree over N nodes whose edges have the largest sum of weights.

    Source: Chu and Liu, "On the Shortest Arborescence of a Directed Graph", Science Sinica 1965; Edmonds,
    "Optimum Branchings", 1967. Each node takes its best parent; a cycle of such becomes one node, until there
    is none. Of equal weights that of the parent with the lower index counts. Time N^2 for each cycle.

    Args:
        weights: (N, N), finite; ``weights[i, j]`` is that of i being the parent of j. The diagonal counts
            for nothing.

    Returns:
        (N,) int64: each node's parent; -1 for the root.

    Raises:
        ValueError: not square, empty, or not finite.
    """
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or not len(weights):
        raise ValueError(f"weights must be (N, N) with N of at least 1, found {tuple(weights.shape)}")
    scores = weights.detach().cpu().double().numpy()
    if not np.isfinite(scores).all():
        raise ValueError("weights must be finite, found some that are not")
    # a node above all, from which an edge costs more than all others can bring: it gets one child, the root
    count = len(scores)
    padded = np.full((count + 1, count + 1), -np.inf)
    padded[1:, 1:] = (scores - scores.min()) / (np.ptp(scores) or 1)  # 0..1
    padded[0, 1:] = -count
    return torch.from_numpy(_arborescence(padded)[1:] - 1)


def _arborescence(scores: np.ndarray) -> np.ndarray:
    """Parents (N,) of the best tree from node 0; its own is -1. Contracts cycles, then opens them again."""
    contracted = []
    while True:
        np.fill_diagonal(scores, -np.inf)
        parents = scores.argmax(0)
        parents[0] = -1
        cycle = _find_cycle(parents)
        if cycle is None:
            break
        others = np.setdiff1d(np.arange(len(scores)), cycle)  # node 0 stays the first
        # an edge into the cycle replaces the one that its node has there
        into = scores[np.ix_(others, cycle)] - scores[parents[cycle], cycle]
        out = scores[np.ix_(cycle, others)]
        contracted.append((parents, others, cycle[into.argmax(1)], cycle[out.argmax(0)]))
        smaller = np.full((len(others) + 1,) * 2, -np.inf)
        smaller[:-1, :-1] = scores[np.ix_(others, others)]
        smaller[:-1, -1], smaller[-1, :-1] = into.max(1), out.max(0)
        scores = smaller
    for before, others, entered, left in reversed(contracted):
        opened = before.copy()  # those of the cycle keep their parents there
        for i, parent in enumerate(parents[:-1]):
            if parent == len(others):
                opened[others[i]] = left[i]
            elif parent >= 0:
                opened[others[i]] = others[parent]
        opened[entered[parents[-1]]] = others[parents[-1]]
        parents = opened
    return parents


def _find_cycle(parents: np.ndarray) -> np.ndarray | None:
    seen = np.zeros(len(parents), int)  # by which walk
    for start in range(1, len(parents)):
        node = start
        while node > 0 and not seen[node]:
            seen[node] = start
            node = parents[node]
        if node > 0 and seen[node] == start:
            cycle = [node]
            while parents[cycle[-1]] != node:
                cycle.append(parents[cycle[-1]])
            return np.sort(cycle)
    return None

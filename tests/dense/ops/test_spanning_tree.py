from itertools import product

import pytest
import torch

from dense.ops import maximum_spanning_tree


def reaches_root(parents):
    """Whether all nodes lead to a single -1."""
    for node in range(len(parents)):
        for _ in parents:
            node = parents[node] if node >= 0 else node
        if node >= 0:
            return False
    return parents.count(-1) == 1


def total(weights, parents):
    return sum(weights[parent, node].item() for node, parent in enumerate(parents) if parent >= 0)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_against_all_trees(count, seed):
    weights = torch.randn(count, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    trees = [p for p in product(range(-1, count), repeat=count) if reaches_root(p)]
    assert len(trees) == count ** (count - 1)  # Cayley
    best = max(trees, key=lambda tree: total(weights, tree))
    assert maximum_spanning_tree(weights).tolist() == list(best)


def test_cycles_are_opened_where_it_costs_least():
    """0 and 1 want each other, 2 and 3 too; 1 and 2 are the best link between them, at the cost of 2's."""
    weights = torch.zeros(4, 4)
    weights[0, 1] = weights[1, 0] = 9.0
    weights[2, 3] = weights[3, 2] = 8.0
    weights[1, 2] = 7.0
    assert maximum_spanning_tree(weights).tolist() in ([-1, 0, 1, 2], [1, -1, 1, 2])


def test_scale_and_diagonal_count_for_nothing():
    weights = torch.rand(30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tree = maximum_spanning_tree(weights)
    assert reaches_root(tree.tolist()) and tree.dtype == torch.int64
    assert torch.equal(maximum_spanning_tree(1e-12 * (weights + 5 * torch.eye(30)) - 3e-13), tree)
    assert reaches_root(maximum_spanning_tree(torch.zeros(7, 7)).tolist())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.zeros(2, 3), r"found \(2, 3\)"),
        (torch.zeros(0, 0), "at least 1"),
        (torch.full((2, 2), torch.nan), "must be finite"),
    ],
)
def test_errors(weights, message):
    with pytest.raises(ValueError, match=message):
        maximum_spanning_tree(weights)

"""Functions of some rows at a time are those of all rows, with all their gradients."""

import pytest
import torch

from dense.ops import chunks
from dense.ops.chunks import fitting_rows, map_chunks, rows_at_once, slices
from tests.dense.memory import LargestTensor


@pytest.mark.parametrize("pairs", [1, 21, 40, 10**6])
@pytest.mark.parametrize("dim", [1, 2])
def test_pieces_change_nothing(pairs, dim):
    generator = torch.Generator().manual_seed(0)
    shape = (2, 13, 3) if dim == 1 else (2, 4, 13, 3)
    x, y = (torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True) for _ in "xy")
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)

    def attend(rows):
        picked = x[:, rows] if dim == 1 else x[:, :, rows]
        return (picked @ y.mT).softmax(-1) @ y

    found, whole = map_chunks(attend, 13, 13, dim=dim, pairs=pairs), attend(slice(None))
    torch.testing.assert_close(found, whole)
    for a, b in zip(*(torch.autograd.grad(z, (x, y), weight) for z in (found, whole)), strict=True):
        torch.testing.assert_close(a, b)


def test_pieces_bound_the_memory_and_are_cut_by_rows_alone():
    calls = []

    def function(rows):
        calls.append((rows.start, rows.stop))
        return x[:, rows] @ x.mT @ x

    for batch in (1, 3):
        x = torch.ones(batch, 100, 2)
        calls.clear()
        with LargestTensor() as memory, torch.no_grad():
            map_chunks(function, 100, 100, pairs=3200)
        assert calls == [(0, 32), (32, 64), (64, 96), (96, 100)]
        assert memory.numel == batch * 3200


def test_no_rows():
    assert map_chunks(lambda rows: torch.zeros(2, 0, 3), 0, 0).shape == (2, 0, 3)


def test_slices_are_all_rows_once():
    assert [(piece.start, piece.stop) for piece in slices(7, 3)] == [(0, 3), (3, 6), (6, 7)]
    assert [(piece.start, piece.stop) for piece in slices(3, 9)] == [(0, 3)]
    assert list(slices(0, 3)) == []


def test_rows_that_fit_a_device():
    cpu, other = torch.device("cpu"), torch.device("meta")
    assert fitting_rows(chunks.NUMBERS_ON_CPU // 4, cpu) == 4
    assert fitting_rows(chunks.NUMBERS // 4, other) == 4
    assert fitting_rows(2 * chunks.NUMBERS, other) == fitting_rows(2 * chunks.NUMBERS, cpu) == 1
    assert rows_at_once(10, chunks.NUMBERS_ON_CPU, cpu) == 10  # for a gradient
    with torch.no_grad():
        assert rows_at_once(10, chunks.NUMBERS_ON_CPU // 4, cpu) == 4

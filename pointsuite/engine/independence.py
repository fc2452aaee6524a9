"""Whether a prediction depends on its own sample only."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def find_tensors(output: Any) -> list[Tensor]:
    """All tensors of floating point in what a network returns, in order."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [tensor for part in output for tensor in find_tensors(part)]
    return []


def difference(found: Any, wanted: Any) -> float:
    """Of two outputs, relative to the size of the second: the largest of their tensors' ||f - w|| / ||w||."""
    pairs = list(zip(find_tensors(found), find_tensors(wanted), strict=True))
    if not pairs:
        raise ValueError("outputs have no tensor of floating point, wanted some to compare")
    return max(((f.double() - w.double()).norm() / w.double().norm()).item() for f, w in pairs)


def in_float64(inputs: Sequence[Any]) -> list[Any]:
    """Arguments of a network of that precision."""
    return [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]


def batch_effect(network: nn.Module, inputs: Sequence[Tensor]) -> float:
    """The largest change of a sample's outputs by the samples beside it, see :func:`difference`.

    Each of four samples is taken alone, the first two and the first three together.

    Args:
        network: in the mode that is asked about.
        inputs: its arguments, each of four samples (4, ...).
    """
    whole = find_tensors(network(*inputs))
    found = []
    for first, last in ((0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (0, 3)):
        parts = find_tensors(network(*(x[first:last] for x in inputs)))
        found.append(difference(parts, [_cut(y, part, first) for y, part in zip(whole, parts, strict=True)]))
    return max(found)


def _cut(whole: Tensor, part: Tensor, first: int) -> Tensor:
    """The samples from ``first`` on; their axis is that by which the outputs differ."""
    axis = next(i for i, sizes in enumerate(zip(whole.shape, part.shape, strict=True)) if len(set(sizes)) > 1)
    return whole.narrow(axis, first, part.shape[axis])

"""Neighbour graphs of flat points and batch vectors, with the signatures of PyTorch Geometric.

`knn`, `knn_graph`, `radius`, `radius_graph`, `fps` and `nearest` take the arguments of `torch_geometric.nn`
and `torch_cluster` and give their answers, without pyg-lib or torch-cluster installed:

- Points are flat, x (N, D), and batch (N,) int64 names the cloud of each, ascending; None is one cloud. D up
  to 3 runs on the operators of :mod:`pointsuite.ops`; more dimensions are searched by brute force in blocks.
- Other dtypes than float32 and float64 are computed in float32. Nothing has a gradient.
- Ties go to the lowest index. An example without points has no edges.
- num_workers is accepted and ignored: operators use PyTorch's threads. batch_size may exceed the last
  batch number plus one.

All raise ValueError for shapes that do not fit, a batch vector that is not ascending, and NaN or infinity.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ._checks import choose_neighbour_backend
from .farthest_point_sample import farthest_point_sample
from .knn import _knn


def knn(
    x: Tensor,
    y: Tensor,
    k: int,
    batch_x: Tensor | None = None,
    batch_y: Tensor | None = None,
    cosine: bool = False,
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """For each point of y the k nearest of x in the same example; all where it has fewer.

    Returns:
        (2, E) int64: indices into y, ascending, and into x, for each y by ascending distance. With `cosine`
        the distance is 1 - cos of the angle between the vectors.
    """
    _check_at_least_one("k", k)
    return torch.stack(_neighbours(x, y, k, batch_x, batch_y, cosine)[:2])


def knn_graph(
    x: Tensor,
    k: int,
    batch: Tensor | None = None,
    loop: bool = False,
    flow: str = "source_to_target",
    cosine: bool = False,
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """Edges (2, E) int64 between each point and its k nearest.

    Row 0 holds the neighbours and row 1 the points ("source_to_target") or the reverse. Without `loop` a
    point is not its own neighbour; in a pile of copies too it gets k others (torch-cluster gives k + 1).
    """
    _check_at_least_one("k", k)
    _check_flow(flow)
    edges = torch.stack(_neighbours(x, x, k + (not loop), batch, batch, cosine)[:2])
    return _directed(edges if loop else _without_self(edges, k), flow)


def radius(
    x: Tensor,
    y: Tensor,
    r: float,
    batch_x: Tensor | None = None,
    batch_y: Tensor | None = None,
    max_num_neighbors: int | None = 32,
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """For each point of y the points of x in the same example closer than r.

    Where there are more than `max_num_neighbors` (None: no limit), the nearest; torch-cluster keeps those
    that it meets first.

    Returns:
        (2, E) int64: indices into y, ascending, and into x, for each y by ascending distance.
    """
    return _within(x, y, r, batch_x, batch_y, max_num_neighbors)


def radius_graph(
    x: Tensor,
    r: float,
    batch: Tensor | None = None,
    loop: bool = False,
    max_num_neighbors: int | None = 32,
    flow: str = "source_to_target",
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """Edges (2, E) int64 between each point and those closer than r, as :func:`radius` finds them.

    `loop` and `flow` as for :func:`knn_graph`.
    """
    _check_flow(flow)
    most = max_num_neighbors
    edges = _within(x, x, r, batch, batch, most if loop or most is None else most + 1)
    return _directed(edges if loop else _without_self(edges, most), flow)


def fps(
    x: Tensor,
    batch: Tensor | None = None,
    ratio: float | Tensor = 0.5,
    random_start: bool = True,
    batch_size: int | None = None,
) -> Tensor:
    """Farthest point sampling of ceil(ratio * points) of each example, D up to 3.

    Args:
        ratio: in (0, 1]; a tensor gives each example its own.
        random_start: begin at a random point (drawn from PyTorch's generator) instead of the first.

    Returns:
        (M,) int64 indices into x, example by example in the order of their choice.
    """
    x = _flat("x", x)
    if x.shape[1] != 3:
        raise ValueError(f"fps wants points of at most 3 dimensions, found {x.shape[1]}")
    counts = _counts("batch", batch, x)
    ratio = torch.as_tensor(ratio, dtype=torch.float32, device=x.device)  # as torch-cluster rounds it
    if not bool(((ratio > 0) & (ratio <= 1)).all()):
        raise ValueError(f"ratio must lie in (0, 1], found {ratio.tolist()}")
    if ratio.ndim and len(ratio) < len(counts):
        raise ValueError(
            f"ratio must be a number or one for each example, found {len(ratio)} for {len(counts)}"
        )
    wanted = (counts * (ratio[: len(counts)] if ratio.ndim else ratio)).ceil().long()
    wanted = torch.minimum(wanted, counts).cpu()  # float32 rounds large counts
    offsets, chosen = counts.cumsum(0) - counts, []
    for group in _groups(counts.cpu()):
        size = counts[group]
        start = torch.zeros_like(size)
        if random_start:
            start = torch.minimum((torch.rand(size.shape, device=x.device) * size).long(), size - 1)
        # The choices of m are the first m of more, so all clouds get as many as the one that wants most.
        padded = _padded(x, counts, offsets, group)
        most = int(wanted[group].max())
        valid = size.clamp(min=most)
        if bool((valid > size).any()):  # a cloud has fewer points than another's samples: repeat its first
            real = torch.arange(padded.shape[1], device=x.device) < size[:, None]
            padded = torch.where(real[..., None], padded, padded[:, :1])
        idx = farthest_point_sample(padded, most, start=start, valid=valid) + offsets[group][:, None]
        chosen.append(idx[torch.arange(most, device=x.device) < wanted[group].to(x.device)[:, None]])
    return torch.cat(chosen) if chosen else counts.new_empty(0)


def nearest(x: Tensor, y: Tensor, batch_x: Tensor | None = None, batch_y: Tensor | None = None) -> Tensor:
    """For each point of x the index (N,) int64 of the nearest of y in the same example.

    Raises:
        ValueError: also where an example has points in x and none in y.
    """
    row, column, _ = _neighbours(y, x, 1, batch_y, batch_x)
    if len(row) < len(x):
        bare = int(_counts("batch_x", batch_x, x).new_ones(len(x)).index_fill(0, row, 0).argmax())
        raise ValueError(f"y must have points in every example of x, found none in that of x[{bare}]")
    return column


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, found {value}")


def _check_flow(flow: str) -> None:
    if flow not in ("source_to_target", "target_to_source"):
        raise ValueError(f"flow must be 'source_to_target' or 'target_to_source', found {flow!r}")


def _directed(edges: Tensor, flow: str) -> Tensor:
    return edges.flip(0) if flow == "source_to_target" else edges


def _without_self(edges: Tensor, most: int | None) -> Tensor:
    """Drop loops, then what exceeds `most` edges of a point: copies may have pushed it off its own list."""
    edges = edges[:, edges[0] != edges[1]]
    if most is None or not edges.shape[1]:
        return edges
    row, place = edges[0], torch.arange(edges.shape[1], device=edges.device)
    first = torch.where(row != row.roll(1), place, 0)
    return edges[:, place - first.cummax(0).values < most]


def _within(x, y, r, batch_x, batch_y, most) -> Tensor:
    if not 0 < r < float("inf"):
        raise ValueError(f"r must be positive and finite, found {r}")
    if most is not None:
        _check_at_least_one("max_num_neighbors", most)
    k = 32 if most is None else most
    while True:
        row, column, sqdist = _neighbours(x, y, k, batch_x, batch_y)
        inside = sqdist < r * r
        if most is not None or k >= len(x) or int(row[inside].bincount(minlength=1).max()) < k:
            return torch.stack([row, column])[:, inside]
        k *= 2


def _flat(name: str, x: Tensor) -> Tensor:
    """(N, D) floating points; D of 1 or 2 padded with zeros, which changes no distance."""
    x = x.detach()
    x = x[:, None] if x.ndim == 1 else x.flatten(1)
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()
    if x.shape[1] == 0:
        raise ValueError(f"{name} must have shape (N, D >= 1), found {tuple(x.shape)}")
    return torch.nn.functional.pad(x, (0, 3 - x.shape[1])) if x.shape[1] < 3 else x


def _counts(name: str, batch: Tensor | None, x: Tensor) -> Tensor:
    """Points of each example, (B,) int64."""
    if batch is None:
        return torch.full((1,), len(x), device=x.device)
    if batch.dtype != torch.int64 or batch.shape != x.shape[:1] or batch.device != x.device:
        raise ValueError(
            f"{name} must be int64 of shape ({len(x)},) on {x.device}, "
            f"found {batch.dtype} {tuple(batch.shape)} on {batch.device}"
        )
    if len(batch) and (int(batch[0]) < 0 or bool((batch[1:] < batch[:-1]).any())):
        raise ValueError(f"{name} must be ascending and not negative, found {batch.tolist()[:20]}")
    return batch.bincount()


def _groups(*counts: Tensor) -> Iterator[Tensor]:
    """Runs of examples that have points in all of `counts`; padding at most doubles what a run holds."""
    group, total, widest = [], [0] * len(counts), [0] * len(counts)
    for example, sizes in enumerate(zip(*(c.tolist() for c in counts), strict=True)):
        if not all(sizes):
            continue
        new_total = [t + s for t, s in zip(total, sizes, strict=True)]
        new_widest = [max(w, s) for w, s in zip(widest, sizes, strict=True)]
        if any(w * (len(group) + 1) > 2 * t for w, t in zip(new_widest, new_total, strict=True)):
            yield torch.tensor(group)
            group, new_total, new_widest = [], list(sizes), list(sizes)
        group.append(example)
        total, widest = new_total, new_widest
    if group:
        yield torch.tensor(group)


def _padded(x: Tensor, counts: Tensor, offsets: Tensor, group: Tensor) -> Tensor:
    """The group's examples as (B, most points, D); padding repeats other points."""
    slot = torch.arange(int(counts[group].max()), device=x.device)
    return x[(offsets[group][:, None] + slot).clamp(max=len(x) - 1)]


def _neighbours(x, y, k, batch_x=None, batch_y=None, cosine=False) -> tuple[Tensor, Tensor, Tensor]:
    """Indices into y and x and squared distances, (E,) each, by ascending y and distance."""
    x, y = _flat("x", x), _flat("y", y)
    if x.shape[1] != y.shape[1] or x.dtype != y.dtype or x.device != y.device:
        raise ValueError(
            "x and y must have one width, dtype and device, found "
            f"{tuple(x.shape)} {x.dtype} {x.device} and {tuple(y.shape)} {y.dtype} {y.device}"
        )
    if cosine:  # between unit vectors |a - b|^2 = 2 (1 - cos)
        x, y = torch.nn.functional.normalize(x), torch.nn.functional.normalize(y)
    of_x, of_y = _counts("batch_x", batch_x, x), _counts("batch_y", batch_y, y)
    examples = max(len(of_x), len(of_y))
    of_x, of_y = (torch.nn.functional.pad(c, (0, examples - len(c))) for c in (of_x, of_y))
    from_x, from_y = of_x.cumsum(0) - of_x, of_y.cumsum(0) - of_y
    parts = []
    for group in _groups(of_x.cpu(), of_y.cpu()):
        points, query = _padded(x, of_x, from_x, group), _padded(y, of_y, from_y, group)
        found = min(k, points.shape[1])
        search = _search if x.shape[1] == 3 else _search_wide
        idx, sqdist = search(query, points, found, of_x[group])
        place = torch.arange(query.shape[1], device=x.device)
        real = (place < of_y[group][:, None])[..., None]
        real = real & (torch.arange(found, device=x.device) < of_x[group][:, None, None])
        row = (from_y[group][:, None] + place)[..., None].expand_as(idx)
        parts.append((row[real], (idx + from_x[group][:, None, None])[real], sqdist[real]))
    if not parts:
        return of_x.new_empty(0), of_x.new_empty(0), x.new_empty(0)
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def _search(query: Tensor, points: Tensor, k: int, valid: Tensor) -> tuple[Tensor, Tensor]:
    return _knn(query, points, k, valid, 1, math.inf, choose_neighbour_backend("auto", points, k))


def _search_wide(query: Tensor, points: Tensor, k: int, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Brute force in any number of dimensions, at most about 2**24 numbers at once."""
    padding = torch.arange(points.shape[1], device=points.device) >= valid[:, None]
    idx, sqdist = [], []
    for block in query.split(max(1, 2**24 // points.numel()), dim=1):
        distance = (block[:, :, None] - points[:, None]).square().sum(-1)
        value, index = distance.masked_fill(padding[:, None], torch.inf).sort(dim=-1, stable=True)
        idx.append(index[..., :k])
        sqdist.append(value[..., :k])
    return torch.cat(idx, 1), torch.cat(sqdist, 1)

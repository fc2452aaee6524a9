"""Neighbour graphs of flat points and batch vectors, with the signatures of PyTorch Geometric.

`knn`, `knn_graph`, `radius`, `radius_graph`, `fps` and `nearest` take the arguments of `torch_geometric.nn`
and of `torch_cluster` and give their answers, without pyg-lib or torch-cluster installed:

- Points are flat, x (N, D), and batch (N,), integers, names the cloud of each, ascending; None is one cloud.
  D up to 3 runs on the operators of :mod:`pointsuite.ops`; more dimensions are searched exactly by brute
  force in blocks, and decided in float64.
- Integers are computed exactly, however large. Floats are computed in float32 or float64 as they come, 16
  bits in float32, and what float32 cannot square, or a mixture, in float64. Nothing has a gradient.
- Ties go to the lowest index. An example without points has no edges.
- num_workers is accepted and ignored: operators use PyTorch's threads. So is batch_size: there may always be
  examples without points.

All raise ValueError for shapes that do not fit, a batch vector that is not ascending, and NaN or infinity.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..engine.backends import choose_backend
from ._checks import choose_neighbour_backend
from ._wide import knn_wide, largest_of
from .farthest_point_sample import _fps_torch, farthest_point_sample
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
    _check_not_negative("k", k)
    return torch.stack(_neighbours(x, y, k, batch_x, batch_y, cosine))


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
    _check_not_negative("k", k)
    _check_flow(flow)
    edges = torch.stack(_neighbours(x, x, k + (not loop), batch, batch, cosine))
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
    ignore_same_index: bool = False,
) -> Tensor:
    """For each point of y the points of x in the same example closer than r: none, where r is 0.

    Where there are more than `max_num_neighbors` (None: no limit), the nearest; torch-cluster keeps those
    that it meets first. With `ignore_same_index` no point of y has that of x with its own index.

    Returns:
        (2, E) int64: indices into y, ascending, and into x, for each y by ascending distance.
    """
    most = max_num_neighbors
    if not (r := float(r)) >= 0:
        raise ValueError(f"r must not be negative, found {r}")
    if most is not None:
        _check_not_negative("max_num_neighbors", most)
    k = 32 if most is None else most + ignore_same_index
    if r == 0 or most == 0:
        k = 0
    while True:
        row, column = _neighbours(x, y, k, batch_x, batch_y, r=r)
        if most is not None or k in (0, len(x)) or int(row.bincount(minlength=1).max()) < k:
            break
        k = min(2 * k, len(x))
    edges = torch.stack([row, column])
    return _without_self(edges, most) if ignore_same_index else edges


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
    options = {"max_num_neighbors": max_num_neighbors, "ignore_same_index": not loop}
    return _directed(radius(x, x, r, batch, batch, **options), flow)


def fps(
    x: Tensor | None = None,
    batch: Tensor | None = None,
    ratio: float | Tensor | None = 0.5,
    random_start: bool = True,
    batch_size: int | None = None,
    ptr: Tensor | Sequence[int] | None = None,
    *,
    src: Tensor | None = None,
) -> Tensor:
    """Farthest point sampling of ceil(ratio * points) of each example, in any number of dimensions.

    Args:
        x: the points; `src` is torch-cluster's name for it.
        ratio: in (0, 1], None for 0.5; a tensor gives each example its own. The product with the number of
            points is rounded in the tensor's type, or that of the points, as by torch-cluster.
        random_start: begin at a random point (drawn from PyTorch's generator) instead of the first.
        ptr: instead of `batch`, (B + 1,) integers: example i holds the points ptr[i] to ptr[i + 1] - 1.

    Returns:
        (M,) int64 indices into x, example by example in the order of their choice.
    """
    if (x is None) == (src is None):
        raise ValueError(f"fps wants points as x or as src, found {'none' if x is None else 'both'}")
    given = src if x is None else x
    (x,) = _points(x=given)
    counts = _counts("batch", batch, x)
    offsets = counts.cumsum(0) - counts
    if ptr is not None:
        offsets, counts = _split(ptr, x, None if batch is None else counts)
    if not isinstance(ratio, Tensor) or not ratio.is_floating_point():
        wide = given.dtype == torch.float64 or len(x) > 2**24  # which float32 cannot count
        ratio = torch.as_tensor(
            0.5 if ratio is None else ratio, dtype=torch.float64 if wide else torch.float32
        )
    ratio = ratio.to(x.device)
    if not bool(((ratio > 0) & (ratio <= 1)).all()):
        raise ValueError(f"ratio must lie in (0, 1], found {ratio.tolist()}")
    if ratio.ndim and len(ratio) < len(counts):
        raise ValueError(
            f"ratio must be a number or one for each example, found {len(ratio)} for {len(counts)}"
        )
    share = ratio[: len(counts)] if ratio.ndim else ratio
    wanted = torch.minimum((counts.to(ratio.dtype) * share).ceil().long(), counts).cpu()
    chosen = []
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
        idx = _sample(padded, most, start, valid) + offsets[group][:, None]
        chosen.append(idx[torch.arange(most, device=x.device) < wanted[group].to(x.device)[:, None]])
    return torch.cat(chosen) if chosen else counts.new_empty(0)


def nearest(x: Tensor, y: Tensor, batch_x: Tensor | None = None, batch_y: Tensor | None = None) -> Tensor:
    """For each point of x the index (N,) int64 of the nearest of y in the same example.

    Raises:
        ValueError: also where an example has points in x and none in y.
    """
    row, column = _neighbours(y, x, 1, batch_y, batch_x, names=("y", "x"))
    if len(row) < len(x):
        bare = int(_counts("batch_x", batch_x, x).new_ones(len(x)).index_fill(0, row, 0).argmax())
        raise ValueError(f"y must have points in every example of x, found none in that of x[{bare}]")
    return column


def _check_not_negative(name: str, value: int) -> None:
    if value < 0:
        raise ValueError(f"{name} must not be negative, found {value}")


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


def _points(cosine: bool = False, **clouds: Tensor) -> list[Tensor]:
    """Each as (N, D >= 3) of one dtype; D of 1 or 2 is padded with zeros, which changes no distance.

    Integers are moved to begin at 0 and become float64 where that squares and adds them exactly; others stay
    int64. With `cosine`, vectors have length 1 in float64.
    """
    flat = []
    for name, x in clouds.items():
        shape = tuple(x.shape)
        x = x.detach()[:, None] if x.ndim == 1 else x.detach().flatten(1) if x.ndim else x
        if x.ndim == 0 or x.is_complex() or (len(x) and not x.shape[1]):
            raise ValueError(f"{name} must hold real numbers of shape (N, D >= 1), found {x.dtype} {shape}")
        if x.is_floating_point() and not math.isfinite(largest_of(x)):
            bad = int((~torch.isfinite(x)).any(-1).nonzero()[0])
            raise ValueError(f"{name} must be finite, found {x[bad].tolist()} at point {bad}")
        flat.append(x)
    dims, device = max(x.shape[1] for x in flat), flat[0].device
    flat = [x if len(x) else x.new_empty(0, dims) for x in flat]
    if any(x.shape[1] != dims or x.device != device for x in flat):
        found = " and ".join(f"{tuple(x.shape)} on {x.device}" for x in flat)
        raise ValueError(f"{' and '.join(clouds)} must have one width and device, found {found}")
    if cosine:
        flat = [torch.nn.functional.normalize(x.double()) for x in flat]
    elif any(x.is_floating_point() for x in flat):
        flat = _floats(clouds, flat)
    else:
        flat = _integers(clouds, flat)
    return [torch.nn.functional.pad(x, (0, max(0, 3 - dims))) for x in flat]


def _floats(names: Sequence[str], clouds: list[Tensor]) -> list[Tensor]:
    """In float32 or float64, in which squares neither overflow nor vanish."""
    single = all(x.dtype in (torch.float32, torch.float16, torch.bfloat16) for x in clouds)
    clouds = [x.to(torch.float32 if single else torch.float64) for x in clouds]
    largest = max(map(largest_of, clouds))
    if largest and not 1e-150 < largest < 1e150:
        raise ValueError(
            f"{' and '.join(names)} must lie between 1e-150 and 1e150, found {largest} as the largest"
        )
    return [x.double() for x in clouds] if largest and not 1e-12 < largest < 1e15 else clouds


def _integers(names: Sequence[str], clouds: list[Tensor]) -> list[Tensor]:
    if any(x.dtype == torch.uint64 and bool((x.long() < 0).any()) for x in clouds):
        raise ValueError(f"{' and '.join(names)} must be below 2^63")
    clouds = [x.long() for x in clouds]
    every = torch.cat(clouds)
    if not every.numel():
        return [x.double() for x in clouds]
    low = every.amin(0)
    span = max(high - least for high, least in zip(every.amax(0).tolist(), low.tolist(), strict=True))
    if span < 2**63:
        clouds = [x - low for x in clouds]
    return [x.double() for x in clouds] if every.shape[1] * span**2 < 2**53 else clouds


def _split(ptr: Tensor | Sequence[int], x: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """First points and numbers of points of the examples between bounds, (B,) int64 each."""
    bounds = torch.as_tensor(ptr, device=x.device)
    if bounds.is_floating_point() or bounds.ndim != 1 or not len(bounds):
        raise ValueError(f"ptr must be integers (B + 1,), found {bounds.dtype} {tuple(bounds.shape)}")
    bounds = bounds.long()
    if int(bounds[0]) < 0 or int(bounds[-1]) > len(x) or bool((bounds.diff() < 0).any()):
        raise ValueError(f"ptr must ascend from 0 to {len(x)} points, found {bounds.tolist()[:20]}")
    found = bounds.diff()
    if counts is not None and counts.tolist() != found.tolist()[: len(counts)]:
        raise ValueError(
            f"batch and ptr must say the same, found {counts.tolist()[:20]} and {found.tolist()[:20]} points"
        )
    return bounds[:-1], found


def _counts(name: str, batch: Tensor | None, x: Tensor) -> Tensor:
    """Points of each example, (B,) int64."""
    if batch is None:
        return torch.full((1,), len(x), device=x.device)
    real = batch.is_floating_point() or batch.is_complex() or batch.dtype == torch.bool
    if real or batch.shape != x.shape[:1] or batch.device != x.device:
        raise ValueError(
            f"{name} must be integers of shape ({len(x)},) on {x.device}, "
            f"found {batch.dtype} {tuple(batch.shape)} on {batch.device}"
        )
    batch = batch.long()
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
    most, first, last = int(counts[group].max()), int(offsets[group[0]]), int(offsets[group[-1]])
    if last - first == (len(group) - 1) * most and int(counts[group].min()) == most:
        return x[first : last + most].view(len(group), most, -1)
    slot = torch.arange(most, device=x.device)
    return x[(offsets[group][:, None] + slot).clamp(max=len(x) - 1)]


def _neighbours(
    x, y, k, batch_x=None, batch_y=None, cosine=False, r=math.inf, names=("x", "y")
) -> tuple[Tensor, Tensor]:
    """Indices into y and x, (E,) each, of neighbours closer than r, by ascending y and distance."""
    if x is y:
        x = y = _points(cosine, x=x)[0]
    else:
        x, y = _points(cosine, **dict(zip(names, (x, y), strict=True)))
    of_x, of_y = (
        _counts(f"batch_{name}", batch, cloud)
        for name, batch, cloud in zip(names, (batch_x, batch_y), (x, y), strict=True)
    )
    examples = max(len(of_x), len(of_y))
    of_x, of_y = (torch.nn.functional.pad(c, (0, examples - len(c))) for c in (of_x, of_y))
    from_x, from_y = of_x.cumsum(0) - of_x, of_y.cumsum(0) - of_y
    parts = []
    for group in _groups(of_x.cpu(), of_y.cpu()) if k else ():
        points = _padded(x, of_x, from_x, group)
        query = points if x is y and batch_x is batch_y else _padded(y, of_y, from_y, group)
        found = min(k, points.shape[1])
        idx, inside = _search(query, points, found, of_x[group], r * r)
        place = torch.arange(query.shape[1], device=x.device)
        real = (place < of_y[group][:, None])[..., None]
        real = inside & real & (torch.arange(found, device=x.device) < of_x[group][:, None, None])
        row = (from_y[group][:, None] + place)[..., None].expand_as(idx)
        parts.append((row[real], (idx + from_x[group][:, None, None])[real]))
    if not parts:
        return of_x.new_empty(0), of_x.new_empty(0)
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def _search(query: Tensor, points: Tensor, k: int, valid: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """The k nearest, (B, S, k), and whether their squared distance is below the limit."""
    if not points.is_floating_point():
        return _search_integers(query, points, k, valid, limit)
    if points.shape[-1] == 3:
        backend = choose_neighbour_backend("auto", points, k)
        idx, sqdist = _knn(query, points, k, valid, 1, math.inf, backend)
    else:
        idx, sqdist = knn_wide(query, points, k, valid, choose_backend("auto", points, numba=True))
    return idx, sqdist < limit


def _sample(points: Tensor, count: int, start: Tensor, valid: Tensor) -> Tensor:
    if not points.is_floating_point():
        return _sample_integers(points, count, start, valid)
    if points.shape[-1] == 3:
        return farthest_point_sample(points, count, start=start, valid=valid)
    return _fps_torch(points.double(), count, start, valid)


def _unbounded(x: Tensor) -> np.ndarray:
    """Integers whose squared distances are exact: int64, or Python's where those do not suffice."""
    array = x.cpu().numpy()
    fits = array.min() >= 0 and array.shape[-1] * int(array.max()) ** 2 < 2**63
    return array if fits else array.astype(object)


def _search_integers(query, points, k: int, valid: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    q, p = _unbounded(query), _unbounded(points)
    padding = np.arange(p.shape[1]) >= valid.cpu().numpy()[:, None, None]
    idx, inside = [], []
    step = max(1, 2**22 // p.size)
    for first in range(0, q.shape[1], step):
        distance = ((q[:, first : first + step, None] - p[:, None]) ** 2).sum(-1)  # (B, s, N)
        order = np.where(padding, distance.max(), distance).argsort(-1, kind="stable")[..., :k]
        idx.append(order)
        inside.append((np.take_along_axis(distance, order, -1).astype(object) < limit).astype(bool))
    return tuple(torch.from_numpy(np.concatenate(a, 1)).to(points.device) for a in (idx, inside))


def _sample_integers(points: Tensor, count: int, start: Tensor, valid: Tensor) -> Tensor:
    idx = np.empty((len(points), count), np.int64)
    for b, (first, size) in enumerate(zip(start.tolist(), valid.tolist(), strict=True)):
        cloud, current, nearest = _unbounded(points[b, :size]), first, None
        for s in range(count):
            idx[b, s] = current
            distance = ((cloud - cloud[current]) ** 2).sum(-1)
            nearest = distance if nearest is None else np.minimum(nearest, distance)
            current = int(nearest.argmax())
    return torch.from_numpy(idx).to(points.device)

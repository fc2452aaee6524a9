"""What is said of clouds before a run: which axis points up, what turns about which, how normals look."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn

from pointsuite.engine.errors import UsageError
from pointsuite.engine.runner.preflight import register_check

from .normals import EstimateNormals
from .rotate import RandomRotate

LOOKED_AT = 8  # clouds
POINTS = 512  # of each
OUTWARD = 0.999  # share of normals that point away from the centroid where an estimator turned them so
FLIPPED = 0.1  # share of points whose nearest neighbour's normal points the other way


@register_check
def describe_clouds(dataset: Any, model: nn.Module, stage: str, metrics: Sequence[Any]) -> Iterator[str]:
    """Lines on a data set of clouds; others have none.

    Raises:
        UsageError: clouds have no normals, and nothing estimates them; labels that no class has.
    """
    info = getattr(dataset, "metainfo", None)
    if not isinstance(info, dict) or "up" not in info:
        return
    yield f"{stage} data: {info['up']} points up{_describe_rotations(dataset, info['up'])}"
    rows = np.linspace(0, len(dataset) - 1, min(len(dataset), LOOKED_AT)).astype(int)
    samples = [dataset.get_data_info(int(i)) for i in rows]
    for sample in samples:
        label = sample.get("label")
        if info.get("classes") and label is not None and not 0 <= label < len(info["classes"]):
            raise UsageError(
                f"{stage} data: sample {sample['index']} has the label {label}, wanted 0 to "
                f"{len(info['classes']) - 1} for the classes {', '.join(info['classes'])}"
            )
    steps = _steps(dataset)
    if any(isinstance(step, EstimateNormals) for step in steps):
        yield f"{stage} data: normals are estimated by the pipeline"
    elif lacking := [sample["index"] for sample in samples if sample.get("normals") is None]:
        if any(type(step).__name__ == "PackPoints" for step in steps):
            raise UsageError(
                f"{stage} data: sample {lacking[0]} has no normals, which the network takes; wanted them in "
                "the data, or EstimateNormals in the pipeline"
            )
        yield f"{stage} data: no normals"
    else:
        yield f"{stage} data: normals {judge_normals(samples)}"


def _steps(dataset: Any) -> Sequence[Any]:
    return getattr(getattr(dataset, "pipeline", None), "transforms", ())


def _describe_rotations(dataset: Any, up: str) -> str:
    said = ""
    for step in _steps(dataset):
        if not isinstance(step, RandomRotate) or step.mode == "none":
            continue
        if step.mode == "so3":
            said += "; turned at random in all directions"
            continue
        axis = up if step.axis is None else "xyz"[step.axis]
        said += f"; turned at random about {axis}"
        if axis != up:
            said += ", WHICH LIES LEVEL: RandomRotate(axis=None) turns about the axis that points up"
    return said


def judge_normals(samples: Sequence[dict]) -> str:
    """What normals look like: an estimator's signs give them away.

    Args:
        samples: with ``points`` and ``normals`` (N, 3).
    """
    outward, flipped = [], []
    for sample in samples:
        points, normals = (sample[key][:POINTS].astype(np.float64) for key in ("points", "normals"))
        outward.append(((points - points.mean(0)) * normals).sum(1) >= 0)
        distances = ((points[:, None] - points[None]) ** 2).sum(-1)
        np.fill_diagonal(distances, np.inf)
        near = distances.argmin(1)
        height = np.abs(((points[near] - points) * normals).sum(1))
        beside = height < 0.1 * np.sqrt(distances.min(1))  # not on the other side of something thin
        flipped.append((normals * normals[near]).sum(1)[beside] < -0.5)
    if len(signs := np.concatenate(flipped)) and signs.mean() > FLIPPED:
        return "look estimated, without a common side: neighbours point in opposite directions"
    if np.concatenate(outward).mean() > OUTWARD:
        return "look estimated: all point away from their cloud's centre, as do those of convex shapes only"
    return "look like those of surfaces"

"""Choose and reorder points. Everything that belongs to a point goes with it: normals and parts."""

from dataclasses import dataclass

import numpy as np

from pointsuite.registry import TRANSFORMS

PER_POINT = ("points", "normals", "part")
METHODS = ("random", "first", "fps")


def take(sample: dict, rows: np.ndarray) -> dict:
    """``sample`` with the points that ``rows`` (int64 indices) names, in that order."""
    return {**sample, **{key: sample[key][rows] for key in PER_POINT if key in sample}}


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RandomPointDropout:
    """Replace points by the first point of the cloud, with all that belongs to it.

    The share of points replaced is uniform in [0, max_ratio]; the number of points stays. Published with
    PointNet++ (Qi et al., 2017).
    """

    max_ratio: float = 0.875

    def __post_init__(self):
        if not 0 <= self.max_ratio <= 1:
            raise ValueError(f"RandomPointDropout: max_ratio is {self.max_ratio}, wanted 0 to 1")

    def __call__(self, sample: dict) -> dict:
        rng, count = sample["rng"], len(sample["points"])
        dropped = rng.random(count) < rng.uniform(0, self.max_ratio)
        return take(sample, np.where(dropped, 0, np.arange(count)))


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class ShufflePoints:
    """Points in random order."""

    def __call__(self, sample: dict) -> dict:
        return take(sample, sample["rng"].permutation(len(sample["points"])))


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class SamplePoints:
    """Keep ``num`` points.

    Args:
        method: "random" (without replacement, in random order), "first" (the leading ones) or "fps"
            (farthest point sampling from the first point on; deterministic).

    Calling it raises ValueError where the cloud has fewer points.
    """

    num: int
    method: str = "random"

    def __post_init__(self):
        if self.num < 1:
            raise ValueError(f"SamplePoints: num is {self.num}, wanted at least 1")
        if self.method not in METHODS:
            raise ValueError(f"SamplePoints: method is {self.method!r}, wanted one of {METHODS}")

    def __call__(self, sample: dict) -> dict:
        count = len(sample["points"])
        if count < self.num:
            raise ValueError(
                f"SamplePoints: sample {sample.get('name', sample.get('index'))} has {count} points, "
                f"wanted at least {self.num}"
            )
        if self.method == "first":
            return take(sample, np.arange(self.num))
        if self.method == "random":
            return take(sample, sample["rng"].permutation(count)[: self.num])
        import torch

        from pointsuite.ops import farthest_point_sample  # compiles: only who asks for it waits

        rows = farthest_point_sample(torch.from_numpy(sample["points"])[None], self.num)[0]
        return take(sample, rows.numpy())

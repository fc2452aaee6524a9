"""What goes wrong with clouds outside of data sets, each in five severities, for clouds in the unit sphere.

A corruption keeps all points, or drops as many of every cloud of one size, so that clouds still stack.
Jitter, scale and dropout have the levels of ModelNet-C, and outliers nearly (Ren, Pan, Liu, "Benchmarking and
Analyzing Point Cloud Classification under Corruptions", ICML 2022).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pointsuite.engine.corruptions import Corruption
from pointsuite.registry import TRANSFORMS

from .normals import EstimateNormals
from .perturb import RandomJitter, RandomScale
from .select import take

CORRUPTIONS: dict[str, type[Corruption]] = {}  # by the names of reports


class CloudCorruption(Corruption):
    """Of a sample with ``points``, ``normals`` and ``rng``."""

    table: ClassVar = CORRUPTIONS
    registry: ClassVar = TRANSFORMS


class CorruptJitter(CloudCorruption, name="jitter"):
    """Normal noise on every coordinate; the normals stay those of the clean points."""

    levels = (0.01, 0.02, 0.03, 0.04, 0.05)
    unit = "standard deviation, in radii of the cloud"

    def __call__(self, sample: dict) -> dict:
        return RandomJitter(self.level, clip=1.0)(sample)


class CorruptDropout(CloudCorruption, name="dropout, global"):
    """Points missing at random."""

    levels = (0.25, 0.375, 0.5, 0.625, 0.75)
    unit = "share of the points"

    def __call__(self, sample: dict) -> dict:
        count = len(sample["points"])
        order = sample["rng"].permutation(count)
        return take(sample, np.sort(order[round(self.level * count) :]))


class CorruptLocalDropout(CloudCorruption, name="dropout, local"):
    """Holes: one to seven clusters of neighbouring points are missing, of random sizes."""

    levels = (0.1, 0.2, 0.3, 0.4, 0.5)
    unit = "share of the points"

    def __call__(self, sample: dict) -> dict:
        rng, points = sample["rng"], sample["points"]
        clusters = rng.integers(1, 8)
        sizes = rng.multinomial(round(self.level * len(points)), np.full(clusters, 1 / clusters))
        kept = np.arange(len(points))
        for size in sizes:
            distance = np.linalg.norm(points[kept] - points[rng.choice(kept)], axis=1)
            kept = np.sort(kept[np.argsort(distance, kind="stable")[size:]])
        return take(sample, kept)


class CorruptOutliers(CloudCorruption, name="outliers"):
    """Points replaced by others, uniform in the unit ball, with normals uniform on the sphere."""

    levels = (0.01, 0.02, 0.03, 0.04, 0.05)
    unit = "share of the points"

    def __call__(self, sample: dict) -> dict:
        rng, count = sample["rng"], len(sample["points"])
        rows = rng.permutation(count)[: round(self.level * count)]
        points, normals = sample["points"].copy(), sample["normals"].copy()
        points[rows] = _unit(rng, len(rows)) * np.cbrt(rng.random((len(rows), 1)))
        normals[rows] = _unit(rng, len(rows))
        return {**sample, "points": points, "normals": normals}


class CorruptScale(CloudCorruption, name="scale"):
    """Each axis scaled by a factor of its own, uniform in [1 / level, level]; the normals follow."""

    levels = (1.6, 1.7, 1.8, 1.9, 2.0)
    unit = "largest factor"

    def __call__(self, sample: dict) -> dict:
        return RandomScale(1 / self.level, self.level, anisotropic=True)(sample)


class CorruptOcclusion(CloudCorruption, name="occlusion"):
    """One side missing: all points on the far side of a plane, at right angles to a random direction."""

    levels = (0.1, 0.2, 0.3, 0.4, 0.5)
    unit = "share of the points"

    def __call__(self, sample: dict) -> dict:
        points = sample["points"]
        depth = points @ _unit(sample["rng"], 1)[0].astype(np.float32)
        return take(sample, np.sort(np.argsort(depth, kind="stable")[round(self.level * len(points)) :]))


class CorruptNormals(CloudCorruption, name="normals, noise"):
    """Normals tilted in random directions, by the absolute value of a normally distributed angle."""

    levels = (5.0, 10.0, 15.0, 20.0, 30.0)
    unit = "standard deviation of the angle, in degrees"

    def __call__(self, sample: dict) -> dict:
        rng, normals = sample["rng"], sample["normals"]
        aside = np.cross(normals, _unit(rng, len(normals)))
        aside /= np.linalg.norm(aside, axis=1, keepdims=True)
        angle = np.radians(self.level) * np.abs(rng.standard_normal((len(normals), 1)))
        tilted = np.cos(angle) * normals + np.sin(angle) * aside
        return {**sample, "normals": tilted.astype(np.float32)}


class CorruptNormalSigns(CloudCorruption, name="normals, flipped"):
    """Normals that point to the other side, of points chosen at random."""

    levels = (0.1, 0.2, 0.3, 0.4, 0.5)
    unit = "share of the points"

    def __call__(self, sample: dict) -> dict:
        normals = sample["normals"].copy()
        rows = sample["rng"].permutation(len(normals))[: round(self.level * len(normals))]
        normals[rows] *= -1
        return {**sample, "normals": normals}


class CorruptEstimatedNormals(CloudCorruption, name="normals, estimated"):
    """Normals estimated from the points (32 neighbours, outward) after noise; the points stay clean."""

    levels = (0.0, 0.005, 0.01, 0.015, 0.02)
    unit = "standard deviation of the noise, in radii of the cloud"

    def __call__(self, sample: dict) -> dict:
        noisy = RandomJitter(self.level, clip=1.0)(sample)
        return {**sample, "normals": EstimateNormals()(noisy)["normals"]}


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RepeatPoints:
    """To a cloud of fewer than ``num`` points append copies of its points, in random order, up to that."""

    num: int

    def __post_init__(self):
        if self.num < 1:
            raise ValueError(f"RepeatPoints: num is {self.num}, wanted at least 1")

    def __call__(self, sample: dict) -> dict:
        count = len(sample["points"])
        if count >= self.num:
            return sample
        more = np.resize(sample["rng"].permutation(count), self.num - count)
        return take(sample, np.concatenate([np.arange(count), more]))


def _unit(rng: np.random.Generator, count: int) -> np.ndarray:
    """Vectors uniform on the unit sphere, float64 (count, 3)."""
    vectors = rng.standard_normal((count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

"""Move points a little, or all of them alike."""

from dataclasses import dataclass

import numpy as np

from pointsuite.registry import TRANSFORMS


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RandomJitter:
    """Add normal noise of standard deviation ``sigma`` to each coordinate, cut at ``clip``; normals stay."""

    sigma: float = 0.01
    clip: float = 0.05

    def __post_init__(self):
        if not (self.sigma >= 0 and self.clip > 0):
            raise ValueError(f"RandomJitter: found {self}, wanted sigma >= 0 and clip > 0")

    def __call__(self, sample: dict) -> dict:
        points = sample["points"]
        noise = self.sigma * sample["rng"].standard_normal(points.shape, dtype=np.float32)
        return {**sample, "points": points + noise.clip(-self.clip, self.clip)}


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RandomScale:
    """Multiply by a factor uniform in [low, high].

    With ``anisotropic`` each axis has its own factor s, and the normals, which are perpendicular to the
    surface, change with the inverse transpose: n / s, scaled back to unit length.
    """

    low: float = 2 / 3
    high: float = 3 / 2
    anisotropic: bool = False

    def __post_init__(self):
        if not 0 < self.low <= self.high < np.inf:
            raise ValueError(f"RandomScale: found {self}, wanted 0 < low <= high")

    def __call__(self, sample: dict) -> dict:
        scale = sample["rng"].uniform(self.low, self.high, 3 if self.anisotropic else 1).astype(np.float32)
        sample = {**sample, "points": sample["points"] * scale}
        if self.anisotropic:
            normals = sample["normals"] / scale
            sample["normals"] = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        return sample


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RandomShift:
    """Add one vector, each component uniform in [-max_shift, max_shift], to all points."""

    max_shift: float = 0.2

    def __post_init__(self):
        if not 0 <= self.max_shift < np.inf:
            raise ValueError(f"RandomShift: max_shift is {self.max_shift}, wanted at least 0")

    def __call__(self, sample: dict) -> dict:
        shift = sample["rng"].uniform(-self.max_shift, self.max_shift, 3).astype(np.float32)
        return {**sample, "points": sample["points"] + shift}

"""Put a cloud into a frame of its own."""

from dataclasses import dataclass

import numpy as np

from pointsuite.registry import TRANSFORMS


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class NormalizeUnitSphere:
    """Centroid to the origin, then the farthest point to distance 1.

    A cloud of one point, or of copies of one point, becomes all zeros: it has no scale.
    """

    def __call__(self, sample: dict) -> dict:
        # in float64 the mean of equal float32 values is exactly that value
        points = sample["points"].astype(np.float64)
        points -= points.mean(0)
        radius = np.linalg.norm(points, axis=1).max()
        if radius > 0:
            points /= radius
        return {**sample, "points": points.astype(np.float32)}

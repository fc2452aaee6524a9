"""Normals for clouds that have none."""

from dataclasses import dataclass

import torch

from pointsuite.registry import TRANSFORMS


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class EstimateNormals:
    """Put estimated normals in place of what the cloud has: see :func:`pointsuite.ops.estimate_normals`.

    Place it behind all transforms that rotate, drop or move points: a test under rotations is one only when
    the normals are those of the rotated points. As published with RISurConv for ScanObjectNN, they were
    computed once before any rotation, with the eigensolver's sign: that is ``orient="none"`` placed first, or
    the normals that tools/prepare_dataset.py stores with ``--orient none`` and no such transform.

    Args:
        k: neighbours of a point, itself among them. Calling raises ValueError where a cloud has fewer points.
        orient: "outward", away from the centroid, or "none".
    """

    k: int = 32
    orient: str = "outward"

    def __post_init__(self):
        if self.k < 3 or self.orient not in ("outward", "none"):
            raise ValueError(f"EstimateNormals: found {self}, wanted k >= 3 and orient 'outward' or 'none'")

    def __call__(self, sample: dict) -> dict:
        from pointsuite.ops import estimate_normals  # compiles: only who asks for it waits

        points = torch.from_numpy(sample["points"])
        return {**sample, "normals": estimate_normals(points[None], self.k, self.orient)[0].numpy()}

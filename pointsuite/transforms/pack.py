"""The last transform: from arrays to what a model is fed."""

from dataclasses import dataclass

import numpy as np
import torch

from pointsuite.datasets.data_sample import PointDataSample
from pointsuite.registry import TRANSFORMS


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class PackPoints:
    """{"inputs": float32 tensor (N, 6), xyz and normal; "data_samples": PointDataSample}."""

    def __call__(self, sample: dict) -> dict:
        if "normals" not in sample:
            raise ValueError(
                f"PackPoints: sample {sample.get('name', sample.get('index'))} has no normals, wanted some; "
                "EstimateNormals before it makes them"
            )
        features = np.concatenate([sample["points"], sample["normals"]], axis=1, dtype=np.float32)
        metainfo = {key: sample[key] for key in ("index", "name") if key in sample}
        data_sample = PointDataSample(metainfo=metainfo)
        data_sample.gt_label = torch.tensor(sample["label"])
        if "part" in sample:
            data_sample.gt_part = torch.from_numpy(sample["part"])
        return {"inputs": torch.from_numpy(features), "data_samples": data_sample}

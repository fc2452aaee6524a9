"""From a clip of frames to what a model takes."""

from dataclasses import dataclass

import torch

from ..registry import TRANSFORMS
from .sample import ClipDataSample


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class PackClip:
    """{"inputs": uint8 tensor (T, C, H, W); "data_samples": :class:`ClipDataSample`}."""

    def __call__(self, sample: dict) -> dict:
        keys = ("video", "video_path", "num_frames", "num_windows", "frames")
        metainfo = {"index": sample["sample_idx"], **{key: sample[key] for key in keys}}
        return {
            "inputs": torch.from_numpy(sample["clip"]),
            "data_samples": ClipDataSample(metainfo=metainfo),
        }

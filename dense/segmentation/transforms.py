"""Transforms that MMSegmentation lacks."""

import numpy as np
from mmcv.transforms import BaseTransform

from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class RoundLabels(BaseTransform):
    """Grey levels of a mask to classes: ``level / step``.

    Published masks have the levels 0, 63, 126, 189 and 252. An image without a mask stays as it is.

    Args:
        step: from the level of a class to that of the next.
        exact: refuse other levels; otherwise they become the nearest class, as published.

    Raises:
        OSError: a mask of colours, or with a level that is no multiple of ``step`` (such as the classes'
            numbers themselves, for which ``step`` is 1).
    """

    def __init__(self, step: float = 63, exact: bool = True):
        self.step, self.exact = step, exact

    def transform(self, results: dict) -> dict:
        if "gt_seg_map" not in results:
            return results
        levels, path = results["gt_seg_map"], results.get("seg_map_path", "a mask")
        if levels.ndim != 2:
            raise OSError(f"{path}: found a mask of shape {levels.shape}, wanted one grey level a pixel")
        labels = np.rint(levels / self.step)
        wrong = np.abs(labels * self.step - levels) > 0.5
        if self.exact and wrong.any():
            raise OSError(f"{path}: found the level {levels[wrong][0]}, wanted multiples of {self.step:g}")
        return {**results, "gt_seg_map": labels.astype(np.uint8)}

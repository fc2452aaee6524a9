"""Transforms that MMSegmentation lacks."""

import numpy as np
from mmcv.transforms import BaseTransform

from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class RoundLabels(BaseTransform):
    """Grey levels of a mask to the nearest class: ``round(level / step)``.

    Published masks have the levels 0, 63, 126, 189 and 252. An image without a mask stays as it is.
    """

    def __init__(self, step: float = 63):
        self.step = step

    def transform(self, results: dict) -> dict:
        if "gt_seg_map" not in results:
            return results
        return {**results, "gt_seg_map": np.rint(results["gt_seg_map"] / self.step).astype(np.uint8)}

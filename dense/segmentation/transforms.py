"""Transforms that MMSegmentation lacks."""

import numpy as np
from mmcv.transforms import BaseTransform

from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class RoundLabels(BaseTransform):
    """Grey levels of a mask to classes: ``level / step``, renamed by ``class_map`` where a sample has one.

    Published masks have the levels 0, 63, 126, 189 and 252; of masks with the classes' numbers themselves,
    also as places of a palette, ``step`` is 1. An image without a mask stays as it is.

    Args:
        step: from the level of a class to that of the next.
        exact: refuse other levels; otherwise they become the nearest class, as published.
        ignored: level of pixels without a class, which become ``ignore_index``; None: there is none.
        ignore_index: label of such pixels.

    Raises:
        ValueError: ``step`` is not above 0.
        OSError: a mask of colours, or with a level that is no multiple of ``step``.
    """

    maps_labels = True  # :mod:`dense.base.preflight` does so, too, when it looks at masks

    def __init__(
        self, step: float = 63, exact: bool = True, ignored: int | None = None, ignore_index: int = 255
    ):
        if not step > 0:
            raise ValueError(f"RoundLabels: step is {step}, wanted the levels from a class to the next")
        self.step, self.exact, self.ignored, self.ignore_index = step, exact, ignored, ignore_index

    def transform(self, results: dict) -> dict:
        if "gt_seg_map" not in results:
            return results
        levels, path = results["gt_seg_map"], results.get("seg_map_path", "a mask")
        if levels.ndim != 2:
            raise OSError(f"{path}: found a mask of shape {levels.shape}, wanted one grey level a pixel")
        labels = np.rint(levels / self.step)
        known = levels != self.ignored
        wrong = known & (np.abs(labels * self.step - levels) > 0.5)
        if self.exact and wrong.any():
            raise OSError(
                f"{path}: found the level {levels[wrong][0]}, wanted multiples of {self.step:g}; "
                "RoundLabels(step=1) takes the numbers of classes, and ignored=LEVEL leaves a level out"
            )
        renamed = labels.copy()
        for old, new in (results.get("class_map") or {}).items():
            renamed[labels == old] = new
        renamed[~known] = self.ignore_index
        return {**results, "gt_seg_map": renamed.astype(np.uint8)}

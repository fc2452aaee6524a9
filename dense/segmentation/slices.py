"""Scans as 2-D slices: grey images ``Subj_<scan>slice_<position>.png``, masks with one grey level a class.

So CHAOS (Kavur et al., "CHAOS challenge", Medical Image Analysis 2021) is cut up for self-guided attention:
T1-DUAL in-phase MRI of 20 labelled people, 13 to train, 2 to validate, 5 to test, 256 x 256 pixels.
"""

import re
from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset

from ..registry import DATASETS, TRANSFORMS

NAME = re.compile(r"Subj_(\d+)slice_(\d+)")


def parse_name(path: str | Path) -> tuple[int, int]:
    """Scan and position of a slice, from its file's name.

    Raises:
        OSError: the name is another.
    """
    match = NAME.fullmatch(Path(path).stem)
    if match is None:
        raise OSError(f"{path}: wanted a slice's name, as Subj_3slice_12.png")
    return int(match[1]), int(match[2])


@DATASETS.register_module()
class SliceDataset(BaseSegDataset):
    """Slices in the order of their scans and positions, whose numbers have no leading zeros.

    The masks need :class:`RoundLabels` after ``LoadAnnotations``.

    Args:
        **kwargs: of MMSegmentation's ``BaseSegDataset``; ``data_prefix=dict(img_path=..., seg_map_path=...)``
            names the folders, ``metainfo=dict(classes=...)`` other classes than those of CHAOS.

    Raises:
        OSError: a folder or an image is missing, or has no slice's name.
    """

    METAINFO = {
        "classes": ("background", "liver", "right kidney", "left kidney", "spleen"),
        "palette": [[0, 0, 0], [220, 60, 60], [240, 190, 60], [60, 190, 90], [70, 110, 220]],
    }

    def __init__(self, *, img_suffix: str = ".png", **kwargs):
        super().__init__(img_suffix=img_suffix, **kwargs)

    def load_data_list(self) -> list[dict]:
        data_list = super().load_data_list()
        if not data_list:
            raise FileNotFoundError(
                f"{self.data_prefix['img_path']}: found no slices, wanted *{self.img_suffix}"
            )
        return sorted(data_list, key=lambda info: parse_name(info["img_path"]))


@TRANSFORMS.register_module()
class RoundLabels(BaseTransform):
    """Grey levels of a mask to the nearest class: ``round(level / step)``.

    Published masks have the levels 0, 63, 126, 189 and 252.
    """

    def __init__(self, step: float = 63):
        self.step = step

    def transform(self, results: dict) -> dict:
        results["gt_seg_map"] = np.rint(results["gt_seg_map"] / self.step).astype(np.uint8)
        return results

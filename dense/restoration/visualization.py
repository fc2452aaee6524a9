"""Pictures of restored images."""

import numpy as np
from mmengine.visualization import Visualizer

from ..base.captions import add_captions
from ..registry import VISUALIZERS
from .degradations import to_float
from .metrics import to_levels
from .sample import RestorationSample

GAP = 4  # pixels between the images of a picture


@VISUALIZERS.register_module()
class RestorationVisualizer(Visualizer):
    """Draws, from left to right, the poor image (as large as the good one), the restored and the good one.

    A heading says which is which.
    """

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: RestorationSample,
        draw_gt: bool = True,
        draw_pred: bool = True,
        step: int = 0,
        **_,
    ) -> None:
        """See MMEngine.

        Args:
            name: of the picture.
            image: the poor image (h, w, C), uint8 or floating-point numbers in 0..1.
            data_sample: with ``pred``, ``gt``, or both.
        """
        wanted = [key for key, draw in (("pred", draw_pred), ("gt", draw_gt)) if draw and key in data_sample]
        images = [data_sample.get(key).cpu().numpy().transpose(1, 2, 0) for key in wanted]
        if images:
            scale = images[0].shape[0] // image.shape[0]
            image = image.repeat(scale, 0).repeat(scale, 1)
        headings = ("poor", *({"pred": "restored", "gt": "good"}[key] for key in wanted))
        picture = add_captions(side_by_side([image, *images]), headings)
        self.set_image(picture)
        self.add_image(name, picture, step)


def side_by_side(images: list[np.ndarray]) -> np.ndarray:
    """Images (H, W, 1 or 3) of one height, uint8 or in 0..1, as one uint8 picture (H, ..., 3)."""
    gap = np.full((len(images[0]), GAP, 3), 255, np.uint8)
    parts = []
    for image in images:
        levels = to_levels(image if image.dtype == np.uint8 else to_float(image))
        parts += [np.broadcast_to(levels, (*levels.shape[:2], 3)), gap]
    return np.concatenate(parts[:-1], axis=1)

"""Pictures of what adapting a network changes: norms of its tokens."""

import numpy as np
from matplotlib import colormaps
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from numpy.typing import ArrayLike
from PIL import Image

from ..base.captions import add_captions
from ..registry import VISUALIZERS


def draw_norms(norms: ArrayLike, size: tuple[int, int], top: float) -> np.ndarray:
    """A map of norms (h, w), a square each, dark for 0 and bright for ``top`` and more.

    Args:
        size: width and height of the picture.

    Returns:
        uint8 (height, width, 3).
    """
    norms = np.asarray(norms, np.float32)
    if norms.ndim != 2 or not norms.size or top <= 0:
        raise ValueError(f"norms must be (h, w) and top above 0, found {norms.shape} and {top}")
    colors = colormaps["viridis"]((norms / top).clip(0, 1), bytes=True)[..., :3]
    picture = Image.fromarray(np.ascontiguousarray(colors))
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST))


@VISUALIZERS.register_module()
class NormVisualizer(Visualizer):
    """Draws an image and the norms of its patches before and after the network got registers.

    Both maps have one scale, up to their largest norm. Pictures are enlarged to at least ``least`` pixels a
    side.
    """

    def __init__(self, name: str = "visualizer", least: int = 256, **kwargs):
        super().__init__(name, **kwargs)
        self.least = least

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: BaseDataElement,
        draw_gt: bool = True,
        draw_pred: bool = True,
        step: int = 0,
        **_,
    ) -> None:
        """See MMEngine.

        Args:
            name: of the picture.
            image: uint8 (H, W, 3).
            data_sample: with ``norms_before`` and ``norms_after`` (h, w), where there is a prediction.
        """
        scale = max(1, -(-self.least // min(image.shape[:2])))
        size = (scale * image.shape[1], scale * image.shape[0])
        large = Image.fromarray(image).resize(size, Image.Resampling.NEAREST)
        parts, headings = [np.asarray(large)], ["image"]
        if draw_pred and "norms_before" in data_sample:
            maps = [data_sample.get(f"norms_{side}").cpu().numpy() for side in ("before", "after")]
            top = float(max(norms.max() for norms in maps))
            parts += [draw_norms(norms, size, top) for norms in maps]
            headings += [
                f"norms {side}: median {np.median(norms):.3g}, largest {norms.max():.3g}"
                for side, norms in zip(("before", "after"), maps, strict=True)
            ]
        picture = add_captions(np.concatenate(parts, 1), headings)
        self.set_image(picture)
        self.add_image(name, picture, step)

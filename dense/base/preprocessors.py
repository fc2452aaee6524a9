"""From a batch of images to what networks are fed."""

from collections.abc import Sequence

from mmengine.model import ImgDataPreprocessor

from pointsuite.engine.task_model import stack_inputs

from ..registry import MODELS

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # red, green, blue in 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)


@MODELS.register_module()
class StackImages(ImgDataPreprocessor):
    """Move a batch to the model's device, stack it to float32 (B, C, H, W) and normalise it.

    Nothing is padded: the images of a batch must have one size, for a prediction depends on its own image
    only.

    Args:
        mean, std: of each channel, in 0..255.
        **kwargs: of MMEngine's ``ImgDataPreprocessor``.
    """

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD, **kwargs):
        super().__init__(mean, std, **kwargs)

    def forward(self, data: dict, training: bool = False) -> dict:
        images = stack_inputs(data["inputs"], "images", "add Resize or CenterCrop to the pipeline")
        return super().forward({**data, "inputs": images}, training)

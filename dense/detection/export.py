"""A detector to be exported: its maps of scores and boxes, or its queries' scores and boxes."""

from mmdet.models import DeformableDETR, DetectionTransformer, TwoStageDetector
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from pointsuite.engine.errors import UsageError
from pointsuite.engine.export import Inputs, Part

from ..base.export import run_library


def make_part(model: nn.Module) -> Part:
    """What the head computes of normalised images, before boxes are chosen.

    Raises:
        UsageError: a detector of two stages, whose second one gets as many boxes as the first finds, or a
            deformable transformer.
    """
    if isinstance(model, DeformableDETR):
        raise UsageError(
            f"{type(model).__name__} cannot be exported: MMDetection's deformable transformer reads the "
            "sizes of its maps out of tensors, which no graph holds; wanted a detector without"
        )
    if isinstance(model, TwoStageDetector) and model.with_roi_head:
        raise UsageError(
            f"{type(model).__name__} cannot be exported: its second stage gets as many boxes as the first "
            "finds in an image, which no graph holds; wanted a detector of one stage"
        )
    return Part(model, run_queries if isinstance(model, DetectionTransformer) else run_library)


def run_queries(model: nn.Module, inputs: Inputs) -> object:
    images = inputs["images"]
    return model(images, describe_images(images), mode="tensor")


def describe_images(images: Tensor) -> list[DetDataSample]:
    """What detectors want to know of images (B, C, H, W) without padding."""
    sizes = dict.fromkeys(
        ("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), tuple(images.shape[2:])
    )
    return [DetDataSample(metainfo={**sizes, "scale_factor": (1.0, 1.0)}) for _ in range(len(images))]

"""Dense detectors with the bridge of RelationNet++."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.registry import MODELS as DETECTORS
from torch import Tensor, nn

from pointsuite.engine.network import results

from ....base.configured import ConfiguredNetwork, build_configured
from ....registry import MODELS, ZOO
from ...samples import make_samples
from .weights import convert

KINDS = {"retina_cls": "retinanet", "conv_cls": "fcos", "atss_cls": "atss"}  # by a layer of the head


@ZOO.register_network("relationnet2", MODELS)
class RelationNet2(ConfiguredNetwork, SingleStageDetector):
    """MMDetection's detector of one stage, whose ``bbox_head`` is one with a bridge.

    Args:
        *args, **kwargs: of MMDetection's ``SingleStageDetector``.
    """

    title = "RelationNet++"
    paper = (
        'Chi, Wei, Hu, "RelationNet++: Bridging Visual Representations for Object Detection via Transformer '
        'Decoder", NeurIPS 2020, arXiv 2010.15831'
    )
    code = "microsoft/RelationNet2"
    licence = "MIT"
    library = DETECTORS
    archs = {
        "retinanet_r50": {"config": "relationnet2/relationnet2-retinanet_r50_8xb2-1x_coco.py"},
        "retinanet_x101_dcn": {"config": "relationnet2/relationnet2-retinanet_x101-dcn_8xb2-ms-20e_coco.py"},
        "fcos_x101_dcn": {"config": "relationnet2/relationnet2-fcos_x101-dcn_8xb2-ms-20e_coco.py"},
        "atss_x101_dcn": {"config": "relationnet2/relationnet2-atss_x101-dcn_8xb2-ms-20e_coco.py"},
    }
    num_parameters = {
        "retinanet_r50": 46_417_466,
        "retinanet_x101_dcn": 112_026_212,
        "fcos_x101_dcn": 102_933_248,
        "atss_x101_dcn": 106_475_256,
    }
    published = results(
        ("COCO val AP", "COCO val AP50", "COCO val AP75"),
        {
            "retinanet_r50": (38.5, 59.1, 40.9),
            "retinanet_x101_dcn": (46.5, 66.3, 50.6),
            "fcos_x101_dcn": (48.7, 68.0, 52.9),
            "atss_x101_dcn": (50.6, 69.5, 55.3),
        },
    )

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        """RetinaNet on a ResNet-18 of an eighth of the width, with 64 channels."""
        small = {
            "backbone.depth": 18,
            "backbone.base_channels": 8,
            "neck.in_channels": [8, 16, 32, 64],
            "neck.out_channels": 64,
            "bbox_head.in_channels": 64,
            "bbox_head.feat_channels": 64,
            "bbox_head.stacked_convs": 1,
            "num_classes": 5,
        }
        return cls.create("retinanet_r50", **{**small, **options})

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :func:`~.weights.convert`."""
        return convert(state_dict)

    @classmethod
    def guess_options(
        cls, state_dict: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        """Variants with the head that the weights are of, and with their number of classes."""
        kind = next(kind for layer, kind in KINDS.items() if f"bbox_head.{layer}.weight" in state_dict)
        depth = "x101" if "backbone.layer3.22.conv1.weight" in state_dict else "r50"
        points = "bbox_head.bvr.keypoint_head.keypoint_cls_heads.center."
        last = max(key for key in state_dict if key.startswith(points) and key.endswith("weight"))
        classes = len(state_dict[last])
        for arch in cls.archs:
            if arch.startswith(f"{kind}_{depth}"):
                yield arch, {} if classes == 80 else {"num_classes": classes}, dict(state_dict)

    def example_inputs(self, batch: int = 2, size: tuple[int, int] = (224, 224)) -> tuple[Tensor, list]:
        """Random images, and samples with a box each."""
        return torch.randn(batch, 3, *size), make_samples(batch, size)


@ZOO.register_model
def relationnet2_faster_rcnn_r50(**options) -> nn.Module:
    """Faster R-CNN with bridged proposals, as we read the paper; options as of any detector of the zoo."""
    return build_configured("relationnet2/relationnet2-faster-rcnn_r50_8xb2-1x_coco.py", DETECTORS, **options)

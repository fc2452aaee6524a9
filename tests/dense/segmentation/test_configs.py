"""Every segmentation config: its backbone's maps are those that its neck or head is told of."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

from dense.base import BaseBackbone

CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[3] / "configs").glob("*/*_camvid*.py")
    if not path.stem.endswith("-patches")  # they are classified
)


def test_there_are_configs():
    assert len(CONFIGS) >= 10


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_channels_fit(path):
    cfg = Config.fromfile(path)
    model = cfg.model
    with DefaultScope.overwrite_default_scope("mmseg"), torch.device("meta"):
        backbone = MODELS.build(model.backbone)
    if isinstance(backbone, BaseBackbone):
        channels, strides = backbone.out_channels, backbone.strides
    else:  # MMSegmentation's, which do not say
        maps = backbone(torch.empty(2, 3, 64, 96, device="meta"))
        channels, strides = zip(*((x.shape[1], 64 // x.shape[2]) for x in maps), strict=True)
    neck = model.get("neck", model.decode_head)
    if neck.type == "Feature2Pyramid":  # maps of one width and stride become a pyramid
        assert {neck.embed_dim} == {*channels, *model.decode_head.in_channels}
        strides = tuple(int(stride / scale) for stride, scale in zip(strides, neck.rescales, strict=True))
    else:
        assert tuple(neck.in_channels) == channels
    if auxiliary := model.get("auxiliary_head"):
        assert auxiliary.in_channels == channels[auxiliary.in_index]
        assert auxiliary.num_classes == 11
    assert tuple(model.decode_head.get("feature_strides", strides)) == strides
    assert model.decode_head.num_classes == 11 and cfg.default_scope == "mmseg"
    assert [cfg[f"{split}_dataloader"].dataset.split for split in ("train", "val", "test")] == [
        "train",
        "val",
        "test",
    ]

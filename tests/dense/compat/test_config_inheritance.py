"""Configs that inherit from mmdet and mmseg, with a backbone of dense in place of theirs."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from dense.backbones import Backbone
from dense.registry import MODELS as DENSE_MODELS

from .test_stock_configs import make_batch

CONFIGS = Path(__file__).parents[3] / "configs"


class TwoConvs(Backbone):
    archs = {"tiny": {"depths": (1, 1)}}

    def __init__(self, arch="tiny", **kwargs):
        super().__init__(arch, **kwargs)
        self.downsamples.extend([nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 16, 2, 2)])
        self.stages.extend([nn.ModuleList([nn.ReLU()]), nn.ModuleList([nn.ReLU()])])
        self.set_outputs((8, 16), (4, 8))


@pytest.fixture(autouse=True)
def registered():
    DENSE_MODELS.register_module(module=TwoConvs)
    yield
    del DENSE_MODELS._module_dict["TwoConvs"]


def build(text, tmp_path, scope):
    (tmp_path / "config.py").write_text(text)
    cfg = Config.fromfile(tmp_path / "config.py")
    init_default_scope(scope)
    return MODELS.build(cfg.model).eval()


@torch.no_grad()
def test_mmdet(tmp_path):
    from mmdet.structures import DetDataSample

    text = """
_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"
custom_imports = dict(imports=["dense"])
model = dict(
    backbone=dict(_delete_=True, type="dense.TwoConvs"),
    neck=dict(in_channels=[8, 16], start_level=0, num_outs=5),
    test_cfg=dict(score_thr=0, max_per_img=5),
)
"""
    model = build(text, tmp_path, "mmdet")
    assert isinstance(model.backbone, TwoConvs)
    assert len(model.test_step(make_batch(DetDataSample()))[0].pred_instances) == 5


@torch.no_grad()
def test_mmseg(tmp_path):
    from mmseg.structures import SegDataSample

    text = """
_base_ = "mmseg::_base_/models/fcn_r50-d8.py"
custom_imports = dict(imports=["dense"])
model = dict(
    data_preprocessor=dict(size=(96, 160)),
    pretrained=None,
    backbone=dict(_delete_=True, type="dense.TwoConvs"),
    decode_head=dict(in_channels=16, in_index=1, channels=8, norm_cfg=dict(type="BN")),
    auxiliary_head=None,
)
"""
    model = build(text, tmp_path, "mmseg")
    assert isinstance(model.backbone, TwoConvs)
    assert model.test_step(make_batch(SegDataSample()))[0].pred_sem_seg.data.shape == (1, 96, 160)


@torch.no_grad()
def test_davit_mask_rcnn():
    from mmdet.structures import DetDataSample

    from dense.backbones import DaViT

    cfg = Config.fromfile(CONFIGS / "davit/davit-t_mask-rcnn_coco.py")
    assert cfg.train_cfg.max_epochs == 12
    assert (cfg.optim_wrapper.optimizer.type, cfg.optim_wrapper.optimizer.lr) == ("AdamW", 1e-4)
    backbone = cfg.model.backbone
    assert backbone.pop("init_cfg").prefix == "backbone."
    backbone.arch = {**DaViT.archs[backbone.arch], "depths": (1, 1, 1, 1)}
    cfg.model.test_cfg.rcnn.score_thr = 0
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    assert isinstance(model.backbone, DaViT)
    found = model.test_step(make_batch(DetDataSample()))[0].pred_instances
    assert len(found) and found.masks.shape[1:] == (96, 160)

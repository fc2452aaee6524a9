"""Everything imports and builds where no compiler can be found; ``import dense`` itself stays light."""

import os
import subprocess
import sys

CODE = """
import shutil, sys
assert not any(shutil.which(name) for name in ("cc", "gcc", "g++", "clang", "nvcc", "ninja"))

import dense
heavy = {"mmcv", "mmdet", "mmseg", "mmengine.runner", "numba", "matplotlib"} & sys.modules.keys()
assert not heavy, heavy

import mmdet.apis, mmdet.models, mmdet.structures, mmseg.apis, mmseg.models
import torch
from mmdet.models.dense_heads.clr_head import clr_head
from mmseg.models.decode_heads.psa_head import PSAMask
assert clr_head.nms is not None and PSAMask is not None

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
init_default_scope("mmdet")
cfg = Config.fromfile(sys.argv[1])
cfg.model.backbone.init_cfg = None
cfg.model.backbone.dcn = dict(type="DCNv2", deform_groups=1)
cfg.model.backbone.stage_with_dcn = (False, False, False, True)
cfg.model.test_cfg.rcnn.score_thr = 0
model = MODELS.build(cfg.model).eval()
image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
size = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), (64, 64))
sample = mmdet.structures.DetDataSample(metainfo={**size, "scale_factor": (1.0, 1.0)})
with torch.no_grad():
    found = model.test_step({"inputs": [image], "data_samples": [sample]})[0]
print("detected", len(found.pred_instances))
"""


def test_imports_and_builds(tmp_path):
    (tmp_path / "config.py").write_text('_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"\n')
    environment = {
        name: value for name, value in os.environ.items() if name not in ("CC", "CXX", "CUDA_HOME")
    }
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", CODE, tmp_path / "config.py"],
        env={**environment, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "detected" in run.stdout
    assert "compiled" not in run.stdout + run.stderr

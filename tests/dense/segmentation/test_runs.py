"""Whole runs of configs on small files, by the command lines."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

import dense
from dense.registry import MODELS
from pointsuite.engine import command
from pointsuite.engine.checkpoint import load_checkpoint, save_checkpoint
from pointsuite.engine.errors import UsageError
from tests.pointsuite.engine.conftest import one_thread  # noqa: F401
from tests.tools.load import load_tool

from .data import write_camvid, write_slices

CONFIGS = Path(__file__).parents[3] / "configs"
RESNET = CONFIGS / "resnet/resnet18_fpn_camvid-small.py"
GUIDED = CONFIGS / "self_guided_attention"
train, test = load_tool("train"), load_tool("test")
SMALL = [
    "model.backbone.base_channels=8",
    "model.neck.in_channels=[8,16,32,64]",
    "model.neck.out_channels=8",
    "model.decode_head.in_channels=[8,8,8,8]",
    "model.decode_head.channels=8",
    "model.data_preprocessor.size=(32,32)",
    "train_dataloader.dataset.pipeline.2.scale=(64,48)",
    "train_dataloader.dataset.pipeline.3.crop_size=(32,32)",
    "train_dataloader.batch_size=2",
    "test_dataloader.dataset.pipeline.1.scale=(64,48)",
    "val_dataloader.dataset.pipeline.1.scale=(64,48)",
    "visualizer.vis_backends=[]",
]


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("data") / "camvid")


def run(config, *options, work_dir, resume=(), name=None):
    argv = [str(config), "--work-dir", str(work_dir), *resume]
    train.main([*argv, "--cfg-options", f"experiment_name={name or work_dir.name}", *options])


def test_a_run_by_iterations_and_its_continuation(camvid, tmp_path, capfd):
    options = [*SMALL, f"data_root={camvid}", "train_cfg.max_iters=4", "default_hooks.checkpoint.interval=2"]
    run(RESNET, *options, work_dir=tmp_path / "whole")
    assert "mIoU: " in capfd.readouterr().out
    whole = load_checkpoint(tmp_path / "whole" / "iter_4.pth")
    assert whole["meta"]["iter"] == 4 and whole["meta"]["dataset_meta"]["classes"][0] == "sky"
    resume = ("--resume", str(tmp_path / "whole" / "iter_2.pth"))
    run(RESNET, *options, work_dir=tmp_path / "parts", resume=resume)
    parts = load_checkpoint(tmp_path / "parts" / "iter_4.pth")
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][key]), key

    argv = [str(RESNET), str(tmp_path / "whole"), "--work-dir", str(tmp_path / "test")]
    argv += ["--show-dir", str(tmp_path / "pictures"), "--cfg-options", "experiment_name=test"]
    test.main([*argv, *(option for option in options if "vis_backends" not in option)])
    assert "mIoU: " in capfd.readouterr().out
    assert len(list((tmp_path / "pictures").rglob("test_0001TP_*.png"))) == 3
    report = (tmp_path / "test/report.html").read_text()
    assert report.count("<img ") == 3 and "of pixels right" in report and "sky → bicyclist" in report


def test_show_dir_wants_images(tmp_path):
    config = str(CONFIGS / "risurconv/risurconv-s_kicad.py")
    with pytest.raises(UsageError, match="default_scope is 'pointsuite', wanted one of mmseg, mmdet"):
        cfg = Config.fromfile(config)
        test.draw_images(cfg, str(tmp_path))


def test_training_learns(camvid, tmp_path, capfd):
    """Classes of one colour each, from random weights."""
    options = [*SMALL, f"data_root={camvid}", "train_cfg.max_iters=100", "param_scheduler=None"]
    run(RESNET, *options, "optim_wrapper.optimizer.lr=0.003", work_dir=tmp_path / "learn")
    accuracy = capfd.readouterr().out.rpartition("aAcc: ")[2].split()[0]
    assert float(accuracy) > 70  # half the pixels are road
    scalars = load_checkpoint(tmp_path / "learn" / "iter_100.pth")["message_hub"]["log_scalars"]
    losses = scalars["train/loss"]["history"]
    assert losses[-5:].mean() < 0.4 * losses[:5].mean()


@torch.no_grad()
def test_sliding_and_whole_inference():
    cfg = Config.fromfile(CONFIGS / "davit/davit-t_upernet_camvid.py").model
    cfg.backbone.arch = {**backbone_arch(), "depths": (1, 1, 1, 1)}
    for head in (cfg.decode_head, cfg.auxiliary_head):
        head.channels = 16
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build({**cfg, "type": "mmseg.EncoderDecoder"}).eval()
    data = {"inputs": [torch.randint(256, (3, 45, 64), dtype=torch.uint8)]}
    (whole,) = model.test_step(dict(data))
    assert whole.seg_logits.data.shape == (11, 45, 64)
    model.test_cfg = Config({"mode": "slide", "crop_size": (45, 64), "stride": (30, 30)})
    (one_window,) = model.test_step(dict(data))
    torch.testing.assert_close(one_window.seg_logits.data, whole.seg_logits.data)
    model.test_cfg = Config({"mode": "slide", "crop_size": (32, 32), "stride": (16, 16)})
    (windows,) = model.test_step(dict(data))
    assert windows.seg_logits.data.shape == (11, 45, 64)
    assert not torch.allclose(windows.seg_logits.data, whole.seg_logits.data)


def backbone_arch():
    from dense.backbones import DaViT

    return DaViT.archs["tiny"]


def test_a_backbone_starts_from_converted_weights(tmp_path):
    published = dense.create_model("shvit_s1", num_classes=3)
    save_checkpoint({"state_dict": published.state_dict()}, tmp_path / "shvit_s1.pth")
    options = {"type": "Pretrained", "checkpoint": str(tmp_path / "shvit_s1.pth"), "prefix": "backbone."}
    options = [f"model.backbone.init_cfg.{key}={value}" for key, value in options.items()]
    argv = [str(CONFIGS / "shvit/shvit-s1_fpn_camvid.py"), "--cfg-options", *options]
    cfg = command.load_config(command.build_parser("").parse_args(argv))
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build({**cfg.model, "type": "mmseg.EncoderDecoder"})
    model.init_weights()
    for name, value in model.backbone.named_parameters():
        assert torch.equal(value, published.backbone.get_parameter(name)), name


GUIDED_SMALL = ["model.decode_head.channels=8", "train_dataloader.batch_size=2", "visualizer.vis_backends=[]"]
WORKERS = [
    f"{s}_dataloader.{o}"
    for s in ("train", "val", "test")
    for o in ("num_workers=0", "persistent_workers=False")
]


def test_self_guided_attention_on_slices(tmp_path, capfd):
    root = write_slices(tmp_path / "slices")
    options = [
        *GUIDED_SMALL,
        *WORKERS,
        f"data_root={root}",
        "model.backbone.depth=50",
        "model.backbone.base_width=1",
        "model.data_preprocessor.size=(32,32)",
        "train_cfg.max_epochs=2",
        "default_hooks.logger.interval=1",
    ]
    config = GUIDED / "self-guided-attention_x101_chaos.py"
    run(config, *options, work_dir=tmp_path / "whole")
    said = capfd.readouterr().out
    assert "dice/3d/liver: " in said and "decode.loss_guidance: " in said
    whole = load_checkpoint(tmp_path / "whole" / "epoch_2.pth")
    assert whole["param_schedulers"] and list((tmp_path / "whole").glob("best_dice_3d_*.pth"))
    resume = ("--resume", str(tmp_path / "whole" / "epoch_1.pth"))
    run(config, *options, work_dir=tmp_path / "parts", resume=resume)
    parts = load_checkpoint(tmp_path / "parts" / "epoch_2.pth")
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][key]), key


def test_self_guided_attention_on_camvid(camvid, tmp_path, capfd):
    options = [
        *GUIDED_SMALL,
        *WORKERS,
        f"data_root={camvid}",
        "model.backbone.base_channels=8",
        "model.decode_head.in_channels=[8,16,32,64]",
        "model.data_preprocessor.size=(32,32)",
        "train_dataloader.dataset.pipeline.2.scale=(64,48)",
        "train_dataloader.dataset.pipeline.3.crop_size=(32,32)",
        "train_cfg.max_iters=2",
    ]
    run(GUIDED / "self-guided-attention_r18_camvid.py", *options, work_dir=tmp_path / "camvid")
    assert "mIoU: " in capfd.readouterr().out

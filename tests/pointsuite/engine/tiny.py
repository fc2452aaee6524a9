"""A tiny RISurConv on two classes of the bundled shapes, without randomness in the network."""

from pathlib import Path

from mmengine.config import Config

from .toy import REPOSITORY

CONFIG = f"""
_base_ = "{REPOSITORY}/configs/risurconv/risurconv-s_kicad.py"
model = dict(
    network=dict(
        num_classes=2,
        centres=(16, 8),
        neighbours=(8, 4),
        channels=(8, 8, 16),
        embed_channels=8,
        encoder_dims=16,
        head_dims=(8,),
        encoder_dropout=0,
        dropout=0,
    )
)
two = dict(classes=["dip", "so"])
train_dataloader = dict(batch_size=32, dataset=two)
val_dataloader = dict(dataset=two)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(_delete_=True, type="SGD", lr=0.003, momentum=0.9), clip_grad=None)
param_scheduler = None
train_cfg = dict(max_epochs=2, val_interval=1)
sync_bn = "torch"
visualizer = None
"""


def write_config(folder: Path) -> Path:
    """The config as a file; 8 iterations an epoch."""
    path = folder / "tiny.py"
    path.write_text(CONFIG)
    return path


def make_config(work_dir: Path, **options) -> Config:
    """The config for a run in this process."""
    work_dir.mkdir(parents=True, exist_ok=True)
    cfg = Config.fromfile(write_config(work_dir))
    cfg.work_dir = str(work_dir)
    cfg.merge_from_dict(options)
    return cfg

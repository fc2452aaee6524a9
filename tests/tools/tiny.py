"""Options that make the config of the bundled shapes tiny, and a checkpoint of random weights for it."""

from pathlib import Path

import torch
from mmengine.config import Config

from pointsuite.engine.checkpoint import save_checkpoint
from pointsuite.registry import MODELS

CONFIG = str(Path(__file__).parents[2] / "configs/risurconv/risurconv-s_kicad.py")
NETWORK = {
    "num_classes": 2,
    "centres": (64, 32),
    "neighbours": (8, 8),
    "channels": (8, 16, 16),
    "embed_channels": 8,
    "encoder_dims": 16,
    "head_dims": (16,),
}
OPTIONS = [
    "--cfg-options",
    *(f"model.network.{key}={value}".replace(" ", "") for key, value in NETWORK.items()),
    *(f"{name}_dataloader.dataset.classes=[dip,so]" for name in ("train", "val", "test")),
]


def random_checkpoint(path: Path) -> Path:
    torch.manual_seed(0)
    cfg = Config.fromfile(CONFIG)
    cfg.model.network.update(NETWORK)
    save_checkpoint({"state_dict": MODELS.build(cfg.model).state_dict()}, path)
    return path

"""The config of `make train`, shortened: trains, tests the three protocols, draws."""

from pathlib import Path

import numpy as np
import pytest

from .load import load_tool

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/risurconv/risurconv-s_kicad.py")
SHORT = [
    "--cfg-options",
    "train_cfg.max_epochs=1",
    "train_dataloader.dataset.classes=[dip,so]",
    "test_dataloader.dataset.classes=[dip,so]",
    "val_dataloader.dataset.classes=[dip,so]",
    "model.network.num_classes=2",
    "train_dataloader.dataset.pipeline.0.num=256",
]


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    load_tool("train").main([CONFIG, "--work-dir", str(folder), *SHORT])
    return folder


def test_training_leaves_a_checkpoint_and_scalars(work_dir):
    assert (work_dir / "epoch_1.pth").is_file()
    assert (work_dir / "last_checkpoint").read_text().endswith("epoch_1.pth")
    assert list(work_dir.rglob("events.out.tfevents*"))
    scalars = next(work_dir.rglob("scalars.json")).read_text()
    assert '"loss"' in scalars


def test_protocols(work_dir, capsys):
    options = ["--work-dir", str(work_dir), "--protocols", "--num-rotations", "2"]
    load_tool("test").main([CONFIG, str(work_dir), *options, *SHORT])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    accuracy = {row[0]: float(row[1]) for row in rows if row and row[0] in ("z/z", "z/SO3", "SO3/SO3")}
    assert len(accuracy) == 3 and all(0 <= value <= 100 for value in accuracy.values())
    with np.load(work_dir / "predictions.npz") as said:
        assert len(said["index"]) == 100 and said["classes"].tolist() == ["dip", "so"]
    for name in ("predictions.png", "confusion.png"):
        assert (work_dir / name).stat().st_size > 10_000


def test_a_missing_checkpoint_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="no such checkpoint"):
        load_tool("test").main([CONFIG, str(tmp_path), "--work-dir", str(tmp_path)])

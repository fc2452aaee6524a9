"""The config of the bundled parts, on a few shapes: train, test, draw."""

import matplotlib.image

from pointsuite.datasets import read_clouds, write_clouds
from tests.pointsuite.engine.conftest import one_thread  # noqa: F401
from tests.pointsuite.engine.toy import REPOSITORY

from .load import load_tool

CONFIG = str(REPOSITORY / "configs" / "risurconv" / "risurconv-s_partseg_kicad.py")


def test_train_test_and_draw(tmp_path, capfd):
    few = {}
    for split, count in (("train", 4), ("test", 3)):
        clouds, info = read_clouds(REPOSITORY / "data" / "kicad" / "kicad.h5", split)
        few[split] = clouds.select(slice(None, None, len(clouds) // count)).select(slice(count))
    write_clouds(tmp_path / "few.h5", few, info)
    options = [
        f"{loader}_dataloader.dataset.data_file={tmp_path / 'few.h5'}" for loader in ("train", "val", "test")
    ]
    options += ["train_dataloader.batch_size=2", "train_cfg.max_epochs=1", "train_cfg.val_interval=2"]
    argv = ["--work-dir", str(tmp_path / "run"), "--cfg-options", *options, "visualizer=None"]
    load_tool("train").main([CONFIG, *argv])
    argv += ["model.votes.num=2", "model.votes.scale=(0.9,1.1)"]
    load_tool("test").main([CONFIG, str(tmp_path / "run"), "--parts", *argv])
    said = capfd.readouterr().out
    assert "instance_miou: " in said and "class_miou: " in said
    assert matplotlib.image.imread(tmp_path / "run" / "parts.png").std() > 0.01

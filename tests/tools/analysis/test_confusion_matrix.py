import json

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from pointsuite.engine import command
from pointsuite.engine.checkpoint import save_checkpoint
from pointsuite.engine.errors import UsageError
from tests.dense.classification.toy import write_project
from tests.tools.images import write_segmentation
from tests.tools.load import load_tool
from tests.tools.tiny import CONFIG, OPTIONS, random_checkpoint

tool = load_tool("analysis/confusion_matrix")


def read(folder):
    report = json.loads((folder / "confusion_matrix.json").read_text())
    assert (folder / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    return np.array(report["matrix"]), report["classes"]


def write_checkpoint(config, path):
    """Random weights for a config of images."""
    torch.manual_seed(0)
    cfg = command.load_config(command.build_parser("").parse_args([config]))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    save_checkpoint({"state_dict": model.state_dict()}, path)
    return str(path)


def test_predictions_of_a_file(tmp_path, capsys):
    label, prediction = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1, 1, 2, 0])
    classes = np.array(["ant", "bee", "cat"])
    np.savez(tmp_path / "said.npz", index=np.arange(6), label=label, prediction=prediction, classes=classes)
    tool.main([str(tmp_path / "said.npz")])
    matrix, names = read(tmp_path)
    assert matrix.tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 1]] and names == ["ant", "bee", "cat"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["ant", "3", "66.67", "66.67", "50.00"]
    assert printed[2].split() == ["bee", "1", "100.00", "50.00", "50.00"]
    assert printed[4:7] == [
        "most often confused:",
        "  ant -> bee: 1 (33.33 %)",
        "  cat -> ant: 1 (50.00 %)",
    ]


def test_clouds(tmp_path):
    checkpoint = random_checkpoint(tmp_path / "random.pth")
    tool.main([CONFIG, str(checkpoint), "--work-dir", str(tmp_path), *OPTIONS, "visualizer=None"])
    matrix, classes = read(tmp_path)
    assert matrix.shape == (2, 2) and list(classes) == ["dip", "so"] and matrix.sum() > 50


def test_images(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    config = write_project(tmp_path)
    tool.main(
        [config, write_checkpoint(config, tmp_path / "random.pth"), "--out", "here/confusion_matrix.png"]
    )
    matrix, classes = read(tmp_path / "here")
    assert matrix.sum(1).tolist() == [3, 3, 3] and classes == ["blue", "green", "red"]
    assert f"accuracy/top1: {100 * np.trace(matrix) / 9:.4f}" in capfd.readouterr().out


def test_segmentation(tmp_path, monkeypatch, capfd):
    pytest.importorskip("mmseg")
    monkeypatch.chdir(tmp_path)
    config = write_segmentation(tmp_path)
    checkpoint = write_checkpoint(config, tmp_path / "random.pth")
    untrained = ["--cfg-options", "train_dataloader=None"]
    tool.main([config, checkpoint, "--work-dir", "out", "--most", "3", *untrained])
    matrix, classes = read(tmp_path / "out")
    assert matrix.sum(1).tolist() == [3 * 28 * 24] * 2 + [0] * 9 and len(classes) == 11  # void is left out
    accuracy = 100 * np.trace(matrix) / matrix.sum()
    assert f"aAcc: {accuracy:.4f}"[:-2] in capfd.readouterr().out


def test_many_classes_are_drawn_in_part(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "pointsuite.visualization.draw_confusion_matrix",
        lambda *args, heading: drawn.update(args=args, head=heading),
    )
    label = np.arange(50)
    prediction = label.copy()
    prediction[[7, 9]] = [9, 8]  # 9 errs twice, 7 and 8 once
    names = np.array([f"class {i}" for i in range(50)])
    np.savez(tmp_path / "said.npz", index=label, label=label, prediction=prediction, classes=names)
    tool.main([str(tmp_path / "said.npz"), "--most", "3"])
    matrix, classes, _ = drawn["args"]
    assert classes == ["class 7", "class 8", "class 9"] and matrix.tolist() == [
        [0, 0, 1],
        [0, 1, 0],
        [0, 1, 0],
    ]
    assert drawn["head"] == "48 of 50 right; the 3 classes of 50 with most errors"


def test_refusals(tmp_path):
    with pytest.raises(UsageError, match="found no CHECKPOINT"):
        tool.main([CONFIG])
    with pytest.raises(ValueError, match=r"said.npz: found no such file"):
        tool.main([str(tmp_path / "said.npz")])
    with pytest.raises(UsageError, match="has no 'test_cfg'"):
        tool.main([CONFIG, "a.pth", "--cfg-options", "test_cfg=None"])

"""Maps of random weights, drawn and played with."""

import json

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from dense.explain.model import ExplainedClassifier
from pointsuite.engine.checkpoint import save_checkpoint
from pointsuite.engine.errors import UsageError
from tests.dense.explain.test_scenes import root  # noqa: F401  a fixture
from tests.tools.load import REPOSITORY, load_tool

CONFIG = str(REPOSITORY / "configs/normgrad/resnet-xs_clutter-scenes.py")
ARCH = {"embed_dims": (8, 8), "depths": (1, 1), "expansion": 1}
SMALL = ["model.num_classes=3", "model.backbone.arch.embed_dims=(8,8)", "model.backbone.arch.depths=(1,1)"]


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = ExplainedClassifier({"type": "ResNet", "arch": ARCH}, 3)
    save_checkpoint(
        {"state_dict": model.state_dict(), "meta": {"dataset_meta": {"classes": ("grey", "light", "white")}}},
        tmp_path / "small.pth",
    )
    return str(tmp_path / "small.pth")


@pytest.fixture
def options(root):  # noqa: F811
    Config.fromfile(CONFIG)  # it is there
    return ["--cfg-options", f"data_root={root}", "size=(40,40)", *SMALL]


def test_drawing(root, checkpoint, options, tmp_path, capsys):  # noqa: F811
    main, out = load_tool("analysis/explain").main, tmp_path / "maps.png"
    given = ["--config", CONFIG, "--checkpoint", checkpoint, "--out", str(out), *options]
    methods = ["--method", "norm_grad", "gradient", "--layer", "backbone.stages.0", "backbone.stages.1"]
    main([str(root / "test/white"), *methods, "--samples", "2", "--target", "light", *given])
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    with Image.open(out) as picture:  # two files and a sample, each with three maps
        assert 0.7 < picture.width / picture.height < 1.4
    for extra, error, message in (
        (["--samples", "9"], ValueError, "sample: found 9, wanted 0 to 2"),
        (["--samples", "0", "--method", "grad-cam"], ValueError, "found 'grad-cam'.*did you mean grad_cam"),
        (["--samples", "0", "--layer", "backbone.stage.0"], ValueError, "did you mean backbone.stages.0"),
        (
            ["--samples", "0", "--target", "dark"],
            ValueError,
            "target: found 'dark', wanted a number or one of grey",
        ),
        ([], UsageError, "found no image"),
    ):
        with pytest.raises(error, match=message):
            main([*extra, *given])


def test_playing(checkpoint, options, tmp_path, capsys):
    main, out = load_tool("analysis/pointing_game").main, tmp_path / "games.json"
    given = [CONFIG, checkpoint, "--out", str(out), "--work-dir", str(tmp_path / "work"), *options]
    chosen = ["--methods", "centre", "norm_grad", "--layers", "backbone.stages.0"]
    main([*given[:2], *chosen, *given[2:]])
    first = capsys.readouterr().out
    (games,) = json.loads(out.read_text()).values()
    assert list(games) == ["centre", "norm_grad backbone.stages.0"]
    assert (
        f"| centre | its own | {games['centre']['accuracy']:.1f} ± 0.0 |" in first and ".pth: centre" in first
    )
    main([*given[:2], *chosen, *given[2:]])
    assert ".pth: centre" not in capsys.readouterr().out  # nothing is played again
    out.write_text("[1]")
    with pytest.raises(OSError, match="found no table of games"):
        main([*given[:2], *chosen, *given[2:]])

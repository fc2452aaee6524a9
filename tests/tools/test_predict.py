"""One command over the predictors of all tasks."""

import json
import re
import shutil
import string
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

import pointsuite
from dense.sequence import Answerer
from pointsuite.engine import command
from pointsuite.engine.errors import UsageError
from pointsuite.engine.pretrained import find_cards
from pointsuite.visualization import open3d_backend
from tests.test_predictors import PREDICTORS

from .load import REPOSITORY, load_tool

tool = load_tool("predict")
predict = tool.main
SHAPES = [f"{REPOSITORY}/data/kicad/kicad.h5:test:{i}" for i in (0, 200)]
PHOTOGRAPHS = sorted(str(path) for path in (REPOSITORY / "data/photographs/test").glob("*.jpg"))
CONFIGS = REPOSITORY / "configs"


@pytest.mark.parametrize(
    ("predictor", "name"),
    [*PREDICTORS, (Answerer, "vision_remember/vr-r2_mosaics.py")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_config_chooses_its_predictor(predictor, name):
    assert tool.find_predictor(Config.fromfile(CONFIGS / name)) is predictor


def test_converted_weights_choose_theirs():
    for model, (predictor, _) in {"risurconv_cls": PREDICTORS[0], "risurconv_partseg_s": PREDICTORS[1],
                                  "davit_tiny": PREDICTORS[2], "hat_s": PREDICTORS[5]}.items():  # fmt: skip
        assert tool.find_predictor_of({"model": model}, "a.pth") is predictor
    with pytest.raises(
        UsageError, match=r"^a\.pth: does not say of which network it is; wanted --config, too"
    ):
        tool.find_predictor_of({}, "a.pth")


def test_classes_of_shapes(tmp_path, capsys):
    out = tmp_path / "answers.json"
    predict([*SHAPES, "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    found = pointsuite.Classifier("risurconv_s", device="cpu")(SHAPES)
    for line, shape, said in zip(lines, SHAPES, found, strict=False):
        assert line.startswith(f"{shape}: {said.name} {100 * said.probability:.1f} %, ")
    assert lines[2:] == [f"{out}: 2 predictions"]
    predict([SHAPES[0], "--out", str(tmp_path / "folder")])
    (first,) = json.loads((tmp_path / "folder/predictions.json").read_text())["predictions"]
    written = json.loads(out.read_text())
    assert written["predictions"][0]["class"] == first["class"]
    assert written["weights"] == find_cards()["risurconv_s_cls"].file
    assert [each["class"] for each in written["predictions"]] == [each.name for each in found]
    for each, said in zip(written["predictions"], found, strict=True):
        assert list(each["probabilities"]) == list(said.classes)
        np.testing.assert_allclose(list(each["probabilities"].values()), said.probabilities, atol=1e-6)


def test_parts_of_a_shape(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(open3d_backend, "why_not", lambda: "the test says so")
    arguments = [SHAPES[1], "--model", "risurconv_s_partseg", "--out", str(tmp_path)]
    with pytest.raises(
        ValueError, match=r"category is None, wanted a number below 10, or one of \['pin_header'"
    ):
        predict(arguments)
    predict([*arguments, "--options", "category=dip"])
    said = pointsuite.PartSegmenter("risurconv_s_partseg", device="cpu")(SHAPES[1], category="dip")
    with np.load(tmp_path / "kicad.h5_test_200.npz") as written:
        assert (written["part"] == said.labels).all() and tuple(written["parts"]) == said.parts
        np.testing.assert_array_equal(written["points"], said.points)
    assert Image.open(tmp_path / "kicad.h5_test_200.png").size == (960, 720)
    (record,) = json.loads((tmp_path / "predictions.json").read_text())["predictions"]
    assert record["parts"] == said.count() and len(record["files"]) == 2
    assert f"{next(iter(said.count().items()))[1]}" in capsys.readouterr().out


def test_photographs_become_larger(tmp_path, capsys):
    for photograph in PHOTOGRAPHS[:2]:
        image = Image.open(photograph).crop((0, 0, 50, 40))
        image.save(tmp_path / f"{Path(photograph).stem}.png")
    predict([str(tmp_path), "--model", "edsr_s", "--out", str(tmp_path / "larger")])
    larger = sorted((tmp_path / "larger").glob("*.png"))
    assert [Image.open(path).size for path in larger] == [(100, 80)] * 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f": x2 -> {larger[0]}") and lines[2].endswith("predictions.json: 2 predictions")
    one = tmp_path / "one.png"
    predict([str(larger[0]), "--model", "edsr_s", "--out", str(one)])
    assert Image.open(one).size == (200, 160)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "inputs", "options", "line", "files"),
    [
        ("shvit/shvit-s1_fashion-mnist.py", 1, [], r" %, ", []),
        ("shvit/shvit-s1_fpn_camvid-small.py", 1, [], r" %", ["1029.jpg", "labels/1029.png"]),
        ("relationnet2/retinanet_r18_pennfudan.py", 1, ["pred_score_thr=0.01"], r"person", ["vis/1029.jpg"]),
        ("ufc/ufc-tiny_warps_pf-willow.py", 2, [], r"mean shift", ["1029-1064.npz", "1029-1064.png"]),
        ("oat/oat-small_osie.py", 1, ["num_paths=2"], r"\(\d+, \d+\)", ["1029.png"]),
        ("vad_hybrid/vad-hybrid-small_ped2.py", 0, [], r"26 frames, the oddest is", ["frames.mp4"]),
    ],
)
def test_every_task_answers(name, inputs, options, line, files, tmp_path, capsys):
    sources = PHOTOGRAPHS[:inputs] or [str(tmp_path / "frames")]
    if not inputs:  # a video
        (tmp_path / "frames").mkdir()
        for i in range(26):
            shutil.copy(PHOTOGRAPHS[i % 3], tmp_path / f"frames/{i:03}.jpg")
    options = ["--options", *options] if options else []
    predict(
        [*sources, "--config", str(CONFIGS / name), "--weights", "random", "--out", str(tmp_path), *options]
    )
    assert re.search(line, capsys.readouterr().out)
    (record,) = json.loads((tmp_path / "predictions.json").read_text())["predictions"]
    assert record.get("files", []) == [str(tmp_path / file) for file in files]
    assert all((tmp_path / file).stat().st_size > 100 for file in files)


def test_a_language_model_goes_on(tmp_path, capsys):
    (tmp_path / "start.txt").write_text("ROMEO:")
    config = str(CONFIGS / "transnormer/tnl-tiny_shakespeare.py")
    vocabulary = string.ascii_letters + string.digits + ":.!"
    options = ["--options", "length=5", f"vocabulary={vocabulary}"]
    arguments = [str(tmp_path / "start.txt"), "--config", config, "--weights", "random"]
    predict([*arguments, "--out", str(tmp_path / "out"), *options])
    text = (tmp_path / "out/start.txt").read_text()
    assert text.startswith("ROMEO:") and len(text) == 11 and capsys.readouterr().out


def test_bad_input_is_one_line(tmp_path, capsys):
    cases = [
        ([str(tmp_path / "gone.ply")], "gone.ply: found no such file"),
        ([PHOTOGRAPHS[0]], "1029.jpg: "),
        ([SHAPES[0], "--model", "shvit_s1"], "--model shvit_s1: its weights are not shipped"),
        ([SHAPES[0], "--model", "edsr_s", "--checkpoint", "a.pth"], "wanted one of them"),
        ([SHAPES[0], "--checkpoint", "a.pth", "--weights", "random"], "wanted one of them"),
        ([SHAPES[0], "--config", "a.pth"], "--config a.pth: found no config (.py) or work dir"),
        ([SHAPES[0], "--options", "kolumns=x"], "--options kolumns: Classifier has no such option; did"),
        ([PHOTOGRAPHS[0], "--model", "edsr_s"], "found no place for restored images, wanted a folder"),
        ([SHAPES[0], SHAPES[0], "--out", str(tmp_path)], "would both become"),
        ([SHAPES[0], "--out", PHOTOGRAPHS[0]], "1029.jpg"),
    ]  # fmt: skip
    for argv, message in cases:
        with pytest.raises(SystemExit) as stop:
            command.run(lambda argv=argv: predict(argv))
        assert message in stop.value.code and "\n" not in stop.value.code
    assert not list(tmp_path.iterdir())

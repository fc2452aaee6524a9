"""Every task's network as a file: what is free in it, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pointsuite.engine import command
from pointsuite.engine.checkpoint import save_checkpoint
from pointsuite.engine.errors import UsageError
from pointsuite.engine.export import AUTO, Part, difference, trace, trace_freely
from tests.tools.load import load_tool

export = load_tool("export")
CONFIGS = Path(__file__).parents[3] / "configs"
EDSR = {"channels": 4, "depth": 1, "scaling": 1.0}
TASKS = {  # task: model, module of its toys, shapes (B first) of the input, outputs
    "classification": (
        {"type": "ImageClassifier", "backbone": {"type": "ToyNet"}, "num_classes": 3},
        "tests.dense.classification.toy",
        "images (B, 3, size_2, size_3), outputs logits",
    ),
    "restoration": (
        {
            "type": "ImageRestorer",
            "network": {"type": "EDSR", "arch": EDSR, "scale": 2},
            "loss": "l1",
        },
        "dense.restoration",
        "images (B, 3, size_2, size_3), outputs restored",
    ),
    "video": (
        {"type": "FramePredictor", "network": {"type": "ToyPredictor"}},
        "tests.dense.video.toy",
        "images (B, 9, 1, size_3, size_4), outputs frames",
    ),
    "matching": (
        {"type": "DenseMatcher", "network": {"type": "NoMotion", "grid": 4}},
        "dense.matching",
        "images (1, 2, 3, 32, 32), outputs flow, confidence",  # its code fixes the batch
    ),
}


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task(task, suffix, tmp_path, capsys):
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    model, module, wanted = TASKS[task]
    text = f"default_scope = 'dense'\ncustom_imports = dict(imports=[{module!r}])\nmodel = {model!r}\n"
    (tmp_path / "run.py").write_text(text)
    built = command.build_model(command.read_config(tmp_path / "run.py"))
    state = built.state_dict()
    # of a loss with weights of classes, or other constants, that an older run saved
    losses = {f"{name}.weight": torch.ones(3) for name in ("loss_function", "frame_loss", "criterion")}
    save_checkpoint({"state_dict": {**state, **losses}}, tmp_path / "epoch_1.pth")
    out = tmp_path / f"net{suffix}"
    export.main([str(tmp_path), "--out", str(out), "--size", "32"])
    said = capsys.readouterr().out
    assert wanted in said
    assert float(said.split("differs by at most ")[1].split()[0]) < 1e-5
    if suffix == ".pt2":
        files = {"classes.json": ""}
        torch.export.load(out, extra_files=files)
        assert json.loads(files["classes.json"]) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("relation_detr/relation-detr_r18_pennfudan.py", "reads the sizes of its maps out of tensors"),
        (
            "relationnet2/relationnet2-faster-rcnn_r50_8xb2-1x_coco.py",
            "gets as many boxes as the first finds",
        ),
    ],
)
def test_detectors_that_no_graph_holds_are_refused_in_one_line(name, message):
    from dense.detection.export import make_part

    model = command.build_model(command.read_config(CONFIGS / name))
    with pytest.raises(UsageError, match=f"cannot be exported: .*{message}") as caught:
        make_part(model)
    assert "\n" not in str(caught.value)


def test_what_a_network_fixes_stays_fixed():
    """A linear layer fixes the size; what looks at numbers is no graph."""

    def example(batch, factor):
        return {"images": torch.randn(batch, 1, 4 * factor, 4)}

    part = Part(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)), lambda m, x: m(x["images"]))
    program, free = trace_freely(part, example, (2, 3), guarded=False)
    assert free == {"images": {0: "B"}}
    inputs = example(5, 1)
    assert difference(program.module()(inputs), part(inputs)) < 1e-6

    def looks(model, inputs):
        return inputs["images"] if inputs["images"].sum() > 0 else 2 * inputs["images"]

    with pytest.raises(UsageError, match="Linear cannot be exported: ") as caught:
        trace(Part(torch.nn.Linear(1, 1), looks), example(1, 1), {"images": {0: AUTO}})
    assert "\n" not in str(caught.value)


def test_differences_are_of_the_largest_number():
    wanted = (torch.tensor([1000.0, 0.0]), torch.tensor([0.5]))
    assert difference((wanted[0] + 1, wanted[1]), wanted) == pytest.approx(1e-3, rel=1e-3)
    assert difference((wanted[0], wanted[1] + 1e-3), wanted) == pytest.approx(1e-3, rel=1e-3)
    assert np.isnan(difference((wanted[0], wanted[1] * float("nan")), wanted))

"""The network part, written, read and compared."""

import json

import pytest
import torch

from pointsuite.engine import command
from pointsuite.engine.checkpoint import save_checkpoint
from pointsuite.engine.errors import UsageError

from .load import load_tool
from .tiny import CONFIG, OPTIONS, random_checkpoint

export = load_tool("export")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("export") / "tiny.pth")


def test_exported_program(checkpoint, tmp_path, capsys):
    out = tmp_path / "tiny.pt2"
    export.main([CONFIG, str(checkpoint), "--out", str(out), *OPTIONS])
    said = capsys.readouterr().out
    assert "features_0 (B, 64, 8, 14), idx_0 (B, 64, 8)" in said and "idx_2 (B, 1, 32)" in said
    assert float(said.split("differs by at most ")[1].split()[0]) < 1e-5

    files = {"classes.json": ""}
    program = torch.export.load(out, extra_files=files)
    assert json.loads(files["classes.json"]) == ["dip", "so"]
    inputs = {
        spec.arg.name.removeprefix("inputs_"): torch.zeros(0) for spec in program.graph_signature.input_specs
    }
    assert {f"{name}_{i}" for name in ("features", "idx") for i in range(3)} <= set(inputs)


def test_onnx(checkpoint, tmp_path, capsys):
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    out = tmp_path / "tiny.onnx"
    export.main([CONFIG, str(checkpoint), "--out", str(out), *OPTIONS])
    said = capsys.readouterr().out
    model = onnx.load(out)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    assert shapes["features_1"] == ["B", 32, 8, 14] and shapes["idx_0"] == ["B", 64, 8] and len(shapes) == 6
    assert {p.key: json.loads(p.value) for p in model.metadata_props}["classes"] == ["dip", "so"]
    # Trained attention is so sharp that sums of it are 0: nothing may divide by a sum alone.
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    divisors = {made_by[node.input[1]] for node in model.graph.node if node.op_type == "Div"}
    assert divisors and "ReduceSum" not in divisors
    for name in ("exported program", "onnxruntime"):
        if name == "onnxruntime":
            pytest.importorskip(name)
        assert float(said.split(f"{name}: differs by at most ")[1].split()[0]) < 1e-5


@pytest.mark.parametrize("error", [2e-4, float("nan")])
def test_a_difference_is_an_error(checkpoint, tmp_path, monkeypatch, error):
    """In one of three batches, the second."""
    out = tmp_path / "tiny.pt2"
    monkeypatch.setattr("pointsuite.engine.export.trace", lambda part, inputs, free: part)
    monkeypatch.setattr(
        "pointsuite.engine.export.write", lambda part, inputs, path, **_: path.write_bytes(b"program")
    )

    def load(part, path, outputs):
        return {"broken": lambda inputs: part(inputs)[0] + (error if len(inputs["idx_0"]) == 1 else 0)}

    monkeypatch.setattr("pointsuite.engine.export.load", load)
    with pytest.raises(UsageError, match="broken differs from the network by .*wanted at most 0.0001"):
        export.main([CONFIG, str(checkpoint), "--out", str(out), *OPTIONS])
    assert not out.exists()


def test_what_cannot_be_read_is_removed(checkpoint, tmp_path, monkeypatch):
    """As what onnxruntime calls an invalid graph."""
    out = tmp_path / "tiny.pt2"
    monkeypatch.setattr("pointsuite.engine.export.trace", lambda part, inputs, free: part)
    monkeypatch.setattr(
        "pointsuite.engine.export.write", lambda part, inputs, path, **_: path.write_bytes(b"no")
    )
    with pytest.raises(UsageError, match="tiny.pt2: was not readable, and removed: "):
        export.main([CONFIG, str(checkpoint), "--out", str(out), *OPTIONS])
    assert not out.exists()


def test_bad_requests(checkpoint, tmp_path):
    with pytest.raises(UsageError, match=r"found the suffix '\.pth', wanted \.onnx or \.pt2"):
        export.main([CONFIG, str(checkpoint), "--out", str(tmp_path / "a.pth"), *OPTIONS])
    with pytest.raises(UsageError, match="no such checkpoint"):
        export.main([CONFIG, str(tmp_path / "no.pth"), "--out", str(tmp_path / "a.pt2"), *OPTIONS])
    with pytest.raises(UsageError, match="found no checkpoint, wanted one, or a work dir"):
        export.main([CONFIG, "--out", str(tmp_path / "a.pt2"), *OPTIONS])


def test_a_network_without_geometry_apart_gets_points(tmp_path, capsys):
    """And a loss with weights of classes, which stay behind."""
    kept = [option for option in OPTIONS if not option.startswith("model.")]
    network = ["_delete_=True", "type=PointNetClassifier", "num_classes=2", "global_channels=(16,)"]
    options = [*kept, *(f"model.network.{option}" for option in network)]
    options += ["model.loss.type=CrossEntropyLoss", "model.loss.weight=[1.0,5.0]"]
    cfg = command.load_config(command.build_parser("").parse_args([CONFIG, *options]))
    state = command.build_model(cfg).state_dict()
    save_checkpoint({"state_dict": {**state, "criterion.weight": torch.ones(2)}}, tmp_path / "a.pth")
    export.main([CONFIG, str(tmp_path / "a.pth"), "--out", str(tmp_path / "a.pt2"), *options])
    said = capsys.readouterr().out
    assert "inputs points (B, " in said and "outputs logits" in said
    assert float(said.split("differs by at most ")[1].split()[0]) < 1e-5

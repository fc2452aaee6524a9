"""A pack of a plain convolution network is made, passes, and fails where a weight or an output is wrong."""

import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from . import adapters, packs, run
from .adapt import Case
from .make_pack import fill_model, make_pack

INPUTS = {"x": {"kind": "normal", "shape": [2, 3, 8, 8], "seed": 0}}


def network():
    """Of the published code, as it were."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 1)
    )


class Ours(nn.Module):
    """The same under other names."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1)

    def forward(self, x):
        return self.head(self.norm(self.stem(x)).relu())


def adapt(pack):
    names = {"0": "stem", "1": "norm", "3": "head"}
    keys = {key: key.split(".", 1) for key in pack.weights}
    state = {f"{names[number]}.{rest}": pack.weights[key] for key, (number, rest) in keys.items()}
    model = Ours()
    pack.words.agree(channels=pack.shapes["0.weight"][0])
    return Case(model, state, {"stem": model.stem})


@pytest.fixture
def system(monkeypatch):
    """The adapter of a folder named "plain"."""
    module = ModuleType(f"{adapters.__name__}.plain")
    module.adapt = adapt
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(run, "known_systems", lambda: ["plain"])


def made(**options):
    return make_pack(
        "plain",
        network(),
        INPUTS,
        taps={"stem": "0"},
        grad="x",
        source="a network of this test",
        build={"channels": 4},
        **options,
    )


def write(tmp_path, pack):
    path = tmp_path / "plain/hidden.json"
    path.parent.mkdir()
    path.write_text(json.dumps(pack))
    return path


def test_a_pack_is_written(tmp_path):
    pack = made(out=tmp_path / "a/b")
    assert packs.load(tmp_path / "a/b/plain.json") == json.loads(json.dumps(pack))


def test_a_pack_is_made_and_passes(tmp_path, system, capsys):
    pack = made(notes="made here", tolerance=1e-5)
    assert list(pack["outputs"]) == ["y", "tap.stem", "grad.x.of.y"]
    assert [row for row in pack["state_dict"] if row[2] == "constant"] == [
        ["1.num_batches_tracked", [], "constant"]
    ]
    path = write(tmp_path, pack)
    assert run.main([str(path)]) == 0, capsys.readouterr().out
    out = capsys.readouterr().out
    assert "tolerance 1e-05" in out
    for name in pack["outputs"]:
        assert f" {name} " in out


def test_a_wrong_weight_fails(tmp_path, system, capsys):
    pack = made()
    for row in pack["state_dict"]:
        if row[0] == "3.bias":
            row[2] = "constant"  # so that the network keeps its own
    path = write(tmp_path, pack)
    assert run.main([str(path)]) == 1
    assert "lack 1 keys of Ours, as 'head.bias'" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["y", "tap.stem", "grad.x.of.y"])
def test_a_wrong_output_fails(tmp_path, system, capsys, name):
    pack = made()
    pack["outputs"][name]["value"][0] += 1e-3 * pack["outputs"][name]["rms"]
    assert run.main([str(write(tmp_path, pack))]) == 1
    wrong = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "too large" in line]
    assert wrong == [name]


def test_another_network_fails(tmp_path, system, capsys, monkeypatch):
    path = write(tmp_path, made())
    monkeypatch.setattr(Ours, "forward", lambda self, x: self.head(self.norm(self.stem(x))))  # no ReLU
    assert run.main([str(path)]) == 1
    assert "too large" in capsys.readouterr().out


def test_weights_are_filled_by_name():
    model = network()
    rows = fill_model(model)
    for key, shape, kind in rows:
        if kind == "learned":
            assert np.array_equal(model.state_dict()[key].numpy(), packs.fill(key, shape))
    assert {kind for *_, kind in rows} == {"learned", "constant"}


def test_a_tensor_of_two_names_is_learned_once():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    kinds = {key: kind for key, _, kind in fill_model(model)}
    assert (kinds["a.weight"], kinds["b.weight"], kinds["b.bias"]) == ("learned", "constant", "learned")
    assert np.array_equal(model["a"].weight.detach().numpy(), packs.fill("a.weight", (2, 2)))


def test_outputs_by_name_and_nested_taps():
    class Pair(nn.Module):
        def forward(self, x):
            return {"both": (None, x)}

    model = nn.Sequential(nn.Linear(3, 3), Pair())
    inputs = {"x": {"kind": "normal", "shape": [2, 3], "seed": 1}}
    pack = make_pack("pair", model, inputs, lambda m, x: {"z": m(x["x"])["both"][1]}, taps={"pair": "1"})
    assert list(pack["outputs"]) == ["z", "tap.pair"]
    assert pack["outputs"]["z"]["rms"] == pack["outputs"]["tap.pair"]["rms"]


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: make_pack("a", network(), INPUTS, taps={"stem": "9"}), "no submodule '9' for 'tap.stem'"),
        (lambda: make_pack("a", network(), INPUTS, grad="z"), "one of the inputs .'x'., found 'z'"),
        (lambda: make_pack("a", network(), INPUTS, lambda m, x: {"y": 0 * m(x["x"])}), "'y' must be finite"),
        (lambda: make_pack("a", network(), INPUTS, lambda m, x: {"y": m(x["x"]) / 0}), "'y' must be finite"),
        (lambda: make_pack("a", Complex(), {}), "'weight' is complex"),
    ],
)
def test_what_is_wrong_is_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()

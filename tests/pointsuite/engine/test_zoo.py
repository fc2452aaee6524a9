import pytest
import torch
from mmengine.registry import Registry
from torch import nn

import dense
import pointsuite
from pointsuite.engine.checkpoint import (
    CheckpointError,
    keep_last_layers,
    load_state_dict,
    rename_keys,
    save_checkpoint,
    sha256,
)
from pointsuite.engine.network import Network, results
from pointsuite.engine.zoo import ModelZoo


@pytest.fixture
def zoo():
    zoo = ModelZoo("toys")

    @zoo.register_model
    def line(width=2):
        return nn.Sequential(nn.Linear(3, width))

    @zoo.register_model
    def plane():
        return nn.Linear(3, 3)

    return zoo


def test_names(zoo):
    assert zoo.list_models() == ["line", "plane"]
    assert zoo.list_models("*ane") == ["plane"]
    assert "line" in zoo and "liine" not in zoo
    with pytest.raises(ValueError, match="toys has no model 'liine'; did you mean line?"):
        zoo.create_model("liine")
    with pytest.raises(ValueError, match=r"there are \['line', 'plane'\]"):
        zoo.create_model("xyz")

    def line():
        pass

    with pytest.raises(ValueError, match="line is registered twice in toys"):
        zoo.register_model(line)


def test_keyword_arguments_reach_the_model(zoo):
    assert zoo.create_model("line", width=5)[0].out_features == 5


def test_models_are_imported_on_first_use(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lazy_toys.py").write_text("raise RuntimeError('imported')")
    zoo = ModelZoo("toys", "lazy_toys")
    with pytest.raises(RuntimeError, match="imported"):
        zoo.list_models()


@pytest.mark.parametrize("kind", ["bare", "run", "url"])
def test_pretrained(zoo, tmp_path, monkeypatch, kind):
    trained = zoo.create_model("line")
    path, state = tmp_path / "a.pth", trained.state_dict()
    if kind == "run":
        wrapped = {f"network.{key}": value for key, value in state.items()}
        save_checkpoint(
            {"meta": {}, "state_dict": {**wrapped, "data_preprocessor.mean": torch.ones(1)}}, path
        )
    else:
        save_checkpoint(state, path)
    source = path
    if kind == "url":
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        source = f"{path.as_uri()}#sha256={sha256(path)}"
    model = zoo.create_model("line", pretrained=source)
    assert all(value.equal(state[key]) for key, value in model.state_dict().items())


def test_weights_of_another_model(zoo, tmp_path):
    save_checkpoint(nn.Linear(3, 3).state_dict(), tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match=r"2 missing: 0\.weight, 0\.bias; .*tools/convert_checkpoint\.py"
    ):
        zoo.create_model("line", pretrained=tmp_path / "a.pth")


def test_both_packages_have_a_zoo():
    assert pointsuite.list_models("no such*") == dense.list_models("no such*") == []
    for package in (pointsuite, dense):
        with pytest.raises(ValueError, match=f"{package.__name__} has no model 'no such'"):
            package.create_model("no such")


# ------------------------------------------------------------------------------------- published networks


class Chain(Network, nn.Sequential):
    """Linear layers, published as "layer1.weight", "layer2.weight", ..."""

    paper = "none"
    archs = {"thin": {"width": 3, "depth": 2}, "wide": {"width": 5, "depth": 2}}

    def __init__(self, arch, classes=2):
        spec = self.find_arch(arch)
        layers = [nn.Linear(spec["width"], spec["width"], bias=False) for _ in range(spec["depth"])]
        super().__init__(*layers, nn.Linear(spec["width"], classes, bias=False))

    @classmethod
    def convert_official(cls, state_dict):
        rules = [(rf"layer{i + 1}\.weight", f"{i}.weight") for i in range(len(state_dict))]
        return rename_keys(state_dict, rules)

    @classmethod
    def guess_options(cls, state_dict):
        last = state_dict[f"{len(state_dict) - 1}.weight"]
        for arch, spec in cls.archs.items():
            own = {**spec, "depth": len(state_dict) - 1}
            options = {"classes": len(last)}
            yield arch, options if own == spec else {"arch": own, **options}, state_dict


@pytest.fixture
def chains():
    zoo = ModelZoo("toys")
    zoo.register_network("chain", Registry("toys"))(type("Chain", (Chain,), {}))
    return zoo


def chain(width, depth, classes):
    shapes = [(width, width)] * depth + [(classes, width)]
    return {f"layer{i + 1}.weight": torch.randn(shape) for i, shape in enumerate(shapes)}


def test_networks_have_names_of_their_variants(chains):
    assert chains.list_models() == ["chain_thin", "chain_wide"]
    cls, arch = chains.find_system("chain_wide")
    assert cls.system == "chain" and arch == "wide" and chains.systems() == {"chain": cls}
    assert [layer.in_features for layer in chains.create_model("chain_wide")] == [5, 5, 5]
    with pytest.raises(ValueError, match="no arch 'long'; there are ..thin., .wide.."):
        cls("long")
    with pytest.raises(ValueError, match=r"keys \['depth', 'width'\], found \['width'\]"):
        cls({"width": 3})


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize(("name", "width"), [("chain_thin", 3), ("chain_wide", 5)])
def test_identify(chains, name, width, classes):
    found = chains.identify(chain(width, 2, classes))
    assert found.name == name and found.options == {"classes": classes}
    deeper = chains.identify(chain(width, 4, classes))
    assert deeper.options == {"arch": {"width": width, "depth": 4}, "classes": classes}


def test_identify_refuses(chains):
    with pytest.raises(
        CheckpointError, match=r"file: .*no variant; nearest are chain_\w+ \(3 tensors differ\)"
    ):
        chains.identify(chain(4, 2, 2), "file")
    with pytest.raises(
        CheckpointError, match=r"its keys \(a.weight, ...\) are of no system.*there are chain"
    ):
        chains.identify({"a.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="no system"):
        chains.identify({})
    twin = type("Twin", (Chain,), {"archs": {"thin": {"width": 3, "depth": 2}}})
    chains.register_network("twin", Registry("others"))(twin)
    with pytest.raises(CheckpointError, match="fits chain_thin, twin_thin alike; say which"):
        chains.identify(chain(3, 2, 2))


def test_a_variant_that_cannot_be_does_not_fit(chains):
    """Another system that would have the weights' depth, but refuses it, is none of the candidates."""

    class Shallow(Chain):
        archs = {"two": {"width": 3, "depth": 2}}

        def __init__(self, arch, classes=2):
            if self.find_arch(arch)["depth"] != 2:
                raise ValueError("depth must be 2")
            super().__init__(arch, classes)

    chains.register_network("shallow", Registry("others"))(Shallow)
    assert chains.identify(chain(3, 4, 2)).options["arch"] == {"width": 3, "depth": 4}
    with pytest.raises(CheckpointError, match=r"shallow_two \(5 tensors differ\)"):
        chains.identify(chain(9, 4, 2))


def test_names_may_tell_variants_apart(chains):
    twin = type(
        "Twin",
        (Chain,),
        {
            "archs": {"thin": {"width": 3, "depth": 2}},
            "names_fit": classmethod(lambda cls, arch, state_dict: "layer9.weight" in state_dict),
        },
    )
    chains.register_network("twin", Registry("others"))(twin)
    assert chains.identify(chain(3, 2, 2)).name == "chain_thin"


@pytest.mark.parametrize("depth", [2, 3])
def test_load_official(chains, tmp_path, depth):
    state = chain(5, depth, 4)
    save_checkpoint({"state_dict": state, "epoch": 1}, tmp_path / "published.pth")
    model = chains.load_official(tmp_path / "published.pth")
    assert torch.equal(model[-1].weight, state[f"layer{depth + 1}.weight"]) and len(model) == depth + 1
    save_checkpoint({"unknown.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="other.pth: its keys"):
        chains.load_official(tmp_path / "other.pth")


def test_results_leave_gaps_out():
    assert results(("a", "b"), {"s": (1, None), "m": (2, 3)}) == {"s": {"a": 1}, "m": {"a": 2, "b": 3}}
    with pytest.raises(ValueError):
        results(("a", "b"), {"s": (1,)})


def test_last_layers_for_other_classes_stay():
    """Of a hidden layer of another width the next one tells."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    state, left = keep_last_layers(model, nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 9)).state_dict())
    assert left == ["1.weight", "1.bias"] and state["1.weight"].equal(model[1].weight)
    state, left = keep_last_layers(model, nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)).state_dict())
    with pytest.raises(CheckpointError, match=r"1 of another shape: 1\.weight"):
        load_state_dict(model, state)

import pytest
import torch
from torch import nn

import dense
import pointsuite
from pointsuite.engine.checkpoint import CheckpointError, save_checkpoint, sha256
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

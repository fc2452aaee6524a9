import pytest
import torch
from torch import nn

from dense.adaptation.trained import TellEpoch, build_trunk, load_trained, load_trunk
from pointsuite.engine.checkpoint import CheckpointError, save_checkpoint


def test_own_parameters_stay(tmp_path):
    model = nn.ModuleDict({"trunk": nn.Linear(2, 3), "gate": nn.Linear(3, 1)})
    gate = model["gate"].weight.clone()
    save_checkpoint({"trunk.weight": torch.ones(3, 2), "trunk.bias": torch.ones(3)}, tmp_path / "a.pth")
    load_trained(model, tmp_path / "a.pth", r"gate\.")
    assert model["trunk"].weight.eq(1).all() and torch.equal(model["gate"].weight, gate)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"trunk.weight": torch.ones(3, 2)}, "lacks 1 keys of ModuleDict, as 'trunk.bias'"),
        ({"trunk.weight": torch.ones(3, 2), "trunk.bias": torch.ones(3), "a": torch.ones(1)}, "unknown.*'a'"),
        (
            {"trunk.weight": torch.ones(4, 2), "trunk.bias": torch.ones(3)},
            r"trunk.weight of shape \(4, 2\), wanted \(3, 2\)",
        ),
    ],
)
def test_what_does_not_fit(tmp_path, state, message):
    model = nn.ModuleDict({"trunk": nn.Linear(2, 3), "gate": nn.Linear(3, 1)})
    save_checkpoint(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        load_trained(model, tmp_path / "a.pth", r"gate\.")


def test_models_are_told_the_epoch():
    class Model:
        def set_epoch(self, epoch):
            self.epoch = epoch

    class Runner:
        epoch, model = 7, Model()

    TellEpoch().before_train_epoch(Runner)
    assert Runner.model.epoch == 7


def test_trunks_come_from_classifiers_and_alone(tmp_path):
    trunk, weight = nn.Linear(2, 3), torch.ones(3, 2)
    state = {"backbone.weight": weight, "backbone.bias": torch.ones(3), "head.fc.weight": torch.ones(7, 3)}
    save_checkpoint(state, tmp_path / "classifier.pth")
    load_trunk(trunk, tmp_path / "classifier.pth")
    assert torch.equal(trunk.weight, weight)
    save_checkpoint({"weight": 2 * weight, "bias": torch.ones(3)}, tmp_path / "alone.pth")
    load_trunk(trunk, tmp_path / "alone.pth")
    assert torch.equal(trunk.weight, 2 * weight)
    save_checkpoint({"backbone.weight": weight}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="lacks 1 keys of Linear, as 'bias'"):
        load_trunk(trunk, tmp_path / "part.pth")


def test_what_is_no_trunk():
    with pytest.raises(TypeError, match="trunk must be a token backbone, as dense.ViT, found Linear"):
        build_trunk(nn.Linear(2, 3))

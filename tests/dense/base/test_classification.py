"""Features, pre-logits, logits and other classes, of every backbone."""

import pytest
import torch
from torch import nn

from dense import create_model, list_models
from dense.base import BaseBackbone
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError, save_checkpoint

BACKBONES = {name: cls for name, cls in ZOO.systems().items() if issubclass(cls, BaseBackbone)}


def images(net, dtype=torch.float32):
    """As large as the network wants them, at least 64 x 64."""
    size = [max(64, side) for side in net.backbone.example_sizes[0]]
    (x,) = net.backbone.example_inputs(2, tuple(size))
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def build(cls, num_classes=5):
    torch.manual_seed(0)
    return cls.smallest(num_classes=num_classes).eval()


def last_layers(net):
    return [module for name, module in net.head.named_modules() if name.split(".")[-1] == "fc"]


@pytest.fixture(scope="module", params=BACKBONES)
def net(request):
    return build(BACKBONES[request.param])


@torch.no_grad()
def test_features_pre_logits_logits(net):
    x = images(net)
    features = net.forward_features(x)
    if isinstance(features, torch.Tensor):  # else of branches, each of a width of its own
        assert features.shape[1 if features.ndim == 4 else 2] == net.num_features
    pre_logits = net.forward_head(features, pre_logits=True)
    assert pre_logits.shape == (2, net.head_hidden_size)
    logits = net(x)
    assert net.num_classes == 5 and logits.shape == (2, 5) and logits.isfinite().all()
    torch.testing.assert_close(net.forward_head(features), logits)
    if len(layers := last_layers(net)) == 1:
        torch.testing.assert_close(layers[0](pre_logits), logits)


@torch.no_grad()
def test_reset_classifier(net):
    net = build(type(net.backbone))
    x, before = images(net, torch.float64), {key: value.clone() for key, value in net.state_dict().items()}
    net.double()
    wanted = net.forward_head(net.forward_features(x), pre_logits=True)
    net.reset_classifier(0)
    assert net.num_classes == 0 and torch.equal(net(x), wanted)
    net.reset_classifier(3)
    layers = last_layers(net)
    for fc in layers:
        assert isinstance(fc, nn.Linear) and fc.weight.dtype == torch.float64 and fc.weight.std() > 0
    assert net(x).shape == (2, 3)
    if len(layers) == 1:
        torch.testing.assert_close(net(x), layers[0](wanted))
    assert net.num_classes == 3
    others = {key: value for key, value in net.state_dict().items() if ".fc." not in key or "backbone" in key}
    assert all(torch.equal(value, before[key].to(value.dtype)) for key, value in others.items())
    assert len(net.state_dict()) == len(before)


@torch.no_grad()
def test_no_classes(net):
    bare = build(type(net.backbone), 0)
    state = {k: v for k, v in net.state_dict().items() if k in bare.state_dict()}
    assert len(state) == len(net.state_dict()) - len([p for fc in last_layers(net) for p in fc.parameters()])
    bare.load_state_dict(state)
    x = images(net)
    wanted = net.forward_head(net.forward_features(x), pre_logits=True)
    torch.testing.assert_close(bare(x), wanted)


def test_a_negative_number_of_classes_is_refused(net):
    with pytest.raises(ValueError, match="num_classes must not be negative, found -1"):
        build(type(net.backbone), -1)


# --------------------------------------------------------------------------------------- others' weights


@pytest.fixture
def davit(tmp_path):
    """A classifier of 5 classes, and its file."""
    net = build(BACKBONES["davit"])
    save_checkpoint(net.state_dict(), tmp_path / "five.pth")
    return net, net.backbone.spec, tmp_path / "five.pth"


def test_a_head_for_other_classes_is_left_as_initialised(davit):
    net, spec, path = davit
    with pytest.warns(UserWarning, match=r"five\.pth: left as initialised: head\.fc\.weight, head\.fc\.bias"):
        found = create_model("davit_tiny", arch=spec, num_classes=3, pretrained=path)
    own, given = found.state_dict(), net.state_dict()
    assert own["head.fc.weight"].shape[0] == 3
    assert all(own[key].equal(given[key]) for key in given if not key.startswith("head.fc."))
    with pytest.raises(
        CheckpointError, match=r"2 of another shape: .*; with num_classes=\.\.\., last layers"
    ):
        create_model("davit_tiny", arch=spec, pretrained=path)
    with pytest.raises(CheckpointError, match="does not fit"):  # other stages are no other classes
        create_model("davit_tiny", arch={**spec, "depths": (1, 1, 2, 1)}, num_classes=3, pretrained=path)


@torch.no_grad()
def test_without_classes_and_features_alone(davit):
    """A classifier's file goes into what has no classifier."""
    net, spec, path = davit
    bare = create_model("davit_tiny", arch=spec, num_classes=0, pretrained=path).eval()
    x = images(net)
    torch.testing.assert_close(bare(x), net.forward_head(net.forward_features(x), pre_logits=True))
    with pytest.warns(UserWarning, match="left as initialised: norms"):
        maps = create_model("davit_tiny", arch=spec, features_only=True, pretrained=path)
    kept = {k: v for k, v in maps.state_dict().items() if not k.startswith("norms.")}
    assert kept and all(value.equal(net.backbone.state_dict()[key]) for key, value in kept.items())


def test_pretrained_without_a_file():
    message = r"^davit_tiny: pretrained=True, but its weights are not shipped, as those of edsr_s are; wanted"
    with pytest.raises(ValueError, match=message):
        create_model("davit_tiny", pretrained=True)
    assert list_models(pretrained=True) == ["edsr_s"] and "davit_tiny" in list_models("davit*")


@pytest.mark.parametrize("system", BACKBONES)
def test_names_of_timm(system):
    cls = BACKBONES[system]
    name = cls.model_name(next(iter(cls.archs)))
    with torch.device("meta"):
        net = create_model(name, in_chans=1, features_only=True)
    assert net.in_channels == 1
    assert net.feature_info.channels() == list(net.out_channels)
    assert net.feature_info.reduction() == list(net.strides)

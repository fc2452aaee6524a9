"""Features, pre-logits, logits and other classes, of every backbone."""

import pytest
import torch
from torch import nn

from dense.base import BaseBackbone
from dense.registry import ZOO

BACKBONES = {name: cls for name, cls in ZOO.systems().items() if issubclass(cls, BaseBackbone)}
SIZE = (64, 64)


def images(dtype=torch.float32):
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)).to(dtype)


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
    x = images()
    features = net.forward_features(x)
    assert features.shape[1 if features.ndim == 4 else 2] == net.num_features
    pre_logits = net.forward_head(features, pre_logits=True)
    assert pre_logits.shape == (2, net.head_hidden_size)
    logits = net(x)
    assert net.num_classes == 5 and logits.shape == (2, 5) and logits.isfinite().all()
    torch.testing.assert_close(net.forward_head(features), logits)
    (fc,) = last_layers(net)
    torch.testing.assert_close(fc(pre_logits), logits)


@torch.no_grad()
def test_reset_classifier(net):
    net = build(type(net.backbone))
    x, before = images(torch.float64), {key: value.clone() for key, value in net.state_dict().items()}
    net.double()
    wanted = net.forward_head(net.forward_features(x), pre_logits=True)
    net.reset_classifier(0)
    assert net.num_classes == 0 and torch.equal(net(x), wanted)
    net.reset_classifier(3)
    (fc,) = last_layers(net)
    assert isinstance(fc, nn.Linear) and fc.weight.dtype == torch.float64 and fc.weight.std() > 0
    torch.testing.assert_close(net(x), fc(wanted))
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
    x = images()
    wanted = net.forward_head(net.forward_features(x), pre_logits=True)
    torch.testing.assert_close(bare(x), wanted)


def test_a_negative_number_of_classes_is_refused(net):
    with pytest.raises(ValueError, match="num_classes must not be negative, found -1"):
        build(type(net.backbone), -1)

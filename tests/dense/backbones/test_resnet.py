"""ResNet: against MMDetection's, and published names."""

import pytest
import torch
from torch import nn

from dense.backbones import ResNet
from dense.registry import MODELS, ZOO

from .hosts import noisy, shapes


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def torchvision(depth, classes=7):
    """Weights on the device meta, as pytorch/vision names them."""
    with torch.device("meta"):
        net = MODELS.build({"type": "mmdet.ResNet", "depth": depth})
        fc = nn.Linear(512 if depth < 50 else 2048, classes)
    return {**net.state_dict(), "fc.weight": fc.weight, "fc.bias": fc.bias}


@pytest.mark.parametrize(("depth", "expansion"), [(18, 1), (50, 4)])
def test_against_mmdetection(depth, expansion):
    pytest.importorskip("mmdet.models")
    narrow = {"base_channels": 4, "stem_channels": 4}
    theirs = MODELS.build({"type": "mmdet.ResNet", "depth": depth, **narrow})
    noisy(theirs)
    theirs.double().eval()
    dims = tuple(4 * expansion << i for i in range(4))
    ours = ResNet({**ResNet.archs[str(depth)], "embed_dims": dims}).double().eval()
    state = ResNet.convert_official(theirs.state_dict())
    ours.load_state_dict({key.removeprefix("backbone."): value for key, value in state.items()})
    x = torch.randn(2, 3, 45, 70, dtype=torch.float64)
    with torch.no_grad():
        for found, wanted in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(found, wanted)
    assert ours.strides == (4, 8, 16, 32)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_published_names_are_told(depth):
    pytest.importorskip("mmdet.models")
    found = ZOO.identify(torchvision(depth))
    assert found.name == f"resnet_{depth}" and found.options == {"num_classes": 7}


def test_frozen_stages_keep_their_statistics():
    net = ResNet({"embed_dims": (8, 8), "depths": (1, 1), "expansion": 1}, frozen_stages=1).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    sum(y.mean() for y in net(torch.randn(2, 3, 32, 32))).backward()
    moved = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert moved and all(key.startswith("stages.1.") for key in moved)
    assert all(
        (p.grad is None) == name.startswith(("downsamples.0", "stages.0"))
        for name, p in net.named_parameters()
    )
    assert shapes(before) == shapes(net.state_dict())

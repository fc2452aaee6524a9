"""Plugins of ResNets: where they stand, and that MMDetection's takes the same ones."""

import pytest
import torch

from dense.backbones import ResNet, ResNetCifar
from dense.layers import ELA, SE
from dense.registry import MODELS

SMALL = {"embed_dims": (16, 24), "depths": (1, 2), "expansion": 1}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def plugin(kind, position, **more):
    return {"cfg": {"type": f"dense.{kind}"}, "position": position, **more}


def test_stages_positions_and_names():
    plugins = [plugin("ELA", "after_conv2", stages=(False, True)), plugin("SE", "after_conv1")]
    plugins.append({"cfg": {"type": "SE", "postfix": "_last", "ratio": 4}, "position": "after_conv2"})
    net = ResNet(SMALL, plugins=plugins)
    first, second = net.stages[0][0], net.stages[1][1]
    assert not hasattr(first, "ela") and isinstance(second.ela, ELA) and isinstance(second.se, SE)
    assert first.se_last.fc1.out_channels == 4 and second.se_last.fc1.out_channels == 6
    assert first.se.fc1.out_channels == 1
    seen = []
    for name in ("ela", "se", "se_last"):
        getattr(second, name).register_forward_hook(lambda *_, name=name: seen.append(name))
    net(torch.randn(1, 3, 32, 40))
    assert seen == ["se", "ela", "se_last"]


def test_the_layer_acts_before_the_sum():
    plugins = [{"cfg": {"type": "ELA", "variant": "T"}, "position": "after_conv2"}]
    block = ResNetCifar({"embed_dims": (16,), "depths": (1,)}, plugins=plugins).eval().stages[0][0]
    x = torch.randn(2, 16, 5, 6)
    wanted = (x + block.ela(block.conv2(block.conv1(x, "relu")))).relu()
    torch.testing.assert_close(block(x), wanted)


def test_bad_plugins():
    with pytest.raises(ValueError, match=r"in \['after_conv1', 'after_conv2'\], found 'after_conv3'"):
        ResNet(SMALL, plugins=[plugin("ELA", "after_conv3")])
    with pytest.raises(ValueError, match="a block has 'se' already"):
        ResNet(SMALL, plugins=[plugin("SE", "after_conv1"), plugin("SE", "after_conv2")])


@pytest.mark.parametrize("kind", ["ELA", "SE"])
@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_other_libraries_take_them(kind, scope):
    """The same config in their ResNet-50 and in ours, with the same weights, gives the same maps."""
    pytest.importorskip(f"{scope}.models")
    plugins = [plugin(kind, "after_conv3", stages=(False, True, True, True))]
    narrow = {"base_channels": 16, "stem_channels": 16}
    theirs = MODELS.build({"type": f"{scope}.ResNet", "depth": 50, "plugins": plugins, **narrow})
    dims = (64, 128, 256, 512)
    ours = ResNet({"embed_dims": dims, "depths": (3, 4, 6, 3), "expansion": 4}, plugins=plugins)
    converted = ResNet.convert_official(theirs.state_dict())
    ours.load_state_dict({key.removeprefix("backbone."): value for key, value in converted.items()})
    x = torch.randn(1, 3, 61, 64)
    ours.eval(), theirs.eval()
    with torch.no_grad():
        for found, wanted in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)

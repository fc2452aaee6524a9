"""ELA's ResNets: variants, their identification, and the plain network behind gates that are open."""

import re

import pytest
import torch
from torch import nn

import dense
from dense.backbones import ELAResNet, ResNet
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError

SMALL = {"embed_dims": (16, 32), "depths": (1, 1), "expansion": 4, "variant": "S"}


def published(net):
    """A network's weights, named as those of a published ResNet."""
    rules = [
        (r"backbone\.downsamples\.0\.proj\.conv\.", "conv1."),
        (r"backbone\.downsamples\.0\.proj\.norm\.", "bn1."),
        (r"backbone\.stages\.(\d+)\.", lambda m: f"layer{int(m[1]) + 1}."),
        (r"shortcut\.conv\.", "downsample.0."),
        (r"shortcut\.norm\.", "downsample.1."),
        (r"conv(\d)\.conv\.", r"conv\1."),
        (r"conv(\d)\.norm\.", r"bn\1."),
        (r"head\.fc\.", "fc."),
    ]
    state = {}
    for key, value in net.state_dict().items():
        for pattern, new in rules:
            key = re.sub(pattern, new, key)
        state[key] = value
    return state


@pytest.mark.parametrize("arch", ["resnet18_t", "resnet18_b", "resnet18_s", "resnet18_l", "resnet50_s"])
def test_variants_are_told(arch):
    with torch.device("meta"):
        net = dense.create_model(f"ela_{arch}", num_classes=5)
    found = ZOO.identify(published(net))
    assert found.name == f"ela_{arch}" and found.options == {"num_classes": 5}


def test_directions_of_their_own_are_told():
    with torch.device("meta"):
        net = dense.create_model("ela_resnet18_l", num_classes=5, share_directions=False)
    state = published(net)
    assert "layer1.0.ela.conv_h.weight" in state and "layer1.0.ela.gn_w.bias" in state
    assert ZOO.identify(state).options == {"num_classes": 5, "share_directions": False}
    assert net.state_dict().keys() == net.convert_official(state).keys()


def test_open_gates_leave_a_plain_resnet():
    torch.manual_seed(0)
    net = ELAResNet(SMALL).double().eval()
    plain = ResNet({key: value for key, value in SMALL.items() if key != "variant"}).double().eval()
    for block in (block for stage in net.stages for block in stage):
        nn.init.zeros_(block.ela.gn.weight)
        nn.init.constant_(block.ela.gn.bias, 40.0)  # sigmoid is 1
    plain.load_state_dict({key: value for key, value in net.state_dict().items() if ".ela." not in key})
    x = torch.randn(2, 3, 33, 50, dtype=torch.float64)
    for found, wanted in zip(net(x), plain(x), strict=True):
        torch.testing.assert_close(found, wanted)


def test_other_layers_in_a_block_are_refused():
    with pytest.raises(CheckpointError, match=r"stages\.0\.0\.cbam\.weight"):
        ELAResNet.convert_official({"layer1.0.cbam.weight": torch.zeros(1)})


def test_further_plugins():
    more = [{"cfg": {"type": "SE"}, "position": "after_conv2"}]
    block = ELAResNet(SMALL, plugins=more).stages[0][0]
    assert block.after == [[], ["se"], ["ela"]]

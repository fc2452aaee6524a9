"""What the tests of both hosts of weighted convolutions share: plain layers, and packs."""

import json
from pathlib import Path

import torch
from torch.nn import functional as F

from dense.layers import WeightedConv2d

PACKS = Path(__file__).parents[2] / "parity" / "packs" / "weighted_conv"
DENSITY = {3: [0.7]}


def noisy(module):
    """Weights and statistics that all count, evaluating."""
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point():
            with torch.no_grad():
                value.uniform_(0.5, 1.5) if name.endswith("var") else value.normal_(0, 0.5)
    return module.eval()


def normed(layer, x, stride=1):
    """A ConvNorm as plain functions, its density included."""
    conv, norm = layer.conv, layer.norm
    weight = conv.weight
    if isinstance(conv, WeightedConv2d):
        a = torch.cat((conv.density, torch.ones(1), conv.density))
        weight = weight * torch.outer(a, a)
    y = F.conv2d(x, weight, conv.bias, stride, weight.shape[-1] // 2)
    return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def official(name, weighted):
    """The tensors of a pack, without what makes its convolutions weighted unless they are to be."""
    rows = json.loads((PACKS / f"{name}.json").read_text())["state_dict"]
    return {
        key: torch.randn(shape) for key, shape, _ in rows if weighted or not key.endswith(("alfa", "Phi"))
    }


def shapes(state):
    return {key: value.shape for key, value in state.items()}

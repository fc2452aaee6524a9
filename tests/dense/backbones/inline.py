"""What the tests of the four InLine families share."""

import torch
from torch import nn

from tests.parity import packs

from .test_identify import PACKS


def noisy(module):
    """Weights large enough that every one counts, in float64."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3)
    return module.double().eval()


def published(pack):
    """Shapes of the published weights of a pack, by key."""
    rows = packs.load(PACKS / "inline" / f"{pack}.json")["state_dict"]
    return {key: torch.empty(shape, device="meta") for key, shape, _ in rows}


def without(state, *starts):
    return {key: value for key, value in state.items() if not key.startswith(starts)}

"""What the tests of the four InLine families share."""

import torch

from tests.parity import packs

from .test_identify import PACKS


def published(pack):
    """Shapes of the published weights of a pack, by key."""
    rows = packs.load(PACKS / "inline" / f"{pack}.json")["state_dict"]
    return {key: torch.empty(shape, device="meta") for key, shape, _ in rows}


def without(state, *starts):
    return {key: value for key, value in state.items() if not key.startswith(starts)}

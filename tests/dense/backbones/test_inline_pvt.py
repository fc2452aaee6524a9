"""InLine-PVT: its tables of positions, sizes and published weights."""

import pytest
import torch
from torch.nn import functional as F

from dense.backbones import InLinePVT
from dense.backbones.inline_pvt import PositionedEmbed
from dense.registry import ZOO

from ..memory import LargestTensor
from ..noise import noisy
from .inline import published, without

SMALL = {
    "embed_dims": (8, 16, 24, 32),
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 3, 4),
    "mlp_ratios": (2, 2, 1, 1),
    "img_size": 64,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_published_weights_are_found():
    state = published("pvt_tiny_224")
    assert ZOO.identify(state).name == "inline_pvt_tiny"
    found = ZOO.identify(without(state, "block3.1.")).options["arch"]
    assert found["depths"] == (2, 2, 1, 2)
    for i in range(4):
        table = state[f"pos_embed{i + 1}"]
        state[f"pos_embed{i + 1}"] = table.new_empty(1, 4 * table.shape[1], table.shape[2])
    assert ZOO.identify(state).options["arch"]["img_size"] == 448


def test_positions_are_interpolated_at_every_stage():
    embed = noisy(PositionedEmbed(3, 8, 2, 4, rounds_up=True))
    x = torch.randn(1, 3, 12, 20).double()
    table = embed.pos_embed.unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    wanted = embed.norm(embed.proj(x)) + F.interpolate(table, (6, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(embed(x), wanted, rtol=1e-5, atol=1e-5)


def test_a_later_stage_with_as_many_positions_as_the_first_table():
    """Images of twice the tables' side: stage 2 has the number of positions of the first table."""
    assert noisy(InLinePVT(SMALL))(torch.randn(1, 3, 128, 128).double())[1].shape == (1, 16, 16, 16)


def test_odd_sides_are_rounded_up_unless_as_published():
    ours, published_one = noisy(InLinePVT(SMALL)), noisy(InLinePVT(SMALL, reference_quirks=True))
    published_one.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 70, 97).double()
    assert [y.shape[2:] for y in ours(x)] == [(18, 25), (9, 13), (5, 7), (3, 4)]
    assert [y.shape[2:] for y in published_one(x)] == [(17, 24), (8, 12), (4, 6), (2, 3)]
    fitting = torch.randn(1, 3, 64, 96).double()
    for found, wanted in zip(published_one(fitting), ours(fitting), strict=True):
        torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match="at least 32 x 32, found 31 x 40"):
        published_one(torch.zeros(1, 3, 31, 40).double())


def test_bad_options():
    with pytest.raises(ValueError, match="img_size must be at least 32, found 16"):
        InLinePVT({**SMALL, "img_size": 16})


@torch.no_grad()
def test_memory_is_linear_in_pixels():
    backbone, found = InLinePVT(SMALL).eval(), []
    for side in (64, 256):
        with LargestTensor() as largest:
            backbone(torch.randn(1, 3, side, side))
        found.append(largest.numel)
    assert found[1] <= 16 * found[0]

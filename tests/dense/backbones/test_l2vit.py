"""L2ViT: its attentions against the plain formulas, its blocks, variants, flags and weights."""

import pytest
import torch
from torch import nn

import dense
from dense.backbones import L2ViT, davit
from dense.backbones.l2vit import GlobalAttention, GlobalBlock
from dense.layers import record_attention
from dense.registry import ZOO
from tests.parity import packs

from ..memory import LargestTensor
from ..noise import noisy
from .inline import without
from .test_identify import PACKS

SMALL = {"embed_dims": (16, 32), "depths": (2, 3), "num_heads": (2, 4), "window_size": 4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def naive_attention(module, x):
    """Head by head, with all pairs of positions."""
    channels, heads = x.shape[-1], module.num_heads
    d = channels // heads
    q, k, v = module.qkv(x.flatten(1, 2)).split(channels, -1)
    y = torch.empty_like(q)
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        products = q[..., part].relu() @ k[..., part].relu().mT
        total = products.sum(-1, keepdim=True).clamp(min=module.denominator_min)
        y[..., part] = module.temperature[head] * products / total @ v[..., part]
    return module.proj(y).view(x.shape)


@pytest.mark.parametrize("bound", [0.01, 2.0, 100.0])
def test_global_attention_against_the_formula(bound):
    module = noisy(GlobalAttention(12, 3, denominator_min=bound))
    x = torch.randn(2, 3, 5, 12).double()
    wanted = naive_attention(module, x)
    torch.testing.assert_close(module(x), wanted)
    with record_attention(module) as found:
        torch.testing.assert_close(module(x), wanted)
    assert found[""][0].shape == (2, 3, 15, 15)


def test_weights_sum_to_the_temperature_above_the_bound_alone():
    module = noisy(GlobalAttention(8, 2, denominator_min=1.0))
    with torch.no_grad():
        module.qkv.bias.fill_(2.0), module.proj.weight.copy_(torch.eye(8)), module.proj.bias.zero_()
        module.qkv.weight[16:] = 0
    x = torch.randn(1, 4, 4, 8).double()
    wanted = 2 * module.temperature.repeat(1, 1, 4).flatten().expand(1, 4, 4, 8)
    torch.testing.assert_close(module(x), wanted)
    module.denominator_min = 1e9
    assert (module(x).abs() < 1e-3 * wanted.abs()).all()


def test_blocks_take_turns():
    kinds = [[type(block) for block in stage] for stage in L2ViT(SMALL).stages]
    assert kinds == [
        [davit.Block, GlobalBlock],
        [davit.Block, GlobalBlock, davit.Block],
    ]


def test_local_concentration_comes_before_the_mlp():
    block = noisy(GlobalBlock(8, GlobalAttention(8, 2), 0.0))
    x = torch.randn(1, 5, 6, 8).double()
    y = block.cpe(x)
    y = y + block.attn(block.norm1(y))
    y = y + block.local(block.norm2(y).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(block(x), y + block.mlp(block.norm3(y)))
    assert block.local.conv1.kernel_size == block.local.conv2.kernel_size == (7, 7)


def published():
    rows = packs.load(PACKS / "l2vit" / "tiny_224.json")["state_dict"]
    return {key: torch.empty(shape, device="meta") for key, shape, _ in rows}


def test_published_weights_are_found():
    state = published()
    with torch.device("meta"):
        network = dense.create_model("l2vit_tiny")
    found = L2ViT.convert_official(state)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert ZOO.identify(state).name == "l2vit_tiny"
    shallower = without(state, "stages.2.5.")
    assert ZOO.identify(shallower).options["arch"]["depths"] == (2, 2, 5, 2)


def test_norms_of_blocks_get_their_places():
    keys = ("stages.0.1.norm2.weight", "stages.0.1.norm3.weight", "stages.0.2.norm2.weight")
    found = L2ViT.convert_official({key: torch.full((1,), float(i)) for i, key in enumerate(keys)})
    ours = "backbone.stages.0."
    assert found[f"{ours}1.norm3.weight"] == 0 and found[f"{ours}1.norm2.weight"] == 1
    assert found[f"{ours}2.norm2.weight"] == 2


def test_windows_of_384_are_larger():
    with torch.device("meta"):
        sizes = {stage[0].attn.window_size for stage in L2ViT("base_384").stages}
    assert sizes == {12}


def test_padding_of_windows_is_masked_unless_as_published():
    ours, theirs = noisy(L2ViT(SMALL)), noisy(L2ViT(SMALL, reference_quirks=True))
    theirs.load_state_dict(ours.state_dict())
    fitting, other = torch.randn(1, 3, 32, 32).double(), torch.randn(1, 3, 29, 40).double()
    for found, wanted in zip(theirs(fitting), ours(fitting), strict=True):
        torch.testing.assert_close(found, wanted)
    assert [y.shape[2:] for y in ours(other)] == [(8, 10), (4, 5)]
    assert not torch.allclose(theirs(other)[0], ours(other)[0])
    flagged = noisy(L2ViT(SMALL, mask_padding=False))
    flagged.load_state_dict(ours.state_dict())
    assert torch.equal(flagged(other)[1], theirs(other)[1])


def test_flags():
    plain, active = noisy(L2ViT(SMALL)), noisy(L2ViT(SMALL, cpe_act=True))
    active.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 32, 32).double()
    assert not torch.allclose(active(x)[0], plain(x)[0])
    assert "stages.0.1.attn.qkv.bias" not in L2ViT(SMALL, qkv_bias=False).state_dict()
    unbounded = noisy(L2ViT(SMALL, denominator_min=0.0))
    assert unbounded.stages[0][1].attn.denominator_min == 0


def test_initial_weights():
    backbone = L2ViT(SMALL)
    for module in backbone.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert abs(module.weight.std() - 0.02) < 4e-3 and not module.bias.any()
    assert torch.equal(backbone.stages[0][1].attn.temperature, torch.full((2, 1, 1), 8**-0.5))


@torch.no_grad()
def test_memory_is_linear_in_pixels():
    backbone, found = L2ViT(SMALL).eval(), []
    for side in (64, 256):
        with LargestTensor() as largest:
            backbone(torch.randn(1, 3, side, side))
        found.append(largest.numel)
    assert found[1] <= 16 * found[0]

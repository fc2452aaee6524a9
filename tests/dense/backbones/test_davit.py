"""DaViT: its attentions against the plain formulas, its variants, flags and conversion."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import dense
from dense.backbones import DaViT
from dense.backbones.davit import Block, ChannelAttention, WindowAttention
from pointsuite.engine.checkpoint import CheckpointError

from ..memory import LargestTensor
from ..noise import noisy

PACKS = Path(__file__).parents[2] / "parity" / "packs" / "davit"
SMALL = {
    "embed_dims": (32, 64),
    "depths": (1, 1),
    "num_heads": (1, 2),
    "window_size": 4,
    "overlapped_patch": False,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def network(**kwargs):
    return noisy(DaViT(SMALL, **kwargs))


# ------------------------------------------------------------------------------------------- attentions


def naive_window_attention(module, x, mask_padding):
    """Pixel by pixel, head by head."""
    w, heads = module.window_size, module.num_heads
    batch, height, width, channels = x.shape
    d = channels // heads
    padded = x.new_zeros(batch, -(-height // w) * w, -(-width // w) * w, channels)
    padded[:, :height, :width] = x
    q, k, v = module.qkv(padded).split(channels, -1)
    y = torch.zeros_like(x)
    for row in range(height):
        for column in range(width):
            top, left = row // w * w, column // w * w
            bottom, right = top + w, left + w
            if mask_padding:
                bottom, right = min(bottom, height), min(right, width)
            for head in range(heads):
                part = slice(head * d, (head + 1) * d)
                keys = k[:, top:bottom, left:right, part].flatten(1, 2)
                values = v[:, top:bottom, left:right, part].flatten(1, 2)
                logits = keys @ q[:, row, column, part, None] * d**-0.5
                y[:, row, column, part] = (logits.softmax(1) * values).sum(1)
    return module.proj(y)


def naive_channel_attention(module, x):
    """Channel by channel."""
    batch, height, width, channels = x.shape
    d = channels // module.num_groups
    q, k, v = module.qkv(x).flatten(1, 2).split(channels, -1)
    y = torch.zeros_like(q)
    for c in range(channels):
        group = slice(c // d * d, (c // d + 1) * d)
        logits = d**-0.5 * (k[..., c, None] * v[..., group]).sum(1)  # (B, d)
        y[..., c] = (logits.softmax(-1)[:, None] * q[..., group]).sum(-1)
    return module.proj(y).view(x.shape)


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("size", [(8, 4), (5, 6), (3, 9)])
def test_window_attention_against_the_formula(size, mask_padding):
    module = noisy(WindowAttention(12, 3, 4, mask_padding=mask_padding))
    x = torch.randn(2, *size, 12).double()
    torch.testing.assert_close(module(x), naive_window_attention(module, x, mask_padding))


@pytest.mark.parametrize("groups", [1, 3])
def test_channel_attention_against_the_formula(groups):
    module = noisy(ChannelAttention(12, groups))
    x = torch.randn(2, 3, 5, 12).double()
    torch.testing.assert_close(module(x), naive_channel_attention(module, x))


@pytest.mark.parametrize("attention", [WindowAttention(8, 2, 3), ChannelAttention(8, 2)])
def test_gradients(attention):
    x = torch.randn(1, 4, 5, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(noisy(attention), x)


def test_one_window_is_global_attention():
    module = noisy(WindowAttention(8, 2, 5))
    x = torch.randn(2, 5, 5, 8).double()
    everywhere = noisy(WindowAttention(8, 2, 9))  # larger than the map
    everywhere.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), everywhere(x))


def test_windows_do_not_mix():
    block = noisy(Block(8, WindowAttention(8, 2, 4), 0.0))
    for cpe in block.cpe:
        nn.init.zeros_(cpe.proj.weight)
    x = torch.randn(1, 10, 11, 8).double()
    y = block(x)
    x[:, 4:] += 1
    x[:, :, 8:] += 1
    changed = (block(x) != y).any(-1)[0]
    assert not changed[:4, :8].any()
    assert changed[4:].all() and changed[:, 8:].all()


def test_channel_attention_commutes_with_permutations_of_pixels():
    module = noisy(ChannelAttention(12, 3))
    x = torch.randn(2, 1, 20, 12).double()
    order = torch.randperm(20)
    torch.testing.assert_close(module(x)[:, :, order], module(x[:, :, order]))


def test_channels_without_keys_get_the_mean_of_their_group():
    module = noisy(ChannelAttention(12, 3))
    with torch.no_grad():
        module.qkv.weight[12:] = 0
        module.qkv.bias[12:] = 0
        module.proj.weight.copy_(torch.eye(12))
        module.proj.bias.zero_()
    x = torch.randn(2, 3, 4, 12).double()
    q = module.qkv(x)[..., :12].unflatten(-1, (3, 4))
    torch.testing.assert_close(module(x), q.mean(-1, keepdim=True).expand_as(q).flatten(-2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_products_over_pixels_survive_half_precision(dtype):
    """900 * 144 is too large for float16; bfloat16 cannot tell it from 4 less, which decides the weights."""
    module = ChannelAttention(4, 1)
    weight = torch.cat((torch.diag(torch.arange(1.0, 5)), 16 * torch.eye(4), 9 * torch.eye(4)))
    module.qkv.load_state_dict({"weight": weight, "bias": torch.zeros(12)})
    module.proj.load_state_dict({"weight": torch.eye(4), "bias": torch.zeros(4)})
    x = torch.ones(1, 30, 30, 4)
    x[0, 0, :7, 1] -= 2**-7
    wanted = module(x)
    with torch.autocast("cpu", dtype):
        found = module(x)
    assert (wanted - 2.5).abs().min() > 0.1  # what equal weights would give
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=0.02)


# ---------------------------------------------------------------------------------------------- network


def official_keys(pack):
    rows = json.loads((PACKS / f"{pack}.json").read_text())["state_dict"]
    return {key: torch.empty(shape, device="meta") for key, shape, _ in rows}


def test_conversion_names_every_tensor():
    with torch.device("meta"):
        classifier, backbone = dense.create_model("davit_tiny"), DaViT()
    found = DaViT.convert_official(official_keys("davit_tiny"))
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in classifier.state_dict().items()}
    found = DaViT.convert_official(official_keys("davit_tiny_dense"))
    assert {k: v.shape for k, v in found.items()} == {
        f"backbone.{k}": v.shape for k, v in backbone.state_dict().items()
    }
    with pytest.raises(CheckpointError, match="relative_position"):
        DaViT.convert_official({"relative_position": torch.zeros(1)})


def test_padding_of_windows_is_masked_unless_as_published():
    ours, published = network(), network(reference_quirks=True)
    published.load_state_dict(ours.state_dict())
    fitting, other = torch.randn(1, 3, 32, 32).double(), torch.randn(1, 3, 32, 40).double()
    for wanted, found in zip(ours(fitting), published(fitting), strict=True):
        torch.testing.assert_close(found, wanted)
    assert not torch.allclose(ours(other)[0], published(other)[0])
    for kwargs, like in (
        ({"mask_padding": False}, published),
        ({"mask_padding": True, "reference_quirks": True}, ours),
    ):
        flagged = network(**kwargs)
        flagged.load_state_dict(ours.state_dict())
        assert torch.equal(flagged(other)[1], like(other)[1])


def test_masked_padding_is_no_padding():
    """A map in one window gives the same in a larger one."""
    x = torch.randn(2, 3, 16, 16).double()
    wide = noisy(DaViT({**SMALL, "window_size": 6}))
    tight = noisy(DaViT({**SMALL, "window_size": 4}))
    tight.load_state_dict(wide.state_dict())
    for found, wanted in zip(wide(x), tight(x), strict=True):
        torch.testing.assert_close(found, wanted)


def test_flags():
    plain = network()
    assert not any("mlp" in name or "norm2" in name for name in network(ffn=False).state_dict())
    assert "stages.0.0.0.attn.qkv.bias" not in network(qkv_bias=False).state_dict()
    overlapped = network(overlapped_patch=True)
    assert overlapped.downsamples[1].proj.weight.shape[2:] == (3, 3)
    active = network(cpe_act=True)
    active.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 35, 41).double()
    assert not torch.allclose(active(x)[0], plain(x)[0])
    for other in (network(ffn=False), network(qkv_bias=False), overlapped, active):
        assert [y.shape for y in other(x)] == [y.shape for y in plain(x)]
        assert all(y.isfinite().all() for y in other(x))


def test_merging_pads_after_the_norm():
    merging = network().downsamples[1]
    x = torch.randn(1, 32, 3, 5).double()
    padded = nn.functional.pad(merging.norm(x), (0, 1, 0, 1))
    torch.testing.assert_close(merging(x), merging.proj(padded))


def test_the_head_norms_after_the_mean():
    head = noisy(DaViT.make_head(network(), 5))
    x = torch.randn(2, 64, 3, 4).double()
    torch.testing.assert_close(head(x), head.fc(head.norm(x.mean((2, 3)))))


def test_initial_weights():
    backbone = DaViT(SMALL)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            assert abs(module.weight.std() - 0.02) < 2e-3 and not module.bias.any()
    rates = [block.drop_path1.rate for stage in backbone.stages for pair in stage for block in pair]
    assert rates == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])


@torch.no_grad()
@pytest.mark.parametrize("flags", [{}, {"ffn": False, "cpe_act": True}])
def test_maps_stay_channels_last(flags):
    backbone = DaViT(SMALL, **flags).eval()
    maps = []
    for module in backbone.modules():
        if isinstance(module, Block):
            module.register_forward_hook(lambda _, inputs, y: maps.extend((*inputs, y)))
    backbone(torch.randn(2, 3, 32, 40))
    assert len(maps) == 8
    assert all(x.is_contiguous() for x in maps)


@torch.no_grad()
def test_memory_is_linear_in_pixels():
    backbone = DaViT(SMALL).eval()
    found = []
    for side in (64, 256):
        with LargestTensor() as largest:
            backbone(torch.randn(1, 3, side, side))
        found.append(largest.numel)
    assert found[1] <= 16 * found[0]

"""RAVLT: its attentions against the plain formulas, its variants, flags and conversion."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dense
from dense.backbones import RAVLT
from dense.backbones.rala import (
    Block,
    RankAugmentedAttention,
    SoftmaxAttention,
    rotary_table,
    rotate,
)

from ..memory import LargestTensor
from ..noise import noisy

PACKS = Path(__file__).parents[2] / "parity" / "packs" / "rala"
SMALL = {
    "embed_dims": (16, 32),
    "depths": (1, 2),
    "num_heads": (1, 2),
    "drop_path_rate": 0.2,
    "layer_scale_init": (1, 0.5),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def two_stages(attentions=("linear", "softmax"), **kwargs):
    return RAVLT(SMALL, attentions=attentions, **kwargs)


# ------------------------------------------------------------------------------------------- attentions


def naive_rotate(x, width):
    """Pair by pair: (N, d), positions row by row."""
    count, d = x.shape
    m = d // 4
    y = torch.empty_like(x)
    for n in range(count):
        for pair in range(d // 2):
            frequency = 10000 ** (-(pair % m) / max(m - 1, 1))
            angle = torch.tensor((n // width if pair < m else n % width) * frequency).double()
            a, b = x[n, 2 * pair], x[n, 2 * pair + 1]
            y[n, 2 * pair] = a * angle.cos() - b * angle.sin()
            y[n, 2 * pair + 1] = b * angle.cos() + a * angle.sin()
    return y


def naive_attention(module, x, attend):
    """Image by image, head by head, in the published order of steps."""
    height, width, channels = x.shape[1:]
    d = channels // module.num_heads
    q, k, v, o = module.qkvo(x).split(channels, -1)
    local = module.lepe(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    y = torch.empty_like(x)
    for b in range(len(x)):
        for head in range(module.num_heads):
            part = slice(head * d, (head + 1) * d)
            y[b, ..., part] = attend(
                *(t[b, ..., part].flatten(0, 1) for t in (q, k, v)), partial(naive_rotate, width=width)
            ).view(height, width, d)
    return module.proj((y + local) * o)


def naive_softmax(q, k, v, turn):
    return (turn(q) @ turn(k).T * q.shape[-1] ** -0.5).softmax(-1) @ v


def naive_linear(q, k, v, turn):
    """All pairs of positions, explicitly."""
    count, d = q.shape
    q, k = F.elu(q) + 1, F.elu(k) + 1
    e = count * (k @ q.mean(0) * d**-0.5).softmax(0)
    k = e[:, None] * k
    total = q @ k.mean(0) + 1e-6
    return turn(q) @ turn(k).T @ v / count / total[:, None]


KINDS = [(SoftmaxAttention, naive_softmax), (RankAugmentedAttention, naive_linear)]


@pytest.mark.parametrize(("kind", "attend"), KINDS)
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_against_the_formula(kind, attend, heads):
    module = noisy(kind(16, heads))
    x = torch.randn(2, 3, 5, 16).double()
    torch.testing.assert_close(module(x), naive_attention(module, x, attend))


@pytest.mark.parametrize(("kind", "attend"), KINDS)
def test_gradient_is_that_of_the_formula(kind, attend):
    module = noisy(kind(8, 2))
    x = torch.randn(1, 2, 3, 8, dtype=torch.float64, requires_grad=True)
    inputs = (x, *module.parameters())
    found = torch.autograd.grad(module(x).sin().sum(), inputs)
    wanted = torch.autograd.grad(naive_attention(module, x, attend).sin().sum(), inputs)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", [SoftmaxAttention, RankAugmentedAttention])
def test_float32_follows_float64(kind):
    module = noisy(kind(32, 2))
    x = torch.randn(2, 9, 7, 32).double()
    wanted = module(x)
    torch.testing.assert_close(module.float()(x.float()).double(), wanted, rtol=1e-4, atol=1e-4)


def heads(size, *, channels=8):
    return [torch.randn(2, 2, size, channels).double() for _ in range(3)]


def test_weights_without_rotation_sum_to_one():
    q, k, v = heads(12)
    still = torch.ones(12, 4, dtype=torch.complex128)
    y = RankAugmentedAttention(16, 2).attend(q, k, torch.ones_like(v), still)
    torch.testing.assert_close(y, torch.ones_like(y), rtol=1e-5, atol=1e-5)


def test_softmax_attention_is_the_plain_one_of_rotated_heads():
    module = noisy(SoftmaxAttention(16, 2))
    with torch.no_grad():
        module.qkvo.weight[48:], module.qkvo.bias[48:] = 0, 1  # the gate
        nn.init.zeros_(module.lepe.weight), nn.init.zeros_(module.lepe.bias)
        module.proj.weight.copy_(torch.eye(16)), module.proj.bias.zero_()
    x = torch.randn(1, 3, 4, 16).double()
    q, k, v = (t.unflatten(-1, (2, 8)).flatten(1, 2).transpose(1, 2) for t in module.qkvo(x).chunk(4, -1)[:3])
    table = rotary_table(3, 4, 8, x)
    q, k = rotate(q, table), rotate(k, table)
    wanted = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1) @ v
    torch.testing.assert_close(module(x).flatten(1, 2), wanted.transpose(1, 2).flatten(2))


def test_rotations_depend_on_differences_of_coordinates():
    q, k, _ = heads(42, channels=16)
    table = rotary_table(9, 10, 16, q).unflatten(0, (9, 10))
    here, there = table[:6, :7].flatten(0, 1), table[3:, 3:].flatten(0, 1)
    torch.testing.assert_close(
        rotate(q, here) @ rotate(k, here).transpose(-2, -1),
        rotate(q, there) @ rotate(k, there).transpose(-2, -1),
    )


def test_rotations_keep_lengths_and_dtype():
    x = torch.randn(1, 2, 6, 12, dtype=torch.bfloat16)
    y = rotate(x, rotary_table(2, 3, 12, x))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float().norm(dim=-1), x.float().norm(dim=-1), rtol=0.01, atol=0)


def test_heads_must_hold_pairs_of_pairs():
    with pytest.raises(ValueError, match=r"multiple of 4 \* num_heads, found 24 with 4 heads"):
        SoftmaxAttention(24, 4)


# ---------------------------------------------------------------------------------------------- network


def test_conversion_names_every_tensor():
    rows = json.loads((PACKS / "ravlt_t.json").read_text())["state_dict"]
    official = {key: torch.empty(shape, device="meta") for key, shape, _ in rows}
    with torch.device("meta"):
        network = dense.create_model("rala_tiny")
    found = RAVLT.convert_official(official)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in network.state_dict().items()}


@pytest.mark.parametrize("name", ["norm2.weight", "norms.2.weight", "extra_norms.2.norm.weight"])
def test_conversion_of_the_norms_of_dense_copies(name):
    assert list(RAVLT.convert_official({name: torch.zeros(4)})) == ["backbone.norms.2.weight"]


def test_variants_have_their_own_rates_and_scales():
    with torch.device("meta"):
        rates = [block.drop_path2.rate for stage in RAVLT("base").stages for block in stage]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.4)
    backbone = two_stages()
    blocks = [block for stage in backbone.stages for block in stage]
    assert [block.drop_path1.rate for block in blocks] == pytest.approx([0, 0.1, 0.2])
    assert [block.gamma1.unique().item() for block in blocks] == [1, 0.5, 0.5]
    fixed = two_stages(drop_path_rate=0.0)
    assert all(block.drop_path1.rate == 0 for stage in fixed.stages for block in stage)


def test_initial_weights():
    backbone = two_stages()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    for module in backbone.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert abs(module.weight.std() - 0.02) < 4e-3 and not module.bias.any()


def test_kinds_of_attention():
    kinds = [type(stage[0].attn) for stage in RAVLT(device_free("tiny")).stages]
    assert kinds == [RankAugmentedAttention] * 2 + [SoftmaxAttention] * 2
    linear = two_stages(attentions=("linear", "linear"))
    assert all(isinstance(stage[0].attn, RankAugmentedAttention) for stage in linear.stages)
    for wrong in (("linear",), ("linear", "cosine")):
        with pytest.raises(ValueError, match=f"{wrong[-1]}"):
            two_stages(attentions=wrong)


def device_free(arch):
    """One block a stage of a variant."""
    return {**RAVLT.archs[arch], "depths": (1, 1, 1, 1)}


@torch.no_grad()
def test_folded_norms_change_nothing():
    network = two_stages().double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    network.eval()
    x = torch.randn(2, 3, 24, 32).double()
    wanted = x
    stem = network.downsamples[0]
    for module in stem:
        wanted = module.norm(module.conv(wanted)) if hasattr(module, "norm") else module(wanted)
    torch.testing.assert_close(stem(x), wanted)


@torch.no_grad()
def test_maps_stay_channels_last():
    backbone = two_stages().eval()
    maps = []
    for module in backbone.modules():
        if isinstance(module, Block):
            module.register_forward_hook(lambda _, inputs, y: maps.extend((*inputs, y)))
    backbone(torch.randn(2, 3, 32, 40))
    assert len(maps) == 6
    assert all(x.is_contiguous() for x in maps)


@torch.no_grad()
def test_linear_attention_holds_no_pairs_of_positions():
    backbone = two_stages(attentions=("linear", "linear")).eval()
    found = []
    for side in (64, 256):
        with LargestTensor() as largest:
            backbone(torch.randn(1, 3, side, side))
        found.append(largest.numel)
    assert found[1] <= 16 * found[0]

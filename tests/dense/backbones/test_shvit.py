"""SHViT: its operators against plain formulas, its variants, head, flags and conversion."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import dense
from dense.backbones import SHViT
from dense.backbones.shvit import DepthwiseMixer, FeedForward, PatchMerging, SingleHeadAttention
from dense.layers import ConvNorm, PooledNormLinear
from pointsuite.engine.checkpoint import CheckpointError

from ..noise import noisy

PACKS = Path(__file__).parents[2] / "parity" / "packs" / "shvit"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def unfolded(layer, x):
    """A ConvNorm as the two layers that it stands for."""
    return layer.norm(layer.conv(x))


def naive_attention(module, x):
    p, qk = module.split[0], module.qkv_split[0]
    a = x[:, :p]
    mean, var = a.mean((1, 2, 3), keepdim=True), a.var((1, 2, 3), unbiased=False, keepdim=True)
    a = (a - mean) / (var + 1e-5).sqrt()
    a = a * module.pre_norm.weight[:, None, None] + module.pre_norm.bias[:, None, None]
    qkv = unfolded(module.qkv, a).flatten(2)
    q, k, v = qkv[:, :qk], qkv[:, qk : 2 * qk], qkv[:, 2 * qk :]
    attention = (q.transpose(1, 2) @ k * qk**-0.5).softmax(-1)
    torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention[..., 0]))
    y = (v @ attention.transpose(1, 2)).view_as(a)
    return unfolded(module.proj, torch.cat((y, x[:, p:]), 1).relu())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("qk_channels", [4, 16])  # narrower and wider than the values
def test_attention_against_the_formula(layout, qk_channels):
    module = noisy(SingleHeadAttention(13, 5, qk_channels))
    x = torch.randn(2, 13, 4, 6).double().to(memory_format=layout)
    torch.testing.assert_close(module(x), naive_attention(module, x))


def test_attention_without_queries_takes_the_mean():
    module = noisy(SingleHeadAttention(12, 8))
    with torch.no_grad():
        module.qkv.norm.weight[:16] = 0
        module.qkv.norm.bias[:16] = 0
    seen = []
    module.proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(2, 12, 3, 5).double()
    module(x)
    v = module.qkv(module.pre_norm(x[:, :8]))[:, 32:]
    wanted = v.mean((2, 3), keepdim=True).relu().expand(-1, -1, 3, 5)
    torch.testing.assert_close(seen[0][:, :8], wanted)
    torch.testing.assert_close(seen[0][:, 8:], x[:, 8:].relu())


def test_attention_follows_a_permutation_of_positions():
    module = noisy(SingleHeadAttention(12, 8))
    x = torch.randn(1, 12, 4, 6).double()
    order = torch.randperm(24)
    permuted = x.flatten(2)[..., order].view_as(x)
    torch.testing.assert_close(module(permuted), module(x).flatten(2)[..., order].view_as(x))


def test_feed_forward_and_depthwise_mixer():
    x = torch.randn(2, 6, 5, 7).double()
    ffn, mixer = noisy(FeedForward(6)), noisy(DepthwiseMixer(6))
    wanted = x + unfolded(ffn.pw2, unfolded(ffn.pw1, x).relu())
    torch.testing.assert_close(ffn(x), wanted)
    torch.testing.assert_close(mixer(x), x + unfolded(mixer, x))


@pytest.mark.parametrize("size", [(8, 6), (9, 7), (1, 1)])
def test_patch_merging_against_the_formula(size):
    module = noisy(PatchMerging(12, 10))
    x = torch.randn(2, 12, *size).double()
    y = unfolded(module.conv2, unfolded(module.conv1, x).relu()).relu()
    gate = module.se.fc2(module.se.fc1(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
    found = module(x)
    torch.testing.assert_close(found, unfolded(module.conv3, gate * y))
    assert found.shape[2:] == ((size[0] + 1) // 2, (size[1] + 1) // 2)


@pytest.mark.parametrize(("channels", "hidden"), [(4, 8), (12, 16), (11, 8), (308, 312), (224, 224)])
def test_squeezed_widths_are_multiples_of_eight(channels, hidden):
    assert PatchMerging(channels, 8).se.fc1.out_channels == hidden


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_folded_network_equals_the_unfolded(monkeypatch, layout):
    network = noisy(SHViT(shallow())).float()
    x = torch.randn(2, 3, 64, 96).to(memory_format=layout)

    def plain(layer, x, activation=None):
        y = unfolded(layer, x)
        return y if activation is None else getattr(F, activation)(y)

    with torch.no_grad():
        folded = network(x)
        monkeypatch.setattr(ConvNorm, "forward", plain)
        wanted = network(x)
    for found, y in zip(folded, wanted, strict=True):
        assert (found - y).norm() < 1e-5 * y.norm()


def shallow():
    return {**SHViT.archs["s1"], "depths": (1, 1, 1)}


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (75, 101), (1, 1), (33, 130)])
def test_sizes_are_rounded_up(size):
    maps = SHViT(shallow()).eval()(torch.randn(1, 3, *size))
    assert [y.shape[2:] for y in maps] == [(-(-size[0] // s), -(-size[1] // s)) for s in (16, 32, 64)]


def test_distillation_takes_the_mean_in_evaluation():
    head = noisy(PooledNormLinear(6, 4, distillation=True))
    x = torch.randn(3, 6, 2, 5).double()
    pooled = x.mean((2, 3))
    both = [c.fc(c.norm(pooled)) for c in (head.cls, head.dist)]
    torch.testing.assert_close(head(x), (both[0] + both[1]) / 2)
    found = head.train()(x)
    assert isinstance(found, tuple) and len(found) == 2
    normed = F.batch_norm(pooled, None, None, head.dist.norm.weight, head.dist.norm.bias, True)
    torch.testing.assert_close(found[1], head.dist.fc(normed))
    network = dense.create_model("shvit_s1", num_classes=7, distillation=True).eval()
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_distilled_head_without_and_with_other_classes():
    head = noisy(PooledNormLinear(6, 4, distillation=True))
    x = torch.randn(3, 6, 2, 5).double()
    pooled = x.mean((2, 3))
    wanted = (head.cls.norm(pooled) + head.dist.norm(pooled)) / 2
    torch.testing.assert_close(head(x, pre_logits=True), wanted)
    head.reset(0)
    torch.testing.assert_close(head(x), wanted)
    head.reset(9)
    assert [y.shape for y in head.double().train()(x)] == [(3, 9), (3, 9)]


def test_initial_weights():
    network = dense.create_model("shvit_s2")
    for name, module in network.named_modules():
        if isinstance(module, ConvNorm):
            tail = name.endswith(("pw2", "proj")) or (".stages." in name and name.endswith("conv"))
            assert torch.all(module.norm.weight == (0 if tail else 1)), name
    fc = network.head.cls.fc
    assert abs(fc.weight.std().item() - 0.02) < 1e-3 and fc.bias.abs().max() == 0


def test_fresh_blocks_change_nothing():
    network = SHViT(shallow()).eval()
    x = torch.randn(1, 128, 6, 5)
    torch.testing.assert_close(network.stages[0][0](x), x)


def test_drop_path_rises_over_all_blocks():
    blocks = [b for stage in SHViT(shallow(), drop_path_rate=0.2).stages for b in stage]
    assert [b.ffn.drop_path.rate for b in blocks] == [pytest.approx(r) for r in (0, 0.1, 0.2)]
    assert [b.conv.drop_path.rate for b in blocks] == [pytest.approx(r) for r in (0, 0.1, 0.2)]


def test_published_detectors_freeze_the_stem():
    network = SHViT(shallow(), frozen_stages=0, norm_eval=True).train()
    assert not any(p.requires_grad for p in network.downsamples[0].parameters())
    assert all(p.requires_grad for p in network.stages[0].parameters())
    assert not any(m.training for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))


def official(name):
    pack = json.loads((PACKS / f"{name}.json").read_text())
    return {key: torch.randn(shape) for key, shape, _ in pack["state_dict"]}


def shapes(state):
    return {key: value.shape for key, value in state.items()}


@pytest.mark.parametrize(
    ("pack", "kwargs"), [("shvit_s1", {}), ("shvit_s1_distill", {"num_classes": 10, "distillation": True})]
)
def test_convert_official(pack, kwargs):
    network = dense.create_model("shvit_s1", **kwargs)
    state = official(pack)
    converted = network.convert_official(state)
    assert len(converted) == len(state)
    assert shapes(converted) == shapes(network.state_dict())
    flat = {k: v[:, :, 0, 0] if v.shape[2:] == (1, 1) else v for k, v in state.items()}
    assert shapes(network.convert_official(flat)) == shapes(converted)


def test_convert_official_of_a_detector():
    state = {f"backbone.{k}": v for k, v in official("shvit_s1").items() if not k.startswith("head.")}
    state["neck.lateral_convs.0.conv.weight"] = torch.zeros(1)
    network = dense.create_model("shvit_s1", features_only=True)
    converted = {k.removeprefix("backbone."): v for k, v in network.convert_official(state).items()}
    assert shapes(converted) == shapes(network.state_dict())


def test_convert_official_refuses_other_files():
    with pytest.raises(CheckpointError, match=r"stem\.weight"):
        SHViT.convert_official({"stem.weight": torch.zeros(1)})

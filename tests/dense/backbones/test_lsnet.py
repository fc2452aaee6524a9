"""LSNet: its operators against plain formulas, its variants, sizes, flags and conversion."""

import re

import pytest
import torch
from torch.nn import functional as F

import dense
from dense.backbones import LSNet
from dense.backbones.lsnet import Attention, ConvBlock, LSConv, RepVGGDW
from dense.layers import switch_to_deploy
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError

from ..noise import noisy

SMALL = {"embed_dims": (16, 32, 48, 64), "depths": (1, 2, 0, 2), "num_heads": 4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def maps(*shape):
    return torch.randn(*shape, dtype=torch.float64).to(memory_format=torch.channels_last)


# ----------------------------------------------------------------------------------------------- operators


def test_three_branches_are_one_convolution():
    layer = noisy(RepVGGDW(6))
    x = maps(2, 6, 5, 7)
    wanted = layer.forward_branches(x)
    weight, bias = layer.merge()
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(F.conv2d(x, weight, bias, padding=1, groups=6), wanted)
    torch.testing.assert_close(switch_to_deploy(layer)(x), wanted)


@pytest.mark.parametrize("sizes", [{}, {"large_kernel_size": 5, "kernel_size": 5, "group_size": 4}])
def test_dynamic_convolution_against_the_formula(sizes):
    layer = noisy(LSConv(16, **sizes))
    side, group = sizes.get("kernel_size", 3), sizes.get("group_size", 8)
    x = maps(2, 16, 6, 5)
    lkp = layer.lkp
    hidden = lkp.cv3(lkp.cv2(lkp.cv1(x).relu())).relu()
    rows = lkp.cv4(hidden).unflatten(1, (side**2, -1)).transpose(1, 2).flatten(1, 2)  # kernel by kernel
    weight, bias = (p.T.flatten() for p in (lkp.norm.weight, lkp.norm.bias))
    kernels = F.group_norm(rows, 16 // group, weight, bias).unflatten(1, (16 // group, side**2))
    windows = F.unfold(x, side, padding=side // 2).view(2, 16, side**2, 6, 5)
    y = torch.stack([(windows[:, c] * kernels[:, c % (16 // group)]).sum(1) for c in range(16)], 1)
    torch.testing.assert_close(layer(x), x + layer.out_norm(y))


def naive_bias(layer, side):
    positions = [(i, j) for i in range(side) for j in range(side)]
    return torch.stack(
        [
            torch.stack([layer.attention_biases[:, abs(a - c) * side + abs(b - d)] for c, d in positions], 1)
            for a, b in positions
        ],
        1,
    )


@pytest.mark.parametrize("v_channels", [None, 24])
def test_attention_against_the_formula(v_channels):
    layer = noisy(Attention(8, 2, 4, v_channels, resolution=3))
    x = maps(2, 8, 3, 3)
    width = 4 if v_channels is None else v_channels
    q, k, v = layer.qkv(x).split((8, 8, 2 * width), 1)
    q, k, v = (t.flatten(2).unflatten(1, (2, -1)) for t in (layer.dw(q), k, v))  # (B, heads, c, N)
    weights = (q.mT @ k / 2 + naive_bias(layer, 3)).softmax(-1)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    y = (v @ weights.mT).flatten(1, 2).unflatten(2, (3, 3))
    torch.testing.assert_close(layer(x), layer.proj(y.relu()))


def test_attention_without_queries_takes_what_the_biases_say():
    layer = noisy(Attention(8, 2, 4, resolution=3))
    with torch.no_grad():
        layer.dw.norm.weight.zero_(), layer.dw.norm.bias.zero_()
    x = maps(1, 8, 3, 3)
    v = layer.qkv(x)[:, 16:].flatten(2).unflatten(1, (2, -1))
    y = (v @ naive_bias(layer, 3).softmax(-1).mT).flatten(1, 2).unflatten(2, (3, 3))
    torch.testing.assert_close(layer(x), layer.proj(y.relu()))


def test_biases_are_resized_by_distance():
    layer = noisy(Attention(8, 2, resolution=4))
    found = layer.bias(3, 5)
    table = F.interpolate(layer.attention_biases.view(1, 2, 4, 4), (3, 5), mode="bicubic")[0]
    assert found.shape == (2, 15, 15)
    torch.testing.assert_close(found, found.mT)
    torch.testing.assert_close(found[:, 1 * 5 + 4, 2 * 5 + 1], table[:, 1, 3])
    torch.testing.assert_close(layer.bias(4, 4), naive_bias(layer, 4))


def test_published_dense_networks_resize_pairs_as_a_picture():
    layer = noisy(Attention(8, 2, resolution=4, reference_quirks=True))
    wanted = F.interpolate(naive_bias(layer, 4)[None], (15, 15), mode="bicubic")[0]
    torch.testing.assert_close(layer.bias(3, 5), wanted)
    torch.testing.assert_close(layer.bias(4, 4), naive_bias(layer, 4))


def test_biases_are_those_of_the_moment():
    """Nothing is kept in evaluation: weights that come later count."""
    layer = noisy(Attention(8, 2, resolution=2))
    x = maps(1, 8, 2, 2)
    before = layer(x)
    with torch.no_grad():
        layer.attention_biases.normal_(0, 3)
    assert (layer(x) - before).abs().max() > 1e-3


@pytest.mark.parametrize(("channels", "hidden"), [(64, 16), (96, 24), (448, 112), (20, 8), (52, 16)])
def test_squeezed_widths_are_multiples_of_eight(channels, hidden):
    assert ConvBlock(channels).se.fc1.out_channels == hidden


# ------------------------------------------------------------------------------------- the whole network


@torch.no_grad()
@pytest.mark.parametrize("size", [(224, 224), (75, 101), (1, 1), (33, 260)])
def test_sizes_are_rounded_up(size):
    network = LSNet(SMALL).eval()
    found = network(torch.randn(1, 3, *size))
    assert [y.shape[2:] for y in found] == [(-(-size[0] // s), -(-size[1] // s)) for s in (8, 16, 32, 64)]
    assert all(y.isfinite().all() for y in found)


def test_blocks_take_turns():
    network = LSNet({**LSNet.archs["s"], "depths": (1, 2, 3, 4)})
    names = [[type(b).__name__ for b in stage] for stage in network.stages]
    assert names == [
        ["ConvBlock"],
        ["ConvBlock", "LSBlock"],
        ["ConvBlock", "LSBlock", "ConvBlock"],
        ["ConvBlock", "AttentionBlock"] * 2,
    ]


def test_initial_weights():
    network = dense.create_model("lsnet_t")
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            tail = name.endswith((".pw2.norm", ".proj.norm"))
            assert torch.all(module.weight == (0 if tail else 1)), name
    tables = [p for name, p in network.named_parameters() if LSNet.no_weight_decay[0] in name]
    assert len(tables) == 5 and not any(table.any() for table in tables)
    fc = network.head.cls.fc
    assert abs(fc.weight.std().item() - 0.02) < 1e-3 and fc.bias.abs().max() == 0


@pytest.mark.parametrize(("arch", "count"), [("t", 11_795_600), ("s", 16_596_200), ("b", 23_827_632)])
def test_parameters_of_distilled_ones(arch, count):
    with torch.device("meta"):
        network = dense.create_model(f"lsnet_{arch}", distillation=True)
    assert sum(p.numel() for p in network.parameters()) == count


def published(arch, **options):
    """Weights under their published names."""
    with torch.device("meta"):
        state = LSNet.create(arch, **options).state_dict()
    names = {
        ".conv.weight": ".c.weight",
        ".norm.": ".bn.",
        ".lkp.bn.": ".lkp.norm.",
        ".out_norm.": ".bn.",
        ".ffn.": ".ffn.m.",
        ".fc.": ".l.",
        "head.cls.": "head.",
        "head.dist.": "head_dist.",
    }
    found = {}
    for key, value in state.items():
        key = key.removeprefix("backbone.").replace("downsamples.0.", "patch_embed.")
        key = re.sub(r"downsamples\.(\d)\.", lambda m: f"blocks{int(m[1]) + 1}.", key)
        if match := re.match(r"stages\.(\d)\.(\d+)\.", key):
            stage, block = int(match[1]), int(match[2])
            key = f"blocks{stage + 1}.{block + 2 * (stage > 0)}.{key[match.end() :]}"
        for old, new in names.items():
            key = key.replace(old, new)
        if re.match(r"blocks4\.\d+\.mixer\.(qkv|proj|dw|attention)", key):
            key = key.replace(".mixer.", ".mixer.m.").replace(".proj.", ".proj.1.")
        if key.endswith("attention_biases"):
            tokens = value.shape[1]
            found[key.replace("biases", "bias_idxs")] = torch.zeros(tokens, tokens, dtype=torch.long)
        found[key] = value.flatten() if ".lkp.norm." in key else value
    return found


@pytest.mark.parametrize(("arch", "distillation"), [("t", False), ("s", True), ("b", False)])
def test_identification(arch, distillation):
    found = ZOO.identify(published(arch, distillation=distillation))
    options = {"num_classes": 1000} | ({"distillation": True} if distillation else {})
    assert (found.name, found.options) == (f"lsnet_{arch}", options)


def test_identification_of_others():
    found = ZOO.identify(published({**LSNet.archs["s"], "depths": (1, 2, 2, 2)}, num_classes=7, resolution=7))
    own = {**LSNet.archs["s"], "depths": (1, 2, 2, 2)}
    assert found.options == {"num_classes": 7, "resolution": 7, "arch": own}
    state = published("b", features_only=True, resolution=14)
    detector = {"neck.lateral_convs.0.conv.weight": torch.zeros(1)}
    found = ZOO.identify({f"backbone.{key}": value for key, value in state.items()} | detector)
    assert (found.name, found.options) == ("lsnet_b", {"features_only": True, "resolution": 14})


def test_kernels_are_reordered_tap_by_tap():
    weight, norm = torch.randn(18, 8, 1, 1), torch.randn(18)
    place = "blocks2.3.mixer.lkp."
    state = LSNet.convert_official({f"{place}cv4.weight": weight, f"{place}norm.bias": norm})
    ours = "backbone.stages.1.1.mixer.lkp."
    assert torch.equal(state[f"{ours}cv4.weight"][2 * 4 + 1], weight[9 + 4])  # kernel 1, tap 4
    assert torch.equal(state[f"{ours}norm.bias"], norm.view(2, 9).T)


def test_convert_official_refuses_other_files():
    with pytest.raises(CheckpointError, match=r"stem\.weight"):
        LSNet.convert_official({"stem.weight": torch.zeros(1)})


def test_bad_channels():
    with pytest.raises(ValueError, match="resolution must be at least 1, found 0"):
        LSNet("t", resolution=0)
    with pytest.raises(ValueError, match="group_size must divide embed_dims 20, found 8"):
        LSNet({**SMALL, "embed_dims": (20, 20, 20, 64)})

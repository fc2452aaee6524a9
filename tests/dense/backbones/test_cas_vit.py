"""CAS-ViT: its operators against plain formulas, its variants, sizes, heads and conversion."""

import re

import pytest
import torch
from torch.nn import functional as F

import dense
from dense.backbones import CASViT
from dense.backbones.cas_vit import AdditiveMixer, Block, Gates, Head
from dense.layers import NormConv, switch_to_deploy
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError

from ..noise import noisy

SMALL = {"embed_dims": (8, 12, 16, 20), "depths": (2, 1, 1, 1)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def maps(*shape):
    return torch.randn(*shape, dtype=torch.float64).to(memory_format=torch.channels_last)


def naive_gates(gates, x):
    """Gated queries and gated keys, (B, 2, C, H, W), and what positions' gates leave of them."""
    channels = x.shape[1] // 2
    spatial, whole = [], []
    for i in range(2):
        own = slice(i * channels, (i + 1) * channels)
        seen = gates.conv.norm(gates.conv.conv(x))[:, own].relu()
        gate = F.conv2d(seen, gates.spatial.weight[i : i + 1]).sigmoid()
        spatial.append(x[:, own] * gate)
        mean = spatial[-1].mean((2, 3), keepdim=True)
        whole.append(spatial[-1] * F.conv2d(mean, gates.channel.weight[own]).sigmoid())
    return torch.stack(whole, 1), torch.stack(spatial, 1)


# ----------------------------------------------------------------------------------------------- operators


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gates_against_the_formula(layout):
    gates = noisy(Gates(6))
    x = maps(2, 12, 5, 7).to(memory_format=layout)
    whole, spatial = naive_gates(gates, x)
    torch.testing.assert_close(gates(x), whole.sum(1))
    assert (spatial.abs() <= x.unflatten(1, (2, 6)).abs()).all() and (whole.abs() <= spatial.abs()).all()


def test_one_pass_over_gated_maps_equals_the_portable_form():
    gates = noisy(Gates(20)).float()
    x = maps(2, 40, 9, 8).float()
    with torch.no_grad():
        found = gates(x)
    torch.testing.assert_close(found, gates(x).detach())
    torch.testing.assert_close(found, naive_gates(gates, x)[0].sum(1).detach())


def naive_mixer(mixer, x):
    q_k, v = mixer.qkv.conv(mixer.qkv.norm(x)).split(mixer.split, 1)
    return mixer.proj(mixer.dwc(naive_gates(mixer.gates, q_k)[0].sum(1)) * v)


def test_mixer_against_the_formula():
    mixer = noisy(AdditiveMixer(6))
    x = maps(2, 6, 5, 7)
    wanted = naive_mixer(mixer, x)
    torch.testing.assert_close(mixer(x), wanted)
    torch.testing.assert_close(switch_to_deploy(mixer)(x), wanted)
    mixer = noisy(AdditiveMixer(6))
    mixer.train()
    torch.testing.assert_close(mixer(x), naive_mixer(mixer, x))


def exchange(tensor):
    return torch.cat(tensor.chunk(2)[::-1])


def test_queries_and_keys_may_change_places():
    mixer = noisy(AdditiveMixer(6))
    x = maps(2, 6, 4, 5)
    before = mixer(x)
    with torch.no_grad():
        weight = mixer.qkv.conv.weight
        weight[:12] = exchange(weight[:12])
        for value in mixer.gates.state_dict().values():
            if value.ndim:
                value.copy_(exchange(value.clone()))
    torch.testing.assert_close(mixer(x), before)


def test_mixer_is_linear_in_the_values():
    mixer = noisy(AdditiveMixer(6))
    x = maps(2, 6, 4, 5)
    bias = mixer.proj.bias[:, None, None]
    before = mixer(x) - bias
    with torch.no_grad():
        mixer.qkv.conv.weight[12:] *= 3
    torch.testing.assert_close(mixer(x) - bias, 3 * before)


def test_mixer_with_depthwise_convolutions_that_do_nothing():
    mixer = noisy(AdditiveMixer(6))
    with torch.no_grad():
        for layer in (mixer.dwc, mixer.proj):
            layer.weight.zero_(), layer.bias.zero_()
            layer.weight[:, :, 1, 1] = 1
    x = maps(2, 6, 4, 5)
    qk, v = mixer.qkv(x).split(mixer.split, 1)
    torch.testing.assert_close(mixer(x), mixer.gates(qk) * v)


@pytest.mark.parametrize("bias", [False, True])
def test_norm_before_a_convolution(bias):
    layer = noisy(NormConv(5, 7, bias))
    x = maps(2, 5, 3, 4)
    wanted = layer.conv(layer.norm(x))
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer(x, "gelu"), F.gelu(wanted))
    torch.testing.assert_close(switch_to_deploy(layer)(x), wanted)
    layer.train()
    torch.testing.assert_close(layer(x), layer.conv(layer.norm(x)))


def test_block_adds_three_branches():
    block = noisy(Block(6, 0.0))
    x = maps(2, 6, 4, 5)
    y = x + block.local.conv2(F.gelu(block.local.dw(block.local.conv1(x))))
    y = y + naive_mixer(block.attn, y)
    mlp = block.mlp
    wanted = y + mlp.fc2(F.gelu(mlp.fc1.conv(mlp.fc1.norm(y))))
    torch.testing.assert_close(block(x), wanted)


# ------------------------------------------------------------------------------------- the whole network


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (75, 101), (1, 1), (33, 130)])
def test_sizes_are_rounded_up(size):
    found = CASViT(SMALL).eval()(torch.randn(1, 3, *size))
    assert [y.shape[2:] for y in found] == [(-(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16, 32)]
    assert all(y.isfinite().all() for y in found)


def test_maps_are_normed_beside_the_trunk():
    network = noisy(CASViT(SMALL))
    x = maps(1, 3, 40, 32)
    un_normed = list(network.iterate_stages(x))
    for i, (y, found) in enumerate(zip(un_normed, network(x), strict=True)):
        torch.testing.assert_close(found, network.norms[str(i)](y))
    assert list(CASViT(SMALL, out_indices=(1, 2, 3)).norms) == ["1", "2", "3"]


def test_drop_path_rises_over_all_blocks():
    blocks = [block for stage in CASViT(SMALL, drop_path_rate=0.4).stages for block in stage]
    assert [b.drop_path.rate for b in blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_distillation_takes_the_mean_in_evaluation():
    head = noisy(Head(6, 4, distillation=True))
    x = torch.randn(3, 6, 2, 5).double()
    pooled = head.norm(x).mean((2, 3))
    torch.testing.assert_close(head(x, pre_logits=True), pooled)
    torch.testing.assert_close(head(x), (head.fc(pooled) + head.dist.fc(pooled)) / 2)
    found = head.train()(x)
    pooled = head.norm(x).mean((2, 3))
    torch.testing.assert_close(found[0], head.fc(pooled))
    torch.testing.assert_close(found[1], head.dist.fc(pooled))
    head.reset(9)
    assert [y.shape for y in head.double()(x)] == [(3, 9), (3, 9)]


@pytest.mark.parametrize(
    ("arch", "count"), [("xs", 3_200_700), ("s", 5_764_224), ("m", 12_421_520), ("t", 21_763_120)]
)
def test_published_parameters_count_the_second_head(arch, count):
    with torch.device("meta"):
        network = dense.create_model(f"cas_vit_{arch}", distillation=True)
    assert sum(p.numel() for p in network.parameters()) == count


def published(arch, **options):
    """Weights under their published names."""
    with torch.device("meta"):
        state = CASViT.create(arch, **options).state_dict()
    names = {
        "head.norm.": "norm.",
        "head.dist.fc.": "dist_head.",
        "head.fc.": "head.",
        ".local.conv1.conv.": ".local_perception.network.0.",
        ".local.conv1.norm.": ".local_perception.network.1.",
        ".local.dw.": ".local_perception.network.2.",
        ".local.conv2.": ".local_perception.network.4.",
        ".attn.qkv.norm.": ".norm1.",
        ".attn.qkv.conv.": ".attn.qkv.",
        ".mlp.fc1.norm.": ".norm2.",
        ".mlp.fc1.conv.": ".mlp.fc1.",
        ".gates.conv.conv.": ".gates.0.block.0.",
        ".gates.conv.norm.": ".gates.0.block.1.",
        ".gates.spatial.": ".gates.0.block.3.",
        ".gates.channel.": ".gates.1.block.1.",
    }
    found = {}
    for key, value in state.items():
        key = key.removeprefix("backbone.")
        for old, new in names.items():
            key = key.replace(old, new)
        key = re.sub(r"stages\.(\d)", lambda m: f"network.{2 * int(m[1])}", key)
        key = re.sub(r"norms\.(\d)", lambda m: f"norm{2 * int(m[1])}", key)
        if match := re.match(r"downsamples\.0\.(\d)\.(conv|norm)\.(.*)", key):
            key = f"patch_embed.{int(match[1]) // 2 * 3 + (match[2] == 'norm')}.{match[3]}"
        elif match := re.match(r"downsamples\.(\d)\.(.*)", key):
            key = f"network.{2 * int(match[1]) - 1}.{match[2].replace('conv.', 'proj.')}"
        if ".gates." in key:
            halves = value.chunk(2) if value.ndim else (value, value)
            found |= {
                key.replace("gates", f"oper_{name}"): half for name, half in zip("qk", halves, strict=True)
            }
        else:
            found[key] = value
    return found


@pytest.mark.parametrize(("arch", "distillation"), [("xs", False), ("s", True), ("m", False), ("t", True)])
def test_identification(arch, distillation):
    found = ZOO.identify(published(arch, distillation=distillation))
    options = {"num_classes": 1000} | ({"distillation": True} if distillation else {})
    assert (found.name, found.options) == (f"cas_vit_{arch}", options)


def test_identification_of_other_depths_and_of_dense_networks():
    own = {**CASViT.archs["s"], "depths": (1, 2, 1, 1)}
    assert ZOO.identify(published(own, num_classes=7)).options == {"num_classes": 7, "arch": own}
    found = ZOO.identify(published("m", features_only=True))
    assert (found.name, found.options) == ("cas_vit_m", {"features_only": True})


def test_gates_of_queries_come_first():
    place = "network.2.1.attn.oper_{}.1.block.1.weight"
    q, k = torch.randn(4, 4, 1, 1), torch.randn(4, 4, 1, 1)
    state = CASViT.convert_official({place.format("k"): k, place.format("q"): q})
    assert torch.equal(state["backbone.stages.1.1.attn.gates.channel.weight"], torch.cat((q, k)))


def test_convert_official_refuses_other_files():
    with pytest.raises(CheckpointError, match=r"stem\.weight"):
        CASViT.convert_official({"stem.weight": torch.zeros(1)})
    key = "network.0.0.attn.oper_q.0.block.3.weight"
    with pytest.raises(CheckpointError, match=r"oper_q.* without .*oper_k"):
        CASViT.convert_official({key: torch.zeros(1, 4, 1, 1)})

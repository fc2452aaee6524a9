"""SpaRTAN: its mixers against plain formulas, kinds of stages, sizes, weights and their decay."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn
from torch.nn import functional as F

import dense
from dense.backbones import SpaRTAN
from dense.backbones.spartan import Block, ChannelMixer, SpatialMixer, rotate_pairs
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError

from ..noise import noisy

PACKS = Path(__file__).parents[2] / "parity" / "packs" / "spartan"
SMALL = {
    "embed_dims": (8, 16, 16),
    "depths": (2, 1, 1),
    "expand_ratios": (4, 2, 3),
    "strides": (4, 2, 2),
    "dense_stages": 1,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def maps(channels, height=5, width=6, batch=2):
    return torch.randn(batch, height, width, channels, dtype=torch.float64)


def unfolded(layer, x):
    """A ConvNorm as the two layers that it stands for."""
    return layer.norm(layer.conv(x))


# ------------------------------------------------------------------------------------------ spatial mixer


@pytest.mark.parametrize("dense_", [True, False])
def test_spatial_mixer_against_the_formula(dense_):
    mixer = noisy(SpatialMixer(16, dense_))
    x = maps(16)
    u = F.linear(x, mixer.proj_in.weight, mixer.proj_in.bias)
    u = (u + mixer.gamma * (u - u.mean((1, 2), keepdim=True))).permute(0, 3, 1, 2)
    near = F.gelu(unfolded(mixer.near, u))
    far = F.gelu(unfolded(mixer.far, mixer.spread(u)))
    parts = []
    for y, gate in ((near, mixer.near_gate), (far, mixer.far_gate)):
        parts.append(y * gate.fc2(gate.fc1(y.mean((2, 3), keepdim=True)).relu()).sigmoid())
    torch.testing.assert_close(mixer(x), mixer.proj_out(torch.cat(parts, 1).permute(0, 2, 3, 1)))
    assert mixer.near.conv.groups == mixer.spread.groups == mixer.far.conv.groups == (1 if dense_ else 8)


def test_contrast():
    """gamma 0 leaves the projection as it is, -1 gives its mean to every position."""
    mixer = noisy(SpatialMixer(16, True))
    seen = []
    mixer.near.register_forward_pre_hook(lambda _, args: seen.append(args[0].permute(0, 2, 3, 1)))
    x = maps(16)
    projected = mixer.proj_in(x)
    with torch.no_grad():
        for gamma, wanted in ((0, projected), (-1, projected.mean((1, 2), keepdim=True).expand(2, 5, 6, 8))):
            mixer.gamma.fill_(gamma)
            mixer(x)
            torch.testing.assert_close(seen.pop(), wanted)


# ------------------------------------------------------------------------------------------ channel mixer


def waves(mixer, x):
    """Position by position, up to the convolution."""
    result = torch.zeros(*x.shape[:3], mixer.phase.out_features, dtype=x.dtype)
    for index in torch.cartesian_prod(*map(torch.arange, x.shape[:3])).tolist():
        own = x[tuple(index)]
        largest = max(range(len(own)), key=lambda i: own[i])  # the first of several
        theta = F.gelu(F.linear(own, mixer.phase.weight, mixer.phase.bias))
        w = F.linear(own, mixer.amplitude.weight, mixer.amplitude.bias)
        f = w * theta + w[largest] * theta[largest]
        for j, (a, b) in enumerate(mixer.rotation.tolist()):
            product = complex(f[2 * j], f[2 * j + 1]) * complex(a, b)
            result[(*index, 2 * j)], result[(*index, 2 * j + 1)] = product.real, product.imag
    return result


@torch.no_grad()
@pytest.mark.parametrize(("ratio", "dense_"), [(4, True), (2, False), (3, False)])
def test_channel_mixer_against_the_formula(ratio, dense_):
    mixer = noisy(ChannelMixer(8, ratio, dense_))
    x = maps(8, 3, 4)
    x[0, 0, 0, 3:5] = x[0, 0, 0].max() + 1
    y = F.gelu(unfolded(mixer.conv, waves(mixer, x).permute(0, 3, 1, 2)))
    gate = mixer.gate
    y = y * gate.fc2(gate.fc1(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
    torch.testing.assert_close(mixer(x), mixer.proj_out(y.permute(0, 2, 3, 1)))
    assert mixer.conv.conv.groups == (8 * ratio if dense_ else 8)


def test_waves_follow_a_permutation_of_positions():
    mixer = noisy(ChannelMixer(8, 2, True))
    seen = []
    mixer.conv.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].permute(0, 2, 3, 1).flatten(1, 2))
    )
    x, order = maps(8, 3, 4), torch.randperm(12)
    mixer(x), mixer(x.flatten(1, 2)[:, order].unflatten(1, (3, 4)))
    torch.testing.assert_close(seen[1], seen[0][:, order])


def test_rotations():
    x = maps(6)
    torch.testing.assert_close(rotate_pairs(x, torch.tensor([1.0, 0.0]).expand(3, 2)), x)
    angles = torch.randn(3).double()
    factors = torch.stack((angles.cos(), angles.sin()), -1)
    turned = rotate_pairs(x, factors).unflatten(-1, (3, 2))
    torch.testing.assert_close(turned.norm(dim=-1), x.unflatten(-1, (3, 2)).norm(dim=-1))
    matrices = torch.stack((factors, torch.stack((-factors[:, 1], factors[:, 0]), -1)), -1)
    wanted = torch.einsum("jpq,bhwjq->bhwjp", matrices, x.unflatten(-1, (3, 2)))
    torch.testing.assert_close(turned, wanted)
    assert rotate_pairs(x.bfloat16(), factors.bfloat16()).dtype == torch.float32


# --------------------------------------------------------------------------------------------------- blocks


def test_a_block_without_scales_changes_nothing():
    block = noisy(Block(8, 2, True))
    x = maps(8)
    y = x + block.scale1 * block.spatial(block.norm1(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    wanted = y + block.scale2 * block.channel(block.norm2(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    torch.testing.assert_close(block(x), wanted)
    nn.init.zeros_(block.scale1), nn.init.zeros_(block.scale2)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SpatialMixer(12, True), "embed_dims must be a multiple of 8, found 12"),
        (lambda: ChannelMixer(8, 1, True), "expand_ratio must be at least 2 .*, found 1"),
        (lambda: SpaRTAN({**SMALL, "strides": (4, 2)}), r"strides must be 4, then 1 or 2 .*, found \(4, 2\)"),
        (lambda: SpaRTAN({**SMALL, "strides": (4, 1, 2)}), "must keep the width 8, found 16"),
        (
            lambda: SpaRTAN(SMALL, reference_quirks=True)(torch.zeros(1, 3, 12, 20)),
            "images must be at least 13 x 13, found 12 x 20",
        ),
    ],
)
def test_bad_options(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# ------------------------------------------------------------------------------------ the whole network


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 48), (13, 37), (1, 1)])
def test_sizes(size):
    found = noisy(SpaRTAN(SMALL))(torch.randn(1, 3, *size).double())
    for y, stride, channels in zip(found, (4, 8, 16), SMALL["embed_dims"], strict=True):
        assert y.shape == (1, channels, *[-(-side // stride) for side in size]) and y.isfinite().all()
    if min(size) > 12:
        found = noisy(SpaRTAN(SMALL, reference_quirks=True))(torch.randn(1, 3, *size).double())
        first = [-(-side // 4) for side in size]
        assert [list(y.shape[2:]) for y in found] == [[s // n for s in first] for n in (1, 2, 4)]


def test_kinds_of_stages():
    net = SpaRTAN("t")
    assert [[b.spatial.near.conv.groups == 1 for b in stage] for stage in net.stages] == [
        [True] * 3,
        [True] * 3,
        [False] * 12,
        [False] * 2,
    ]
    widths = [stage[0].channel.conv.conv.weight.shape[1] for stage in net.stages]
    assert widths == [1, 1, 2, 2]


def test_drop_paths():
    net = SpaRTAN(SMALL, drop_path_rate=0.4)
    rates = [block.drop_path.rate for stage in net.stages for block in stage]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_initial_weights():
    net = SpaRTAN.create({**SMALL, "embed_dims": (64, 128, 128)}, num_classes=100)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif ".norm" in name:
            assert (parameter == 1).all(), name
        elif "gamma" in name or "scale" in name:
            assert (parameter == 1e-5).all(), name
        elif name.endswith("rotation"):
            assert parameter.std().item() == pytest.approx(1, rel=0.2)
        elif name != "head.fc.weight" and parameter.numel() > 2000:
            layer = net.get_submodule(name.removesuffix(".weight"))
            out = len(parameter) * parameter[0, 0].numel() / getattr(layer, "groups", 1)
            assert parameter.std().item() == pytest.approx((2 / out) ** 0.5, rel=0.1), name
    assert net.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.05)


# -------------------------------------------------------------------------------------- published weights


def official():
    rows = json.loads((PACKS / "spartan_t.json").read_text())["state_dict"]
    return {key: torch.full((), float(i)).expand(shape) for i, (key, shape, _) in enumerate(rows)}


def test_weights_that_do_not_decay():
    """As published: of one axis, biases, and those with "norm" or "gamma" in their names."""
    keys = list(official())
    net = dense.create_model("spartan_t")
    groups = DefaultOptimWrapperConstructor(
        {"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.03}},
        {
            "flat_decay_mult": 0.0,
            "custom_keys": {name: {"decay_mult": 0.0} for name in SpaRTAN.no_weight_decay},
        },
    )(net).optimizer.param_groups
    decays = {id(group["params"][0]): group["weight_decay"] for group in groups}
    origins = {name: keys[int(value.max())] for name, value in SpaRTAN.convert_official(official()).items()}
    shapes = {key: value.ndim for key, value in official().items()}
    for name, parameter in net.named_parameters():
        key = origins[name]
        free = shapes[key] <= 1 or key.endswith("bias") or "norm" in key or "gamma" in key
        assert decays[id(parameter)] == (0 if free else 0.03), name
    assert {"scale", "rotation"} <= {
        part for name, p in net.named_parameters() if decays[id(p)] for part in name.rstrip("12").split(".")
    }


def published(network):
    """Weights under their published names, one sequence of blocks and downsamplings."""
    names = {"spatial.near_gate.": "smixer.h_attn.", "spatial.far_gate.": "smixer.l_attn."}
    names |= {"channel.gate.": "cmixer.attn.", ".fc1.": ".squeeze.", ".fc2.": ".expand."}
    names |= {"spatial.near.": "smixer.h_conv.", "spatial.spread.": "smixer.l_conv.0.conv."}
    names |= {"spatial.far.": "smixer.l_conv.1.", "spatial.": "smixer.", "channel.phase.": "cmixer.theta."}
    names |= {"channel.amplitude.": "cmixer.proj.", "channel.rotation": "cmixer.complex"}
    names |= {"channel.": "cmixer.", "scale": "scale_", "norm1": "norm_1", "norm2": "norm_2"}
    places, count = (
        {"backbone.downsamples.0.conv1.": "conv.0.", "backbone.downsamples.0.conv2.": "conv.1."},
        0,
    )
    for i, stage in enumerate(network.backbone.stages):
        if i and network.backbone.spec["strides"][i] > 1:
            places[f"backbone.downsamples.{i}.conv."] = f"layers.{count}."
            count += 1
        for j in range(len(stage)):
            places[f"backbone.stages.{i}.{j}."] = f"layers.{count}."
            count += 1
    found = {}
    for key, value in network.state_dict().items():
        for old, new in {**places, **names, "head.fc.": "linear."}.items():
            key = key.replace(old, new)
        shape = value.shape
        if key.endswith(("proj_in.weight", "proj_out.weight", "theta.weight", "proj.weight")):
            shape = (*shape, 1, 1)
        if key.endswith("complex"):
            shape = (1, 1, 1, *shape)
        if key.endswith("gamma") or "scale_" in key:
            shape = (1, value.numel(), 1, 1)
        found[key] = torch.zeros((), dtype=value.dtype).expand(shape)
    return found


def test_identification():
    with torch.device("meta"):
        network = dense.create_model("spartan_t")
    assert published(network).keys() == official().keys()
    found = ZOO.identify(official())
    assert (found.name, found.options) == ("spartan_t", {"num_classes": 1000})
    converted = SpaRTAN.convert_official(official())
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in network.state_dict().items()}


@pytest.mark.parametrize(
    "own",
    [
        SMALL,
        {**SMALL, "depths": (2, 1, 0)},  # ends with a downsampling
        # of a stage without blocks, after which the published network does not downsample
        {**SMALL, "embed_dims": (8, 8, 16), "strides": (4, 1, 2), "dense_stages": 2},
    ],
)
def test_identification_of_other_shapes(own):
    own = {
        **own,
        "expand_ratios": tuple(
            r if d else 2 for r, d in zip(own["expand_ratios"], own["depths"], strict=True)
        ),
    }
    with torch.device("meta"):
        network = SpaRTAN.create(own, num_classes=7)
    found = ZOO.identify(published(network))
    assert found.options == {"num_classes": 7, "arch": own}


def test_conversion_of_other_files():
    with pytest.raises(CheckpointError, match="layers.0 is no block"):
        SpaRTAN.convert_official({"layers.0.attn.qkv.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="stem.weight"):
        SpaRTAN.convert_official({"stem.weight": torch.zeros(1)})


def test_gradients_under_autocast():
    network = noisy(SpaRTAN(SMALL)).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = network(torch.randn(2, 3, 32, 32))[-1]
    found.float().square().mean().backward()
    assert found.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())

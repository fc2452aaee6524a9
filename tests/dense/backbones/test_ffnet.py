"""FFNet: branches and their merging, mixers, layer scale, sizes, published names, merged weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dense.backbones import FFNet
from dense.backbones.ffnet import Block, ChannelMixer, PatchMerging, RepDW, TokenMixer
from dense.layers import switch_to_deploy
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError
from pointsuite.engine.skeleton import skeletons
from pointsuite.engine.zoo import load_converted

from ..noise import noisy

SMALL = {
    "embed_dims": (8, 16, 16, 32),
    "depths": (1, 2, 1, 1),
    "kernel_sizes": (3, 7, 5, 7),
    "token_kernel_sizes": ((3, 5), (3, 3), (7, 7), (7, 3)),
    "mlp_ratios": (2, 3, 3, 3),
    "stem_dims": 8,
    "layer_scale": 0.5,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def maps(channels, height=9, width=11):
    return torch.randn(2, channels, height, width, dtype=torch.float64)


def normed(layer, x):
    """A ConvNorm as the two layers that it stands for."""
    return layer.norm(layer.conv(x))


# ----------------------------------------------------------------------------------------------- operators


@pytest.mark.parametrize("channels, stride", [(6, 1), (12, 2)])
def test_branches_are_summed_and_merge(channels, stride):
    module, x = noisy(RepDW(6, channels, stride)), maps(6)
    wanted = normed(module.large, x) + normed(module.small, x)
    assert wanted.shape[2:] == (9, 11) if stride == 1 else (5, 6)
    torch.testing.assert_close(module(x), wanted)
    torch.testing.assert_close(switch_to_deploy(module)(x), wanted)


def test_the_small_branch_is_a_large_kernel_with_a_border_of_zeros():
    module = noisy(RepDW(4, 4))
    nn.init.zeros_(module.large.conv.weight)
    weight, _ = module.merge()
    small, _ = module.small.merge()
    torch.testing.assert_close(weight[:, :, 2:5, 2:5], small)
    assert torch.equal(weight, F.pad(weight[:, :, 2:5, 2:5], (2, 2, 2, 2)))


def test_outputs_beside_each_other_come_from_one_input():
    module, x = noisy(RepDW(3, 6, 2)), maps(3)
    changed = x.clone()
    changed[:, 1] += 1
    differs = (module(changed) - module(x)).abs().amax((0, 2, 3)) > 1e-6
    assert differs.tolist() == [False, False, True, True, False, False]


def test_patch_merging_norms_before_it_mixes_and_keeps_its_input():
    module, x = noisy(PatchMerging(4, 8)), maps(4)
    reduced, mixing = module[0](x), module[1]
    torch.testing.assert_close(module(x), reduced + mixing.conv(mixing.norm(reduced)))
    # in training statistics are those of the batch, so that nothing is merged
    mixing.train()
    normed = F.batch_norm(reduced, None, None, mixing.norm.weight, mixing.norm.bias, training=True)
    torch.testing.assert_close(mixing(reduced), reduced + mixing.conv(normed))


@pytest.mark.parametrize("sizes", [(3, 3), (7, 7), (5, 7)])
def test_token_mixer(sizes):
    module, x = noisy(TokenMixer(6, sizes)), maps(6)
    layers = [module.key, module.value]
    assert [isinstance(layer, RepDW) for layer in layers] == [size == 7 for size in sizes]
    key, value = ((lambda x, m=m: m.forward_branches(x)) if isinstance(m, RepDW) else m for m in layers)
    torch.testing.assert_close(module(x), value(F.gelu(key(normed(module.query, x)))))


@pytest.mark.parametrize("size", [3, 7])
def test_channel_mixer(size):
    module, x = noisy(ChannelMixer(6, size, 18)), maps(6)
    y = module.conv.forward_branches(x) if size == 7 else normed(module.conv, x)
    fc1, fc2 = module.mlp.fc1, module.mlp.fc2
    y = F.gelu(F.conv2d(y, fc1.weight[:, :, None, None], fc1.bias))
    torch.testing.assert_close(module(x), F.conv2d(y, fc2.weight[:, :, None, None], fc2.bias))


def test_layer_scale_of_0_leaves_the_input_and_drops_with_its_branch():
    block, x = noisy(Block(8, 3, (3, 3), 16, 1e-6, se=False, drop_path_rate=0.0)), maps(8)
    nn.init.zeros_(block.scale1)
    torch.testing.assert_close(block(x), x + block.scale2[:, None, None] * block.channel_mixer(x))
    nn.init.zeros_(block.scale2)
    assert torch.equal(block(x), x)


def test_gates_of_channels_follow_the_sum():
    block, x = noisy(Block(64, 3, (3, 3), 64, 0.0, se=True, drop_path_rate=0.0)), maps(64)
    y = block.se(x + block.token_mixer(x))
    assert block.se.fc1.out_channels == 16
    torch.testing.assert_close(block(x), y + block.channel_mixer(y))


# ------------------------------------------------------------------------------------------------- network


def test_initial_weights():
    network = FFNet.create({**SMALL, "layer_scale": 1e-6}, num_classes=3)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.bias is None or not layer.bias.any()
            assert layer.weight.std() < 0.03
    assert torch.equal(network.backbone.stages[0][0].scale1, torch.full((8,), 1e-6))


def test_any_size_and_odd_ones_rounded_up():
    backbone = FFNet(SMALL).eval()
    for height, width in ((33, 47), (1, 5)):
        for y, channels, stride in zip(
            backbone(torch.randn(1, 3, height, width)), SMALL["embed_dims"], (4, 8, 16, 32), strict=True
        ):
            assert y.shape == (1, channels, -(-height // stride), -(-width // stride))
    assert [norm.weight.numel() for norm in [FFNet.create(SMALL).head.norm]] == [32]


def test_head_norms_positions_before_their_mean():
    network = noisy(FFNet.create(SMALL, num_classes=5))
    features = maps(32, 2, 3)
    wanted = network.head.fc(network.head.norm(features).mean((2, 3)))
    torch.testing.assert_close(network.forward_head(features), wanted)


def test_squeeze_and_excitation_in_every_second_block():
    stages = FFNet({**SMALL, "depths": (1, 4, 1, 1)}, se=True).stages
    assert [not isinstance(block.se, nn.Identity) for block in stages[1]] == [True, False, True, False]


# --------------------------------------------------------------------------------------- published weights


def published(network):
    """The weights of one of ours as its authors name them."""
    return {_name(key): _shape(key, value) for key, value in network.state_dict().items()}


def _name(key):
    for ours, theirs in (
        ("backbone.downsamples.0.0.", "patch_embed.0."),
        ("backbone.downsamples.0.1.", "patch_embed.2."),
        ("head.norm.", "norm."),
        ("head.fc.", "head."),
    ):
        if key.startswith(ours):
            return theirs + key.removeprefix(ours).replace("conv.", "c.").replace("norm.", "bn.")
    parts = key.split(".")
    tail = ".".join(parts[3:]).replace("large.conv", "conv.c").replace("small.conv", "conv1.c")
    tail = tail.replace("large.norm", "conv.bn").replace("small.norm", "conv1.bn")
    if parts[1] == "downsamples":
        inner = "" if parts[3] == "0" or parts[4] in ("weight", "bias") else "conv."
        rest = tail[2:] if parts[3] == "0" else tail[2:].replace("conv.", "c.").replace("norm.", "bn.")
        return f"stages.{parts[2]}.0.proj.{parts[3]}.{inner}{rest}"
    block = f"stages.{parts[2]}.{int(parts[3]) + (parts[2] != '0')}."
    tail = tail.split(".", 1)[1]
    if tail.startswith("scale"):
        return block + ("token_mixer.0." if tail == "scale1" else "channel_mixer.") + "layer_scale"
    for ours, theirs in (
        ("se.", "token_mixer.1."),
        ("token_mixer.query.", "token_mixer.0.main.fc."),
        ("token_mixer.key.", "token_mixer.0.main.conv1."),
        ("token_mixer.value.", "token_mixer.0.main.conv2."),
        ("channel_mixer.mlp.", "channel_mixer.main."),
        ("channel_mixer.conv.", "channel_mixer.main.conv."),
    ):
        if tail.startswith(ours):
            rest = tail.removeprefix(ours)
            if rest.startswith(("conv.weight", "norm.")):
                rest = rest.replace("conv.", "c.").replace("norm.", "bn.")
            return block + theirs + rest
    raise AssertionError(key)


def _shape(key, value):
    if "scale" in key.rsplit(".", 1)[-1]:
        return value[:, None, None]
    return value[:, :, None, None] if ".mlp." in key and key.endswith("weight") else value


@pytest.mark.parametrize("arch, deploy", [("1", False), ("2", True), ("3", False), ("4", True)])
def test_published_files_are_found_out(arch, deploy):
    with skeletons():
        network = FFNet.create(arch, deploy=deploy, num_classes=7)
    found = ZOO.identify(published(network))
    wanted = {"num_classes": 7, **({"deploy": True} if deploy else {})}
    assert (found.name, found.options) == (f"ffnet_{arch}", wanted)


def test_merged_counts_are_those_of_the_paper():
    with skeletons():
        counts = [sum(p.numel() for p in FFNet.create(a, deploy=True).parameters()) for a in FFNet.archs]
    assert counts == [13_660_152, 26_908_440, 48_330_632, 79_200_360]


@pytest.mark.parametrize("deploy", [False, True])
def test_own_variants_come_back_from_published_names(deploy):
    network = noisy(FFNet.create(SMALL, num_classes=3, se=True)).float()
    x = torch.randn(2, 3, 40, 33)
    wanted = network(x)
    if deploy:
        switch_to_deploy(network)
    found = ZOO.identify(published(network))
    assert found.options["se"] and found.options["num_classes"] == 3
    assert found.options["arch"] == {**SMALL, "layer_scale": found.options["arch"]["layer_scale"]}
    loaded = ZOO.create_model(found.name, **found.options).eval()
    load_converted(loaded, found.state_dict, "state")
    torch.testing.assert_close(loaded(x), wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


def test_foreign_keys_are_refused():
    with pytest.raises(CheckpointError, match="stages.0.0.attention.weight"):
        FFNet.convert_official({"stages.0.0.attention.weight": torch.zeros(1)})


def test_unknown_keys_of_a_variant_are_named():
    with pytest.raises(ValueError, match="an arch of FFNet has keys"):
        FFNet({"embed_dims": (8, 8, 8, 8)})

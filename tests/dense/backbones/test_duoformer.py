"""DuoFormer: regions, what attends to what, sizes, frozen ResNets, published slips, weights."""

import pytest
import torch
from torch import nn

import dense
from dense.backbones import DuoFormer
from dense.backbones.duoformer import (
    Attention,
    MultiscaleFormer,
    RegionHead,
    from_regions,
    to_regions,
)
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError
from tests.parity import packs

from ..noise import noisy
from .test_identify import PACKS

TRUNK = {"embed_dims": (8, 8, 12, 16), "depths": (1, 1, 1, 1), "expansion": 1}
SMALL = {
    "backbone": TRUNK,
    "num_scales": 3,
    "scale_token": "random",
    "embed_dims": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "img_size": 64,
    "design": "duoformer",
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def former(pool="first", **options):
    return noisy(MultiscaleFormer(16, 2, 2, 2.0, 6, (2, 3), pool=pool, **options))


def tokens(batch=2, regions=6, count=6):
    return torch.randn(batch, regions, count, 16, dtype=torch.float64)


def images(*size, batch=2):
    return torch.randn(batch, 3, *size, dtype=torch.float64)


def classifier(classes=5, arch=None, **options):
    return DuoFormer.create({**SMALL, **(arch or {})}, num_classes=classes, **options)


# ----------------------------------------------------------------------------------------------- regions


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("side", [1, 2, 4])
def test_regions(side, by_columns):
    x = torch.arange(2 * 8 * 12 * 3.0).view(2, 8, 12, 3)
    y = to_regions(x, side, by_columns)
    columns = 12 // side
    for region in (0, columns - 1, columns, y.shape[1] - 1):
        top, left = region // columns * side, region % columns * side
        places = [(i, j) for i in range(side) for j in range(side)]
        for place, (i, j) in enumerate(places):
            row, column = (j, i) if by_columns else (i, j)
            assert torch.equal(y[:, region, place], x[:, top + row, left + column])
    assert torch.equal(from_regions(y, (8 // side, columns), side, by_columns), x.permute(0, 3, 1, 2))


def test_scale_attention_stays_in_its_region():
    net, x = former(), tokens().requires_grad_()
    (grad,) = torch.autograd.grad(net.attend_scales(x)[1, 4].sum(), x)
    assert grad[1, 4].abs().min() > 0
    grad[1, 4] = 0
    assert grad.abs().max() == 0


def test_patch_attention_reaches_all_regions():
    net, x = former(), tokens().requires_grad_()
    (grad,) = torch.autograd.grad(net(x, (2, 3))[1, 1].sum(), x)
    assert (grad[1].abs().amax((1, 2)) > 0).all() and grad[0].abs().max() == 0


def test_regions_go_with_their_positions():
    net, x, order = former(), tokens(), torch.randperm(6)
    wanted = net(x, (2, 3))
    net.pos_embed.data[:, 1:] = net.pos_embed[:, 1:][:, order]
    found = net(x[:, order], (2, 3))
    torch.testing.assert_close(found[:, 0], wanted[:, 0])
    torch.testing.assert_close(found[:, 1:], wanted[:, 1:][:, order])


def test_blocks_without_weights_leave_tokens():
    net, x = former(), tokens()
    for block in net.scale_blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    torch.testing.assert_close(net.attend_scales(x), x + net.scale_embed)


def test_the_first_token_alone_is_exact():
    net, x = former(layer_scale_init=0.5), tokens()
    torch.testing.assert_close(net.attend_scales(x, only_first=True), net.attend_scales(x)[:, :, :1])


@pytest.mark.parametrize("qk_norm", [False, True])
def test_recorded_weights_are_those_used(qk_norm):
    attn, x = noisy(Attention(16, 2, qk_norm=qk_norm)), tokens()[0]
    attn.recorded = []
    found = attn(x)
    weights, attn.recorded = attn.recorded[0], None
    torch.testing.assert_close(found, attn(x))
    assert weights.shape == (6, 2, 6, 6)


def test_patch_blocks_with_residual():
    plain, net, x = former(), former(patch_residual=True), tokens()
    net.load_state_dict(plain.state_dict())
    y = torch.cat((net.cls_token.expand(2, -1, -1), net.pool_regions(net.attend_scales(x))), 1)
    y = y + net.pos_embed
    for block in net.patch_blocks:
        y = y + block(y)
    torch.testing.assert_close(net(x, (2, 3)), y)
    assert (plain(x, (2, 3)) - y).abs().max() > 0.1


def test_average_of_a_region():
    net, x = former("average"), tokens()
    torch.testing.assert_close(net.pool_regions(x), x.mean(2))


# ------------------------------------------------------------------------------------------ sizes and maps


@pytest.mark.parametrize("token", ["random", "channel", "first", "average"])
@pytest.mark.parametrize("scales", [1, 2, 4])
def test_tokens_and_maps(token, scales):
    net = noisy(DuoFormer({**SMALL, "num_scales": scales, "scale_token": token}))
    with torch.no_grad():
        maps = net(images(64, 96))
    rows = sum(4**i for i in range(scales)) + (token in ("random", "channel"))
    assert net.transformer.scale_embed.shape[2] == rows
    sizes = [(64 // stride, 96 // stride) for stride in (4, 8, 16, 32)[4 - scales :]]
    assert [tuple(m.shape) for m in maps] == [(2, 16, *size) for size in sizes]
    assert net.strides == (4, 8, 16, 32)[4 - scales :]
    assert all(m.isfinite().all() and m.std() > 0 for m in maps)


def test_maps_are_tokens_of_their_pixels():
    net, x = noisy(DuoFormer(SMALL)), images(64, 64)
    with torch.no_grad():
        fine, middle, _ = net(x)
        found, _ = net.embed(x)
        found = net.transformer.attend_scales(found)
    region = found[:, 3]  # rows and columns 1
    torch.testing.assert_close(fine[:, :, 4:8, 4:8].flatten(2).mT, region[:, 6:])
    torch.testing.assert_close(middle[:, :, 2:4, 2:4].mT.flatten(2).mT, region[:, 2:6])  # column by column


def test_any_size_is_padded():
    net, x = noisy(classifier()), images(50, 70)
    padded = nn.functional.pad(x, (0, 26, 0, 14))
    with torch.no_grad():
        torch.testing.assert_close(net(x), net(padded))
        assert net(images(1, 1)).isfinite().all()


def test_without_patch_attention_regions_are_summed():
    net, x = noisy(classifier(patch_attn=False)), images(64, 64)
    assert isinstance(net.head, RegionHead) and net.backbone.transformer.pos_embed is None
    with torch.no_grad():
        features = net.forward_features(x)
        weight = net.head.regions.weight.view(2, 2)
        vectors = (features * weight).sum((2, 3)) + net.head.regions.bias
        torch.testing.assert_close(net(x), net.head.fc(vectors))
        net.head.regions.weight.fill_(0.25)
        wanted = net.head.fc(torch.ones(1, 16).double() + net.head.regions.bias)
        for grid in ((1, 1), (2, 2), (3, 5)):  # of a constant map the sum stays
            torch.testing.assert_close(net.head(torch.ones(1, 16, *grid).double()), wanted)


def test_maps_without_the_coarsest_have_no_patch_attention():
    net = DuoFormer(SMALL, out_indices=(0, 1))
    assert not net.transformer.patch_blocks and net.transformer.cls_token is None
    assert [m.shape[2] for m in net(torch.randn(2, 3, 64, 64))] == [8, 4]


# ----------------------------------------------------------------------------------- training and the slips


def learn(net, size=64):
    net.train()
    before = {key: value.clone() for key, value in net.backbone.trunk.state_dict().items()}
    net(torch.randn(3, 3, size, size)).square().mean().backward()
    after = net.backbone.trunk.state_dict()
    learning = any(p.grad is not None for p in net.backbone.trunk.parameters())
    return learning, any(not torch.equal(after[key], before[key]) for key in after)


def test_a_frozen_resnet_stays():
    assert learn(classifier()) == (True, True)
    assert learn(classifier(freeze_backbone=True)) == (False, False)
    assert learn(classifier(freeze_backbone=True, reference_quirks=True)) == (False, True)
    net = classifier(freeze_backbone=True)
    assert net.backbone.transformer.scale_embed.requires_grad and net.head.fc.weight.requires_grad


def test_frozen_stages_are_the_resnets():
    net = DuoFormer(SMALL, frozen_stages=2).train()
    frozen = [not any(p.requires_grad for p in stage.parameters()) for stage in net.trunk.stages]
    assert frozen == [True, True, False, False]


def test_dropout_of_attention_is_taken_for_norms_as_published():
    right = classifier(attn_drop_rate=0.3, drop_rate=0.2).backbone.transformer
    slip = classifier(attn_drop_rate=0.3, drop_rate=0.2, reference_quirks=True).backbone.transformer
    for net, norm, rates in ((right, nn.Identity, (0.3, 0.2)), (slip, nn.LayerNorm, (0.2, 0.0))):
        for attn in net.patch_blocks:
            assert isinstance(attn.q_norm, norm) and isinstance(attn.k_norm, norm)
            assert (attn.attn_drop_rate, attn.drop.p) == rates
        assert all(isinstance(block.attn.q_norm, nn.Identity) for block in net.scale_blocks)
    assert not hasattr(classifier(reference_quirks=True).backbone.transformer.patch_blocks[0].q_norm, "eps")


def test_dropout_acts_in_training_alone():
    net, x = former(attn_drop_rate=0.5), tokens()
    torch.testing.assert_close(net(x, (2, 3)), net(x, (2, 3)))
    net.train()
    assert (net(x, (2, 3)) - net(x, (2, 3))).abs().max() > 1e-3


@pytest.mark.parametrize("quirks", [False, True])
def test_the_first_design(quirks):
    arch = {"design": "scaleformer", "num_scales": 2, "scale_token": "channel", "depth": 3}
    net = noisy(classifier(arch=arch, reference_quirks=quirks))
    former, x = net.backbone.transformer, images(64, 64)
    assert net(x).shape == (2, 5) and net(x[:1]).shape == ((5,) if quirks else (1, 5))
    assert former.patch_blocks[0].scale == former.scale_blocks[0].attn.scale == 2 / 4
    with torch.no_grad():
        wanted = net(x)
        for parameter in former.patch_blocks[1].parameters():
            parameter.mul_(3)
        assert torch.equal(net(x), wanted) == quirks
    assert former.scale_blocks[0].ls1.gamma.shape == (16,)


def test_it_learns_the_direction_of_stripes():
    net = classifier(2, patch_residual=True).train()
    labels = torch.arange(8) % 2
    stripes = torch.randn(8, 3, 64, 1).expand(-1, -1, -1, 64)
    x = torch.where(labels.view(-1, 1, 1, 1) == 1, stripes.mT, stripes)
    optimizer, losses = torch.optim.Adam(net.parameters(), 5e-3), []
    for _ in range(20):
        losses.append(nn.functional.cross_entropy(net(x), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > 0.5 and losses[-1] < 0.1


def test_bad_input():
    with pytest.raises(ValueError, match="scale_token must be one of .*, found 'last'"):
        DuoFormer({**SMALL, "scale_token": "last"})
    with pytest.raises(ValueError, match="img_size must be a multiple of 32, found 100"):
        DuoFormer({**SMALL, "img_size": 100})
    with pytest.raises(ValueError, match=r"num_scales must be in 1\.\.4, found 5"):
        DuoFormer({**SMALL, "num_scales": 5})
    with pytest.raises(ValueError, match="design must be 'duoformer' or 'scaleformer', found 'trioformer'"):
        DuoFormer({**SMALL, "design": "trioformer"})
    with pytest.raises(ValueError, match="num_heads must divide embed_dims 16, found 3"):
        DuoFormer({**SMALL, "num_heads": 3})


# ----------------------------------------------------------------------------------------------- weights


def published(pack):
    rows = packs.load(PACKS / "duoformer" / f"{pack}.json")["state_dict"]
    return {key: torch.empty(shape, device="meta") for key, shape, _ in rows}


def variant(scales, channel, depth=12):
    """The published weights of a variant by way of those of 3 scales with the token of channels."""
    state = published("duoformer_r50_s3_channel")
    if not channel:
        state = {key: value for key, value in state.items() if not key.startswith("chann_proj")}
        state["channel_token"] = torch.empty(1, 1, 1, 768, device="meta")
    if scales == 4:
        state["projection.proj_heads0.weight"] = torch.empty(768, 256, 1, 1, device="meta")
        state["projection.proj_heads0.bias"] = torch.empty(768, device="meta")
        state["vision_transformer.pos_embed_for_scale"] = torch.empty(1, 1, 86, 768, device="meta")
    blocks = [f"{kind}locks.{i}." for kind in ("b", "scaleB") for i in range(depth, 12)]
    return {
        key: value
        for key, value in state.items()
        if not key.removeprefix("vision_transformer.").startswith(tuple(blocks))
    }


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("r50_s3_channel", (3, True)),
        ("r50_s3_random", (3, False)),
        ("r50_s4_channel", (4, True)),
        ("r50_s4_random", (4, False)),
        ("r50_s4_channel_d8", (4, True, 8)),
    ],
)
def test_variants_are_told(name, state):
    found = ZOO.identify(variant(*state))
    assert found.name == f"duoformer_{name}" and found.options == {"num_classes": 4}


def test_the_first_design_is_told():
    found = ZOO.identify(published("legacy_scaleformer_r50_s2"))
    assert found.name.startswith("duoformer_") and found.options["arch"] == {
        **DuoFormer.archs["scaleformer_r50_s2"],
        "depth": 4,
    }


def test_norms_and_what_is_never_called():
    state = variant(3, False)
    for i in range(12):
        for name in ("q_norm.weight", "q_norm.bias", "k_norm.weight", "k_norm.bias"):
            for blocks in ("blocks", "scaleBlocks"):
                key = f"vision_transformer.{blocks}.{i}.attn.{name}"
                state[key] = torch.empty(64, device="meta")
    state["vision_transformer.fc_norm.weight"] = torch.empty(768, device="meta")
    found = ZOO.identify(state)
    assert found.name == "duoformer_r50_s3_random" and found.options == {"num_classes": 4, "qk_norm": True}


def test_a_resnet_by_its_own_names():
    """Weights of pathology have pytorch/vision's names, with its classifier."""
    state, numbered = {}, variant(3, False)
    names = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    for key, value in numbered.items():
        parts = key.split(".")
        if parts[0] == "resnet_projector":
            parts[1] = names[parts[1]]
        state[".".join(parts)] = value
    state["resnet_projector.fc.weight"] = torch.empty(1000, 2048, device="meta")
    assert DuoFormer.convert_official(state).keys() == DuoFormer.convert_official(numbered).keys()


def test_other_files_are_refused():
    with pytest.raises(CheckpointError, match="vision_transformer.neck.weight"):
        DuoFormer.convert_official({"vision_transformer.neck.weight": torch.zeros(1)})


@pytest.mark.parametrize("arch", DuoFormer.archs)
def test_counts_of_four_classes(arch):
    """Of the published networks: 4 classes."""
    wanted = {
        "r50_s3_random": 139_725_636,
        "r50_s3_channel": 185_741_380,
        "r50_s4_random": 139_972_164,
        "r50_s4_channel": 185_987_908,
        "r50_s4_channel_d8": 185_987_908 - 4 * (7_087_872 + 2_362_368),
        # of the first design: layers that are never called are not built
        "scaleformer_r50_s2": 185_741_380 - 768 * 512 - 768 - 16 * 768 + 12 * 2 * 768 + 2 * 768,
    }
    with torch.device("meta"):
        net = dense.create_model(f"duoformer_{arch}", num_classes=4)
    assert sum(p.numel() for p in net.parameters()) == wanted[arch]

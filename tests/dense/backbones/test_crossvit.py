"""CrossViT: what fusion changes, sizes of images, rates, and weights."""

import re

import pytest
import torch
from torch.nn import functional as F

import dense
from dense.backbones import CrossViT
from dense.backbones.crossvit import ConvPatchEmbed, Fusion, stage_rates
from dense.layers import SelfAttention
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError

from ..noise import noisy

SMALL = {
    "embed_dims": (8, 12),
    "depths": ((1, 2, 0), (2, 1, 2)),
    "num_heads": (2, 3),
    "mlp_ratios": (2, 3),
    "patch_size": (3, 4),
    "img_size": (18, 16),
    "multi_conv": False,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(height=16, width=16):
    return torch.randn(2, 3, height, width, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------- fusion


def test_fusion_by_hand():
    fusion = noisy(Fusion((8, 12), (2, 3), depth=2))
    tokens = [torch.randn(2, n, dims, dtype=torch.float64) for n, dims in ((5, 8), (4, 12))]
    fused = fusion(*tokens)
    for b, other in ((0, 1), (1, 0)):
        assert torch.equal(fused[b][:, 1:], tokens[b][:, 1:])
        guest = torch.cat((fusion.projs[b](tokens[b][:, :1]), tokens[other][:, 1:]), 1)
        for block in fusion.cross[b]:
            assert block.attn.num_heads == (2, 3)[other]
            guest = guest[:, :1] + SelfAttention.forward(block.attn, block.norm1(guest))[:, :1]
        torch.testing.assert_close(fused[b][:, :1], fusion.backs[b](guest))


def test_fusion_does_not_see_the_order_of_patches():
    fusion = noisy(Fusion((8, 12), (2, 3)))
    small, large = torch.randn(2, 6, 8).double(), torch.randn(2, 5, 12).double()
    order = torch.tensor([0, 3, 1, 4, 2])
    torch.testing.assert_close(fusion(small, large[:, order])[0], fusion(small, large)[0])


# ---------------------------------------------------------------------------------------- sizes of images


def test_a_branch_leaves_images_of_its_size_alone():
    with torch.device("meta"):
        net = CrossViT("9", fixed_size=True)
    for side, own in ((240, 0), (224, 1)):
        x = torch.empty(1, 3, side, side, device="meta")
        small, large = net.resize(x)
        assert (small.shape[2:], large.shape[2:]) == ((240, 240), (224, 224))
        assert (small, large)[own] is x and (small, large)[1 - own] is not x


def test_maps_keep_the_proportion_of_both_branches():
    with torch.device("meta"):
        net = CrossViT("9")
    assert net.branch_sizes(224, 224) == [(240, 240), (224, 224)]
    assert net.branch_sizes(352, 480) == [(372, 516), (352, 480)]
    assert net.branch_sizes(1, 300) == [(12, 324), (16, 304)]
    assert net.strides == (11,) * 3 + (16,) * 3
    assert net.feature_info.channels() == [128] * 3 + [256] * 3


@torch.no_grad()
def test_classifier_and_maps_agree_at_the_second_size():
    net, fixed = CrossViT(SMALL, class_output=True), CrossViT(SMALL, class_output=True, fixed_size=True)
    fixed.load_state_dict(noisy(net).state_dict())
    fixed.double().eval()
    x = images()
    torch.testing.assert_close(fixed(x), net(x))
    wide = images(16, 24)
    assert [tuple(y.shape[2:]) for y in net(wide)] == [(6, 9)] * 2 + [(4, 6)] * 2
    assert [tuple(y.shape[2:]) for y in fixed(wide)] == [(6, 6)] * 2 + [(4, 4)] * 2
    wanted = F.interpolate(wide, (16, 16), mode="bicubic")
    torch.testing.assert_close(fixed.resize(wide)[1], wanted)


def test_published_code_compares_heights_alone():
    net = CrossViT(SMALL, fixed_size=True, reference_quirks=True).double()
    with pytest.raises(ValueError, match="images of height 16 must be 16 wide .*, found 20"):
        net(images(16, 20))
    assert len(net(images(20, 16))) == 4
    assert len(CrossViT(SMALL, fixed_size=True).double()(images(16, 20))) == 4


@torch.no_grad()
def test_maps_are_the_patches_of_each_branch():
    net = noisy(CrossViT(SMALL, out_indices=(1,), class_output=True))
    x = images()
    features, maps = net.forward_features(x), net(x)
    assert [tuple(y.shape) for y in maps] == [(2, 8, 6, 6), (2, 12, 4, 4)]
    for tokens, y in zip(features, maps, strict=True):
        torch.testing.assert_close(y.flatten(2).mT, tokens[:, 1:])
    assert len(CrossViT(SMALL).fusions) == 1 and len(CrossViT(SMALL, class_output=True).fusions) == 2
    bare = CrossViT(SMALL, out_indices=(0,))
    assert not bare.fusions and [len(branch.blocks) for branch in bare.branches] == [1, 1]


@pytest.mark.parametrize("patch_size", [12, 16])
def test_patches_by_convolutions(patch_size):
    embed = ConvPatchEmbed(3, 8, patch_size)
    assert embed(torch.randn(1, 3, 2 * patch_size, 3 * patch_size)).shape == (1, 8, 2, 3)
    with pytest.raises(ValueError, match=f"multiples of {patch_size}, found 50 x 48"):
        embed(torch.randn(1, 3, 50, 48))


@torch.no_grad()
def test_attention_weights():
    net = noisy(CrossViT(SMALL, class_output=True))
    found = net.attention_weights(images())
    assert found["branches.0.blocks.1.1.attn"].shape == (2, 2, 37, 37)
    assert found["fusions.0.cross.0.0.attn"].shape == (2, 3, 1, 17)
    assert found["fusions.1.cross.1.1.attn"].shape == (2, 2, 1, 1)
    assert len(found) == 6 + 2 + 4
    for weights in found.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]).double())


# --------------------------------------------------------------------------------------- options and heads


def test_drop_path_rates():
    assert stage_rates(0.3, [(1, 2, 0), (1, 2, 0)]) == [pytest.approx([0, 0.1]), pytest.approx([0.2, 0.3])]
    deeper_first = [(1, 2, 0), (2, 1, 1)]
    assert stage_rates(0.4, deeper_first) == [pytest.approx([0, 0.1]), pytest.approx([0.2, 0.3, 0.4])]
    published = stage_rates(0.3, deeper_first, reference_quirks=True)
    assert published == [pytest.approx([0, 0.1]), pytest.approx([0.2, 0.3])]
    with pytest.raises(ValueError, match="stage 1 has drop path rates of 1 blocks, wanted 3"):
        stage_rates(0.3, [(1, 1, 0), (3, 1, 0)], reference_quirks=True)
    net = CrossViT({**SMALL, "depths": deeper_first}, drop_path_rate=0.4, class_output=True)
    rates = [block.drop_path1.rate for stage in net.branches[0].blocks for block in stage]
    assert rates == pytest.approx([0, 0.2, 0.3])
    assert [f.cross[0][0].drop_path.rate for f in net.fusions] == pytest.approx([0.1, 0.4])


def test_frozen_stages():
    net = CrossViT(SMALL, frozen_stages=1, class_output=True)
    learns = {name.split(".blocks.")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert not [
        name for name in learns if "fusions.0" in name or "cls_token" in name or "patch_embed" in name
    ]
    assert all(p.requires_grad for p in net.branches[1].blocks[1].parameters())
    assert all(p.requires_grad for p in net.fusions[1].parameters())


def test_the_head_averages_logits():
    net = noisy(CrossViT.create(SMALL, num_classes=5))
    x = images()
    small, large = net.forward_features(x)
    first, second = (branch.fc for branch in net.head.branches)
    torch.testing.assert_close(net(x), (first(small[:, 0]) + second(large[:, 0])) / 2)
    vectors = torch.cat((small[:, 0], large[:, 0]), 1)
    assert torch.equal(net.forward_head((small, large), pre_logits=True), vectors)
    assert net.head_hidden_size == net.num_features == 20


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"embed_dims": (8,)}, r"embed_dims must be two, .* found \(8,\)"),
        ({"img_size": 16}, "img_size must be two, .* found 16"),
        ({"img_size": (18, 18)}, "multiples of patches of 4"),
        ({"depths": ((0, 2, 0),)}, r"at least 1, .* found \(0, 2, 0\)"),
        ({"num_heads": (2, 5)}, "num_heads must divide embed_dims 12, found 5"),
        ({"multi_conv": True}, r"one of \[12, 16\], found 3"),
    ],
)
def test_bad_variants(other, message):
    with pytest.raises(ValueError, match=message):
        CrossViT({**SMALL, **other})


# --------------------------------------------------------------------------------------- published weights


def as_published(net):
    """Weights of a classifier as their authors name them."""
    rules = [
        (r"backbone\.branches\.(\d)\.(pos_embed|cls_token)", r"\2.\1"),
        (r"backbone\.branches\.(\d)\.(norm|patch_embed)\.(.*)", r"\2.\1.\3"),
        (r"backbone\.branches\.(\d)\.blocks\.(\d)\.(.*)", r"blocks.\2.blocks.\1.\3"),
        (r"backbone\.fusions\.(\d)\.projs\.(.*)", r"blocks.\1.projs.\2"),
        (r"backbone\.fusions\.(\d)\.backs\.(.*)", r"blocks.\1.revert_projs.\2"),
        (r"backbone\.fusions\.(\d)\.cross\.(\d)\.(.*)", r"blocks.\1.fusion.\2.\3"),
        (r"head\.branches\.(\d)\.fc\.(.*)", r"head.\1.\2"),
    ]
    depths = net.backbone.spec["depths"]
    named = {}
    for key, value in net.state_dict().items():
        (new,) = (re.sub(old, new, key) for old, new in rules if re.fullmatch(old, key))
        if found := re.match(r"blocks\.(\d)\.fusion\.\d\.", new):
            if depths[int(found[1])][2] == 0:
                new = found[0] + new.removeprefix(found[0] + "0.")
            if ".qkv." in new:
                for name, part in zip(("wq", "wk", "wv"), value.chunk(3), strict=True):
                    named[new.replace("qkv", name)] = part
                continue
        named[new] = value
    return named


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_convert_official(qkv_bias):
    net, fresh = (CrossViT.create(SMALL, num_classes=5, qkv_bias=qkv_bias) for _ in range(2))
    noisy(net)
    state = as_published(net)
    assert "blocks.0.fusion.1.attn.wk.weight" in state and "blocks.1.fusion.1.1.attn.wk.weight" in state
    fresh.double().eval().load_state_dict(CrossViT.convert_official(state))
    x = images()
    torch.testing.assert_close(fresh(x), net(x))
    del state["blocks.0.fusion.1.attn.wk.weight"]
    with pytest.raises(CheckpointError, match=r"lacks backbone\.fusions\.0\.cross\.1\.0\.attn\.wk\.weight"):
        CrossViT.convert_official(state)


def made(arch, **options):
    with torch.device("meta"):
        return as_published(CrossViT.create(arch, **options))


@pytest.mark.parametrize("arch", ["small", "9_dagger", "15", "15_dagger_384"])
def test_identification(arch):
    found = ZOO.identify(made(arch))
    assert (found.name, found.options) == (f"crossvit_{arch}", {"num_classes": 1000})


def test_identification_of_other_depths_sizes_and_parts():
    own = {
        **CrossViT.archs["15_dagger"],
        "depths": ((1, 2, 0), (2, 3, 2)),
        "img_size": (120, 112),
    }
    state = made(own, num_classes=7, qkv_bias=False)
    found = ZOO.identify(state)
    assert found.options == {"num_classes": 7, "qkv_bias": False, "arch": own}
    headless = {key: value for key, value in made("9").items() if not key.startswith("head.")}
    found = ZOO.identify(headless)
    assert found.name == "crossvit_9" and found.options == {"features_only": True, "class_output": True}
    with torch.device("meta"):
        assert len(dense.create_model(found.name, **found.options).fusions) == 3

"""ViT: against the plain formula, its heads, and published weights under four ways to name them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dense
from dense.backbones import ViT
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError

from ..noise import noisy

SMALL = {**ViT.archs["tiny"], "embed_dims": 12, "depth": 2, "num_heads": 3, "patch_size": 4, "img_size": 8}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def naive_block(block, x):
    """Head by head."""
    u = F.layer_norm(x, x.shape[-1:], block.norm1.weight, block.norm1.bias, 1e-6)
    q, k, v = block.attn.qkv(u).chunk(3, -1)
    heads = []
    for parts in zip(*(t.chunk(block.attn.num_heads, -1) for t in (q, k, v)), strict=True):
        logits = parts[0] @ parts[1].mT * parts[0].shape[-1] ** -0.5
        heads.append(logits.softmax(-1) @ parts[2])
    branch = block.attn.proj(torch.cat(heads, -1))
    x = x + branch * getattr(block.ls1, "gamma", 1)
    u = F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias, 1e-6)
    hidden = block.mlp.fc1(u)
    if block.mlp.fc1.out_features == 2 * block.mlp.fc2.in_features:
        gate, value = hidden.chunk(2, -1)
        hidden = gate * gate.sigmoid() * value
    else:
        hidden = F.gelu(hidden)
    return x + block.mlp.fc2(hidden) * getattr(block.ls2, "gamma", 1)


@pytest.mark.parametrize("other", [{}, {"layer_scale_init": 0.1}, {"mlp": "swiglu"}])
def test_against_the_formula(other):
    net = noisy(ViT({**SMALL, **other}))
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    tokens, _ = net.embed(x)
    for block in net.blocks:
        tokens = naive_block(block, tokens)
    wanted = F.layer_norm(tokens, (12,), net.norm.weight, net.norm.bias, 1e-6)
    torch.testing.assert_close(net.forward_features(x), wanted)


def test_swiglu_is_two_thirds_as_wide():
    assert ViT({**SMALL, "mlp": "swiglu"}).blocks[0].mlp.fc2.in_features == 32  # of 48, a multiple of 8
    with torch.device("meta"):
        giant = ViT({**ViT.archs["giant_dinov2"], "depth": 1})
    assert giant.blocks[0].mlp.fc1.out_features == 2 * 4096


def test_options():
    net = ViT({**SMALL, "depth": 3}, drop_path_rate=0.2, qkv_bias=False)
    rates = [(block.drop_path1.rate, block.drop_path2.rate) for block in net.blocks]
    assert rates == [pytest.approx((r, r)) for r in (0, 0.1, 0.2)]
    assert net.blocks[0].attn.qkv.bias is None
    assert ViT(SMALL, num_registers=3).num_prefix_tokens == 4
    assert ViT({**SMALL, "num_registers": 4}).num_prefix_tokens == 5
    with pytest.raises(ValueError, match="'mlp' or 'swiglu', found 'relu'"):
        ViT({**SMALL, "mlp": "relu"})


def test_how_published_variants_resize_positions():
    found = {
        name: (ViT.archs[name]["antialias"], ViT.archs[name]["scale_offset"])
        for name in ("small", "small_dinov2", "small_dinov2_reg4")
    }
    assert found == {
        "small": (True, 0.0),
        "small_dinov2": (False, 0.1),
        "small_dinov2_reg4": (True, 0.0),
    }
    net = ViT({**SMALL, "antialias": False, "scale_offset": 0.1})
    assert not net.antialias and net.scale_offset == 0.1


def test_initial_weights():
    net = dense.create_model("vit_tiny", num_classes=500)
    for name, parameter in net.named_parameters():
        if "patch_embed" in name:  # a convolution, as PyTorch draws it
            continue
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        elif parameter.numel() > 5000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
    assert torch.all(ViT({**SMALL, "layer_scale_init": 1e-5}).blocks[1].ls2.gamma == 1e-5)


# --------------------------------------------------------------------------------------------------- heads


def test_the_head_takes_the_class_token():
    net = noisy(ViT.create(SMALL, num_classes=5))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    features = net.forward_features(x)
    assert torch.equal(net(x), net.head.fc(features[:, 0]))
    assert torch.equal(net.forward_head(features, pre_logits=True), features[:, 0])


def test_distilled_head():
    net = noisy(ViT.create({**SMALL, "distillation": True}, num_classes=5))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    features = net.forward_features(x)
    both = net.head.fc(features[:, 0]), net.head.dist.fc(features[:, 1])
    torch.testing.assert_close(net(x), (both[0] + both[1]) / 2)
    torch.testing.assert_close(net.forward_head(features, pre_logits=True), features[:, :2].mean(1))
    logits = net.train()(x)
    assert isinstance(logits, tuple) and all(map(torch.equal, logits, both))
    net.reset_classifier(3)
    assert [y.shape for y in net(x)] == [(2, 3), (2, 3)]
    net.reset_classifier(0)
    torch.testing.assert_close(net.eval()(x), features[:, :2].mean(1))


def test_dinov2_has_no_classifier_unless_asked_for():
    with torch.device("meta"):
        bare, other = dense.create_model("vit_small_dinov2"), dense.create_model("vit_tiny")
        asked = dense.create_model("vit_small_dinov2_reg4", num_classes=9)
    assert (bare.num_classes, other.num_classes, asked.num_classes) == (0, 1000, 9)
    assert not [name for name in bare.state_dict() if name.startswith("head.")]
    assert asked.head.fc.weight.shape == (9, 384)


# ---------------------------------------------------------------------------------------- published weights


def rename(state, *pairs):
    renamed = {}
    for key, value in state.items():
        for old, new in pairs:
            key = key.replace(old, new)
        renamed[key] = value
    return renamed


def as_deit(net):
    """As facebookresearch/deit and timm name weights."""
    pairs = (("head.dist.fc.", "head_dist."), ("head.fc.", "head."), ("backbone.", ""))
    return rename(net.state_dict(), *pairs)


def as_timm(net):
    """Of timm's ViT with registers, whose table has no row for the class token."""
    state = as_deit(net)
    table = state["pos_embed"]
    state["pos_embed"], state["cls_token"] = table[:, 1:], state["cls_token"] + table[:, :1]
    return state


def as_dinov2(net):
    pairs = [("backbone.", ""), ("reg_token", "register_tokens")]
    if any(isinstance(m, nn.Linear) and m.out_features == 64 for m in net.modules()):  # SwiGLU's
        pairs += [("mlp.fc1", "mlp.w12"), ("mlp.fc2", "mlp.w3")]
    return {**rename(net.state_dict(), *pairs), "mask_token": torch.zeros(1, net.num_features)}


def as_transformers(net):
    """As the library transformers names them: queries, keys and values apart."""
    state = rename(
        as_dinov2(net),
        ("blocks.", "encoder.layer."),
        ("attn.proj.", "attention.output.dense."),
        ("ls1.gamma", "layer_scale1.lambda1"),
        ("ls2.gamma", "layer_scale2.lambda1"),
        ("mlp.w12", "mlp.weights_in"),
        ("mlp.w3", "mlp.weights_out"),
        ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
        ("pos_embed", "embeddings.position_embeddings"),
    )
    named = {}
    for key, value in state.items():
        if key.startswith("norm."):
            key = f"layernorm.{key.removeprefix('norm.')}"
        if key in ("cls_token", "mask_token", "register_tokens"):
            key = f"embeddings.{key}"
        if ".attn.qkv." in key:
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                named[key.replace("attn.qkv", f"attention.attention.{name}")] = part
        else:
            named[key] = value
    return named


DINO = {"layer_scale_init": 0.1}
NAMINGS = [
    (as_deit, {}, 5),
    (as_deit, {"distillation": True}, 5),
    (as_timm, {"num_registers": 4, **DINO}, 5),
    (as_dinov2, DINO, 0),
    (as_dinov2, {"num_registers": 4, "mlp": "swiglu", **DINO}, 0),
    (as_transformers, DINO, 0),
    (as_transformers, {"num_registers": 4, "mlp": "swiglu", **DINO}, 0),
]


@pytest.mark.parametrize(("naming", "other", "classes"), NAMINGS)
def test_convert_official(naming, other, classes):
    net, fresh = (ViT.create({**SMALL, **other}, num_classes=classes) for _ in range(2))
    noisy(net)
    fresh.double().eval().load_state_dict(ViT.convert_official(naming(net)))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(fresh(x), net(x))
    assert not torch.allclose(fresh(x), noisy(fresh)(x))


def test_convert_official_refuses_other_files():
    with pytest.raises(CheckpointError, match=r"stem\.weight"):
        ViT.convert_official({"stem.weight": torch.zeros(1)})
    key = "encoder.layer.0.attention.attention.query.weight"
    with pytest.raises(CheckpointError, match="lacks blocks.0.attn.key.weight, blocks.0.attn.value.weight"):
        ViT.convert_official({key: torch.zeros(1), "embeddings.cls_token": torch.zeros(1)})


def made(arch, naming, classes=None, **other):
    """Published weights of a variant, without numbers."""
    with torch.device("meta"):
        return naming(ViT.create({**ViT.archs[arch], **other} if other else arch, num_classes=classes))


@pytest.mark.parametrize(
    ("arch", "naming"),
    [
        ("tiny", as_deit),
        ("base_patch32", as_deit),
        ("small_distilled", as_deit),
        ("small_dinov2", as_dinov2),
        ("base_dinov2", as_transformers),
        ("small_dinov2_reg4", as_dinov2),
    ],
)
def test_identification(arch, naming):
    found = ZOO.identify(made(arch, naming))
    assert found.name == f"vit_{arch}" and "arch" not in found.options
    assert found.options == ({"features_only": True} if "dinov2" in arch else {"num_classes": 1000})


def test_identification_of_other_classes_depths_and_grids():
    assert ZOO.identify(made("tiny", as_deit, 7)).options == {"num_classes": 7}
    found = ZOO.identify(made("tiny", as_deit, 7, depth=5, img_size=384))
    assert found.name == "vit_tiny" and found.options["num_classes"] == 7
    assert found.options["arch"] == {**ViT.archs["tiny"], "depth": 5, "img_size": 384}
    with torch.device("meta"):
        net = dense.create_model(found.name, **found.options)
    assert len(net.backbone.blocks) == 5 and net.backbone.grid == (24, 24)


def test_identification_refuses_other_widths():
    state = made("tiny", as_deit)
    state["blocks.0.mlp.fc1.weight"] = torch.empty(700, 192, device="meta")
    with pytest.raises(CheckpointError, match=r"no variant; nearest are vit_tiny \(1 tensors differ\)"):
        ZOO.identify(state)

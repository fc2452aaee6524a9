import pytest
import torch
from torch.nn import functional as F

import dense
from dense.adaptation import TCPA, VPT, TCPAClassifier, TellEpoch
from dense.adaptation.tcpa import ROLES, PromptPool, fourier, prompt_weights, simam
from dense.backbones import ConViT, DependencyViT, ViT
from dense.base import ClassificationNetwork
from dense.layers import SelfAttention, record_attention
from dense.registry import ZOO
from pointsuite.engine.checkpoint import save_checkpoint

SPEC = {**ViT.archs["tiny"], "embed_dims": 24, "depth": 2, "num_heads": 3, "patch_size": 8, "img_size": 32}
TRUNK = {"type": "dense.ViT", "arch": SPEC}
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def make(cls=TCPA, trunk=TRUNK, **options):
    torch.manual_seed(0)
    if cls is TCPA:
        options = {"pool_sizes": (5, 4), "topk": (2, 3), **options}
    return cls({"trunk": trunk}, **options).eval()


def with_prompts(backbone, prompts):
    """Published form of deep prompts: among the tokens, with queries, exchanged after each block."""
    trunk = backbone.trunk
    tokens, _ = trunk.embed(X)
    for block, own in zip(trunk.blocks, prompts, strict=True):
        own = own.expand(len(tokens), -1, -1)
        tokens = block(torch.cat((tokens[:, :1], own, tokens[:, 1:]), 1))
        tokens = torch.cat((tokens[:, :1], tokens[:, 1 + own.shape[1] :]), 1)
    return trunk.norm(tokens)


@pytest.mark.parametrize("use_fourier", [False, True])
def test_prompts_need_no_queries(use_fourier):
    backbone = make(VPT, num_prompts=4, use_fourier=use_fourier)
    prompts = [backbone.make_prompts(i, 2) for i in range(2)]
    assert torch.allclose(backbone.forward_features(X), with_prompts(backbone, prompts), atol=1e-5)
    assert backbone.forward(X)[1].shape == (2, 24, 4, 4)


def test_without_masks_it_is_deep_prompting():
    backbone = make(match_tokens=False, separate_roles=False)
    prompts = [backbone.make_prompts(i, 2) for i in range(2)]
    assert torch.allclose(backbone.forward_features(X), with_prompts(backbone, prompts), atol=1e-5)


@pytest.mark.parametrize("stage", ["after_softmax", "before_softmax"])
def test_kernels_do_what_weights_say(stage):
    backbone = make(mask_stage=stage, scale_values=True)
    wanted = backbone.forward_features(X)
    with record_attention(backbone) as recorded:
        assert torch.allclose(backbone.forward_features(X), wanted, atol=1e-5)
    (weights,) = recorded["trunk.blocks.1.attn"]
    assert weights.shape == (2, 3, 17, 9 + 17)
    sums = weights.sum(-1)
    assert torch.allclose(sums, torch.ones_like(sums)) == (stage == "before_softmax")
    assert (sums < 1 + 1e-5).all()


def test_after_the_softmax_the_mass_of_masked_prompts_is_gone():
    attn = SelfAttention(8, 2)
    q, k = torch.randn(2, 1, 2, 3, 4), torch.randn(1, 2, 5, 4)
    mask = torch.tensor([[[True, False], [False, False], [True, True]]])
    whole = prompt_weights(attn, q[0], k, 2, None, "after_softmax")
    masked = prompt_weights(attn, q[0], k, 2, mask, "after_softmax")
    lost = (whole[..., :2] * ~mask[:, None]).sum(-1)
    assert torch.allclose(masked.sum(-1), 1 - lost)
    plain = (attn.scale * q[0] @ k[:, :, 2:].mT).softmax(-1)
    assert torch.allclose(
        prompt_weights(attn, q[0], k, 2, mask, "before_softmax")[:, :, 1, 2:], plain[:, :, 1]
    )


def test_masks_hold_k_keys_of_the_own_role():
    backbone = make(prompt_lengths=(2, 3))
    tokens, grid = backbone.trunk.embed(X)
    mask = backbone.make_mask(0, tokens, grid)
    assert mask.shape == (2, 17, 5 * 2 + 4 * 3)
    assert mask[:, 0].sum(-1).eq(2 * 2).all() and not mask[:, 0, 10:].any()
    assert mask[:, 1:].sum(-1).eq(3 * 3).all() and not mask[:, 1:, :10].any()
    assert mask[:, 0, :10].unflatten(1, (5, 2)).all(-1).sum(1).eq(2).all()  # a key's prompts go together
    backbone.separate_roles = False
    mask = backbone.make_mask(0, tokens, grid)
    assert mask[:, 0, 10:].all() and mask[:, 1:, :10].all() and mask[:, 0, :10].sum(-1).eq(4).all()


def test_all_keys_are_those_of_the_role():
    alike, roles = make(topk=(5, 4)), make(match_tokens=False)
    assert torch.equal(alike.forward_features(X), roles.forward_features(X))


def test_matching_by_hand():
    pool = PromptPool(1, 3, 1, 2)
    pool.keys.data = torch.tensor([[[2.0, 0], [0, 3], [-1, 0]]])
    chosen, distance = pool.match(0, torch.tensor([[[1.0, 0.2]]]), 2)
    assert chosen.tolist() == [[[True, True, False]]]
    assert distance.item() == pytest.approx(1 - 1.2 / (2 * 1.04**0.5))
    counts = torch.stack([pool.match(0, torch.ones(1, 1, 2), 2, True)[0] for _ in range(200)]).sum((0, 1, 2))
    assert counts.sum() == 400 and counts.min() > 80  # any two, with the same chance


def test_order_of_a_pool_matters_to_the_transform_alone():
    for use_fourier in (False, True):
        backbone = make(use_fourier=use_fourier)
        wanted = backbone.forward_features(X)
        for pool in backbone.pools.values():
            for table in (pool.keys, pool.prompts):
                table.data = table.data.flip(1)
        assert torch.allclose(backbone.forward_features(X), wanted, atol=1e-5) != use_fourier


def test_transform():
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    i, j = torch.arange(3.0).double(), torch.arange(4.0).double()
    angle = lambda a, b: -2 * torch.pi * (a * i[:, None] / 3 + b * j / 4)  # noqa: E731
    assert torch.allclose(fourier(x)[:, 2, 1], (x * angle(2, 1).cos()).sum((1, 2)))
    assert (
        fourier(torch.zeros(3, 4)).eq(0).all()
        and fourier(torch.ones(2, 2).bfloat16()).dtype == torch.bfloat16
    )


def test_simam():
    assert torch.allclose(
        simam(torch.full((1, 1, 2, 2), 3.0)), torch.tensor(3.0) * torch.tensor(0.5).sigmoid()
    )


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_trunk_is_frozen_and_evaluates():
    model = TCPAClassifier({"type": "TCPA", "arch": {"trunk": TRUNK}}, num_classes=3)
    assert model.train() is model and model.training and model.backbone.training
    assert not any(module.training for module in model.backbone.trunk.modules()) and model.head.training
    pools = {f"backbone.pools.{role}.{table}" for role in ROLES for table in ("keys", "prompts")}
    assert trained(model) == pools | {"head.fc.weight", "head.fc.bias"}
    free = make(VPT, num_prompts=0, freeze=False).train()
    assert all(p.requires_grad for p in free.parameters()) and free.trunk.blocks[0].training
    assert not trained(make(VPT, num_prompts=0))


def test_published_number_of_parameters():
    with torch.device("meta"):
        model = dense.create_model("tcpa_vit_base", num_classes=47)
    assert sum(p.numel() for p in model.parameters()) == 86_498_351
    assert sum(p.numel() for p in model.backbone.parameters() if p.requires_grad) == 663_552


def test_training_adds_the_distance():
    model = TCPAClassifier(
        {"type": "TCPA", "arch": {"trunk": TRUNK}, "random_epochs": 1}, num_classes=3
    ).train()
    samples = [model.sample_class() for _ in range(2)]
    for sample in samples:
        sample.gt_label = torch.tensor(1)
    distances = []
    for epoch in (0, 1):
        TellEpoch().before_train_epoch(type("Runner", (), {"epoch": epoch, "model": model}))
        losses = model.loss(X, samples)
        distances.append(losses["loss_distance"] / 0.01)
        assert 0 < distances[-1] < 4 * 2
    assert distances[1] < distances[0]  # matched keys are nearer than random ones
    sum(losses.values()).backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert all((grad is not None) == (name in trained(model)) for name, grad in grads.items())
    assert grads["backbone.pools.cls.keys"].any() and model.backbone.recorded is None


def test_training_is_noisy_and_evaluation_is_not():
    backbone = make(drop_rate=0.0, random_epochs=0, token_noise=0.001)
    assert torch.equal(backbone.forward_features(X), backbone.forward_features(X))
    backbone.train()
    found = backbone.forward_features(X), backbone.forward_features(X)
    assert 0 < (found[0] - found[1]).abs().max() < 0.5


def test_shallow_prompts_go_through_all_blocks():
    backbone = make(VPT, num_prompts=4, deep=False)
    tokens, _ = backbone.trunk.embed(X)
    tokens = torch.cat((tokens[:, :1], backbone.prompts.expand(2, -1, -1), tokens[:, 1:]), 1)
    for block in backbone.trunk.blocks:
        tokens = block(tokens)
    wanted = backbone.trunk.norm(torch.cat((tokens[:, :1], tokens[:, 5:]), 1))
    assert torch.allclose(backbone.forward_features(X), wanted, atol=1e-6)
    assert backbone.forward_features(X).shape == (2, 17, 24)


@pytest.mark.parametrize("name", ["vit_tiny_distilled", "vit_small_dinov2_reg4", "dhvt_tiny_cifar_patch4"])
def test_other_trunks(name):
    cls, arch = ZOO.find_system(name)
    spec = {**cls.archs[arch], "embed_dims": 24, "depth": 1, "num_heads": 3, "img_size": 28}
    trunk = {"type": cls, "arch": {**spec, "patch_size": 14 if "dinov2" in name else 4}}
    backbone = make(trunk=trunk)
    tokens = backbone.forward_features(torch.randn(2, 3, 28, 28))
    assert tokens.shape == (2, backbone.trunk.num_prefix_tokens + (4 if "dinov2" in name else 49), 24)


def test_gated_blocks_run_without_prompts():
    own = {
        "embed_dims": 24,
        "num_heads": 4,
        "depth": 3,
        "img_size": 32,
        "patch_size": 8,
        "local_up_to_layer": 2,
    }
    backbone = make(trunk={"type": "dense.ConViT", "arch": {**ConViT.archs["tiny"], **own}})
    assert backbone.prompted == [2] and backbone.pools["cls"].keys.shape == (1, 5, 24)
    assert backbone.forward_features(X).shape == (2, 17, 24)


def test_weights_of_a_trained_network(tmp_path):
    other = ClassificationNetwork(ViT(SPEC, **ViT.classifier_options(SPEC)), 7)
    save_checkpoint(other.state_dict(), tmp_path / "vit.pth")
    model = TCPAClassifier(
        {"type": "TCPA", "arch": {"trunk": TRUNK}, "pretrained": tmp_path / "vit.pth"}, num_classes=3
    )
    model.init_weights()
    assert torch.equal(model.backbone.trunk.forward_features(X), other.eval().backbone.forward_features(X))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": (6, 1)}, "topk of role 'cls' must be 1 to 5, its pool's size, found 6"),
        ({"topk": (1, 0)}, "topk of role 'image' must be 1 to 4, its pool's size, found 0"),
        ({"mask_stage": "before"}, "mask_stage must be one of .*, found 'before'"),
        ({"prompt_lengths": (0, 1)}, r"must be at least 1, found \(5, 4\) and \(0, 1\)"),
        (
            {"trunk": {"type": "dense.DependencyViT", "arch": "tiny"}},
            "TCPA cannot prompt DependencyViT: it iterates its blocks in its own way",
        ),
        ({"trunk": {"type": "dense.InLineDeiT", "arch": "tiny"}}, "InLineDeiT: it has no block of plain"),
        ({"cls": VPT, "num_prompts": -1}, "num_prompts must not be negative, found -1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_what_is_no_trunk():
    with pytest.raises(TypeError, match=r"trunk must be a token backbone, as dense.ViT, found 'dense.SHViT'"):
        make(trunk={"type": "dense.SHViT", "arch": "s1"})
    with pytest.raises(TypeError, match="TCPAClassifier wants a TCPA, found ViT"):
        TCPAClassifier({"type": "dense.ViT", "arch": SPEC}, num_classes=3)


def test_probing_works_for_any_token_backbone():
    arch = {**DependencyViT.archs["tiny"], "embed_dims": 24, "depth": 1, "num_heads": 3}
    backbone = make(VPT, {"type": "dense.DependencyViT", "arch": arch}, num_prompts=0).train()
    features = backbone.forward_features(torch.randn(1, 3, 32, 32))
    assert features.shape == (1, 4, 24) and not features.requires_grad
    assert F.cosine_similarity(features[0, 0], features[0, 1], dim=0) < 1

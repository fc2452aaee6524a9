import pytest
import torch
from torch.nn import functional as F

from dense.adaptation import Sparsifiner, SparsifinerClassifier
from dense.adaptation.sparsifiner import MaskPredictor
from dense.backbones import ViT
from pointsuite.engine.checkpoint import save_checkpoint

ARCH = {
    **Sparsifiner.archs["deit_tiny"],
    "embed_dims": 48,
    "depth": 3,
    "num_heads": 3,
    "img_size": 64,
    "patch_size": 8,
    "reduce_n": 4,
}
LVVIT = {**Sparsifiner.archs["lvvit_small"], "embed_dims": 48, "depth": 2, "num_heads": 3, "img_size": 96}


def make_backbone(arch=ARCH, **options):
    torch.manual_seed(0)
    backbone = Sparsifiner(arch, **{**Sparsifiner.classifier_options(arch), **options}).eval()
    for name, p in backbone.named_parameters():
        if "mask_predictor" in name or "qkv" in name:
            torch.nn.init.normal_(p, std=0.3)
    return backbone


def masked_form(backbone, x):
    """The published form: pruned tokens are 0 and masked, all stay in the computation."""
    tokens, grid = backbone.embed(x)
    total = tokens.shape[1]
    alive = torch.ones(tokens.shape[:2], dtype=torch.bool)
    for i, block in enumerate(backbone.blocks):
        attn, predictor = block.attn, block.attn.mask_predictor
        q, k, v = attn.split(block.norm1(tokens)) * alive[:, None, :, None]
        weights = (predictor.proj_c_k(k) * alive[:, None, :, None]).mT @ predictor.proj_n
        coefficients = (predictor.scale * predictor.proj_c_q(q[:, :, 1:]) @ weights).softmax(-1)
        top = coefficients.topk(predictor.basis_topk)
        coefficients = torch.zeros_like(coefficients).scatter(-1, top.indices, top.values)
        basis = F.threshold(predictor.proj_back_n.abs(), predictor.basis_threshold, 0.0)
        scores = (coefficients @ basis.T).masked_fill(~alive[:, None, None], -torch.inf)
        budget = -int(-predictor.keep_rate * total // 1)
        if not alive.all():
            budget = min(budget, int(alive[0].sum()) - 1)
        mask = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, scores.topk(budget).indices, True)
        mask = torch.cat((mask.new_ones(*mask.shape[:2], 1, total), mask), 2)
        attention = (attn.scale * q @ k.mT).masked_fill(~mask, -torch.inf).softmax(-1)
        tokens = tokens + attn.proj((attention @ v).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.norm2(tokens))
        if i in backbone.token_keep_rates:
            score = attention[:, :, 0, 1:].mean(1).masked_fill(~alive[:, 1:], -torch.inf)
            count = -int(-backbone.token_keep_rates[i] * (total - 1) // 1)
            alive = torch.zeros_like(alive).scatter(1, 1 + score.topk(count).indices, True)
            alive[:, 0] = True
        tokens = tokens * alive[..., None]
    return backbone.norm(tokens)


def test_pruned_tokens_are_gone_and_change_nothing():
    backbone = make_backbone(pruning_blocks=(0, 1), token_keep_rates=0.6).double()
    sizes = []
    backbone.blocks[2].register_forward_hook(lambda module, args, y: sizes.append(y[0].shape[1]))
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    assert torch.allclose(backbone.forward_features(x), masked_form(backbone, x), atol=1e-10)
    assert sizes == [1 + 24]  # of 64 patches 0.36, rounded up


def test_a_keep_rate_of_1_is_the_plain_network():
    backbone = make_backbone(keep_rate=1.0)
    spec = {**ViT.archs["tiny"], **{key: ARCH[key] for key in ViT.archs["tiny"] if key in ARCH}}
    plain = ViT(spec, **ViT.classifier_options(spec)).eval()
    plain.load_state_dict({k: v for k, v in backbone.state_dict().items() if "mask_predictor" not in k})
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(backbone.forward_features(x), plain.forward_features(x), atol=1e-5)


def test_rows_keep_their_budget():
    predictor = MaskPredictor((4, 5), 2, 8, reduce_n=2, keep_rate=0.3)
    q, k = torch.randn(2, 3, 2, 21, 8)
    mask = predictor(q, k, (4, 5))
    assert mask[:, :, 0].all() and mask[:, :, 1:].sum(-1).eq(7).all()
    scores, coefficients = predictor.approximate(q, k, (4, 5))
    assert (coefficients.sum(-1) <= 1 + 1e-6).all() and (scores >= 0).all()
    assert (coefficients > 0).sum(-1).eq(8).all()
    wide = predictor(torch.randn(1, 2, 41, 8), torch.randn(1, 2, 41, 8), (5, 8))
    assert wide.shape == (1, 2, 41, 41) and wide[:, :, 1:].sum(-1).eq(13).all()


def test_rows_without_any_key_give_nothing():
    backbone = make_backbone(score_threshold=1e6)
    block = backbone.blocks[0]
    x = torch.randn(1, 65, 48)
    y, _ = block.attn(x, (8, 8))
    assert torch.allclose(y[0, 1:], block.attn.proj.bias.expand(64, -1), atol=1e-6)
    assert not torch.allclose(y[0, 0], block.attn.proj.bias, atol=1e-3)


def test_lvvit_adds_the_patches_scores_in_evaluation():
    from dense.base import ClassificationNetwork

    network = ClassificationNetwork(make_backbone(LVVIT, basis_topk=4), 5).eval()
    x = torch.randn(2, 3, 96, 96)
    tokens = network.forward_features(x)
    wanted = network.head.fc(tokens[:, 0]) + 0.5 * network.head.aux.fc(tokens[:, 1:]).amax(1)
    assert torch.equal(network(x), wanted)
    network.head.train()
    assert torch.equal(network.head(tokens), network.head.fc(tokens[:, 0]))


def make_classifier(**options):
    torch.manual_seed(0)
    backbone = {"type": "dense.Sparsifiner", "arch": ARCH}
    return SparsifinerClassifier(backbone, num_classes=3, reconstruction_epochs=2, **options)


def test_predictors_are_trained_first_then_all_else(tmp_path):
    plain = {k: v for k, v in make_classifier().state_dict().items() if "mask_predictor" not in k}
    save_checkpoint(plain, tmp_path / "deit.pth")
    model = make_classifier(pretrained=tmp_path / "deit.pth").train()
    model.init_weights()
    sample = model.sample_class()
    sample.gt_label = torch.tensor(1)
    x = torch.randn(2, 3, 64, 64)
    for epoch, predictors in ((1, True), (2, False)):
        model.set_epoch(epoch)
        model.zero_grad(set_to_none=True)
        losses = model.loss(x, [sample, sample])
        sum(losses.values()).backward()
        found = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert {"mask_predictor" in name for name in found} == {predictors}
    assert list(losses) == ["loss", "loss_probabilities", "loss_tokens"]
    assert losses["loss_tokens"] > 0  # sparse attention is another than the teacher's
    assert not any("teacher" in key for key in model.state_dict())


def test_reconstruction_lessens():
    backbone, x = make_backbone(), torch.randn(4, 3, 64, 64)
    parameters = [p for name, p in backbone.named_parameters() if "mask_predictor" in name]
    optimizer = torch.optim.Adam(parameters, 0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(backbone.reconstruction_loss(x))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_rate": 0}, "keep_rate must be above 0 and at most 1, found 0"),
        ({"basis_topk": 17}, "basis_topk must be 1 to 16, of 65 tokens, found 17"),
        ({"pruning_blocks": (2, 1), "token_keep_rates": 0.5}, r"must ascend within 0..2, found \(2, 1\)"),
        (
            {"pruning_blocks": (1,), "token_keep_rates": (0.5, 0.2)},
            "of 1 pruning_blocks, found 2",
        ),
        ({"pruning_blocks": (1,), "token_keep_rates": 0.0}, "token_keep_rates must be above 0"),
        ({"arch": {**ARCH, "num_heads": 5}}, "num_heads must divide embed_dims 48, found 5"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Sparsifiner(**{"arch": ARCH, **options})

from itertools import product

import pytest
import torch

from dense.adaptation import IARED2, IARED2Classifier
from dense.adaptation.ia_red2 import Interpreter, Policy
from dense.backbones import ViT
from pointsuite.engine.checkpoint import save_checkpoint

ARCH = {
    **IARED2.archs["deit_tiny"],
    "embed_dims": 48,
    "depth": 4,
    "num_heads": 3,
    "img_size": 64,
    "patch_size": 8,
    "groups": (1, 2, 1),
}


def make_backbone(**options):
    torch.manual_seed(0)
    backbone = IARED2(ARCH, **{**IARED2.classifier_options(ARCH), **options}).eval()
    for interpreter in backbone.interpreters:
        torch.nn.init.normal_(interpreter.qk.weight, std=0.5)
        torch.nn.init.normal_(interpreter.qk.bias)
    for block in backbone.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.2)
    return backbone


@pytest.mark.parametrize("batch", [1, 5])
def test_dropped_tokens_are_gone_and_change_nothing(batch):
    backbone, x = make_backbone().double(), torch.randn(batch, 3, 64, 48, dtype=torch.float64)
    sizes = []
    backbone.blocks[3].register_forward_hook(lambda module, args, y: sizes.append(y.shape[1]))
    tokens, policy = backbone.decide(x)
    backbone.drop_tokens = False
    masked, other = backbone.decide(x)
    assert torch.allclose(tokens, masked, atol=1e-12)
    for found, wanted in zip(policy.kept, other.kept, strict=True):
        assert torch.equal(found, wanted) and found.shape == (batch, 49)
    assert sizes == [int(policy.kept[2].sum(1).max()), 49] and sizes[0] < 49
    kept = [share.float().mean(1) for share in policy.kept]
    assert torch.allclose(backbone.cost(policy), (kept[0] + 2 * kept[1] + kept[2]) / 4)
    assert (policy.kept[0] >= policy.kept[1]).all() and (policy.kept[1] >= policy.kept[2]).all()
    assert all(keep[:, 0].all() for keep in policy.kept)
    assert not policy.probabilities[2][~policy.kept[1]].any()


def test_a_graph_masks_what_is_dropped():
    backbone, x = make_backbone(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        graph = torch.export.export(backbone, (x,)).module()
        other = torch.randn(2, 3, 64, 64)  # of other numbers of tokens
        for found, wanted in zip(graph(other), backbone(other), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_with_a_threshold_of_0_it_is_the_plain_network():
    backbone = make_backbone(threshold=0.0)
    spec = {key: value for key, value in ARCH.items() if key in ViT.archs["tiny"]}
    plain = ViT(spec, **ViT.classifier_options(spec)).eval()
    plain.load_state_dict({k: v for k, v in backbone.state_dict().items() if "interpreters" not in k})
    x = torch.randn(2, 3, 64, 64)
    tokens, policy = backbone.decide(x)
    assert torch.allclose(tokens, plain.forward_features(x), atol=1e-5)
    assert torch.equal(backbone.cost(policy), torch.ones(2))


def test_maps_are_0_where_tokens_were_dropped():
    backbone = make_backbone(out_indices=(0, 3))
    backbone.norm = torch.nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    first, last = backbone(x)
    policy = Policy()
    list(backbone.iterate_blocks(x, policy))
    for found, keep in ((first, policy.kept[0]), (last, policy.kept[2])):
        assert torch.equal(found[0].any(0).flatten(), keep[0, 1:])


def test_gradient_of_the_expected_reward():
    """By enumeration of all decisions for three patches."""
    torch.manual_seed(1)
    interpreter, x = Interpreter(12, 2).double(), torch.randn(1, 4, 12, dtype=torch.float64)
    torch.nn.init.normal_(interpreter.qk.weight)
    outcomes = list(product((0.0, 1.0), repeat=3))
    reward = torch.randn(len(outcomes), dtype=torch.float64)

    def chances():
        p = interpreter(x)[0, 1:]
        return torch.stack([torch.where(torch.tensor(u) > 0, p, 1 - p).prod() for u in outcomes])

    wanted = torch.autograd.grad((chances() * reward).sum(), interpreter.qk.weight)[0]
    weights = chances().detach()
    estimate = sum(
        w * r * torch.autograd.grad(c.log(), interpreter.qk.weight, retain_graph=True)[0]
        for w, r, c in zip(weights, reward, chances(), strict=True)
    )
    assert torch.allclose(estimate, wanted) and wanted.abs().max() > 0


def make_classifier(**options):
    torch.manual_seed(0)
    backbone = {"type": "dense.IARED2", "arch": ARCH}
    return IARED2Classifier(backbone, num_classes=3, interpreter_epochs=2, block_epochs=1, **options)


def trained(model):
    sample = model.sample_class()
    sample.gt_label = torch.tensor(1)
    model.zero_grad(set_to_none=True)
    losses = model.loss(torch.randn(4, 3, 64, 64), [sample] * 4)
    losses["loss"].backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def test_groups_are_trained_in_turn():
    model = make_classifier().train()
    turns = []
    for epoch in range(11):
        model.set_epoch(epoch)
        turns.append((model.group, model.interpreting))
    assert turns[:4] == [(0, True), (0, True), (0, False), (1, True)]
    assert turns[8:] == [(2, False)] * 3
    for p in model.backbone.interpreters.parameters():
        torch.nn.init.normal_(p)
    model.set_epoch(3)
    model.head.fc.bias.data[1] = 100  # the prediction is right: rewards tell what is kept
    found = trained(model)
    assert found == {f"backbone.interpreters.1.qk.{kind}" for kind in ("weight", "bias")}
    model.set_epoch(5)
    found = trained(model)
    assert {name.split(".")[2] for name in found if "blocks" in name} == {"1", "2", "3"}
    assert not any("interpreters" in name or "patch_embed" in name for name in found)


def test_weights_of_a_trained_network(tmp_path):
    plain = {k: v + 1 for k, v in make_classifier().state_dict().items() if "interpreters" not in k}
    save_checkpoint(plain, tmp_path / "deit.pth")
    model = make_classifier(pretrained=tmp_path / "deit.pth")
    model.init_weights()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in plain.items())


def test_bad_options():
    for options, message in (
        ({"arch": {**ARCH, "groups": (2, 1)}}, r"groups must add up to the depth 4, found \(2, 1\)"),
        ({"arch": {**ARCH, "interpreter_heads": 5}}, "interpreter_heads must divide embed_dims 48, found 5"),
        ({"arch": ARCH, "threshold": 1.0}, "threshold must be at least 0 and below 1, found 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            IARED2(**options)
    with pytest.raises(ValueError, match="epochs must be at least 1, found 0 and 1"):
        IARED2Classifier({"type": "dense.IARED2", "arch": ARCH}, interpreter_epochs=0, block_epochs=1)
    with pytest.raises(ValueError, match="penalties must be of 3 groups, found 1"):
        make_classifier(penalties=[1.0])

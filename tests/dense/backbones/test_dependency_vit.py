"""DependencyViT: messages against the plain formula, tokens that go, its maps, the names of its weights."""

import pytest
import torch
from torch.nn import functional as F

import dense
from dense.backbones import DependencyViT
from dense.backbones.dependency_vit import DependencyBlock, ReversedAttention
from dense.layers import MLP, record_attention
from dense.ops import maximum_spanning_tree
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError

from ..noise import noisy

SMALL = {
    "embed_dims": 12,
    "depth": 3,
    "num_heads": 3,
    "patch_size": 4,
    "img_size": 16,
    "prune_blocks": (),
    "prune_ratio": 0.16,
}
LITE = {**SMALL, "prune_blocks": (0, 2)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(height=16, width=16, batch=2):
    return torch.randn(batch, 3, height, width, dtype=torch.float64)


def naive_attention(attn, x, message):
    """Sender by sender, head by head: values, messages, and what i gets of j (B, N, N)."""
    controller = attn.message_controller
    hidden = F.gelu(controller.fc1(x))
    message = message * controller.fc2(hidden)[..., 0].sigmoid()
    p = (attn.head_selector(x) / attn.temperature).softmax(-1)
    q, k, v = attn.qkv(x).chunk(3, -1)
    y, dependency = torch.zeros_like(x), x.new_zeros(*x.shape[:2], x.shape[1])
    width = x.shape[2] // attn.num_heads
    for b in range(len(x)):
        for j in range(x.shape[1]):
            for a in range(attn.num_heads):
                part = slice(a * width, (a + 1) * width)
                gets = (k[b, :, part] @ q[b, j, part] / width**0.5).softmax(0) * p[b, j, a] * message[b, j]
                y[b, :, part] += gets[:, None] * v[b, j, part]
                dependency[b, :, j] += gets
    return attn.proj(y), message, dependency


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_attention_by_senders(temperature):
    attn = noisy(ReversedAttention(12, 3, temperature=temperature))
    x, message = torch.randn(2, 5, 12, dtype=torch.float64), torch.rand(2, 5, dtype=torch.float64)
    wanted, sent, dependency = naive_attention(attn, x, message)
    found = attn(x, message)
    torch.testing.assert_close(found, (wanted, sent))
    with record_attention(attn) as recorded:
        torch.testing.assert_close(attn(x, message)[0], wanted)
    (weights,) = recorded[""]
    torch.testing.assert_close(weights.sum(1), dependency)
    torch.testing.assert_close(dependency.sum(1), sent)  # a token gives out just its message
    assert (dependency >= 0).all()


def test_tokens_without_a_message_count_for_nothing():
    attn = noisy(ReversedAttention(12, 3))
    x, message = torch.randn(1, 5, 12, dtype=torch.float64), torch.ones(1, 5, dtype=torch.float64)
    message[0, 2] = 0
    with record_attention(attn) as recorded:
        y, _ = attn(x, message)
    assert (recorded[""][0][..., 2] == 0).all()
    q, k, v = attn.qkv(x).unflatten(-1, (3, 3, -1)).permute(2, 0, 3, 1, 4)
    values = v.clone()
    values[:, :, 2] = 100
    sent = (attn.select_heads(x) * message[..., None]).mT
    torch.testing.assert_close(attn.attend(q, k, values, sent), attn.attend(q, k, v, sent))


def test_order_of_tokens_does_not_matter():
    block = noisy(DependencyBlock(12, ReversedAttention(12, 3), MLP(12, 24)))
    x, message = torch.randn(2, 7, 12, dtype=torch.float64), torch.rand(2, 7, dtype=torch.float64)
    order = torch.randperm(7)
    y, sent, *_ = block(x, message, 7)
    torch.testing.assert_close(block(x[:, order], message[:, order], 7)[:2], (y[:, order], sent[:, order]))


# ------------------------------------------------------------------------------------------- tokens that go


def test_block_drops_those_that_sent_least():
    block = noisy(DependencyBlock(12, ReversedAttention(12, 3), MLP(12, 24)))
    x, message = torch.randn(2, 7, 12, dtype=torch.float64), torch.rand(2, 7, dtype=torch.float64)
    everything, sent, none, _ = block(x, message, 7)
    assert none is None
    y, left, places, attended = block(x, message, 4)
    for b in range(2):
        best = sorted(sorted(range(7), key=lambda i: -sent[b, i].item())[:4])
        assert places[b].tolist() == best
        torch.testing.assert_close(y[b], everything[b, best])
        torch.testing.assert_close(left[b], sent[b, best])
    torch.testing.assert_close(attended, x + block.attn(block.norm1(x), message)[0])


def test_of_equal_messages_the_first_stay():
    block = DependencyBlock(12, ReversedAttention(12, 3), MLP(12, 24))
    x = torch.randn(1, 1, 12).expand(1, 6, -1)
    assert block(x, torch.ones(1, 6), 4)[2].tolist() == [[0, 1, 2, 3]]


def test_published_counts():
    with torch.device("meta"):
        net = DependencyViT("lite_tiny")
    kept = net.kept_tokens((14, 14))
    assert kept == [196] + [164] * 3 + [133] * 3 + [101] * 3 + [70] * 2
    assert net.kept_tokens((5, 5)) == [25] + [21] * 3 + [17] * 3 + [13] * 3 + [9] * 2  # whole numbers stay
    assert DependencyViT(SMALL).kept_tokens((4, 4)) == [16] * 3


def test_dropped_tokens_are_gone():
    """Blocks see fewer of them, and the classifier takes the mean of the rest."""
    net = noisy(DependencyViT.create(LITE, num_classes=5))
    seen = []
    for block in net.backbone.blocks:
        block.mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    x = images()
    logits = net(x)
    assert seen == [13, 13, 10]
    tokens = net.forward_features(x)
    assert tokens.shape == (2, 10, 12)
    torch.testing.assert_close(logits, net.head.fc(tokens.mean(1)))
    *_, last = net.backbone.iterate_messages(x)
    assert last.message.shape == last.places.shape == (2, 10) and (last.places.diff(dim=1) > 0).all()


def test_maps_hold_dropped_tokens_as_they_went():
    net, x = noisy(DependencyViT(LITE)), images(16, 24)
    states, maps = list(net.iterate_messages(x)), net(x)
    assert [y.shape for y in maps] == [(2, 12, 4, 6)] * 3
    tokens, _ = net.embed(x)
    attended = tokens + net.blocks[0].attn(net.blocks[0].norm1(tokens), tokens.new_ones(2, 24))[0]
    for b in range(2):
        kept = states[0].places[b].tolist()
        gone = sorted(set(range(24)) - set(kept))
        for y, state in zip(maps[:2], states, strict=False):
            found = y[b].flatten(1).T
            torch.testing.assert_close(found[kept], net.norm(state.tokens[b]))
            torch.testing.assert_close(found[gone], net.norm(attended[b, gone]))
        left = states[2].places[b].tolist()
        assert set(left) < set(kept)
        torch.testing.assert_close(maps[2][b].flatten(1).T[left], net.norm(states[2].tokens[b]))
        torch.testing.assert_close(maps[2][b].flatten(1).T[gone], net.norm(attended[b, gone]))


def test_dependencies():
    net, x = noisy(DependencyViT(LITE)), images()
    found, states = net.dependencies(x), list(net.iterate_messages(x))
    assert [each.weights.shape for each in found] == [(2, n, n) for n in (16, 13, 13)]
    assert torch.equal(found[0].places, torch.arange(16).expand(2, -1))
    for each, state in zip(found[1:], states[:2], strict=True):
        assert torch.equal(each.places, state.places)
    torch.testing.assert_close(found[1].weights.sum(1), states[1].message)


def test_trees_are_of_what_is_sent_in_all_blocks():
    net, x = noisy(DependencyViT(LITE)), images()
    trees = net.dependency_trees(x)
    assert trees.shape == (2, 16) and trees.dtype == torch.int64
    for b in range(2):
        total = torch.zeros(16, 16, dtype=torch.float64)
        for weights, places in net.dependencies(x):
            for i, receiver in enumerate(places[b]):
                for j, sender in enumerate(places[b]):
                    total[receiver, sender] += weights[b, i, j]
        assert torch.equal(trees[b], maximum_spanning_tree(total))


def test_training_of_lite_reaches_all_weights():
    net = DependencyViT(LITE, drop_path_rate=0.1, with_cp=True).train()
    sum(y.square().sum() for y in net(images().float())).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    assert net.blocks[0].attn.message_controller.fc2.bias.item() == 2
    assert [block.drop_path2.rate for block in net.blocks] == pytest.approx([0, 0.05, 0.1])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DependencyViT({**SMALL, "num_heads": 5}), "num_heads must divide embed_dims 12, found 5"),
        (lambda: DependencyViT({**LITE, "prune_blocks": (2, 0)}), r"ascend within 0..2, found \(2, 0\)"),
        (lambda: DependencyViT({**LITE, "prune_blocks": (3,)}), r"ascend within 0..2, found \(3,\)"),
        (lambda: DependencyViT({**LITE, "prune_ratio": 0.5}), "at least 0 and below 0.5, found 0.5"),
        (lambda: DependencyViT({**LITE, "prune_ratio": -0.1}), "at least 0 and below 0.5, found -0.1"),
        (lambda: DependencyViT(SMALL, temperature=0), "temperature must be positive, found 0"),
        (lambda: DependencyViT(LITE)(torch.zeros(1, 3, 4, 4)), "block 0 keeps none of 1 x 1 tokens"),
        (lambda: DependencyViT(SMALL)(torch.zeros(1, 3, 16, 18)), "multiples of 4, found 16 x 18"),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# ------------------------------------------------------------------------------------------------- weights


def as_published(net):
    state = net.state_dict()
    return {k.removeprefix("backbone.").replace("head.fc.", "head."): v for k, v in state.items()}


def test_convert_official():
    net, fresh = (DependencyViT.create(LITE, num_classes=5) for _ in range(2))
    noisy(net)
    fresh.double().eval().load_state_dict(DependencyViT.convert_official(as_published(net)))
    x = images()
    torch.testing.assert_close(fresh(x), net(x))
    with pytest.raises(CheckpointError, match=r"blocks.0.attn.gamma"):
        DependencyViT.convert_official({"blocks.0.attn.gamma": torch.zeros(1)})


@pytest.mark.parametrize("arch", ["tiny", "small", "lite_small"])
def test_identification(arch):
    """Weights do not tell whether tokens go: those of a Lite form are taken for its full form's."""
    with torch.device("meta"):
        found = ZOO.identify(as_published(DependencyViT.create(arch)))
    full = arch.removeprefix("lite_")
    assert (found.name, found.options) == (f"dependency_vit_{full}", {"num_classes": 1000})


@pytest.mark.parametrize("options", [{}, {"positions": False}])
def test_identification_of_other_sizes(options):
    found = ZOO.identify(as_published(DependencyViT.create(SMALL, num_classes=5, **options)))
    size = 16 if options.get("positions", True) else 224
    assert found.options == {"num_classes": 5, "arch": {**SMALL, "img_size": size}, **options}
    dense.create_model(found.name, **found.options).load_state_dict(found.state_dict)

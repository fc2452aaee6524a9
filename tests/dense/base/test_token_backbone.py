"""Token backbones: prefix tokens, positions and their resizing, maps of chosen blocks, attention weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dense.base import ClassificationNetwork, TokenBackbone
from dense.layers import MLP, SelfAttention, resize_positions

from ..noise import noisy

DIMS, PATCH = 8, 4


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.mlp = SelfAttention(DIMS, 2), MLP(DIMS, 16)

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x)


class Tokens(TokenBackbone):
    archs = {"toy": {"embed_dims": DIMS, "depth": 3, "patch_size": PATCH, "img_size": (16, 12)}}

    def __init__(self, arch="toy", **kwargs):
        super().__init__(arch, **kwargs)
        self.blocks.extend(Block() for _ in range(self.spec["depth"]))
        self.set_outputs()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(height=16, width=12, batch=2):
    return torch.randn(batch, 3, height, width, dtype=torch.float64)


# ----------------------------------------------------------------------------------------------- embedding


@pytest.mark.parametrize("registers_first", [False, True])
@pytest.mark.parametrize("distilled", [False, True])
def test_tokens_by_hand(distilled, registers_first):
    net = noisy(Tokens(distillation_token=distilled, num_registers=2, registers_first=registers_first))
    x = images()
    tokens, grid = net.embed(x)
    assert grid == (4, 3) and net.num_prefix_tokens == 3 + distilled
    own = 1 + distilled
    assert net.pos_embed.shape == (1, own + 12, DIMS)
    for b in range(2):
        rows = [net.cls_token[0, 0], *([net.dist_token[0, 0]] if distilled else [])]
        for i in range(0, 16, PATCH):
            for j in range(0, 12, PATCH):
                patch = x[b, :, i : i + PATCH, j : j + PATCH]
                proj = net.patch_embed.proj
                rows.append((proj.weight * patch).sum((1, 2, 3)) + proj.bias)
        rows = torch.stack(rows) + net.pos_embed[0]
        registers = net.reg_token[0]  # without a position
        parts = [registers, rows] if registers_first else [rows[:own], registers, rows[own:]]
        torch.testing.assert_close(tokens[b], torch.cat(parts))


def test_without_class_token_or_positions():
    net = noisy(Tokens(class_token=False, positions=False))
    assert net.num_prefix_tokens == 0 and net.pos_embed is None and net.cls_token is None
    x = images()
    torch.testing.assert_close(net.embed(x)[0], net.patch_embed.proj(x).flatten(2).mT)
    assert net(x)[-1].shape == (2, DIMS, 4, 3)
    logits = noisy(ClassificationNetwork(net, 5))
    torch.testing.assert_close(logits(x), logits.head.fc(net.forward_features(x).mean(1)))


@pytest.mark.parametrize(("antialias", "scale_offset"), [(True, 0.0), (False, 0.0), (False, 0.1)])
@pytest.mark.parametrize("size", [(32, 12), (8, 20), (4, 4)])
def test_positions_are_resized(size, antialias, scale_offset):
    net = noisy(Tokens(antialias=antialias, scale_offset=scale_offset))
    grid = tuple(side // PATCH for side in size)
    table = net.positions(grid)
    assert torch.equal(table[:, :1], net.pos_embed[:, :1])  # the class token's
    rows = net.pos_embed[:, 1:].unflatten(1, (4, 3)).permute(0, 3, 1, 2)
    if scale_offset:
        how = {
            "scale_factor": tuple((new + scale_offset) / old for new, old in zip(grid, (4, 3), strict=True))
        }
    else:
        how = {"size": grid}
    rows = F.interpolate(rows, **how, mode="bicubic", antialias=antialias).flatten(2).mT
    torch.testing.assert_close(table[:, 1:], rows)
    tokens, found = net.embed(images(*size))
    assert found == grid and tokens.shape == (2, 1 + grid[0] * grid[1], DIMS)


def test_positions_of_their_own_grid_are_the_table():
    net = Tokens()
    assert net.positions((4, 3)) is net.pos_embed
    assert Tokens(img_size=20).pos_embed.shape == (1, 26, DIMS)
    half = resize_positions(torch.ones(1, 13, 4, dtype=torch.bfloat16), (4, 3), (5, 7))
    assert half.dtype == torch.bfloat16 and half.shape == (1, 36, 4)
    with pytest.raises(ValueError, match="a table of 11 rows has none for a grid of 4 x 3"):
        resize_positions(torch.zeros(1, 11, 4), (4, 3), (5, 5))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Tokens(img_size=18), r"multiples of patches of 4, found \(18, 18\)"),
        (lambda: Tokens(img_size=(16, 0)), r"multiples of patches of 4, found \(16, 0\)"),
        (lambda: Tokens()(torch.zeros(1, 3, 16, 14)), "multiples of 4, found 16 x 14"),
        (lambda: Tokens().forward_features(torch.zeros(1, 3, 3, 16)), "multiples of 4, found 3 x 16"),
        (lambda: Tokens()(torch.zeros(1, 1, 16, 16)), r"\(B, 3, H, W\), found \(1, 1, 16, 16\)"),
        (lambda: Tokens(out_indices=(3,)), r"within 0..2, found \(3,\)"),
        (lambda: Tokens(frozen_stages=4), r"in -1..3, found 4"),
        (lambda: Tokens("other"), "no arch 'other'"),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# ----------------------------------------------------------------------------------------------- outputs


def test_maps_are_normed_patches_after_blocks():
    net = noisy(Tokens(num_registers=2))
    x = images()
    tokens, _ = net.embed(x)
    maps = net(x)
    assert net.out_channels == (DIMS,) * 3 and net.strides == (PATCH,) * 3 and net.num_features == DIMS
    for block, found in zip(net.blocks, maps, strict=True):
        tokens = block(tokens)
        wanted = net.norm(tokens)[:, 3:].mT.unflatten(2, (4, 3))
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(net.forward_features(x), net.norm(tokens))


def test_out_indices():
    net = noisy(Tokens())
    some = noisy(Tokens(out_indices=(0, 1)))
    assert len(some.blocks) == 2 and some.strides == (PATCH, PATCH)
    some.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("blocks.2.")})
    x = images(8, 16)
    for found, wanted in zip(some(x), net(x), strict=False):
        torch.testing.assert_close(found, wanted)
    (last,) = noisy(Tokens(out_indices=(2,)))(x)
    assert last.shape == (2, DIMS, 2, 4)


def test_outputs_without_a_norm():
    net = noisy(Tokens(output_norm=False))
    assert isinstance(net.norm, nn.Identity) and not any(k.startswith("norm.") for k in net.state_dict())
    *_, (tokens, grid) = net.iterate_blocks(images())
    assert isinstance(Tokens(norm_eps=None).norm, nn.Identity) and Tokens(norm_eps=1e-3).norm.eps == 1e-3
    assert net.to_map(tokens, grid).shape == (2, DIMS, 4, 3)


def test_attention_weights():
    net = noisy(Tokens(num_registers=1))
    x = images()
    plain = net.forward_features(x)
    weights = net.attention_weights(x)
    assert [w.shape for w in weights] == [(2, 2, 14, 14)] * 3
    for w in weights:
        torch.testing.assert_close(w.sum(-1), torch.ones_like(w[..., 0]))
        assert (w >= 0).all()
    tokens, _ = net.embed(x)
    for block, found in zip(net.blocks, weights, strict=True):
        q, k, v = block.attn.qkv(tokens).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        torch.testing.assert_close(found, (q @ k.mT / 2).softmax(-1))  # heads are 4 wide
        attended = (found @ v).transpose(1, 2).flatten(2)
        torch.testing.assert_close(block.attn(tokens), block.attn.proj(attended))
        tokens = block(tokens)
    torch.testing.assert_close(net.norm(tokens), plain)
    (last,) = net.attention_weights(x, [-1])
    torch.testing.assert_close(last, weights[-1])
    assert all(block.attn.recorded is None for block in net.blocks)


def test_attention_weights_have_a_gradient():
    net = noisy(Tokens())
    x = images().requires_grad_()
    (grad,) = torch.autograd.grad(net.attention_weights(x, [1])[0][:, :, 0].square().sum(), x)
    assert grad.abs().max() > 0


def test_attention_distances():
    """Pair by pair, without the class token; patches of 4 x 3."""
    net, x = noisy(Tokens(num_registers=1)), images()
    found = net.attention_distances(x)
    assert found.shape == (3, 2)
    places = [(i, j) for i in range(4) for j in range(3)]
    for block, weights in enumerate(net.attention_weights(x)):
        patches = weights[:, :, 2:, 2:]
        patches = patches / patches.sum(-1, keepdim=True)
        for head in range(2):
            total = sum(
                patches[:, head, a, b].sum() * ((i - k) ** 2 + (j - m) ** 2) ** 0.5
                for a, (i, j) in enumerate(places)
                for b, (k, m) in enumerate(places)
            )
            torch.testing.assert_close(found[block, head], (total / 24).float())
    torch.testing.assert_close(net.attention_distances(x, [-1]), found[-1:])


class Late(Tokens):
    def __init__(self, **kwargs):
        super().__init__(class_token_at=2, **kwargs)


def test_class_token_may_join_late():
    net = noisy(Late())
    x = images()
    tokens, _ = net.embed(x)
    assert tokens.shape == (2, 12, DIMS) and net.pos_embed.shape == (1, 12, DIMS)
    for block in net.blocks[:2]:
        tokens = block(tokens)
    tokens = net.blocks[2](torch.cat((net.cls_token.expand(2, -1, -1), tokens), 1))
    torch.testing.assert_close(net.forward_features(x), net.norm(tokens))
    assert [y.shape for y in net(x)] == [(2, DIMS, 4, 3)] * 3
    torch.testing.assert_close(net(x)[-1], net.norm(tokens)[:, 1:].mT.unflatten(2, (4, 3)))
    early = Late(out_indices=(0, 1))
    assert early.cls_token is None and early.num_prefix_tokens == 0


# ----------------------------------------------------------------------------------------------- training


def test_frozen_stages():
    net = Tokens(num_registers=2, frozen_stages=1).train()
    trained = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    assert trained and all(name.startswith(("blocks.1.", "blocks.2.", "norm.")) for name in trained)
    assert not net.blocks[0].training and net.blocks[1].training
    stem = [n for n, p in Tokens(frozen_stages=0).named_parameters() if not p.requires_grad]
    assert stem == ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]


def test_checkpointing_changes_no_gradient():
    plain, saving = noisy(Tokens()).train(), None
    saving = copy.deepcopy(plain)
    saving.with_cp = True
    x = images()
    wanted = torch.autograd.grad(sum(y.sin().sum() for y in plain(x)), list(plain.parameters()))
    found = torch.autograd.grad(sum(y.sin().sum() for y in saving(x)), list(saving.parameters()))
    torch.testing.assert_close(found, wanted)


def test_example_inputs_fit():
    net = Tokens(in_channels=1)
    (x,) = net.example_inputs(3, (21, 30))
    assert x.shape == (3, 1, 20, 32) and net(x)[0].shape == (3, DIMS, 5, 8)
    assert net.example_inputs(1, (1, 1))[0].shape == (1, 1, 4, 4)

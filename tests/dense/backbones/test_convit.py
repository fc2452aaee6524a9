"""ConViT: against the plain formula, its start as a convolution, the late class token, published weights."""

import pytest
import torch
from torch import nn

import dense
from dense.backbones import ConViT
from dense.backbones.convit import GatedPositionalAttention
from dense.layers import SelfAttention
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError
from tests.dense.memory import LargestTensor

from ..noise import noisy

SMALL = {
    "embed_dims": 16,
    "depth": 3,
    "num_heads": 4,
    "patch_size": 4,
    "img_size": 16,
    "local_up_to_layer": 2,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def naive_weights(attn, x, grid):
    """Pair by pair: weights (B, heads, N, N)."""
    q, k, _ = attn.qkv(x).chunk(3, -1)
    heads, places = attn.num_heads, [(i, j) for i in range(grid[0]) for j in range(grid[1])]
    rows = [[(b[1] - a[1], b[0] - a[0]) for b in places] for a in places]
    delta = torch.tensor(rows, dtype=x.dtype)
    offsets = torch.cat((delta, delta.square().sum(-1, keepdim=True)), -1)
    position = attn.pos_proj(offsets).softmax(1)  # with its bias
    found = []
    for h, (qs, ks) in enumerate(zip(q.chunk(heads, -1), k.chunk(heads, -1), strict=True)):
        content = (qs @ ks.mT * qs.shape[-1] ** -0.5).softmax(-1)
        share = attn.gating_param[h].sigmoid()
        found.append((1 - share) * content + share * position[..., h])
    return torch.stack(found, 1)


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("grid", [(3, 3), (2, 5), (4, 1)])
def test_gated_attention_by_pairs(grid, qkv_bias):
    attn = noisy(GatedPositionalAttention(12, 3, qkv_bias=qkv_bias))
    x = torch.randn(2, grid[0] * grid[1], 12, dtype=torch.float64)
    weights = naive_weights(attn, x, grid)
    q, k, v = attn.qkv(x).unflatten(-1, (3, 3, -1)).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(attn.weigh(q, k, grid), weights)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    wanted = attn.proj((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attn(x, grid), wanted)


def test_no_pair_of_tokens_is_held():
    attn, grid = GatedPositionalAttention(12, 3), (24, 40)
    x = torch.randn(1, 960, 12, requires_grad=True)
    with LargestTensor() as largest:
        attn(x, grid).sum().backward()
    assert largest.numel < 960**2 / 8


def test_gates_lead_from_content_to_position():
    attn = noisy(GatedPositionalAttention(12, 3))
    plain = SelfAttention(12, 3, qkv_bias=False).double()
    plain.load_state_dict({k: v for k, v in attn.state_dict().items() if k.startswith(("qkv", "proj"))})
    x = torch.randn(2, 20, 12, dtype=torch.float64)
    nn.init.constant_(attn.gating_param, -1e3)
    torch.testing.assert_close(attn(x, (4, 5)), plain(x))
    nn.init.constant_(attn.gating_param, 1e3)
    v = attn.qkv(x)[..., 24:].unflatten(-1, (3, -1))
    moved = torch.einsum("hqk,bkhd->bqhd", attn.positional_weights((4, 5)), v)
    torch.testing.assert_close(attn(x, (4, 5)), attn.proj(moved.flatten(2)))


def test_start_is_a_convolution():
    """Nine sharp heads take each a neighbour of the token; outside the map, the nearest inside."""
    attn = GatedPositionalAttention(18, 9).double()
    attn.init_local(100.0)
    nn.init.constant_(attn.gating_param, 1e3)
    nn.init.eye_(attn.proj.weight), nn.init.zeros_(attn.proj.bias)
    x = torch.randn(1, 4, 5, 18, dtype=torch.float64)
    y = attn(x.flatten(1, 2), (4, 5)).view(4, 5, 9, 2)
    offsets = [(down, across) for across in (-1, 0, 1) for down in (-1, 0, 1)]
    for head, (down, across) in enumerate(offsets):
        for i in range(4):
            for j in range(5):
                at = min(max(i + down, 0), 3), min(max(j + across, 0), 4)
                torch.testing.assert_close(y[i, j, head], x[0][at][2 * head : 2 * head + 2])


def test_initial_state():
    net = ConViT({**SMALL, "num_heads": 8}, locality_strength=2.0)
    attn = net.blocks[0].attn
    assert torch.equal(attn.qkv.weight[32:], torch.eye(16)) and (attn.gating_param == 1).all()
    assert (attn.pos_proj.weight[:4, 2] == -2).all() and attn.pos_proj.weight[4:].abs().max() < 0.1
    assert attn.qkv.weight[:32].abs().max() < 0.1 and (attn.pos_proj.bias == 0).all()
    plain = ConViT(SMALL, local_init=False).blocks[0].attn
    assert plain.pos_proj.weight.abs().max() < 0.1 and plain.qkv.weight.abs().max() < 0.1
    torch.testing.assert_close(net.gates(), torch.full((2, 8), 0.7310586))


# --------------------------------------------------------------------------------------------- class token


def test_class_token_joins_after_gated_blocks():
    net = noisy(ConViT.create(SMALL, num_classes=5))
    trunk, x = net.backbone, torch.randn(2, 3, 12, 20, dtype=torch.float64)
    tokens, grid = trunk.embed(x)
    assert tokens.shape == (2, 15, 16) and trunk.pos_embed.shape == (1, 16, 16)
    for block in trunk.blocks[:2]:
        tokens = block(tokens, grid)
    tokens = trunk.blocks[2](torch.cat((trunk.cls_token.expand(2, -1, -1), tokens), 1))
    torch.testing.assert_close(net(x), net.head.fc(trunk.norm(tokens[:, 0])))
    maps = noisy(ConViT(SMALL))(x)
    assert [y.shape for y in maps] == [(2, 16, 3, 5)] * 3
    assert [w.shape[-1] for w in trunk.attention_weights(x)] == [15, 15, 16]


def test_maps_before_the_class_token_do_without():
    net = ConViT(SMALL, out_indices=(0, 1))
    assert net.cls_token is None and net.num_prefix_tokens == 0
    assert ConViT({**SMALL, "local_up_to_layer": 0}).cls_token is not None


def test_all_blocks_gated():
    """Their patches' mean is classified; the published code takes the patch at the upper left."""
    arch, x = {**SMALL, "local_up_to_layer": 3}, torch.randn(2, 3, 16, 16, dtype=torch.float64)
    net = noisy(ConViT.create(arch, num_classes=5))
    torch.testing.assert_close(net(x), net.head.fc(net.forward_features(x).mean(1)))
    quirk = ConViT.create(arch, num_classes=5, reference_quirks=True).double().eval()
    found = quirk.load_state_dict(net.state_dict(), strict=False)
    assert found.missing_keys == ["backbone.cls_token"] and not found.unexpected_keys
    torch.testing.assert_close(quirk(x), net.head.fc(net.forward_features(x)[:, 0]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConViT({**SMALL, "local_up_to_layer": -1}), "must not be negative, found -1"),
        (lambda: ConViT({**SMALL, "num_heads": 3}), "num_heads must divide embed_dims 16, found 3"),
        (lambda: ConViT({**SMALL, "num_heads": 0}), "num_heads must divide embed_dims 16, found 0"),
        (lambda: ConViT(SMALL)(torch.zeros(1, 3, 16, 18)), "multiples of 4, found 16 x 18"),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# ---------------------------------------------------------------------------------------- published weights


def as_published(net):
    """Queries and keys apart from values in gated blocks."""
    own, state = net.state_dict(), {}
    for name, value in own.items():
        key = name.removeprefix("backbone.").replace("head.fc.", "head.")
        if ".qkv." in key and f"{name.split('.qkv.')[0]}.gating_param" in own:
            q_and_k, v = value.split([len(value) * 2 // 3, len(value) // 3])
            state[key.replace("qkv", "qk")], state[key.replace("qkv", "v")] = q_and_k, v
        else:
            state[key] = value
    return state


@pytest.mark.parametrize("options", [{}, {"qkv_bias": True}, {"positions": False}])
def test_convert_official(options):
    net, fresh = (ConViT.create(SMALL, num_classes=5, **options) for _ in range(2))
    noisy(net)
    state = as_published(net)
    assert state["blocks.0.attn.qk.weight"].shape == (32, 16) and "blocks.2.attn.qkv.weight" in state
    fresh.double().eval().load_state_dict(ConViT.convert_official(state))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(fresh(x), net(x))
    found = ZOO.identify(state)
    size = 16 if options.get("positions", True) else 224  # nothing else tells the images' size
    assert found.options == {"num_classes": 5, "arch": {**SMALL, "img_size": size}, **options}
    dense.create_model(found.name, **found.options).load_state_dict(found.state_dict)


@pytest.mark.parametrize("arch", ConViT.archs)
def test_identification(arch):
    with torch.device("meta"):
        state = as_published(ConViT.create(arch))
    found = ZOO.identify(state)
    assert (found.name, found.options) == (f"convit_{arch}", {"num_classes": 1000})


def test_identification_of_weights_that_never_used_their_class_token():
    net = ConViT.create({**SMALL, "local_up_to_layer": 3}, num_classes=5, reference_quirks=True)
    assert ZOO.identify(as_published(net)).options["reference_quirks"]


def test_convert_official_refuses_other_files():
    with pytest.raises(CheckpointError, match=r"stem\.weight"):
        ConViT.convert_official({"stem.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="lacks blocks.0.attn.v.weight"):
        ConViT.convert_official({"blocks.0.attn.qk.weight": torch.zeros(2, 1)})

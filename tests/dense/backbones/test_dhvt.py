"""DHVT: its parts against the plain formulas, grids that are no squares, options, and published weights."""

import re

import pytest
import torch
from torch.nn import functional as F

from dense.backbones import DHVT
from dense.backbones.dhvt import DynamicFeedForward, HeadTokenAttention, OverlappedPatchEmbed
from dense.layers import SelfAttention, record_attention
from dense.registry import ZOO

SMALL = {**DHVT.archs["tiny_cifar_patch4"], "embed_dims": 12, "depth": 2, "num_heads": 3, "img_size": 16}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def noisy(module):
    """Weights and statistics large enough that every one counts, in float64, evaluating."""
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point():
            with torch.no_grad():
                value.uniform_(0.5, 2) if name.endswith("var") else value.normal_(0, 0.5)
    return module.double().eval()


def tokens(count=6, dims=12):
    return torch.randn(2, 1 + count, dims, dtype=torch.float64)


# --------------------------------------------------------------------------------------------------- parts


def test_attention_with_head_tokens_by_hand():
    attn, x = noisy(HeadTokenAttention(12, 3)), tokens()
    norm, made = attn.ht_norm, []
    for j in range(3):
        token = attn.ht_proj(x.mean(1)[:, 4 * j : 4 * j + 4])
        groups = [F.layer_norm(g, (4,), norm.weight, norm.bias, 1e-5) for g in token.chunk(3, 1)]
        made.append(F.gelu(torch.cat(groups, 1)) + attn.pos_embed[:, j])
    made = torch.stack(made, 1)
    torch.testing.assert_close(attn.head_tokens(x), made)
    y = SelfAttention.forward(attn, torch.cat((x, made), 1))
    wanted = y[:, :7].clone()
    wanted[:, 0] += y[:, 7:].mean(1)
    torch.testing.assert_close(attn(x), wanted)


def test_attention_permutes_with_its_patches():
    attn, x = noisy(HeadTokenAttention(12, 3)), tokens()
    order = torch.tensor([0, 4, 2, 6, 1, 5, 3])
    torch.testing.assert_close(attn(x[:, order]), attn(x)[:, order])


def test_attention_records_its_head_tokens():
    attn = noisy(HeadTokenAttention(12, 3))
    with record_attention(attn) as recorded:
        attn(tokens())
    assert recorded[""][0].shape == (2, 3, 10, 10)


def naive_feed_forward(layer, x, grid):
    def norm(y, conv):
        n = conv.norm
        return F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias, eps=1e-5)

    y = x[:, 1:].mT.unflatten(2, grid)
    a = F.gelu(norm(layer.conv1.conv(y), layer.conv1))
    a = a + F.gelu(norm(layer.conv2.conv(a), layer.conv2))
    y = norm(layer.conv3.conv(a), layer.conv3)
    gate = layer.excitation(F.gelu(layer.compress(y.mean((2, 3)))))
    return torch.cat((x[:, :1] * gate[:, None], y.flatten(2).mT), 1)


@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (1, 6)])
@pytest.mark.parametrize("grad", [True, False])
def test_feed_forward_by_hand(grid, grad):
    layer, x = noisy(DynamicFeedForward(12, 20)), tokens()
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(layer(x, grid), naive_feed_forward(layer, x, grid))
        single = layer.float()(x.float(), grid)  # by oneDNN where there is no gradient
    torch.testing.assert_close(single, naive_feed_forward(layer, x.float(), grid), rtol=1e-4, atol=1e-4)


def test_patches_do_not_see_the_class_token():
    layer, x = noisy(DynamicFeedForward(12, 20)), tokens()
    other = x.clone()
    other[:, 0] = -3 * x[:, 0]
    y, z = layer(x, (2, 3)), layer(other, (2, 3))
    assert torch.equal(y[:, 1:], z[:, 1:])
    torch.testing.assert_close(z[:, 0], -3 * y[:, 0])


def test_without_gate_the_class_token_stays():
    layer, bare = noisy(DynamicFeedForward(12, 20)), DynamicFeedForward(12, 20, gated=False)
    assert not [name for name, _ in bare.named_parameters() if "compress" in name or "excitation" in name]
    bare.double().eval().load_state_dict(layer.state_dict(), strict=False)
    x = tokens()
    torch.testing.assert_close(bare(x, (2, 3))[:, 1:], layer(x, (2, 3))[:, 1:])
    assert torch.equal(bare(x, (2, 3))[:, 0], x[:, 0])


@pytest.mark.parametrize(("patch_size", "widths"), [(2, [16]), (4, [8, 16]), (16, [2, 4, 8, 16])])
def test_patches_overlap(patch_size, widths):
    embed = noisy(OverlappedPatchEmbed(3, 16, patch_size))
    assert [layer.conv.out_channels for layer in embed.proj] == widths
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    y = x * embed.pre_affine.alpha + embed.pre_affine.beta
    for i, layer in enumerate(embed.proj):
        y = layer(y)
        if i + 1 < len(widths) or patch_size == 2:
            y = F.gelu(y)
    y = y * embed.post_affine.alpha + embed.post_affine.beta
    assert y.shape == (2, 16, 32 // patch_size, 48 // patch_size)
    torch.testing.assert_close(embed(x), y)


def test_affine_maps_start_as_identities():
    embed = OverlappedPatchEmbed(3, 16, 4)
    x = torch.randn(2, 16, 3, 3)
    assert torch.equal(embed.post_affine(x), x) and torch.equal(embed.pre_affine(x[:, :3]), x[:, :3])


@pytest.mark.parametrize(("dims", "patch_size"), [(12, 1), (12, 6), (12, 16)])
def test_bad_patches(dims, patch_size):
    with pytest.raises(ValueError, match=f"patch_size must .* {patch_size}|multiple of 8, found 12"):
        OverlappedPatchEmbed(3, dims, patch_size)


# ------------------------------------------------------------------------------------------------- network


@torch.no_grad()
def test_grids_that_are_no_squares():
    net, published = DHVT(SMALL), DHVT(SMALL, reference_quirks=True)
    published.load_state_dict(noisy(net).state_dict())
    published.double().eval()
    square, wide = (torch.randn(2, 3, *size, dtype=torch.float64) for size in ((24, 24), (16, 36)))
    torch.testing.assert_close(published(square), net(square))
    block, x = net.blocks[0], tokens(36)
    mlp = naive_feed_forward(block.mlp, block.norm2(x + block.attn(block.norm1(x))), (4, 9))
    torch.testing.assert_close(net.run_block(0, x, (4, 9)), x + block.attn(block.norm1(x)) + mlp)
    assert not torch.allclose(published(wide)[-1], net(wide)[-1])
    assert torch.equal(published.run_block(0, x, (4, 9)), net.run_block(0, x, (6, 6)))
    with pytest.raises(ValueError, match="as many patches as in a square, found 4 x 5"):
        published(torch.randn(1, 3, 16, 20).double())
    assert net(torch.randn(1, 3, 13, 18).double())[-1].shape == (1, 12, 4, 5)  # rounded up


def test_options():
    net = DHVT({**SMALL, "depth": 3}, drop_path_rate=0.2, qkv_bias=False, drop_rate=0.3)
    assert [block.drop_path2.rate for block in net.blocks] == pytest.approx([0, 0.1, 0.2])
    assert net.blocks[0].attn.qkv.bias is None and net.blocks[2].attn.drop.p == 0.3
    assert net.pos_embed is None and net.num_prefix_tokens == 1
    assert [block.mlp.gated for block in net.blocks] == [True, True, False]
    assert DHVT(SMALL, class_output=True).blocks[1].mlp.gated
    with pytest.raises(ValueError, match="num_heads must divide embed_dims 12, found 5"):
        DHVT({**SMALL, "num_heads": 5})


def test_classes_are_those_of_the_data():
    with torch.device("meta"):
        found = {arch: DHVT.create(arch).num_classes for arch in DHVT.archs}
        assert DHVT.create("tiny_cifar_patch4", num_classes=10).num_classes == 10
    assert set(found.values()) == {100, 345, 1000}
    assert found["small_domain_patch16"] == 345 and found["small_cifar_patch2"] == 100


# --------------------------------------------------------------------------------------- published weights


def as_published(net):
    """Weights of a classifier as their authors name them."""
    named = {}
    for key, value in net.state_dict().items():
        key = key.replace("head.fc.", "head.").removeprefix("backbone.")
        key = re.sub(r"mlp\.conv(\d)\.conv\.", r"mlp.conv\1.", key)
        key = re.sub(r"mlp\.conv(\d)\.norm\.", r"mlp.bn\1.", key)
        if match := re.fullmatch(r"patch_embed\.proj\.(\d)\.(conv|norm)\.(.*)", key):
            key = f"patch_embed.proj.{2 * int(match[1])}.{int(match[2] == 'norm')}.{match[3]}"
        named[key] = value
    return named


@pytest.mark.parametrize("patch_size", [2, 4])
def test_convert_official(patch_size):
    arch = {**SMALL, "patch_size": patch_size}
    net, fresh = (DHVT.create(arch, num_classes=5) for _ in range(2))
    noisy(net)
    fresh.double().eval().load_state_dict(DHVT.convert_official(as_published(net)))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(fresh(x), net(x))


def made(arch, **options):
    with torch.device("meta"):
        return as_published(DHVT.create(arch, **options))


@pytest.mark.parametrize(
    "arch", ["tiny_cifar_patch2", "tiny_domain_patch16", "small_domain_patch16", "small_imagenet_patch16"]
)
def test_identification(arch):
    found = ZOO.identify(made(arch))
    wanted = DHVT.archs[arch]["num_classes"]
    assert (found.name, found.options) == (f"dhvt_{arch}", {"num_classes": wanted})


def test_identification_of_other_depths_classes_and_parts():
    found = ZOO.identify(made("small_imagenet_patch16", num_classes=9))
    assert found.name == "dhvt_small_imagenet_patch16" and found.options == {"num_classes": 9}
    own = {**DHVT.archs["tiny_cifar_patch2"], "depth": 5}
    found = ZOO.identify(made(own, num_classes=10, qkv_bias=False))
    assert found.options == {"arch": own, "num_classes": 10, "qkv_bias": False}
    state = made("tiny_cifar_patch4")
    headless = {key: value for key, value in state.items() if not key.startswith("head.")}
    found = ZOO.identify(headless)
    assert found.name == "dhvt_tiny_cifar_patch4"
    assert found.options == {"features_only": True, "class_output": True}

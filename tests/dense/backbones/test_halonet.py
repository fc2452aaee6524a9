"""HaloNet: its attention by other means, strides, borders, sizes of images, and weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dense.backbones import HaloNet
from dense.backbones.halonet import FinalConvHead, HaloAttention, round_to_8
from dense.registry import ZOO

from ..noise import noisy

SMALL = {
    **HaloNet.archs["h1"],
    "embed_dims": (8, 16, 16, 24),
    "widths": (8, 16, 16, 24),
    "depths": (1, 2, 1, 1),
    "num_heads": (2, 2, 2, 2),
    "block_size": 4,
    "halo_size": 1,
    "conv_blocks": ((), (1,), (), ()),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def maps(height=8, width=12, channels=6):
    return torch.randn(2, height, width, channels, dtype=torch.float64)


def without_positions(attn):
    nn.init.zeros_(attn.row_table), nn.init.zeros_(attn.column_table)
    return attn


# ----------------------------------------------------------------------------------------------- attention


def heads(attn, x):
    """Queries, keys and values (B, heads, N, d) of all pixels."""
    q = attn.q(x).flatten(1, 2).unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
    kv = attn.kv(x).flatten(1, 2).unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
    return q, *kv.split((q.shape[-1], kv.shape[-1] - q.shape[-1]), -1)


def test_one_block_without_halo_is_global_attention():
    attn = without_positions(noisy(HaloAttention(6, 8, 2, 8, 0)))
    x = maps(8, 8)
    q, k, v = heads(attn, x)
    wanted = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attn(x), wanted.transpose(1, 2).flatten(2).unflatten(1, (8, 8)))


def test_positions_are_added_unscaled_unless_asked():
    attn, scaled = (noisy(HaloAttention(6, 8, 2, 4, 0, scale_positions=flag)) for flag in (False, True))
    scaled.load_state_dict(attn.state_dict())
    x = maps(4, 4)
    q, k, v = heads(attn, x)
    at = torch.arange(4)
    apart = at - at[:, None] + 3  # of rows, or of columns
    rows = torch.einsum("bhyxd,yid->bhyxi", q.unflatten(2, (4, 4)), attn.row_table[apart])
    columns = torch.einsum("bhyxd,xjd->bhyxj", q.unflatten(2, (4, 4)), attn.column_table[apart])
    positions = (rows[..., None] + columns[..., None, :]).flatten(4).flatten(2, 3)
    for module, factor in ((attn, 1), (scaled, 0.5)):  # queries of a head are 4 wide
        wanted = F.scaled_dot_product_attention(q, k, v, factor * positions)
        torch.testing.assert_close(module(x), wanted.transpose(1, 2).flatten(2).unflatten(1, (4, 4)))


def test_moving_by_a_block_moves_the_result():
    attn = noisy(HaloAttention(6, 8, 2, 4, 2, stride=2))
    x = maps(24, 24)
    moved = x.roll((4, 4), (1, 2))
    torch.testing.assert_close(attn(moved)[:, 6:10, 6:10], attn(x)[:, 4:8, 4:8])
    assert (attn(x.roll(1, 1))[:, 6:10] - attn(x)[:, 6:10]).norm() > 1


@pytest.mark.parametrize("positions", [False, True])
def test_stride_2_takes_every_second_query(positions):
    plain, strided, quirky = (
        noisy(HaloAttention(6, 8, 2, 4, 1, stride=s, reference_quirks=r))
        for s, r in ((1, False), (2, False), (2, True))
    )
    for other in (strided, quirky):
        other.load_state_dict(plain.state_dict())
    if not positions:
        for attn in (plain, strided, quirky):
            without_positions(attn)
    x = maps()
    wanted = plain(x)[:, ::2, ::2]
    torch.testing.assert_close(strided(x), wanted)
    # the published reading counts queries of a stride of 2 as neighbours
    assert torch.allclose(quirky(x), wanted) is not positions


@pytest.mark.parametrize("block, avg_down", [(3, False), (4, True)])
def test_other_strides_average(block, avg_down):
    plain = noisy(HaloAttention(6, 8, 2, block, 1))
    strided = noisy(HaloAttention(6, 8, 2, block, 1, stride=2, avg_down=avg_down))
    strided.load_state_dict(plain.state_dict())
    x = maps(7, 9)
    y = F.avg_pool2d(plain(x).permute(0, 3, 1, 2), 2, ceil_mode=True)
    torch.testing.assert_close(strided(x), y.permute(0, 2, 3, 1))
    assert y.shape[2:] == (4, 5)


def test_padding_shares_unless_masked():
    """Values of 1 come out as 1 where nothing outside of the map has a share."""
    attn = noisy(HaloAttention(6, 8, 2, 4, 1, qkv_bias=True))
    masked = noisy(HaloAttention(6, 8, 2, 4, 1, qkv_bias=True, mask_padding=True))
    dims = attn.q.out_features // 2
    for module in (attn, masked):
        weight, bias = (t.unflatten(0, (2, -1))[:, dims:] for t in (module.kv.weight, module.kv.bias))
        nn.init.zeros_(weight), nn.init.ones_(bias)
    x = maps(12, 12)
    ones = torch.ones(2, 12, 12, 8, dtype=torch.float64)
    torch.testing.assert_close(masked(x), ones)
    y = attn(x)
    torch.testing.assert_close(y[:, 4:8, 4:8], ones[:, 4:8, 4:8])
    assert (y[:, :4] < 1).all() and (y[:, :, 8:] < 1).all()
    torch.testing.assert_close(masked(maps(5, 7)), ones[:, :5, :7])


def test_widths_of_queries():
    assert [round_to_8(c) for c in (1, 11, 16, 20, 84)] == [8, 16, 16, 24, 88]
    attn = HaloAttention(32, 32, 4, 4, 1, qk_ratio=0.5)
    assert attn.q.weight.shape == (16, 32) and attn.kv.weight.shape == (48, 32)
    attn = HaloAttention(32, 80, 4, 8, 2, head_dims=8)
    assert attn.q.weight.shape == (32, 32) and attn.row_table.shape == (23, 8)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stride": 3}, "stride must be 1 or 2, found 3"),
        ({"num_heads": 3}, "num_heads must divide out_dims 8, found 3"),
        ({"halo_size": -1}, "halo_size at least 0, found 4, -1"),
        ({"head_dims": 0}, "queries of 1 channel or more, found 0"),
    ],
)
def test_bad_attention(options, message):
    with pytest.raises(ValueError, match=message):
        HaloAttention(
            **{"embed_dims": 6, "out_dims": 8, "num_heads": 2, "block_size": 4, "halo_size": 1, **options}
        )


# ------------------------------------------------------------------------------------ the whole network


@pytest.mark.parametrize("size", [(64, 64), (75, 50), (3, 40)])
@pytest.mark.parametrize("mask_padding", [False, True])
def test_sizes(size, mask_padding):
    net = noisy(HaloNet(SMALL, mask_padding=mask_padding))
    found = net(torch.randn(2, 3, *size, dtype=torch.float64))
    for y, channels, stride in zip(found, SMALL["embed_dims"], net.strides, strict=True):
        assert y.shape == (2, channels, *(-(-side // stride) for side in size)) and y.isfinite().all()


def test_where_the_convolutions_are():
    for arch, wanted in (
        ("h0", ["hhh", "hhh", "hhhhhhh", "hhh"]),
        ("50ts", ["ccc", "ccch", "chchch", "chc"]),
    ):
        with torch.device("meta"):
            net = HaloNet(arch)
        found = ["".join("h" if hasattr(b.middle, "attn") else "c" for b in blocks) for blocks in net.stages]
        assert found == wanted
    assert net.stages[1][3].middle.attn.num_heads == 4 and net.stages[3][1].middle.attn.num_heads == 8


def test_final_convolution():
    net = noisy(HaloNet.create({**SMALL, "final_dims": 10}, num_classes=5))
    assert isinstance(net.head, FinalConvHead) and net.head_hidden_size == 10
    features = net.forward_features(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    vectors = net.head.conv(features).relu().mean((2, 3))
    torch.testing.assert_close(net.forward_head(features), net.head.fc(vectors))


@pytest.mark.parametrize("change", [{"stem": "deep"}, {"act": "tanh"}])
def test_bad_networks(change):
    (name, value), *_ = change.items()
    with pytest.raises(ValueError, match=f"{name} must be one of .*, found '{value}'"):
        HaloNet({**SMALL, **change})


def published(arch, **options):
    """Weights under timm's names."""
    with torch.device("meta"):
        state = HaloNet.create(arch, **options).state_dict()
    found = {}
    for key, value in state.items():
        value = torch.zeros(value.shape, dtype=value.dtype)
        key = key.removeprefix("backbone.")
        if key.startswith("downsamples.0.convs."):
            *_, index, part, name = key.split(".")
            key = f"stem.conv{int(index) + 1}.{part}.{name}"
        key = key.replace("head.conv.", "final_conv.")
        for i in (1, 3):
            key = key.replace(f".conv{i}.", f".conv{i}_1x1.") if key.startswith("stages") else key
        key = key.replace("attn.row_table", "attn.pos_embed.height_rel")
        key = key.replace("attn.column_table", "attn.pos_embed.width_rel")
        key = key.replace("middle.attn.", "self_attn.").replace("middle.conv.", "conv2_kxk.conv.")
        if "middle.norm." in key:
            with_attention = f"backbone.{key.split('middle.')[0]}middle.attn.q.weight" in state
            key = key.replace("middle.norm.", "post_attn." if with_attention else "conv2_kxk.bn.")
        if key.endswith(("self_attn.q.weight", "self_attn.kv.weight")):
            value = value[:, :, None, None]
        found[key.replace(".norm.", ".bn.")] = value
    return found


@pytest.mark.parametrize("arch", ["h0", "h4", "h7", "26t", "50ts"])
def test_identification(arch):
    found = ZOO.identify(published(arch))
    assert (found.name, found.options) == (f"halonet_{arch}", {"num_classes": 1000})


def test_identification_of_other_depths_heads_and_parts():
    own = {
        **HaloNet.archs["h1"],
        "depths": (1, 2, 1, 1),
        "num_heads": (4, 8, 8, 8),
        "conv_blocks": ((), (1,), (), ()),
    }
    found = ZOO.identify(published(own, num_classes=7, qkv_bias=True))
    assert found.options == {"num_classes": 7, "qkv_bias": True, "arch": own}

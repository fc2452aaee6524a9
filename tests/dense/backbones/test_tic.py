"""TiC: its attention against loops, the module, shifts and pooled keys."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from dense.backbones import TiC
from dense.backbones.tic import LocalAttention, MSAConv, ShiftedAttention

from ..memory import LargestTensor
from ..noise import noisy

SMALL = {"embed_dims": (8, 16), "depths": (2, 1), "num_heads": (2, 4), "window_size": 3}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def naive(q, k, v, heads, window, dilation, masked, pooled):
    """Pixel by pixel, place by place."""
    batch, height, width, channels = q.shape
    d = channels // heads
    maps = [(k, v, dilation, 1)]
    if pooled:
        cells = [F.avg_pool2d(x.permute(0, 3, 1, 2), 2, ceil_mode=True).permute(0, 2, 3, 1) for x in (k, v)]
        maps.append((*cells, 1, 2))
    y = torch.empty_like(q)
    radii = [side // 2 for side in window]
    for row, column, head in product(range(height), range(width), range(heads)):
        part = slice(head * d, (head + 1) * d)
        logits, values = [], []
        for keys, vals, step, size in maps:
            for i, j in product(*(range(-r, r + 1) for r in radii)):
                at = row // size + step * i, column // size + step * j
                inside = 0 <= at[0] < keys.shape[1] and 0 <= at[1] < keys.shape[2]
                if not inside and masked:
                    continue
                key = keys[:, at[0], at[1], part] if inside else q.new_zeros(batch, d)
                values.append(vals[:, at[0], at[1], part] if inside else q.new_zeros(batch, d))
                logits.append((q[:, row, column, part] * key).sum(-1) * d**-0.5)
        weights = torch.stack(logits).softmax(0)
        y[:, row, column, part] = (weights[..., None] * torch.stack(values)).sum(0)
    return y


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("heads", "window", "dilation"), [(1, (3, 3), 1), (2, (3, 1), 2), (4, (1, 5), 1)])
def test_attention_against_loops(heads, window, dilation, masked, pooled):
    q, k, v = (torch.randn(2, 5, 4, 4).double() for _ in range(3))
    attention = LocalAttention(heads, window, dilation, masked)
    wanted = naive(q, k, v, heads, window, dilation, masked, pooled)
    torch.testing.assert_close(attention(q, k, v, pooled), wanted)


def test_a_masked_window_over_the_map_is_global_attention():
    q, k, v = (torch.randn(1, 4, 4, 8).double() for _ in range(3))
    found = LocalAttention(2, 7, mask_padding=True)(q, k, v)
    heads = (x.flatten(1, 2).unflatten(-1, (2, 4)).transpose(1, 2) for x in (q, k, v))
    wanted = F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(q.shape)
    torch.testing.assert_close(found, wanted)


def test_zeros_around_the_map_take_part():
    ones = torch.ones(1, 3, 3, 1)
    y = LocalAttention(1, 3)(torch.zeros_like(ones), ones, ones)[0, ..., 0]
    torch.testing.assert_close(y, torch.tensor([[4.0, 6, 4], [6, 9, 6], [4, 6, 4]]) / 9)
    masked = LocalAttention(1, 3, mask_padding=True)(torch.zeros_like(ones), ones, ones)
    torch.testing.assert_close(masked, ones)


def test_a_window_of_one_pixel_adds_values():
    module = noisy(MSAConv(4, 6, 1, padding=0))
    x = torch.randn(2, 4, 3, 5).double()
    values = module.qkv(x.permute(0, 2, 3, 1))[..., 8:].permute(0, 3, 1, 2)
    torch.testing.assert_close(module(x), module.conv(x + values).relu())


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_module_sizes_and_heads(heads):
    module = noisy(MSAConv(4, 6, (3, 5), stride=2, padding=1, dilation=2, bias=True, num_heads=heads))
    assert module(torch.randn(1, 4, 9, 11).double()).shape == (1, 6, 5, 5)


def test_shifts_are_undone():
    x = torch.randn(1, 6, 6, 8).double()
    plain = noisy(ShiftedAttention(8, 2, 3, (0, 0), False))
    for direction in ((1, 1), (-1, 1)):
        shifted = noisy(ShiftedAttention(8, 2, 3, direction, False))
        shifted.load_state_dict(plain.state_dict())
        y = shifted(x)
        torch.testing.assert_close(y[:, 2:-2, 2:-2], plain(x)[:, 2:-2, 2:-2])
        assert not torch.allclose(y, plain(x))
        wanted = plain(x.roll(direction, (1, 2))).roll([-s for s in direction], (1, 2))
        torch.testing.assert_close(y, wanted)


def test_blocks_take_turns():
    blocks = TiC({**SMALL, "depths": (5, 1)}).stages[0]
    assert [block.attn.shift for block in blocks] == [(1, 1), (1, -1), (-1, 1), (-1, -1), (1, 1)]
    assert [block.attn.pooled for block in blocks] == [False, True, False, True, False]


def test_bad_options():
    with pytest.raises(ValueError, match="kernel_size must be odd, found 4"):
        MSAConv(8, 8, 4)
    with pytest.raises(ValueError, match="num_heads must divide in_channels 8, found 3"):
        MSAConv(8, 8, 3, num_heads=3)
    with pytest.raises(ValueError, match="num_heads must divide embed_dims 8, found 3"):
        TiC({**SMALL, "num_heads": (3, 4)})


@torch.no_grad()
def test_memory_is_linear_in_pixels():
    backbone, found = TiC(SMALL).eval(), []
    for side in (64, 256):
        with LargestTensor() as largest:
            backbone(torch.randn(1, 3, side, side))
        found.append(largest.numel)
    assert found[1] <= 16.5 * found[0]  # and zeros around the maps

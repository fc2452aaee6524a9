"""InLine-Swin: its windows, merging, variants and published weights."""

import pytest
import torch

from dense.backbones import InLineSwin
from dense.backbones.inline_swin import InjectiveWindowAttention
from dense.layers import InjectiveAttention, ShiftedWindowAttention, SwinPatchMerging
from dense.registry import ZOO

from ..memory import LargestTensor
from ..noise import noisy
from .inline import published, without

SMALL = {
    "embed_dims": (8, 16),
    "depths": (2, 3),
    "num_heads": (2, 4),
    "num_inline": (2, 1),
    "window_size": 8,
    "softmax_windows": (3, 3),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def like(module, other):
    module.load_state_dict(other.state_dict())
    return module


def test_published_weights_are_found():
    state = published("swin_tiny_224")
    assert ZOO.identify(state).name == "inline_swin_tiny"
    found = ZOO.identify(without(state, "layers.2.blocks.5.")).options["arch"]
    assert found["depths"] == (2, 2, 5, 2) and found["num_inline"] == (2, 2, 5, 0)
    for i in range(2):  # of images of 384 pixels
        key = f"layers.3.blocks.{i}.attn.relative_position_bias_table"
        state[key] = state[key].new_empty(23 * 23, 24)
    found = ZOO.identify(state).options["arch"]
    assert found["window_size"] == 96 and found["softmax_windows"] == (12,) * 4


def test_kinds_of_attention_and_shifts():
    with torch.device("meta"):
        stages = InLineSwin("base").stages
    kinds = [[type(block.attn) for block in stage] for stage in stages]
    assert kinds[2] == [InjectiveWindowAttention] * 2 + [ShiftedWindowAttention] * 16
    assert kinds[3] == [ShiftedWindowAttention] * 2
    assert [block.attn.offset for block in stages[2][2:6]] == [0, -4, 0, -4]


def test_a_window_of_the_map_is_the_whole_map():
    window, whole = noisy(InjectiveWindowAttention(8, 2, 6, 3)), noisy(InjectiveAttention(8, 2))
    like(window, whole)
    x = torch.randn(2, 6, 4, 8).double()
    torch.testing.assert_close(window(x), whole(x))


def test_windows_do_not_mix_and_those_shifted_are_cut():
    window, whole = noisy(InjectiveWindowAttention(8, 2, 4, 2)), noisy(InjectiveAttention(8, 2))
    like(window, whole)
    x = torch.randn(1, 8, 3, 8).double()  # one window wide: there it is not shifted
    wanted = torch.cat([whole(part) for part in x.split((2, 4, 2), 1)], 1)
    torch.testing.assert_close(window(x), wanted)


def test_shifted_windows_wrap_around_as_published():
    wrapping = noisy(InjectiveWindowAttention(8, 2, 4, 2, wraps=True))
    whole = like(noisy(InjectiveAttention(8, 2)), wrapping)
    x = torch.randn(1, 8, 4, 8).double()
    wanted = torch.cat([whole(part) for part in x.roll(-2, 1).split(4, 1)], 1).roll(2, 1)
    torch.testing.assert_close(wrapping(x), wanted)


def test_quirks_matter_where_windows_are_shifted_alone():
    ours = noisy(InLineSwin(SMALL))
    theirs = like(noisy(InLineSwin(SMALL, reference_quirks=True)), ours)
    small, large = torch.randn(1, 3, 32, 24).double(), torch.randn(1, 3, 64, 64).double()
    for found, wanted in zip(theirs(small), ours(small), strict=True):
        torch.testing.assert_close(found, wanted)
    assert not torch.allclose(theirs(large)[0], ours(large)[0])


def test_merging_takes_columns_first():
    merging = noisy(SwinPatchMerging(2, 3))
    x = torch.randn(1, 2, 3, 4).double()
    padded = torch.nn.functional.pad(x, (0, 0, 0, 1))
    parts = [padded[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    wanted = merging.reduction(merging.norm(torch.cat(parts, 1).permute(0, 2, 3, 1)))
    torch.testing.assert_close(merging(x), wanted.permute(0, 3, 1, 2))


def test_any_size():
    y = noisy(InLineSwin(SMALL))(torch.randn(1, 3, 37, 50).double())
    assert [m.shape[2:] for m in y] == [(10, 13), (5, 7)] and all(m.isfinite().all() for m in y)


@torch.no_grad()
def test_memory_is_linear_in_pixels():
    backbone, found = InLineSwin(SMALL).eval(), []
    for side in (64, 256):
        with LargestTensor() as largest:
            backbone(torch.randn(1, 3, side, side))
        found.append(largest.numel)
    assert found[1] <= 16 * found[0]

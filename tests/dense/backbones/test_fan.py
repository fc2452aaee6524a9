import math

import pytest
import torch

from dense.backbones.fan import FAN, ClassAttentionBlock, UnbiasedNorm2d, fourier_positions
from dense.layers import LayerNorm2d


def test_positions_are_computed_for_any_map():
    table = fourier_positions(3, 5, torch.zeros(()))
    assert table.shape == (1, 64, 3, 5)
    y = 2 * math.pi * 2 / 3
    assert table[0, 0, 1, 4] == pytest.approx(math.sin(y), abs=1e-5)
    assert table[0, 1, 1, 4] == pytest.approx(math.cos(y), abs=1e-5)
    assert table[0, 32, 1, 4] == pytest.approx(0, abs=1e-4)  # the last column: a whole turn
    assert table[0, 35, 1, 1] == pytest.approx(math.cos(2 * math.pi * 2 / 5 / 10_000 ** (2 / 32)), abs=1e-5)


def test_without_scales_class_blocks_norm_and_double_the_patches():
    block = ClassAttentionBlock(8, 2)
    for gamma in (block.gamma1, block.gamma2):
        torch.nn.init.zeros_(gamma)
    x = torch.randn(2, 5, 8)
    normed = block.norm2(x)
    assert torch.allclose(block(x), torch.cat((normed[:, :1], 2 * normed[:, 1:]), 1))


def test_published_norm_of_hybrids_is_unbiased():
    x = torch.randn(2, 16, 3, 4)
    right, published = LayerNorm2d(16, eps=0), UnbiasedNorm2d(16, eps=0)
    assert torch.allclose(published(x), right(x) * math.sqrt(15 / 16), atol=1e-6)
    kinds = [type(m) for m in FAN.smallest(reference_quirks=True).modules()]
    assert UnbiasedNorm2d not in kinds  # this variant has no norms in its stem
    hybrid = FAN({**FAN.archs["tiny_8_hybrid"], "depth": 1}, reference_quirks=True)
    assert sum(isinstance(m, UnbiasedNorm2d) for m in hybrid.modules()) == 7


def test_sides_that_patches_do_not_divide():
    with pytest.raises(ValueError, match="multiples of 16, found 40 x 64"):
        FAN.smallest().eval()(torch.randn(1, 3, 40, 64))

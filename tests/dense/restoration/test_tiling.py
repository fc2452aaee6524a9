"""Padding and tiles: against NumPy's padding, and whole images."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dense.restoration.tiling import reflect, restore


class Network(nn.Module):
    """Looks one pixel around, doubles the image; notes the sizes that it was given."""

    scale = 2
    multiple = 4

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, padding_mode="replicate").double()
        self.sizes = []

    def forward(self, x):
        self.sizes.append(tuple(x.shape[2:]))
        return F.interpolate(self.conv(x), scale_factor=2, mode="nearest")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network()


def images(height, width, batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, 3, height, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [(5, 7), (2, 3), (1, 1), (1, 4)])
@pytest.mark.parametrize("more", [(0, 0), (3, 0), (4, 6), (17, 9)])
def test_reflect(size, more):
    x = images(*size)
    wanted = np.pad(x.numpy(), [(0, 0), (0, 0), (0, more[0]), (0, more[1])], mode="reflect")
    np.testing.assert_array_equal(reflect(x, *more).numpy(), wanted)
    if more[0] < size[0] and more[1] < size[1]:
        assert torch.equal(reflect(x, *more), F.pad(x, (0, more[1], 0, more[0]), mode="reflect"))


@pytest.mark.parametrize("size", [(8, 12), (5, 7), (1, 2)])
def test_whole_image(network, size):
    x = images(*size)
    found = restore(network, x)
    wanted = network(reflect(x, -size[0] % 4, -size[1] % 4))[..., : 2 * size[0], : 2 * size[1]]
    assert not found.requires_grad
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("size", [(21, 30), (8, 40), (16, 16)])
@pytest.mark.parametrize("tile", [4, 8, 12])
def test_tiles_equal_the_whole_where_the_network_sees_no_further(network, size, tile):
    x = images(*size)
    wanted = restore(network, x)
    network.sizes.clear()
    torch.testing.assert_close(restore(network, x, tile, 4), wanted)
    assert max(max(sizes) for sizes in network.sizes) <= tile + 8
    rows, columns = (-(-side // tile) for side in size)
    assert len(network.sizes) == rows * columns
    assert not torch.allclose(restore(network, x, tile, 0), wanted) or tile >= max(size)


def test_one_tile_is_the_whole(network):
    x = images(9, 6)
    assert torch.equal(restore(network, x, 64, 16), restore(network, x))
    assert network.sizes == [(12, 8)] * 2


def test_tiles_are_cut_from_the_padded_image(network):
    """The last tile of 12 pixels (of 9, padded) is a whole one of 4; the one before sees beyond the image."""
    restore(network, images(9, 4), 4, 4)
    assert network.sizes == [(8, 4), (12, 4), (8, 4)]


def test_a_network_of_any_size():
    class Identity(nn.Identity):
        scale = multiple = 1

    x = images(5, 7)
    assert torch.equal(restore(Identity(), x), x)
    assert torch.equal(restore(Identity(), x, 3, 1), x)


@pytest.mark.parametrize(
    ("shape", "tile", "overlap", "message"),
    [
        ((3, 8, 8), None, 0, r"\(3, 8, 8\)"),
        ((1, 3, 0, 8), None, 0, r"\(1, 3, 0, 8\)"),
        ((1, 3, 8, 8), 6, 4, "tile must be a multiple of 4 and at least 1, found 6"),
        ((1, 3, 8, 8), 0, 4, "tile .* found 0"),
        ((1, 3, 8, 8), 8, 2, "overlap must be a multiple of 4 and at least 0, found 2"),
        ((1, 3, 8, 8), 8, -4, "overlap .* found -4"),
    ],
)
def test_bad_arguments(network, shape, tile, overlap, message):
    with pytest.raises(ValueError, match=message):
        restore(network, torch.zeros(shape, dtype=torch.float64), tile, overlap)

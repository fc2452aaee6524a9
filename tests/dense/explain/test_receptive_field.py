import pytest
import torch
from torch import nn

from dense.explain.receptive_field import covered_share, effective_receptive_field, open_branches
from dense.layers import LayerScale


def test_field_of_a_convolution_is_its_kernel():
    conv = nn.Conv2d(2, 3, 3, padding=1)
    field = effective_receptive_field(conv, torch.randn(4, 2, 9, 8))
    wanted = torch.zeros(9, 8, dtype=torch.bool)
    wanted[3:6, 3:6] = True
    assert torch.equal(field > 0, wanted)
    torch.testing.assert_close(field.sum(), torch.tensor(1.0))
    assert covered_share(field, 1.0) == 9 / 72


def test_field_by_hand():
    """One channel: the field is the kernel's size, whatever the direction and the image."""
    conv = nn.Conv2d(1, 1, (1, 3), padding=(0, 1), bias=False)
    conv.weight.data = torch.tensor([1.0, -2.0, 1.0]).view(1, 1, 1, 3)
    field = effective_receptive_field(lambda x: (x, conv(x)), torch.randn(2, 1, 1, 5))
    torch.testing.assert_close(field, torch.tensor([[0.0, 0.25, 0.5, 0.25, 0.0]]))
    assert covered_share(field) == 1 / 5 and covered_share(field, 0.6) == 2 / 5


def test_share_of_an_even_field():
    assert covered_share(torch.ones(10, 10)) == 0.5
    assert covered_share(torch.ones(10, 10), 0.25) == 0.25


def test_layer_norm_does_not_hide_the_field():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.LayerNorm(8)

        def forward(self, x):
            return self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    field = effective_receptive_field(Normed(), torch.randn(2, 3, 8, 8))
    assert covered_share(field, 1.0) == 9 / 64


def test_branches_are_opened():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), LayerScale(5, 1e-6))
    images = 3 + torch.randn(16, 3, 5, 5)
    open_branches(network, images)
    assert (network[2].gamma == 1).all() and not network.training and network[1].momentum == 0.1
    y = network(images)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    assert (network[1].weight == 1).all() and (network[1].bias == 0).all()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Flatten(), r"gives \(1, 48\), wanted a map"),
        (lambda x: {}, "gives dict, wanted a map"),
        (lambda x: (0 * x,), "does not depend on the images"),
    ],
)
def test_bad_networks(network, message):
    with pytest.raises(ValueError, match=message):
        effective_receptive_field(network, torch.randn(1, 3, 4, 4))


def test_bad_part():
    with pytest.raises(ValueError, match="above 0 and at most 1, found 0"):
        covered_share(torch.ones(2, 2), 0)

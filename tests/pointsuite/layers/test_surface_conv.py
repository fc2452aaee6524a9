"""The fused layers against plain convolution, batch norm, ReLU and maximum."""

import pytest
import torch
from torch import nn

from pointsuite.layers import SurfaceConv, SurfaceEmbedding


def randomise(module):
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.normal_(norm.weight)  # negative slopes too
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return module.double()


def plain_norm(norm, x):
    return norm(x.flatten(0, -2)).view_as(x)


class PlainEmbedding(SurfaceEmbedding):
    def forward(self, features):
        return plain_norm(self.norm2, self.conv2(plain_norm(self.norm1, self.conv1(features)))).relu()


class PlainConv(SurfaceConv):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.embedding = PlainEmbedding(self.embed_channels)

    def _pool(self, x, idx, values):
        if values is not None:
            x = torch.cat([x, torch.stack([v[i] for v, i in zip(values, idx, strict=True)])], -1)
        return plain_norm(self.norm, self.conv(x)).relu().amax(2)


def same_state(a, b):
    for key, value in a.state_dict().items():
        torch.testing.assert_close(value, b.state_dict()[key], msg=key)


@pytest.mark.parametrize("training", [True, False])
def test_embedding(training):
    fused, plain = randomise(SurfaceEmbedding(8)), PlainEmbedding(8).double()
    plain.load_state_dict(fused.state_dict())
    fused.train(training), plain.train(training)
    features = torch.randn(3, 4, 5, 14).double() * torch.rand(14) + torch.randn(14)
    for _ in range(2):
        found, wanted = fused(features), plain(features)
        torch.testing.assert_close(found, wanted)
    same_state(fused, plain)
    probe = torch.randn_like(found)
    (found * probe).sum().backward(), (wanted * probe).sum().backward()
    for (name, p), q in zip(fused.named_parameters(), plain.parameters(), strict=True):
        if p.requires_grad:
            torch.testing.assert_close(p.grad, q.grad, msg=name)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("in_channels", [0, 3])
def test_layer(training, in_channels):
    fused = randomise(SurfaceConv(in_channels, 8, 8))
    plain = PlainConv(in_channels, 8, 8).double()
    plain.load_state_dict(fused.state_dict())
    fused.train(training), plain.train(training)
    features, idx = torch.randn(3, 6, 4, 14).double(), torch.randint(0, 9, (3, 6, 4))
    values = torch.randn(3, 9, in_channels).double().requires_grad_() if in_channels else None
    found, wanted = fused(features, idx, values), plain._forward(features, idx, values)
    assert found.shape == (3, 6, 8)
    torch.testing.assert_close(found, wanted)
    same_state(fused, plain)
    probe = torch.randn_like(found)
    tensors = [p for p in [*fused.parameters(), values] if p is not None and p.requires_grad]
    others = [p for p in [*plain.parameters(), values] if p is not None and p.requires_grad]
    found = torch.autograd.grad((found * probe).sum(), tensors)
    wanted = torch.autograd.grad((wanted * probe).sum(), others)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_momentum_none_is_a_plain_average():
    layer = SurfaceEmbedding(8)
    layer.norm1.momentum = None
    first, second = torch.randn(2, 4, 5, 14), torch.randn(2, 4, 5, 14)
    layer(first), layer(second)
    wanted = (layer.conv1(first).mean((0, 1, 2)) + layer.conv1(second).mean((0, 1, 2))) / 2
    torch.testing.assert_close(layer.norm1.running_mean, wanted.detach(), atol=1e-5, rtol=1e-5)


def test_autocast_follows_float32():
    layer = SurfaceConv(4, 8, 8)
    features, idx, values = torch.randn(2, 6, 4, 14), torch.randint(0, 9, (2, 6, 4)), torch.randn(2, 9, 4)
    wanted = layer(features, idx, values)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(features, idx, values)
        found.float().sum().backward()
    torch.testing.assert_close(found.float(), wanted, atol=0.2, rtol=0.05)

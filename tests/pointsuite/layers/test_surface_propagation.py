import pytest
import torch

from pointsuite.layers import SurfacePropagation

from .test_surface_conv import PlainConv, randomise


def arguments(skip):
    torch.manual_seed(0)
    features, idx = torch.randn(2, 6, 4, 14).double(), torch.randint(0, 5, (2, 6, 4))
    values = torch.randn(2, 5, 3).double().requires_grad_()
    return features, idx, values, torch.randn(2, 6, skip).double().requires_grad_() if skip else None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("skip", "widths"), [(0, ()), (0, (7,)), (5, ()), (5, (7, 6))])
def test_equals_its_parts(training, skip, widths):
    features, idx, values, of_skip = arguments(skip)
    layer = randomise(SurfacePropagation(3, 8, skip, widths, embed_channels=8)).train(training)
    conv = PlainConv(3, 8, 8).double().train(training)
    conv.load_state_dict(layer.conv.state_dict())
    wanted = conv._forward(features, idx, values)
    if skip:
        wanted = torch.cat([wanted, of_skip], -1)
    for i in range(len(widths)):
        linear, norm = layer.mlp[3 * i], layer.mlp[3 * i + 1]
        wanted = linear(wanted)
        rows = wanted.detach().flatten(0, 1)
        mean, variance = (
            (rows.mean(0), rows.var(0, correction=0)) if training else (norm.running_mean, norm.running_var)
        )
        wanted = ((wanted - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias).relu()
    found = layer(features, idx, values, of_skip)
    assert found.shape == (2, 6, [8 + skip, *widths][-1])
    torch.testing.assert_close(found, wanted)


def test_gradient_reaches_coarse_and_fine_values():
    features, idx, values, of_skip = arguments(5)
    layer = randomise(SurfacePropagation(3, 8, 5, (7,), embed_channels=8))
    layer(features, idx, values, of_skip).square().sum().backward()
    for name, tensor in [*layer.named_parameters(), ("values", values), ("skip", of_skip)]:
        if tensor.requires_grad:
            assert tensor.grad.abs().max() > 0, name

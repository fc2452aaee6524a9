import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dense.explain import explain
from dense.explain.explain import BackwardRules, Subject, undisturbed
from dense.explain.normgrad import AGGREGATES, EXTRACTS, Excitation, excite, extract_aggregate

from .test_explain import make_images, make_network


def pair(channels=3, size=(4, 5)):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, channels, *size, generator=generator, dtype=torch.double)


def terms(x, g, extract):
    """All products, as they are defined: (B, N, H, W)."""
    near = F.unfold(x, 3, padding=1).view(len(x), x.shape[1], 9, *x.shape[2:])
    products = {
        "scaling": lambda: x * g,
        "bias": lambda: g,
        "conv1x1": lambda: x[:, :, None] * g[:, None],
        "conv3x3": lambda: near[:, :, :, None] * g[:, None, None],
        "conv3x3_depthwise": lambda: near * g[:, :, None],
    }
    return products[extract]().reshape(len(x), -1, *x.shape[2:])


@pytest.mark.parametrize("extract", EXTRACTS)
@pytest.mark.parametrize("sign", [0, 1])
def test_closed_forms_are_what_products_give(extract, sign):
    x, g = pair()
    x = x.abs() if sign else x
    v = terms(x, g, extract)
    wanted = {
        "sum": v.sum(1),
        "norm": v.norm(dim=1),
        "filter_norm": v.clamp(min=0).norm(dim=1),
        "max": v.amax(1),
    }
    for aggregate in AGGREGATES:
        torch.testing.assert_close(extract_aggregate(x, g, extract, aggregate)[:, 0], wanted[aggregate])


def test_bad_phases():
    x, g = pair()
    with pytest.raises(ValueError, match="extract: found 'conv', wanted one of scaling"):
        extract_aggregate(x, g, "conv")
    with pytest.raises(ValueError, match="aggregate: found 'mean'"):
        extract_aggregate(x, g, "bias", "mean")
    with pytest.raises(ValueError, match="wanted both"):
        extract_aggregate(x, g[:, :1])


def test_linear_approximation_adds_up_to_the_score():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=False), nn.ReLU()]
    network, image = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5, bias=False)), make_images()
    score = network(image)[:, 3]
    for layer in ("", "1", "2"):
        found = explain(network, image, 3, "linear_approx", layer, resize=False)
        torch.testing.assert_close(found.sum((1, 2, 3)), score)


def test_grad_cam_of_a_constant_gradient_is_the_approximation():
    network, image = make_network(), make_images()  # a mean and a linear layer follow
    found = explain(network, image, 1, "grad_cam", "4")
    approximation = explain(network, image, 1, "linear_approx", "4", resize=False).clamp(min=0)
    assert approximation.any()
    torch.testing.assert_close(explain(network, image, 1, "grad_cam", "4", resize=False), approximation)
    assert found.shape[2:] == image.shape[2:]


def test_proper_of_an_identity_is_norm_grad():
    network, image = make_network(), make_images()
    identity = nn.Conv2d(8, 8, 1, bias=False)
    nn.init.dirac_(identity.weight)
    network.insert(4, identity)
    torch.testing.assert_close(
        explain(network, image, 1, "norm_grad_proper", "4"), explain(network, image, 1, "norm_grad", "3")
    )


def test_proper_sees_what_the_kernel_sees():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=2, groups=2)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), conv, nn.Flatten(), nn.LazyLinear(3))
    image = make_images()
    network(image)
    x = network[0](image)
    with undisturbed(network):
        ((y, g),) = Subject(network, image, 2).gradients(["1"])
    seen = F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride).norm(dim=1)
    wanted = seen.view(2, 1, *y.shape[2:]) * g.norm(dim=1, keepdim=True)
    for layer in ("1", None):  # by default the last convolution
        torch.testing.assert_close(
            explain(network, image, 2, "norm_grad_proper", layer, resize=False), wanted
        )


def test_relus_by_hand():
    x, weight = torch.tensor([-1.0, 0, 2, 3]), torch.tensor([5.0, 6, 7, -8])
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4, 1, bias=False))
    network[2].weight.data = weight[None]
    image = x.view(1, 1, 2, 2)
    for method, wanted in (
        ("gradient", [0, 0, 7, 8]),
        ("guided_backprop", [0, 6, 7, 0]),
        ("deconvnet", [5, 6, 7, 0]),
    ):
        assert explain(network, image, 0, method).flatten().tolist() == wanted, method
    assert explain(network, image, 0, "gradient_sum").flatten().tolist() == [0, 0, 7, -8]


@pytest.mark.parametrize("kind", ["relu", "relu_", "function", "module"])
def test_relus_are_found_wherever_they_are(kind):
    class Network(nn.Module):
        def forward(self, x):
            y = x * 1
            y = {
                "relu": y.relu,
                "relu_": y.relu_,
                "function": lambda: F.relu(y),
                "module": lambda: nn.ReLU()(y),
            }[kind]()
            return -y.flatten(1).sum(1, keepdim=True)

    image = make_images()
    assert explain(Network(), image, 0, "gradient").any()
    assert not explain(Network(), image, 0, "guided_backprop").any()


def test_excitation_keeps_its_sum():
    torch.manual_seed(0)
    conv, image = nn.Conv2d(3, 8, 3), make_images().abs()
    p = torch.rand(2, 8, 10, 14)
    excitation = Excitation()
    leaf = image.clone().requires_grad_()
    with BackwardRules(excitation.rules):
        y = conv(leaf)
    (back,) = torch.autograd.grad(y, leaf, p)
    assert len(excitation.products) == 1
    torch.testing.assert_close(back.sum(), p.sum(), rtol=1e-4, atol=0)
    wanted = excite(lambda x: F.conv2d(x, conv.weight.clamp(min=0)), image, p)
    torch.testing.assert_close(back, wanted)


def test_excitation_of_a_residual_network():
    network, image = make_network(), make_images()
    with torch.no_grad():
        network[0].weight.abs_()
        network[4].conv.weight.abs_()
        network[7].weight.abs_()
        for bias in (network[0].bias, network[4].conv.bias, network[7].bias):
            bias.zero_()
    found = explain(network.eval(), image.abs(), 1, "excitation_backprop", "3", resize=False)
    torch.testing.assert_close(found.sum((1, 2, 3)), torch.ones(2))
    contrast = explain(network, image.abs(), 1, "contrastive_excitation_backprop", "3", resize=False)
    torch.testing.assert_close(contrast, found)  # nothing speaks against the class
    with torch.no_grad():
        network[7].weight[1, ::2].neg_()
    found = explain(network, image.abs(), 1, "contrastive_excitation_backprop", "3", resize=False)
    named = explain(
        network, image.abs(), 1, "contrastive_excitation_backprop", "3", resize=False, contrast_layer="5"
    )
    torch.testing.assert_close(named, found)
    assert found.min() >= 0 and not torch.allclose(found, contrast)


def test_contrast_lies_after_the_layer():
    with pytest.raises(ValueError, match="layer '4'.*does not depend|layer .* the score does not depend"):
        explain(make_network(), make_images(), 1, "contrastive_excitation_backprop", "4", contrast_layer="3")


def test_meta_step():
    network, image = make_network().eval(), make_images()
    same = explain(network, image, [1, 3], "norm_grad", "4", meta_lr=0.0)
    torch.testing.assert_close(same, explain(network, image, [1, 3], "norm_grad", "4"))
    found = explain(network, image, [1, 3], "norm_grad", "4", meta_lr=0.3)
    assert not torch.allclose(found, same)
    again = make_network().eval().requires_grad_()
    F.cross_entropy(again(image[1:]), torch.tensor([3])).backward()
    with torch.no_grad():
        for p in again.parameters():
            p -= 0.3 * p.grad
    torch.testing.assert_close(found[1:], explain(again, image[1:], 3, "norm_grad", "4"))
    up = explain(network, image, [1, 3], "norm_grad", "4", meta_lr=-0.3, negate_loss=True)
    torch.testing.assert_close(up, found)


def test_fully_convolutional_scores():
    torch.manual_seed(0)
    network, image = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)), make_images()
    leaf = image.clone().requires_grad_()
    y = network(leaf)[:, 2]
    (g,) = torch.autograd.grad((y * y.detach().exp() / y.detach().exp().sum((1, 2), True)).sum(), leaf)
    torch.testing.assert_close(
        explain(network, image, 2, "gradient", start="pointing"), g.abs().amax(1, True)
    )
    (g,) = torch.autograd.grad(network(leaf)[:, 2].sum(), leaf)
    torch.testing.assert_close(explain(network, image, 2, "gradient"), g.abs().amax(1, True))
    best = network(image).mean((2, 3)).argmax(1).tolist()
    torch.testing.assert_close(explain(network, image, None), explain(network, image, best))
    assert explain(network, image, 2, meta_lr=0.1).isfinite().all()

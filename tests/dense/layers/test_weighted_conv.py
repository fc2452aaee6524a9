"""Weighted convolution: the formula, its gradients, what it takes over from nn.Conv, the swap of hosts."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dense.layers import (
    ConditionalPosition,
    ConvNorm,
    WeightedConv1d,
    WeightedConv2d,
    WeightedConv3d,
    effective_weight,
    fold_density,
    weight_convolutions,
)
from dense.layers.weighted_conv import convert_density, density_parameters
from dense.registry import MODELS
from pointsuite.engine.checkpoint import load_checkpoint, save_checkpoint

LAYERS = {1: WeightedConv1d, 2: WeightedConv2d, 3: WeightedConv3d}
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
DENSITIES = {1: (), 3: (0.6,), 5: (0.3, -0.8), 7: (0.25, 0.15, 0.55)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def image(dims, channels=4, batch=2, side=6):
    return torch.randn(batch, channels, *range(side, side + dims), dtype=torch.float64)


def naive_phi(density, dims):
    """Tap by tap."""
    n = len(density)
    by_distance = [1.0, *reversed(density)]
    phi = torch.empty([2 * n + 1] * dims, dtype=torch.float64)
    for place in itertools.product(range(2 * n + 1), repeat=dims):
        value = 1.0
        for i in place:
            value *= by_distance[abs(i - n)]
        phi[place] = value
    return phi


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("size", DENSITIES)
@pytest.mark.parametrize("dims", LAYERS)
def test_against_the_formula(dims, size, trainable):
    layer = LAYERS[dims](
        4, 6, size, 2, size // 2, 2, 2, density=DENSITIES[size], trainable=trainable
    ).double()
    with torch.no_grad():
        layer.bias.normal_()
    layer.set_density(DENSITIES[size], trainable)
    x = image(dims, side=12)
    weight = layer.weight * naive_phi(DENSITIES[size], dims)
    wanted = CONV[dims](x, weight, layer.bias, 2, size // 2, 2, 2)
    torch.testing.assert_close(layer(x), wanted)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), wanted)


@pytest.mark.parametrize("dims", LAYERS)
def test_the_list_begins_outermost(dims):
    phi = LAYERS[dims](1, 1, 7, density=(0.25, 0.15, 0.55)).phi()
    centre = (3,) * (dims - 1)
    row = torch.tensor([0.25, 0.15, 0.55, 1, 0.55, 0.15, 0.25])
    torch.testing.assert_close(phi[centre], row)
    torch.testing.assert_close(phi[(2,) * (dims - 1)], row * 0.55 ** (dims - 1))


@pytest.mark.parametrize("dims", LAYERS)
def test_ones_are_the_plain_layer(dims):
    layer, plain = LAYERS[dims](4, 6, 3, density=[1]), PLAIN[dims](4, 6, 3)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "density"})
    x = image(dims).float()
    assert torch.equal(layer(x), plain(x))


@pytest.mark.parametrize("dims", LAYERS)
def test_zeros_are_the_kernels_centre(dims):
    layer = LAYERS[dims](4, 6, 5, padding=2, density=[0, 0]).double()
    centre = layer.weight[(...,) + (slice(2, 3),) * dims]
    x = image(dims)
    torch.testing.assert_close(layer(x), CONV[dims](x, centre, layer.bias))


@pytest.mark.parametrize("dims", LAYERS)
def test_mirror(dims):
    layer = LAYERS[dims](4, 6, 3, padding=1, density=[0.4]).double()
    mirrored = copy.deepcopy(layer)
    axes = tuple(range(2, 2 + dims))
    with torch.no_grad():
        mirrored.weight.copy_(layer.weight.flip(axes))
    x = image(dims)
    torch.testing.assert_close(mirrored(x.flip(axes)), layer(x).flip(axes))


@pytest.mark.parametrize(("dims", "size"), [(1, 7), (2, 5), (2, 1), (3, 3)])
def test_gradcheck(dims, size):
    layer = LAYERS[dims](2, 2, size, padding=size // 2, groups=2, trainable=True).double()
    x = image(dims, 2, 1, 3).requires_grad_()
    names, parameters = zip(*layer.named_parameters(), strict=True)
    assert ("density" in names) == (size > 1)

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(call, (x, *parameters))


def test_gradients_by_hand():
    layer = WeightedConv1d(1, 1, 3, bias=False, density=[0.5], trainable=True)
    x = torch.tensor([[[2.0, 3.0, 7.0]]])
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[10.0, 20.0, 30.0]]]))
    y = layer(x)
    assert y.item() == 2 * 5 + 3 * 20 + 7 * 15
    y.backward()
    assert layer.weight.grad.flatten().tolist() == [1, 3, 3.5]
    assert layer.density.grad.tolist() == [2 * 10 + 7 * 30]  # both taps that it weights


@pytest.mark.parametrize("dims", LAYERS)
def test_arguments_are_those_of_the_plain_layer(dims):
    layer, plain = LAYERS[dims](4, 6, 3), PLAIN[dims](4, 6, 3)
    for name in ("stride", "padding", "dilation", "groups", "padding_mode", "kernel_size"):
        assert getattr(layer, name) == getattr(plain, name)
    assert layer.bias is not None and isinstance(layer, PLAIN[dims])
    reflecting = LAYERS[dims](4, 6, 3, padding="same", padding_mode="circular").double()
    x = image(dims)
    padded = F.pad(x, [1] * 2 * dims, mode="circular")
    wanted = CONV[dims](padded, reflecting.effective_weight(), reflecting.bias)
    torch.testing.assert_close(reflecting(x), wanted)


def test_published_defaults():
    layer = WeightedConv2d.published(4, 5, 1)
    assert layer.bias is None and layer(torch.zeros(1, 4, 6, 7)).shape == (1, 5, 8, 9)
    assert WeightedConv2d.published(4, 5, 7)(torch.zeros(1, 4, 8, 9)).shape == (1, 5, 4, 5)
    layer = WeightedConv2d.published(4, 4, 3, padding=0, bias=True, trainable=True, groups=2)
    assert layer.padding == (0, 0) and layer.bias is not None and layer.weight.shape[1] == 2


def test_usual_densities():
    fixed = {k: WeightedConv2d(1, 1, k).density.tolist() for k in DENSITIES}
    learned = {k: WeightedConv2d(1, 1, k, trainable=True).density.tolist() for k in DENSITIES}
    assert fixed == {
        k: pytest.approx(d) for k, d in {1: [], 3: [0.7], 5: [0.2, 0.8], 7: [0.25, 0.15, 0.55]}.items()
    }
    assert learned[7] == pytest.approx([0.27, 0.17, 0.54]) and learned[5] == fixed[5]


@pytest.mark.parametrize("groups", [1, 8])
def test_initial_weights(groups):
    layer = WeightedConv2d(64, 128, 5, groups=groups)
    assert layer.weight.std().item() == pytest.approx((2 / (128 * 25)) ** 0.5, rel=0.02)
    assert abs(layer.weight.mean().item()) < 1e-3 and layer.bias.abs().max() == 0


def test_parameter_counts():
    plain = sum(p.numel() for p in nn.Conv3d(3, 4, 7).parameters())
    assert sum(p.numel() for p in WeightedConv3d(3, 4, 7).parameters()) == plain
    assert sum(p.numel() for p in WeightedConv3d(3, 4, 7, trainable=True).parameters()) == plain + 3


@pytest.mark.parametrize(
    ("arguments", "density", "message"),
    [
        ((4, 6, 4), None, r"\(4, 4\)"),
        ((4, 6, (3, 5)), None, r"\(3, 5\)"),
        ((4, 6, 9), None, "kernel_size 9: give 4 numbers"),
        ((4, 6, 5), [0.7], r"kernel_size 5 must be 2 finite numbers, found \(0.7,\)"),
        ((4, 6, 1), [0.7], "kernel_size 1 must be 0 finite"),
        ((4, 6, 3), [float("nan")], "nan"),
    ],
)
@pytest.mark.parametrize("trainable", [False, True])
def test_bad_arguments(arguments, density, message, trainable):
    with pytest.raises(ValueError, match=message):
        WeightedConv2d(*arguments, density=density, trainable=trainable)


# ------------------------------------------------------------------------------------- precision, devices


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_autocast(dtype, mode):
    layer = getattr(WeightedConv2d(8, 8, 5, padding=2, trainable=True), mode)()
    x = image(2, 8).float()
    wanted = layer(x)
    with torch.autocast("cpu", dtype):
        found = layer(x)
        with torch.no_grad():
            quiet = layer(x)
    assert found.dtype == quiet.dtype == dtype
    assert (found.float() - wanted).norm() < 0.02 * wanted.norm() and torch.equal(found, quiet)
    found.float().square().sum().backward()
    assert layer.density.grad.dtype == torch.float32 and layer.density.grad.isfinite().all()


def test_half_precision_and_meta():
    layer = WeightedConv2d(8, 8, 3).bfloat16()
    assert layer(torch.zeros(1, 8, 5, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with torch.device("meta"):
        layer = WeightedConv2d(8, 8, 3, trainable=True)
        assert layer.density.is_meta and layer(torch.empty(1, 8, 5, 5)).shape == (1, 8, 3, 3)


@pytest.mark.slow
def test_compile():
    layer = WeightedConv2d(4, 6, 5, trainable=True)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = image(2).float()
    torch.testing.assert_close(compiled(x), layer(x))
    wanted = torch.autograd.grad(layer(x).sin().sum(), layer.density)
    torch.testing.assert_close(torch.autograd.grad(compiled(x).sin().sum(), layer.density), wanted)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.compile(layer.eval(), backend="aot_eager", fullgraph=True)(x), layer(x)
        )


# ---------------------------------------------------------------------------- the product that is kept


def changes():
    def step(layer):
        for parameter in layer.parameters():
            parameter.grad = torch.ones_like(parameter)
        torch.optim.SGD(layer.parameters(), 0.1).step()

    def average(layer):  # as EMAHook exchanges weights, with the call that follows it
        layer.weight.data.copy_(layer.weight.data + 1)
        layer.eval()

    def other_data(layer):
        layer.weight.data = layer.weight.data + 1

    return {
        "load": lambda layer: layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}),
        "in place": lambda layer: layer.weight.mul_(2),
        "density": lambda layer: layer.density.mul_(2),
        "density set": lambda layer: layer.set_density([0.1, 0.2]),
        "step": step,
        "average": average,
        "other data": other_data,
        "double": lambda layer: layer.double(),
        "new parameter": lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight + 1)),
        "train": lambda layer: layer.train().weight.data.add_(1),
    }


@torch.no_grad()
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("change", changes())
def test_what_is_kept_follows(change, trainable):
    layer = WeightedConv2d(4, 6, 5, trainable=trainable).eval()
    first = layer.effective_weight()
    assert layer.effective_weight() is first
    changes()[change](layer)
    found = layer.effective_weight()
    assert found is not first and torch.equal(found, layer.weight * layer.phi())


def test_what_is_kept_stays_out_of_training_and_copies():
    layer = WeightedConv2d(4, 6, 3).eval()
    assert layer.effective_weight().requires_grad and layer._kept is None
    with torch.inference_mode():
        layer(image(2).float())
    x = image(2).float().requires_grad_()
    torch.autograd.grad(layer(x).sum(), (x, layer.weight))
    with torch.no_grad():
        other = copy.deepcopy(layer)
        other.weight.zero_()
        assert other(x).abs().max() == 0 and layer(x).abs().max() > 0
    with torch.inference_mode():
        alone = WeightedConv2d(4, 6, 3).eval()  # whose tensors have no version
        first = alone(x)
        alone.weight.mul_(2)
        torch.testing.assert_close(alone(x), 2 * first)


# -------------------------------------------------------------------------------------------- whole hosts


class Host(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, 2, 3)
        self.body = nn.ModuleList(
            [ConvNorm(8, 8, 3, 1, 1), ConditionalPosition(8), nn.Conv2d(8, 8, 5, 1, 4, 2, 4)]
        )
        self.point = nn.Conv2d(8, 8, 1)
        self.even, self.flat = nn.Conv2d(8, 8, 2), nn.Conv2d(8, 8, (1, 3))
        self.up = nn.ConvTranspose2d(8, 4, 3)

    def forward(self, x):
        first, position, last = self.body
        x = position(first(self.stem(x)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.up(self.flat(self.even(self.point(last(x)))))


def reference(host, x, densities):
    """A copy whose plain kernels are multiplied beforehand."""
    host = copy.deepcopy(host)
    with torch.no_grad():
        for layer in (host.stem, host.body[0].conv, host.body[1].proj, host.body[2]):
            layer.weight *= naive_phi(densities[layer.kernel_size[0]], 2).float()
    return host(x)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("trainable", [False, True])
def test_swap(mode, trainable):
    host = getattr(Host(), mode)()
    plain, optimizer = copy.deepcopy(host), torch.optim.SGD(host.parameters(), 0.1)
    x = torch.randn(2, 3, 33, 40)
    densities = {3: [0.4], "5": [0.3, 0.8], 7: [0.2, 0.3, 0.5]}
    assert weight_convolutions(host, densities, trainable=trainable) is host
    wanted = reference(plain, x, {int(k): d for k, d in densities.items()})
    torch.testing.assert_close(host(x), wanted, rtol=1e-4, atol=1e-5)
    swapped = [name for name, m in host.named_modules() if isinstance(m, WeightedConv2d)]
    assert swapped == ["stem", "body.0.conv", "body.1.proj", "body.2"]
    assert host.training == plain.training == host.stem.training
    assert len(density_parameters(host)) == (4 if trainable else 0)
    assert optimizer.param_groups[0]["params"][0] is host.stem.weight
    extra = host.state_dict().keys() - plain.state_dict().keys()
    assert extra == {f"{name}.density" for name in swapped}

    loss = host(x).square().sum()
    for gradient in torch.autograd.grad(loss, list(host.parameters())):
        assert gradient.abs().max() > 0

    assert fold_density(host) is host
    assert not any(isinstance(m, WeightedConv2d) for m in host.modules())
    assert host.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(host(x), wanted, rtol=1e-4, atol=1e-5)


def test_folding_is_exact():
    layer = WeightedConv3d(4, 6, 3, density=[0.7])
    x = image(3).float()
    wanted = layer(x)
    with torch.no_grad():
        layer.eval()(x)
    folded = fold_density(layer)
    assert type(folded) is nn.Conv3d and torch.equal(folded(x), wanted)
    assert "density" not in repr(folded) and isinstance(folded.weight, nn.Parameter)


def test_swap_keeps_what_is_computed():
    host = Host().eval()
    x = torch.randn(1, 3, 33, 40)
    wanted = host(x)
    weight_convolutions(host, preserve_outputs=True)
    torch.testing.assert_close(host(x), wanted, rtol=1e-4, atol=1e-5)
    assert [round(d, 2) for d in host.stem.density.tolist()] == [0.25, 0.15, 0.55]


def test_swap_of_part_and_of_frozen_layers():
    host = Host().requires_grad_(False)
    weight_convolutions(host, {5: [0.3, 0.8]}, trainable=True)
    assert [type(m) for m in (host.stem, host.body[2])] == [nn.Conv2d, WeightedConv2d]
    assert not host.body[2].density.requires_grad
    single = weight_convolutions(nn.Conv1d(2, 2, 3), trainable=True)
    assert type(single) is WeightedConv1d and single.density.requires_grad


@pytest.mark.parametrize(
    ("density", "options", "message"),
    [
        ({4: [0.7]}, {}, "4"),
        ({3: [0.7], 5: [0.7]}, {}, "kernel_size 5 must be 2"),
        ({9: [1, 1, 1, 1]}, {}, r"Host has no plain convolution of the sizes \[9\]"),
        ({3: [0]}, {"preserve_outputs": True}, "with a 0"),
    ],
)
def test_bad_swaps_change_nothing(density, options, message):
    host = Host()
    before = host.state_dict().keys()
    with pytest.raises(ValueError, match=message):
        weight_convolutions(host, density, **options)
    assert host.state_dict().keys() == before


def test_state_dict(tmp_path):
    layer = WeightedConv2d(4, 6, 3, density=[0.3])
    save_checkpoint(layer.state_dict(), tmp_path / "weights.pth")
    for other in (WeightedConv2d(4, 6, 3), WeightedConv2d(4, 6, 3, trainable=True)):
        other.load_state_dict(load_checkpoint(tmp_path / "weights.pth"))  # the density comes with the weights
        x = image(2).float()
        assert torch.equal(layer(x), other(x))
    with pytest.raises(RuntimeError, match="density"):
        nn.Conv2d(4, 6, 3).load_state_dict(layer.state_dict())


def test_published_names():
    layer = WeightedConv2d(4, 6, 5, density=[0.3, 0.6])
    rows = torch.tensor([0.3, 0.6, 1, 0.6, 0.3])
    fixed = {"a.weight": layer.weight, "a.bias": layer.bias, "a.alfa": rows, "a.Phi": torch.outer(rows, rows)}
    converted = convert_density(fixed)
    assert converted.keys() == {f"a.{key}" for key in layer.state_dict()}
    torch.testing.assert_close(converted["a.density"], layer.density)
    bare = {"weight": layer.weight, "den": rows[:2], "hidden.weight": rows}
    assert convert_density(bare) == {"weight": layer.weight, "density": bare["den"], "hidden.weight": rows}


def test_effective_weight_of_any_convolution():
    plain, weighted = nn.Conv2d(2, 2, 3), WeightedConv2d(2, 2, 3, density=[0.5])
    assert effective_weight(plain) is plain.weight
    assert torch.equal(effective_weight(weighted), weighted.weight * weighted.phi())


def test_configs():
    layer = MODELS.build(
        {"type": "dense.WeightedConv2d", "in_channels": 2, "out_channels": 2, "kernel_size": 3}
    )
    assert isinstance(layer, WeightedConv2d)
    inner = {"type": "dense.ConvNet", "in_channels": 2}
    MODELS.register_module("ConvNet", module=lambda in_channels: nn.Sequential(nn.Conv2d(in_channels, 4, 3)))
    try:
        config = {"type": "dense.WeightedConvolutions", "module": inner, "density": {"3": [0.3]}}
        host = MODELS.build(config)
    finally:
        del MODELS.module_dict["ConvNet"]
    assert host[0].density.tolist() == pytest.approx([0.3])
    assert "density=[0.3]" in repr(host)


def test_mmcv_builds_it():
    from mmcv.cnn import ConvModule

    config = {"type": "dense.WeightedConv2d", "density": [0.4]}
    module = ConvModule(3, 4, 3, padding=1, conv_cfg=config, norm_cfg={"type": "BN"})
    assert isinstance(module.conv, WeightedConv2d) and module(torch.zeros(2, 3, 8, 8)).shape == (2, 4, 8, 8)

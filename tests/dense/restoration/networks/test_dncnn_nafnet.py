"""DnCNN and NAFNet, plain and with weighted convolutions."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dense
from dense.layers import WeightedConv2d
from dense.layers.weighted_conv import density_parameters
from dense.registry import MODELS, ZOO
from dense.restoration.networks.dncnn import DnCNN
from dense.restoration.networks.nafnet import NAFBlock, NAFNet
from pointsuite.engine.checkpoint import CheckpointError

PACKS = Path(__file__).parents[3] / "parity/packs/weighted_conv"
DENSITY = {3: [0.7]}
NAF = {"width": 4, "encoder_blocks": (1, 1), "middle_blocks": 1, "decoder_blocks": (1, 1)}
SMALL = {DnCNN: {"depth": 4, "channels": 6}, NAFNet: NAF}
COUNTS = [(cls, arch, {}, count) for cls in SMALL for arch, count in cls.num_parameters.items()] + [
    (DnCNN, "17", {"in_channels": 1}, 556_097)
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def noisy(module):
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point():
            with torch.no_grad():
                value.uniform_(0.5, 1.5) if name.endswith("var") else value.normal_(0, 0.3)
    return module.eval()


@pytest.mark.parametrize("density", [None, DENSITY])
@pytest.mark.parametrize(("cls", "arch", "options", "count"), COUNTS)
def test_parameter_counts(cls, arch, options, count, density):
    with torch.device("meta"):
        net = cls.create(arch, **options, density=density)
    assert sum(p.numel() for p in net.parameters()) == count
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert all(isinstance(m, WeightedConv2d) == (density is not None) for m in layers)


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("cls", SMALL)
def test_sizes_gradients_and_batches(cls, in_channels):
    net = cls(**SMALL[cls], in_channels=in_channels, density=DENSITY, trainable_density=True)
    noisy(net)
    for size in ((1, 1), (5, 9), (8, 8)):
        assert net(torch.rand(2, in_channels, *size)).shape == (2, in_channels, *size)
    x = torch.rand(3, in_channels, 9, 7)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]), rtol=1e-4, atol=1e-5)
    net.train()
    gradients = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in gradients)
    assert net.scale == 1 and net.multiple == 1
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        rough = net.eval()(x).float()
    assert (rough - net(x)).norm() < 0.05 * net(x).norm()


@pytest.mark.parametrize("cls", SMALL)
def test_twins_start_alike(cls):
    states = []
    for density in (None, DENSITY):
        torch.manual_seed(1)
        states.append(cls(**SMALL[cls], density=density).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert len(density_parameters(cls(**SMALL[cls], density=DENSITY, trainable_density=True))) > 2


def test_dncnn_against_plain_functions():
    net = noisy(DnCNN(3, 5))
    first, _, middle, norm, _, last = net.net
    x = torch.rand(2, 3, 7, 6)
    y = F.conv2d(x, first.weight, first.bias, padding=1).relu()
    y = F.conv2d(y, middle.weight, padding=1)
    y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()
    torch.testing.assert_close(net(x), x - F.conv2d(y, last.weight, last.bias, padding=1))


def test_block_against_the_formula():
    block = noisy(NAFBlock(4)).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)

    def norm(x, layer):
        mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
        normal = (x - mean) / (var + 1e-6).sqrt()
        return normal * layer.weight[:, None, None] + layer.bias[:, None, None]

    y = block.conv2(block.conv1(norm(x, block.norm1)))
    y = y[:, :4] * y[:, 4:]
    y = y * block.sca[1](y.mean((2, 3), keepdim=True))
    middle = x + block.beta * block.conv3(y)
    y = block.conv4(norm(middle, block.norm2))
    torch.testing.assert_close(block(x), middle + block.gamma * block.conv5(y[:, :4] * y[:, 4:]))


def test_fresh_blocks_change_nothing():
    x = torch.randn(1, 4, 5, 6)
    assert torch.equal(NAFBlock(4)(x), x)


def test_nafnet_fills_up_with_zeros_at_the_end():
    net = noisy(NAFNet(**SMALL[NAFNet]))
    x = torch.rand(1, 3, 6, 7)
    wanted = net(F.pad(x, (0, 1, 0, 2)))[..., :6, :7]
    assert torch.equal(net(x), wanted)


@pytest.mark.parametrize(("cls", "name"), [(DnCNN, "choice_dncnn"), (NAFNet, "choice_nafnet")])
def test_convert_official(cls, name):
    kwargs = {
        DnCNN: {"depth": 7, "channels": 16},
        NAFNet: {**SMALL[NAFNet], "width": 8},
    }[cls]
    pack = json.loads((PACKS / f"{name}.json").read_text())
    state = {key: torch.randn(shape) for key, shape, _ in pack["state_dict"]}
    net = cls(**kwargs, density=DENSITY)
    converted = net.convert_official(state)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in net.state_dict().items()}
    plain = {k: v for k, v in state.items() if not k.endswith(("alfa", "Phi"))}
    cls(**kwargs).load_state_dict(cls.convert_official(plain))


def test_unknown_keys():
    for cls in SMALL:
        with pytest.raises(CheckpointError, match="1 keys that no rule names: teacher.weight"):
            cls.convert_official({"teacher.weight": torch.zeros(1)})


@pytest.mark.parametrize("density", [None, DENSITY])
@pytest.mark.parametrize(
    ("name", "options"), [("dncnn_20", {"in_channels": 1}), ("nafnet_sidd_32", {}), ("nafnet_gopro_64", {})]
)
def test_weights_say_what_they_are(name, options, density):
    options = options if density is None else {**options, "density": {3: (0.7,)}}
    with torch.device("meta"):
        found = ZOO.identify(dense.create_model(name, **options).state_dict())
    assert (found.name, found.options) == (name, options)


@pytest.mark.parametrize(
    ("name", "system", "arch"),
    [
        ("choice_dncnn", "dncnn_17", {"depth": 7, "channels": 16}),
        ("choice_nafnet", "nafnet_gopro_32", {**NAF, "width": 8}),
    ],
)
def test_weights_of_other_sizes_say_what_they_are(name, system, arch):
    pack = json.loads((PACKS / f"{name}.json").read_text())
    found = ZOO.identify({key: torch.empty(shape, device="meta") for key, shape, _ in pack["state_dict"]})
    assert found.name == system and found.options["arch"] == arch
    assert found.options["density"] == {3: (0.7,)}


@pytest.mark.parametrize("cls", SMALL)
def test_bad_images_and_configs(cls):
    net = MODELS.build({"type": f"dense.{cls.__name__}", **SMALL[cls], "in_channels": 1})
    for shape in ((1, 3, 8, 8), (1, 8, 8)):
        with pytest.raises(ValueError, match=rf"\(B, 1, h, w\), found \({shape[0]}, {shape[1]}"):
            net(torch.zeros(shape))
    with pytest.raises(ValueError, match="depth must be at least 2, found 1"):
        DnCNN(1)
    with pytest.raises(ValueError, match=r"\(1,\) and \(1, 2\)"):
        NAFNet(4, [1], 1, [1, 2])


@pytest.mark.slow
@pytest.mark.parametrize("cls", SMALL)
def test_compile(cls):
    net = noisy(cls(**SMALL[cls], density=DENSITY))
    x = torch.rand(1, 3, 9, 7)
    torch.testing.assert_close(torch.compile(net, backend="aot_eager")(x), net(x), rtol=1e-4, atol=1e-5)

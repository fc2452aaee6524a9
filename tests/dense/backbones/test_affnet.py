"""AFFNet: its filter against plain formulas, the order in a block, options, sizes and weights."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import dense
from dense.backbones import AFFNet
from dense.backbones.affnet import (
    NORMS,
    AdaptiveFrequencyFilter,
    Block,
    GlobalUnit,
    InvertedResidual,
    StdLayerNorm2d,
    complex_blocks,
)
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError

from ..noise import noisy

PACKS = Path(__file__).parents[2] / "parity" / "packs" / "affnet"
SMALL = {
    "embed_dims": (8, 8, 16, 16, 24),
    "depths": (1, 2, 2, 1, 1),
    "expand_ratio": 2,
    "mlp_ratio": 2,
    "fuse": (True, True, False),
    "stem_dims": 8,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def maps(channels, *size, batch=2):
    return torch.randn(batch, channels, *size, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------- filter


def naive_filter(module, x):
    """Block by block in complex numbers; the outer columns of a half spectrum have their mirror's part."""
    height, width = x.shape[2:]
    spectrum = torch.fft.rfft2(x, norm="ortho")
    parts = spectrum.unflatten(1, (len(module.w1[0]), -1))
    act = {"silu": F.silu, "relu": F.relu, "gelu": F.gelu}[module.act]

    def layer(z, weight, bias):
        z = torch.einsum("bgihw,gio->bgohw", z, torch.complex(*weight))
        return z + torch.complex(*bias)[:, :, None, None]

    hidden = layer(parts, module.w1, module.b1)
    mask = layer(torch.complex(act(hidden.real), act(hidden.imag)), module.w2, module.b2)

    def shrink(v):
        return v.sign() * (v.abs() - module.threshold).clamp(min=0)

    product = torch.complex(shrink(mask.real), shrink(mask.imag)).flatten(1, 2) * spectrum
    mirrored = product[:, :, (-torch.arange(height)) % height].conj()
    for k in {0, width / 2} & set(range(width)):
        product[..., int(k)] = (product[..., int(k)] + mirrored[..., int(k)]) / 2
    return x + torch.fft.irfft2(product, (height, width), norm="ortho")


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (7, 6), (1, 5), (4, 1), (1, 1)])
@pytest.mark.parametrize("act", ["silu", "relu"])
def test_filter_against_the_formula(size, act):
    module = noisy(AdaptiveFrequencyFilter(12, 4, threshold=0.1, act=act))
    x = maps(12, *size)
    torch.testing.assert_close(module(x), naive_filter(module, x))


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_filters_that_need_no_spectrum(size):
    """A mask of 0 gives x, one of 1 gives 2 x."""
    module = noisy(AdaptiveFrequencyFilter(8))
    x = maps(8, *size)
    with torch.no_grad():
        module.w2.zero_(), module.b2.zero_()
        torch.testing.assert_close(module(x), x)
        module.b2[0] = 1 + module.threshold
        torch.testing.assert_close(module(x), 2 * x)


def test_a_shift_changes_the_mask():
    module = noisy(AdaptiveFrequencyFilter(8))
    x = maps(8, 6, 6)
    shifted = module(x.roll(1, 3)).roll(-1, 3)
    assert (shifted - module(x)).norm() > 0.01 * x.norm()


def test_complex_blocks_are_complex_products():
    weight, bias = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 3, 5).double()
    z = torch.randn(2, 3, 4, 6, 7, dtype=torch.complex128)
    wanted = torch.einsum("bgihw,gio->bgohw", z, torch.complex(*weight))
    wanted = wanted + torch.complex(*bias)[:, :, None, None]
    pairs = torch.view_as_real(z).permute(0, 1, 2, 5, 3, 4).flatten(1, 3)
    found = complex_blocks(pairs, weight, bias).unflatten(1, (3, 5, 2))
    torch.testing.assert_close(torch.complex(found[:, :, :, 0], found[:, :, :, 1]), wanted)


def test_filter_gradient():
    module = noisy(AdaptiveFrequencyFilter(4, 2, threshold=1e-4))
    x = maps(4, 3, 4, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(module, x)


@torch.no_grad()
def test_the_spectrum_stays_in_float32_under_autocast(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "dense.backbones.affnet.half_spectrum",
        lambda x: seen.append(x.dtype) or torch.fft.rfft2(x, dim=(1, 2), norm="ortho"),
    )
    module = AdaptiveFrequencyFilter(16)
    x = torch.randn(2, 16, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x.bfloat16())
    assert seen == [torch.float32] and found.dtype == torch.bfloat16
    assert (found.float() - module(x)).norm() < 0.02 * x.norm()


# ------------------------------------------------------------------------------------------ blocks and norms


@pytest.mark.parametrize("norm", NORMS)
def test_channels_are_mixed_before_positions(norm):
    block = noisy(Block(16, 2, norm=norm))
    x = maps(16, 5, 6)
    normed = block.norm1(x)
    mlp = block.mlp
    y = normed + mlp.project(F.silu(mlp.depthwise(F.silu(mlp.expand(normed)))))
    torch.testing.assert_close(block(x), x + naive_filter(block.filter, block.norm2(y)))


def test_epsilon_is_added_to_the_standard_deviation():
    norm = noisy(StdLayerNorm2d(6))
    x = 1e-5 * maps(6, 2, 3)
    deviation = (x - x.mean(1, keepdim=True)).square().mean(1, keepdim=True).sqrt()
    wanted = (x - x.mean(1, keepdim=True)) / (deviation + 1e-5)
    wanted = wanted * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), wanted)
    flat = torch.ones(1, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    norm(flat).square().sum().backward()
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize("fuse", [True, False])
def test_unit(fuse):
    unit = noisy(GlobalUnit(16, [0.0, 0.0], fuse, act="silu", norm="layer_norm_2d", mlp_ratio=2))
    x = maps(16, 4, 5)
    y = unit.proj(unit.norm(unit.blocks[1](unit.blocks[0](x))))
    wanted = F.silu(unit.fuse(torch.cat((x, y), 1))) if fuse else y
    torch.testing.assert_close(unit(x), wanted)


def test_inverted_residuals():
    plain = InvertedResidual(12, 12, 1)
    assert plain.expand is None and plain.adds
    assert not InvertedResidual(12, 12, 2, stride=2).adds and not InvertedResidual(12, 16, 2).adds
    widths = [InvertedResidual(c, 8, 1.5).depthwise.conv.in_channels for c in (4, 8, 12, 14)]
    assert widths == [8, 16, 24, 24]  # of 6, 12, 18, 21; 16 were less than 0.9 of 18


# ------------------------------------------------------------------------------------ the whole network


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (1, 1)])
@torch.no_grad()
def test_sizes(size):
    net = noisy(AFFNet(SMALL))
    found = net(maps(3, *size, batch=1))
    for y, stride, channels in zip(found, (2, 4, 8, 16, 32), SMALL["embed_dims"], strict=True):
        assert y.shape == (1, channels, *[-(-side // stride) for side in size]) and y.isfinite().all()


@pytest.mark.parametrize(
    ("output_stride", "strides", "dilation"), [(16, (2, 4, 8, 16, 16), 1), (8, (2, 4, 8, 8, 8), 2)]
)
def test_output_stride(output_stride, strides, dilation):
    net = AFFNet(SMALL, output_stride=output_stride).eval()
    assert net.strides == strides
    last = net.downsamples[4].depthwise.conv
    assert last.stride == (1, 1) and last.dilation == (dilation, dilation)
    shapes = [tuple(y.shape[2:]) for y in net(torch.randn(1, 3, 64, 96))]
    assert shapes == [(64 // stride, 96 // stride) for stride in strides]
    assert net.state_dict().keys() == AFFNet(SMALL).state_dict().keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attn_norm": "rms"}, r"attn_norm must be one of .*, found 'rms'"),
        ({"act": "tanh"}, r"act must be one of \['relu', 'gelu', 'silu'.*, found 'tanh'"),
        ({"output_stride": 4}, r"output_stride must be one of \[8, 16, 32\], found 4"),
        ({"num_blocks": 5}, "num_blocks must divide the 16 channels, found 5"),
        ({"arch": {**SMALL, "depths": (1, 1)}}, r"the number of depths must be one of \[5\], found 2"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        AFFNet(**{"arch": SMALL, **options})


def published(network):
    """Weights under their published names, all alike."""
    names = {".expand.": ".block.exp_1x1.block.", ".depthwise.": ".block.conv_3x3.block."}
    names |= {".project.": ".block.red_1x1.block.", ".blocks.": ".global_rep.", "head.fc": "classifier.fc"}
    names |= {".proj.": ".conv_proj.block.", ".fuse.": ".fusion.block.", "head.conv.": "conv_1x1_exp.block."}
    names |= {"backbone.downsamples.0.": "conv_1.block.", "backbone.stages.0.": "layer_1."}
    names |= {"backbone.downsamples.1.": "layer_2.0."}
    names |= {f"backbone.stages.1.{i}.": f"layer_2.{i + 1}." for i in reversed(range(9))}
    for i in range(2, 5):
        names |= {f"backbone.downsamples.{i}.": f"layer_{i + 1}.0."}
        depth = len(network.backbone.stages[i][0].blocks)
        names |= {f"backbone.stages.{i}.0.norm.": f"layer_{i + 1}.1.global_rep.{depth}."}
        names |= {f"backbone.stages.{i}.0.": f"layer_{i + 1}.1."}
    found = {}
    for key, value in network.state_dict().items():
        for old, new in names.items():
            key = key.replace(old, new)
        found[key] = torch.zeros((), dtype=value.dtype).expand(value.shape)
    return found


@pytest.mark.parametrize("arch", AFFNet.archs)
def test_identification(arch):
    with torch.device("meta"):
        state = published(dense.create_model(f"affnet_{arch}"))
    found = ZOO.identify(state)
    assert (found.name, found.options) == (f"affnet_{arch}", {"num_classes": 1000})


def test_identification_of_other_shapes_and_norms():
    with torch.device("meta"):
        net = AFFNet.create(SMALL, num_classes=7, attn_norm="batch_norm", num_blocks=4)
    found = ZOO.identify(published(net))
    assert found.options == {"num_classes": 7, "attn_norm": "batch_norm", "num_blocks": 4, "arch": SMALL}


def test_conversion_of_the_published_names():
    state = {
        key: torch.randn(shape)
        for key, shape, _ in json.loads((PACKS / "affnet_et.json").read_text())["state_dict"]
    }
    with torch.device("meta"):
        wanted = dense.create_model("affnet_et").state_dict()
    converted = AFFNet.convert_official(state)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in wanted.items()}
    with pytest.raises(CheckpointError, match="stem.weight"):
        AFFNet.convert_official({"stem.weight": torch.zeros(1)})


def test_initial_weights():
    net = AFFNet.create(SMALL, num_classes=200)
    for name, parameter in net.named_parameters():
        if ".filter." in name:
            continue
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif ".conv." in name and parameter.numel() > 400:
            std = (2 / (len(parameter) * parameter[0, 0].numel())) ** 0.5
            assert parameter.std().item() == pytest.approx(std, rel=0.2), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
    assert net.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.05)
    big = AdaptiveFrequencyFilter(256)
    assert all(p.std().item() == pytest.approx(0.02, rel=0.15) for p in big.parameters())


def test_drop_paths_rise():
    net = AFFNet(SMALL, drop_path_rate=0.3)
    rates = [block.drop_path.rate for stage in net.stages[2:] for block in stage[0].blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])

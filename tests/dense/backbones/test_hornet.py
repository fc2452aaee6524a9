"""HorNet: its operators against plain formulas, its variants, flags and conversion."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import dense
from dense.backbones import HorNet
from dense.backbones.hornet import Block, GlobalLocalFilter, GnConv
from pointsuite.engine.checkpoint import CheckpointError

from ..noise import noisy

PACKS = Path(__file__).parents[2] / "parity" / "packs" / "hornet"
TINY_GF = {
    "embed_dims": (16, 32, 64, 128),
    "depths": (1, 1, 1, 1),
    "orders": (2, 3, 4, 5),
    "filter_sizes": (None, None, (14, 8), (7, 4)),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pointwise(linear, x):
    """A linear layer as a 1x1 convolution of (B, C, H, W)."""
    return F.conv2d(x, linear.weight[:, :, None, None], linear.bias)


def naive_gnconv(module, x, scale):
    """Section by section, channels first."""
    u = pointwise(module.proj_in, x)
    p, q = u[:, : module.widths[0]], u[:, module.widths[0] :]
    weight, bias = module.filter.weight, module.filter.bias
    d = (scale * F.conv2d(q, weight, bias, padding=3, groups=len(weight))).split(module.widths, 1)
    z = p * d[0]
    for project, gate in zip(module.projections, d[1:], strict=True):
        z = pointwise(project, z) * gate
    return pointwise(module.proj_out, z)


def naive_filter(module, x):
    """The global filter by sums over positions and frequencies: (B, H, W, C) float64, (h, w) as (H, W)."""
    height, width = x.shape[1:3]
    weight = torch.view_as_complex(module.global_filter)
    rows, columns = torch.arange(height).double(), torch.arange(width).double()
    along_h = torch.polar(torch.ones(()).double(), -2 * torch.pi * torch.outer(rows, rows) / height)
    along_w = torch.polar(torch.ones(()).double(), -2 * torch.pi * torch.outer(columns, columns) / width)
    spectrum = torch.einsum("kh,lw,bhwc->bklc", along_h, along_w, x.to(along_h.dtype))
    half = width // 2 + 1
    product = spectrum[:, :, :half] * weight
    back = torch.einsum("hk,bklc->bhlc", along_h.conj(), product) / height
    total = torch.zeros_like(x)
    for k in range(half):  # a real signal's other half is the mirror of this one
        twice = 1 if k == 0 or 2 * k == width else 2
        total += twice * (back[:, :, None, k] * along_w.conj()[None, None, :, k, None]).real / width
    return total


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_gnconv_against_the_formula(order):
    module = noisy(GnConv(32, order, scale=0.7))
    x = torch.randn(2, 32, 9, 6).double()
    found = module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, naive_gnconv(module, x, 0.7))


def test_gnconv_of_order_one_gates_once():
    module = noisy(GnConv(8, 1, scale=0.5))
    x = torch.randn(1, 5, 4, 8).double()
    u = F.linear(x, module.proj_in.weight, module.proj_in.bias)
    torch.testing.assert_close(module(x), module.proj_out(u[..., :8] * module.filter(u[..., 8:])))


@pytest.mark.parametrize("order", [1, 3, 4])
def test_gnconv_is_a_polynomial(order):
    module = noisy(GnConv(16, order))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    x = torch.randn(1, 5, 7, 16).double()
    torch.testing.assert_close(module(1.3 * x), 1.3 ** (order + 1) * module(x))


def test_gnconv_gradient():
    module = noisy(GnConv(8, 3, filter_size=(4, 3)))
    x = torch.randn(1, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (7, 6), (1, 5), (4, 1), (1, 1)])
def test_global_filter_against_sums(size):
    module = noisy(GlobalLocalFilter(6, (size[0], size[1] // 2 + 1)))
    x = torch.randn(2, *size, 3).double()
    torch.testing.assert_close(module.filter_globally(x), naive_filter(module, x))


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_global_filter_takes_the_hermitian_part(size):
    height, width = size
    module = noisy(GlobalLocalFilter(6, (height, width // 2 + 1)))
    x = torch.randn(1, *size, 3).double()
    product = torch.fft.rfft2(x, dim=(1, 2)) * torch.view_as_complex(module.global_filter)
    mirrored = product[:, (-torch.arange(height)) % height].conj()
    for k in {0, width / 2} & set(range(width)):
        product[:, :, int(k)] = (product[:, :, int(k)] + mirrored[:, :, int(k)]) / 2
    wanted = torch.fft.irfft2(product, size, dim=(1, 2))
    torch.testing.assert_close(module.filter_globally(x), wanted)


def test_a_filter_of_ones_changes_nothing():
    module = GlobalLocalFilter(6, (5, 4)).double()
    with torch.no_grad():
        module.global_filter.copy_(torch.tensor([1.0, 0.0]))
    x = torch.randn(2, 5, 7, 3).double()
    torch.testing.assert_close(module.filter_globally(x), x)
    other = torch.randn(2, 9, 4, 3).double()  # resized, too
    torch.testing.assert_close(module.filter_globally(other), other)


def test_a_real_even_filter_is_a_symmetric_circular_convolution():
    height, width = 5, 6
    kernel = torch.randn(height, width, 2).double()
    kernel = kernel + kernel.flip(0, 1).roll((1, 1), (0, 1))  # symmetric about (0, 0)
    spectrum = torch.fft.rfft2(kernel, dim=(0, 1))
    assert spectrum.imag.abs().max() < 1e-12
    module = GlobalLocalFilter(4, (height, width // 2 + 1)).double()
    with torch.no_grad():
        module.global_filter.copy_(torch.view_as_real(spectrum))
    x = torch.randn(1, height, width, 2).double()
    wanted = sum(kernel[i, j] * x.roll((i, j), (1, 2)) for i in range(height) for j in range(width))
    torch.testing.assert_close(module.filter_globally(x), wanted)


def test_the_filter_is_resized_bilinearly():
    module = GlobalLocalFilter(6, (7, 4))
    assert torch.equal(module.resized_filter((7, 4)), torch.view_as_complex(module.global_filter))
    found = module.resized_filter((13, 7))
    # with corners aligned, every second value of twice the grid is an old one, those between are means
    old = torch.view_as_complex(module.global_filter.detach())
    torch.testing.assert_close(found[::2, ::2], old)
    torch.testing.assert_close(found[1::2, ::2], (old[1:] + old[:-1]) / 2)
    torch.testing.assert_close(found[::2, 1::2], (old[:, 1:] + old[:, :-1]) / 2)


def test_filter_alternates_local_and_global_channels():
    module = noisy(GlobalLocalFilter(6, (5, 4), scale=0.5))
    with torch.no_grad():
        module.post_norm.weight.fill_(1), module.post_norm.bias.zero_()
    x = torch.randn(2, 5, 7, 6).double()
    normed = F.layer_norm(x, (6,), module.pre_norm.weight, module.pre_norm.bias, 1e-6)
    local = F.conv2d(
        normed[..., :3].permute(0, 3, 1, 2), module.local_filter.weight, padding=1, groups=3
    ).permute(0, 2, 3, 1)
    both = torch.empty_like(x)
    both[..., 0::2], both[..., 1::2] = local, naive_filter(module, normed[..., 3:])
    both = (both - both.mean(-1, keepdim=True)) / (both.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    found = module(x)
    torch.testing.assert_close(found, both / 2)
    torch.testing.assert_close(found.mean(-1), torch.zeros(2, 5, 7).double())


@torch.no_grad()
def test_the_spectrum_stays_in_float32_under_autocast():
    module = GlobalLocalFilter(64, (14, 8))
    seen = []
    filter_globally = module.filter_globally
    module.filter_globally = lambda x: seen.append(x.dtype) or filter_globally(x)
    x = torch.randn(2, 14, 14, 64)
    wanted = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x.bfloat16())
    assert seen == [torch.float32] * 2
    assert (found.float() - wanted).norm() < 0.02 * wanted.norm()
    assert module.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert seen[-1] == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (75, 101), (32, 33), (224, 160)])
def test_global_filters_take_any_size(size):
    network = HorNet(TINY_GF, layer_scale_init=0).eval()
    x = torch.randn(2, 3, *size)
    maps = network(x)
    assert [y.shape[2:] for y in maps] == [tuple(s // stride for s in size) for stride in network.strides]
    for y, alone in zip(maps, network(x[1:]), strict=True):
        torch.testing.assert_close(y[1:], alone, rtol=1e-5, atol=1e-5)


def test_global_filters_get_gradients():
    network = HorNet(TINY_GF, layer_scale_init=1.0, drop_path_rate=0.0)
    sum((y * torch.randn_like(y)).sum() for y in network(torch.randn(2, 3, 64, 64))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.slow
@torch.no_grad()
def test_global_filters_compile():
    network = HorNet(TINY_GF, layer_scale_init=1.0).eval()
    x = torch.randn(1, 3, 64, 64)
    compiled = torch.compile(network, backend="aot_eager")
    for found, wanted in zip(compiled(x), network(x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_outputs_are_normed():
    for y in HorNet(TINY_GF).eval()(torch.randn(2, 3, 64, 96)):
        torch.testing.assert_close(y.mean(1), torch.zeros_like(y[:, 0]), rtol=0, atol=1e-5)
        torch.testing.assert_close(y.var(1, unbiased=False), torch.ones_like(y[:, 0]), rtol=0, atol=1e-2)


def official(name):
    pack = json.loads((PACKS / f"{name}.json").read_text())
    return {key: torch.randn(shape) for key, shape, _ in pack["state_dict"]}


@pytest.mark.parametrize("arch", ["tiny_7x7", "tiny_gf"])
def test_convert_official(arch):
    with torch.device("meta"):
        network = dense.create_model(f"hornet_{arch}")
    state = official(f"hornet_{arch}")
    converted = network.convert_official(state)
    assert len(converted) == len(state)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in network.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_convert_official_dense(prefix):
    state = {
        prefix + key: value
        for key, value in official("hornet_tiny_gf").items()
        if not key.startswith(("norm.", "head."))
    }
    for i in range(4):
        for name in ("weight", "bias"):
            state[f"{prefix}norm{i}.{name}"] = torch.randn(64 * 2**i)
    with torch.device("meta"):
        network = dense.create_model("hornet_tiny_gf", features_only=True)
    converted = {k.removeprefix("backbone."): v for k, v in network.convert_official(state).items()}
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in network.state_dict().items()}


def test_convert_official_refuses_other_files():
    with pytest.raises(CheckpointError, match="stem.weight"):
        HorNet.convert_official({"stem.weight": torch.zeros(1)})


def test_initial_weights():
    network = dense.create_model("hornet_tiny_gf", num_classes=500)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0, name
        elif "gamma" in name:
            assert torch.all(parameter == 1e-6)
        elif "norm" in name.split(".")[-2] or "downsamples.0.1." in name:
            assert torch.all(parameter == 1), name
        elif parameter.ndim > 1 and parameter.numel() > 5000:
            assert abs(parameter.std().item() / 0.02 - 1) < 0.05, name


def test_initial_weights_after_glorot():
    network = HorNet(TINY_GF, xavier_init=True)
    weight = network.stages[3][0].mlp.fc1.weight  # (512, 128)
    bound = (6 / (512 + 128)) ** 0.5
    assert 0.99 * bound < weight.abs().max() <= bound
    assert network.stages[3][0].mlp.fc1.bias.abs().max() == 0


@pytest.mark.parametrize("xavier_init", [False, True])
def test_head_init_scale(xavier_init):
    heads = []
    for scale in (1.0, 0.1):
        torch.manual_seed(0)
        heads.append(HorNet(TINY_GF, head_init_scale=scale, xavier_init=xavier_init).make_head(10))
    plain, scaled = heads
    torch.testing.assert_close(scaled.fc.weight, 0.1 * plain.fc.weight)
    for head in heads:
        torch.manual_seed(1)
        head.reset(10)  # fresh weights are drawn in the same way
    torch.testing.assert_close(scaled.fc.weight, 0.1 * plain.fc.weight)


def test_layer_scale_can_be_left_out():
    network = HorNet(TINY_GF, layer_scale_init=0)
    assert not [name for name in network.state_dict() if "gamma" in name]


def test_both_branches_of_a_block():
    block = noisy(Block(16, drop_path_rate=0.0, layer_scale_init=1e-6, order=2, scale=1 / 3))
    x = torch.randn(2, 6, 5, 16).double()
    y = x + block.gamma1 * block.gnconv(block.norm1(x))
    y = y + block.gamma2 * block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(y))))
    torch.testing.assert_close(block(x), y)


def test_drop_path_rises_over_all_blocks():
    network = HorNet(TINY_GF | {"depths": (1, 2, 1, 1)}, drop_path_rate=0.4)
    blocks = [block for stage in network.stages for block in stage]
    rates = [(block.drop_path1.rate, block.drop_path2.rate) for block in blocks]
    assert rates == [(pytest.approx(r), pytest.approx(r)) for r in (0, 0.1, 0.2, 0.3, 0.4)]


def test_gate_scale():
    network = HorNet(TINY_GF, gate_scale=0.25)
    assert {block.gnconv.filter.scale for stage in network.stages for block in stage} == {0.25}
    assert HorNet(TINY_GF).stages[0][0].gnconv.filter.scale == 1 / 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GnConv(36, order=4), "36 with order 4"),
        (lambda: GlobalLocalFilter(7, (4, 3)), "found 7"),
        (lambda: HorNet(TINY_GF)(torch.zeros(1, 3, 31, 64)), "32 x 32, found 31 x 64"),
        (lambda: HorNet(TINY_GF).forward_features(torch.zeros(1, 3, 64, 31)), "32 x 32, found 64 x 31"),
        (lambda: HorNet(TINY_GF, out_indices=(0,))(torch.zeros(1, 3, 3, 4)), "4 x 4, found 3 x 4"),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()

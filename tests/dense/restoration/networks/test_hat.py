"""HAT: its attention against loops and against the published roll and mask; variants, flags, weights."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

import dense
from dense.layers import PositionBias
from dense.layers import ShiftedWindowAttention as WindowAttention
from dense.registry import ZOO
from dense.restoration.networks.hat import (
    HAT,
    ConvolutionBlock,
    HybridBlock,
    OverlappingBlock,
)
from dense.restoration.tiling import restore
from pointsuite.engine.checkpoint import CheckpointError, find_state_dict, load_checkpoint, save_checkpoint

from ...memory import LargestTensor

PACKS = Path(__file__).parents[3] / "parity" / "packs" / "hat"
SMALL = {"embed_dims": 12, "depths": (2, 1), "num_heads": (2, 3), "compress_ratio": 3, "squeeze_factor": 6}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def noisy(module):
    """Weights large enough that every one counts, in float64."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3)
    return module.double().eval()


def network(scale=2, **kwargs):
    return noisy(HAT(SMALL, scale, window_size=4, conv_scale=0.5, **kwargs))


def images(*size, batch=2, channels=3):
    return torch.rand(batch, channels, *size, dtype=torch.float64)


def like(module, other):
    """``other`` with the weights of ``module``."""
    other.load_state_dict(module.state_dict())
    return other


# ------------------------------------------------------------------------------------------- attention


def published_shifted_attention(module, x, window, shift):
    """Roll the map, cut windows, subtract 100 from what does not belong together, roll back."""
    batch, height, width, channels = x.shape
    heads = module.num_heads

    def cut(x):
        x = x.view(batch, height // window, window, width // window, window, -1).transpose(2, 3)
        return x.reshape(-1, window * window, x.shape[-1])

    labels = torch.zeros(1, height, width, 1)
    for axis, side in ((1, height), (2, width)):
        place = torch.arange(side)
        region = (place >= side - window).int() + (place >= side - shift).int()
        labels += (1, 3)[axis - 1] * region.view([-1 if i == axis else 1 for i in range(4)])
    labels = labels.expand(batch, -1, -1, -1)
    q, k, v = cut(module.qkv(x).roll((-shift, -shift), (1, 2))).unflatten(-1, (3, heads, -1)).unbind(2)
    label = cut(labels)[..., 0]
    logits = torch.einsum("wnhd,wmhd->whnm", q, k) * q.shape[-1] ** -0.5
    logits = logits + module.bias().reshape(heads, window**2, window**2)
    logits = logits - 100.0 * (label[:, :, None] != label[:, None]).double()[:, None]
    y = torch.einsum("whnm,wmhd->wnhd", logits.softmax(-1), v).flatten(2)
    y = y.view(batch, height // window, width // window, window, window, channels).transpose(2, 3)
    return module.proj(y.reshape(x.shape).roll((shift, shift), (1, 2)))


@pytest.mark.parametrize(("window", "size"), [(4, (8, 12)), (4, (4, 4)), (4, (4, 8)), (5, (10, 5))])
def test_shifted_windows_equal_the_published_roll_and_mask(window, size):
    module = noisy(WindowAttention(6, 2, window, window // 2))
    x = torch.randn(2, *size, 6).double()
    torch.testing.assert_close(module(x), published_shifted_attention(module, x, window, window // 2))


def test_position_bias_reads_the_table_by_key_minus_query():
    bias = PositionBias(2, 3, 5)
    y, table = bias(), bias.table
    for qy, qx, ky, kx in product(range(3), range(3), range(5), range(5)):
        assert torch.equal(y[:, qy, qx, ky, kx], table[:, ky - qy + 2, kx - qx + 2])


@pytest.mark.parametrize(("window", "keys"), [(16, 24), (4, 6), (4, 5), (4, 4), (7, 10)])
def test_published_tables_are_put_in_order(window, keys):
    """The published index of the overlapping attention wraps around the end of its table."""
    own, side = 2 * window - 1, window + keys - 1
    table, wrapped = torch.randn(own**2, 2), torch.randn(side**2, 2)
    group = "layers.0.residual_group."
    state = HAT.convert_official(
        {
            f"{group}overlap_attn.relative_position_bias_table": wrapped,
            f"{group}blocks.0.attn.relative_position_bias_table": table,
        }
    )
    bias, overlapping = PositionBias(2, window), PositionBias(2, window, keys)
    bias.load_state_dict({"table": state["groups.0.blocks.0.attn.bias.table"]})
    overlapping.load_state_dict({"table": state["groups.0.overlap.bias.table"]})

    def differences(side):
        query, key = torch.arange(window)[:, None], torch.arange(side)
        difference = key - query
        return difference[:, None, :, None], difference[None, :, None, :]  # (M, M, K, K), each

    dy, dx = differences(window)
    wanted = table[(window - 1 - dy) * own + window - 1 - dx]
    assert torch.equal(bias(), wanted.permute(4, 0, 1, 2, 3))
    dy, dx = (difference + window - keys + 1 for difference in differences(keys))
    index = dy * side + dx
    assert torch.equal(overlapping(), wrapped[index].permute(4, 0, 1, 2, 3))  # negative ones from the end
    assert len(index.unique()) == len((index % side**2).unique()) == side**2
    assert (index.min() < 0) == (keys > 2)


def test_without_overlap_one_window_is_window_attention():
    block = noisy(OverlappingBlock(8, 2, 4, overlap_ratio=0.0))
    attention = noisy(WindowAttention(8, 2, 4))
    attention.load_state_dict(
        {k: v for k, v in block.state_dict().items() if k.startswith(("qkv", "proj", "bias"))}
    )
    x = torch.randn(2, 4, 4, 8).double()
    y = x + attention(block.norm1(x))
    torch.testing.assert_close(block(x), y + block.mlp(block.norm2(y)))


def test_shift_changes_nothing_in_a_constant_image():
    shifted = noisy(WindowAttention(8, 2, 4, 2))
    x = torch.randn(1, 1, 1, 8).double().expand(1, 8, 12, 8)
    torch.testing.assert_close(shifted(x), like(shifted, noisy(WindowAttention(8, 2, 4)))(x))


def test_windows_move_with_the_image():
    attention = noisy(WindowAttention(8, 2, 4))
    shifted = noisy(WindowAttention(8, 2, 4, 2))
    overlapping = noisy(OverlappingBlock(8, 2, 4))
    x = torch.randn(1, 20, 16, 8).double()
    moved = x.roll((4, 8), (1, 2))
    torch.testing.assert_close(attention(moved), attention(x).roll((4, 8), (1, 2)))
    for module, border in ((shifted, 2), (overlapping, 4)):
        found, wanted = module(moved), module(x).roll((4, 8), (1, 2))
        inside = (slice(None), slice(4 + border, -border), slice(8 + border, -border))
        torch.testing.assert_close(found[inside], wanted[inside])
        assert not torch.allclose(found, wanted)


def test_convolution_block():
    block = noisy(ConvolutionBlock(6, 3, 2, scale=0.5))
    x = torch.randn(2, 6, 5, 4).double()
    maps, factors = block(x)
    torch.testing.assert_close(maps, block.expand(nn.functional.gelu(block.compress(x))))
    pooled = maps.mean((2, 3))
    squeezed = (pooled @ block.attention["1"].weight[:, :, 0, 0].T + block.attention["1"].bias).clamp(min=0)
    wanted = (
        0.5 * (squeezed @ block.attention["3"].weight[:, :, 0, 0].T + block.attention["3"].bias).sigmoid()
    )
    torch.testing.assert_close(factors[..., 0, 0], wanted)


def test_the_convolution_is_never_dropped():
    block = noisy(HybridBlock(6, 2, 2, compress_ratio=2, squeeze_factor=2, drop_path_rate=0.9)).train()
    x = torch.randn(50, 4, 4, 6).double()
    maps, factors = block.conv(block.norm1(x).permute(0, 3, 1, 2))
    alone = x + (maps * factors).permute(0, 2, 3, 1)
    same = (block(x) - alone).abs().amax((1, 2, 3)) < 1e-12
    assert 25 <= same.sum() < 50  # of about 0.81 samples both other branches are dropped


# --------------------------------------------------------------------------------------------- network


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("arch", "double", "triple"),
    [("hat_s", 9_473_471, 9_658_111), ("hat", 20_624_795, 20_809_435), ("hat_l", 40_698_863, 40_883_503)],
)
def test_parameters_of_other_scales(arch, double, triple):
    with torch.device("meta"):
        counts = [count(HAT(arch, scale)) for scale in (2, 3, 4)]
    assert counts == [double, triple, HAT.num_parameters[arch]]


def test_names():
    assert dense.list_models("hat*") == ["hat", "hat_l", "hat_s"]
    with torch.device("meta"):
        model = dense.create_model("hat_s", scale=2, qkv_bias=False)
    assert model.scale == 2 and len(model.groups) == 6


@torch.no_grad()
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_forward(scale, channels):
    model = network(scale, in_channels=channels)
    x = images(8, 12, channels=channels)
    y = model(x)
    assert y.shape == (2, channels, scale * 8, scale * 12)
    assert y.isfinite().all() and y.std() > 0
    assert torch.equal(model(x), y)
    for i in range(2):
        torch.testing.assert_close(model(x[i : i + 1]), y[i : i + 1])
    assert (model.mean.flatten() == 0).all() == (channels == 1)


@torch.no_grad()
def test_scale_1_adds_to_the_image():
    model = network(1)
    nn.init.zeros_(model.conv_last.weight)
    nn.init.zeros_(model.conv_last.bias)
    x = images(4, 8)
    torch.testing.assert_close(model(x), x)


@torch.no_grad()
def test_image_range():
    plain, wide = network(), network(img_range=255.0)
    like(plain, wide)
    x, mean = images(4, 4), plain.mean
    torch.testing.assert_close(wide((x - mean) / 255 + mean), (plain(x) - mean) / 255 + mean)


@torch.no_grad()
def test_inference_equals_training_and_half_precision_follows():
    model = HAT(SMALL, 2, window_size=4).eval()
    x = images(8, 12).float()
    with torch.enable_grad():
        wanted = model(x).detach()
    torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.double()(x.double()).float(), wanted, rtol=1e-4, atol=1e-5)
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x)
    assert ((found.float() - wanted).norm() / wanted.norm()) < 0.02


def gradients(model, x):
    torch.manual_seed(0)
    y = model(x)
    parameters = dict(model.named_parameters())
    return dict(zip(parameters, torch.autograd.grad((y * y).sum(), list(parameters.values())), strict=True))


@pytest.mark.parametrize("scale", [1, 2])
def test_every_parameter_gets_a_gradient_and_checkpointing_changes_none(scale):
    model = network(scale, drop_path_rate=0.3, ape=True, img_size=8).train()
    found = gradients(model, images(8, 8))
    for name, gradient in found.items():
        assert gradient.isfinite().all() and gradient.abs().max() > 0, name
    saving = network(scale, drop_path_rate=0.3, ape=True, img_size=8, with_cp=True).train()
    torch.manual_seed(1)
    x = images(8, 8)
    wanted = gradients(model, x)
    for name, gradient in gradients(like(model, saving), x).items():
        torch.testing.assert_close(gradient, wanted[name], msg=name)


@torch.no_grad()
def test_memory_is_linear_in_pixels():
    model, found = HAT(SMALL, 1, window_size=16).eval(), []
    for side in (64, 256):
        with LargestTensor() as largest:
            model(torch.rand(1, 3, side, side))
        found.append(largest.numel)
    assert found[1] <= 16 * found[0]
    assert found[1] <= 4 * 12 * 256**2  # queries, keys, values; or these two with zeros around


@torch.no_grad()
def test_maps_stay_channels_last():
    model, maps = network(1).float(), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_hook(lambda module, inputs, y: maps.append((module, inputs[0], y)))
    model(images(8, 12).float())
    assert len(maps) == 11
    for _, x, y in maps[:-1]:  # of the last only the input is long
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@torch.no_grad()
def test_compile():
    model = noisy(HAT({**SMALL, "depths": (2,), "num_heads": (2,)}, 2, window_size=4))
    x = images(8, 8)
    compiled = torch.compile(model, backend="aot_eager")  # the default one wants a C++ compiler
    torch.testing.assert_close(compiled(x), model(x))


# ----------------------------------------------------------------------------------------------- flags


@torch.no_grad()
@pytest.mark.parametrize("scale", [1, 2])
def test_padding_of_keys_is_left_out_unless_as_published(scale):
    ours, published = network(scale), network(scale, reference_quirks=True)
    like(ours, published)
    x = images(8, 12)
    assert not torch.allclose(ours(x), published(x))
    for kwargs, wanted in (
        ({"ocab_pad_keys": True}, published),
        ({"ocab_pad_keys": False, "reference_quirks": True}, ours),
        ({"overlap_ratio": 0.5}, ours),
    ):
        assert torch.equal(like(ours, network(scale, **kwargs))(x), wanted(x))


@torch.no_grad()
def test_padding_of_keys_matters_at_the_border_only():
    ours, published = (noisy(OverlappingBlock(8, 2, 4, pad_keys=pad)) for pad in (False, True))
    x = torch.randn(1, 12, 12, 8).double()
    changed = ((ours(x) - like(ours, published)(x)).abs() > 1e-9).any(-1)[0]
    assert not changed[4:8, 4:8].any()
    changed[4:8, 4:8] = True
    assert changed.all()


@torch.no_grad()
def test_small_training_images_switch_no_shift_off_unless_as_published():
    def shifts(model):
        return [block.attn.offset for group in model.groups for block in group.blocks]

    assert shifts(network(img_size=4)) == shifts(network()) == [0, -2, 0]
    assert shifts(network(img_size=5, reference_quirks=True)) == [0, -2, 0]
    assert shifts(network(img_size=4, reference_quirks=True)) == [0, 0, 0]
    assert shifts(network(img_size=4, shift_off_small_img=True)) == [0, 0, 0]
    assert shifts(network(img_size=4, reference_quirks=True, shift_off_small_img=False)) == [0, -2, 0]


@torch.no_grad()
def test_other_flags():
    x = images(8, 8)
    plain = network()
    bare = network(patch_norm=False, resi_connection="identity")
    assert set(plain.state_dict()) - set(bare.state_dict()) == {
        f"{name}.{kind}"
        for name in ("patch_norm", "conv_after_body", "groups.0.conv", "groups.1.conv")
        for kind in ("weight", "bias")
    }
    assert bare(x).shape == (2, 3, 16, 16) and bare(x).isfinite().all()
    features = []
    bare.conv_before_upsample.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    bare(x)
    shallow = bare.conv_first(x - bare.mean)
    tokens = shallow.permute(0, 2, 3, 1)
    for group in bare.groups:
        inner = tokens
        for block in (*group.blocks, group.overlap):
            inner = block(inner)
        tokens = tokens + inner
    torch.testing.assert_close(features[0], bare.norm(tokens).permute(0, 3, 1, 2) + shallow)

    free = network(qkv_bias=False)
    assert set(plain.state_dict()) - set(free.state_dict()) == {
        name for name in plain.state_dict() if name.endswith("qkv.bias")
    }
    assert free(x).isfinite().all()

    placed = network(ape=True, img_size=8)
    placed.load_state_dict({**plain.state_dict(), "position": placed.position})
    assert not torch.allclose(placed(x), plain(x))
    nn.init.zeros_(placed.position)
    assert torch.equal(placed(x), plain(x))
    with pytest.raises(ValueError, match="ape wants images of 8 x 8, found 8 x 12"):
        placed(images(8, 12))


@torch.no_grad()
def test_windows_of_7_pixels():
    """Keys reach one pixel further on one side: 10 pixels around 7."""
    model = noisy(HAT(SMALL, 1, window_size=7))
    y = restore(model, images(20, 13))
    assert y.shape == (2, 3, 20, 13) and y.isfinite().all()


def test_initial_weights():
    model = HAT({**SMALL, "embed_dims": 60, "num_heads": (2, 2)}, drop_path_rate=0.2, ape=True)
    tables = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert abs(module.weight.std() - 0.02) < 2e-3 and not module.bias.any(), name
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all() and not module.bias.any()
        if isinstance(module, PositionBias):
            tables += 1
            assert abs(module.table.std() - 0.02) < 2e-3
        if isinstance(module, nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            assert module.weight.abs().max() <= bound and module.bias.any()
            assert module.weight.std() > 0.5 * bound
    assert tables == 5 and abs(model.position.std() - 0.02) < 1e-3
    rates = [(b.drop_path1.rate, b.drop_path2.rate) for group in model.groups for b in group.blocks]
    assert rates == [pytest.approx((rate, rate)) for rate in (0, 0.1, 0.2)]


# --------------------------------------------------------------------------------------------- weights


def official(pack):
    rows = json.loads((PACKS / f"{pack}.json").read_text())["state_dict"]
    return {key: torch.zeros(shape) for key, shape, _ in rows}


@pytest.mark.parametrize(
    ("pack", "build"),
    [
        ("hat_s_x4", lambda: HAT("hat_s", 4)),
        (
            "choice_restore_small_rgb",
            lambda: HAT({**SMALL, "embed_dims": 24, "depths": (2, 2), "num_heads": (2, 2)}, 1, window_size=8),
        ),
    ],
)
def test_conversion_names_every_tensor(pack, build):
    with torch.device("meta"):
        wanted = build().state_dict()
    found = HAT.convert_official(official(pack))
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in wanted.items()}


def test_conversion_of_positions_and_unknown_keys():
    position = torch.randn(1, 36, 5)
    found = HAT.convert_official({"absolute_pos_embed": position})
    assert torch.equal(found["position"], position.view(6, 6, 5))
    with pytest.raises(CheckpointError, match="layers.0.something"):
        HAT.convert_official({"layers.0.something": torch.zeros(1)})


@pytest.mark.parametrize(
    ("pack", "name", "options"),
    [
        ("hat_s_x4", "hat_s", {"scale": 4}),
        ("hat_small_x2", "hat_s", {"scale": 2, "window_size": 8}),
        ("hat_small_x3_conv_scale1", "hat_s", {"scale": 3, "window_size": 8, "overlap_ratio": 0.25}),
        ("choice_restore_small_rgb", "hat_s", {"scale": 1, "window_size": 8}),
    ],
)
def test_published_weights_say_what_they_are(pack, name, options):
    found = ZOO.identify(official(pack))
    arch = found.options.pop("arch", HAT.archs["hat_s"])
    assert (found.name, found.options) == (name, options)
    assert arch["embed_dims"] == len(official(pack)["conv_first.weight"])
    assert arch["depths"] == ((6,) * 6 if pack == "hat_s_x4" else (2, 2))


@torch.no_grad()
def test_a_published_file_is_loaded_by_its_path_alone(tmp_path):
    state = {key: torch.randn(value.shape) for key, value in official("hat_small_x2").items()}
    save_checkpoint({"params_ema": state}, tmp_path / "published.pth")
    model = dense.load_official(tmp_path / "published.pth").eval()
    assert isinstance(model, HAT) and (model.scale, model.multiple) == (2, 8)
    assert torch.equal(model.conv_last.weight, state["conv_last.weight"])
    assert model(images(8, 16).float()).shape == (2, 3, 16, 32)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"in_channels": 1, "overlap_ratio": 0.25, "mlp_ratio": 3.0},
        {"qkv_bias": False, "patch_norm": False, "resi_connection": "identity"},
        {"ape": True, "img_size": 12},
    ],
)
def test_options_follow_from_shapes(scale, options):
    with torch.device("meta"):
        state = HAT(SMALL, scale, window_size=4, **options).state_dict()
    (found,) = HAT.guess_options(state)
    assert found[:2] == ("hat_s", {"arch": SMALL, "scale": scale, "window_size": 4, **options})


def test_published_files_nest_weights(tmp_path):
    path = tmp_path / "published.pth"
    save_checkpoint({"params": {"a": torch.zeros(1)}, "params_ema": {"a": torch.ones(1)}}, path)
    assert find_state_dict(load_checkpoint(path))["a"] == 1  # the average
    save_checkpoint({"params": {"a": torch.zeros(1)}}, path)
    assert find_state_dict(load_checkpoint(path))["a"] == 0


@torch.no_grad()
def test_weights_of_scale_2_begin_training_for_scale_4():
    double, fourfold = network(2), network(4)
    missing, unexpected = fourfold.load_state_dict(double.state_dict(), strict=False)
    assert missing == ["upsample.2.weight", "upsample.2.bias"] and not unexpected
    x = images(4, 4)
    shallow = double.conv_first(x)
    torch.testing.assert_close(fourfold.extract(shallow), double.extract(shallow))


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 4, 8, 8), r"images must be \(B, 3, h, w\), found \(1, 4, 8, 8\)"),
        (torch.zeros(3, 8, 8), r"\(3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 10), "multiples of 4, found 8 x 10"),
        (torch.zeros(1, 3, 0, 8), "found 0 x 8"),
    ],
)
def test_bad_images(x, message):
    with pytest.raises(ValueError, match=message):
        network()(x.double())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"arch": "hat_xl"}, "HAT has no arch 'hat_xl'; there are .*'hat_s'"),
        ({"arch": {"depths": (1,)}}, r"has keys .*'squeeze_factor'.*found \['depths'\]"),
        ({"arch": {**SMALL, "depths": (1,)}}, r"found \(1,\) and \(2, 3\)"),
        ({"arch": {**SMALL, "num_heads": (2, 5)}}, "num_heads must divide embed_dims 12, found 5"),
        ({"arch": {**SMALL, "compress_ratio": 13}}, "at most embed_dims = 12, found 13 and 6"),
        ({"arch": SMALL, "scale": 5}, "scale .* found 5"),
        ({"arch": SMALL, "resi_connection": "3conv"}, "'3conv'"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        HAT(**kwargs)

"""AttNet: kernels from means of pixels in reading order, inhibition, tokens, sizes of images, and weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dense.backbones import AttNet
from dense.backbones.attnet import ATConv, Block, TokenATConv
from dense.base.optim import NoDecayConstructor
from dense.registry import ZOO

from ..noise import noisy

SMALL = {**AttNet.archs["t1"], "embed_dims": (8, 8, 12, 16), "depths": (1, 2, 1, 1)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def maps(height=5, width=7, channels=6):
    return torch.randn(2, height, width, channels, dtype=torch.float64)


# ------------------------------------------------------------------------------------ attentive convolution


def kernels_step_by_step(conv, x):
    """As published: keys of all pixels, then the mean of each bin."""
    keys, places = conv.kernel_proj(x).flatten(1, 2), conv.kernel_size**2
    count = keys.shape[1]
    bins = [keys[:, i * count // places : -(-(i + 1) * count // places)].mean(1) for i in range(places)]
    kernels = conv.kernel_gen(F.gelu(torch.stack(bins, -1)))  # (B, C, places)
    mean = kernels.mean(-1, keepdim=True)
    return kernels - torch.sigmoid(conv.inhibition)[:, None] * mean


@pytest.mark.parametrize("size, shape", [(3, (5, 7)), (3, (3, 3)), (5, (4, 6)), (3, (1, 2)), (1, (4, 4))])
def test_means_commute_with_the_projection(size, shape):
    conv, x = noisy(ATConv(6, size)), maps(*shape)
    torch.testing.assert_close(conv.make_kernels(x).flatten(2), kernels_step_by_step(conv, x))


def test_means_follow_the_reading_order():
    conv, x = noisy(ATConv(6)), maps(7, 7)
    turned = conv.make_kernels(x.transpose(1, 2))
    assert not torch.allclose(turned, conv.make_kernels(x))
    assert not torch.allclose(turned, conv.make_kernels(x).transpose(2, 3))
    reshaped = x.flatten(1, 2).unflatten(1, (1, 49))
    torch.testing.assert_close(conv.make_kernels(reshaped), conv.make_kernels(x))


def test_a_kernel_of_the_centre_passes_values_on():
    conv, x = noisy(ATConv(6)), maps()
    nn.init.zeros_(conv.kernel_gen.weight), nn.init.constant_(conv.inhibition, -50)
    with torch.no_grad():
        conv.kernel_gen.bias.copy_(torch.eye(9)[4])
    torch.testing.assert_close(conv(x), conv.proj(conv.x_proj(x)))


def test_full_inhibition_sees_changes_only():
    conv, x = noisy(ATConv(6)), maps()
    nn.init.constant_(conv.inhibition, 50)
    kernels = conv.make_kernels(x)
    torch.testing.assert_close(kernels.sum((2, 3)), torch.zeros(2, 6, dtype=torch.float64))
    nn.init.zeros_(conv.x_proj.weight)  # the same value everywhere
    inside = conv(x)[:, 1:-1, 1:-1]
    torch.testing.assert_close(inside, conv.proj.bias.expand_as(inside))
    half = ATConv(6).double()
    half.load_state_dict({**conv.state_dict(), "inhibition": torch.zeros(6, dtype=torch.float64)})
    nn.init.constant_(conv.inhibition, -50)
    torch.testing.assert_close(half.make_kernels(x).sum((2, 3)), conv.make_kernels(x).sum((2, 3)) / 2)


def test_tokens():
    tokens, conv = noisy(TokenATConv(6, size=(5, 7))), noisy(ATConv(6, act="gelu_tanh"))
    conv.load_state_dict(tokens.state_dict())
    x = maps()
    torch.testing.assert_close(tokens(x.flatten(1, 2)), conv(x).flatten(1, 2))
    conv.act = "gelu"
    assert not torch.allclose(tokens(x.flatten(1, 2)), conv(x).flatten(1, 2), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"\(B, 5 \* 7, C\) for maps of 5 x 7, found \(2, 34, 6\)"):
        tokens(x.flatten(1, 2)[:, 1:])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kernel_size": 2}, "kernel_size must be odd and positive, found 2"),
        ({"act": "tanh"}, "found 'tanh'"),
    ],
)
def test_bad_convolutions(options, message):
    with pytest.raises(ValueError, match=message):
        ATConv(6, **options)


# -------------------------------------------------------------------------------------- the whole network


def test_fresh_blocks_with_layer_scale_change_next_to_nothing():
    block, x = Block(6, 3, 24, True, 1e-6, 0.0), maps().float()
    assert 0 < (block(x) - x).abs().max() < 1e-4
    free = Block(6, 3, 24, True, None, 0.0)
    assert (free(x) - x).abs().max() > 1e-3 and not any("scale" in name for name in free.state_dict())


@pytest.mark.parametrize("size", [(64, 64), (75, 50), (3, 40), (1, 1)])
def test_sizes(size):
    net = noisy(AttNet(SMALL))
    for y, channels, stride in zip(
        net(torch.randn(1, 3, *size).double()), SMALL["embed_dims"], net.strides, strict=True
    ):
        assert y.shape == (1, channels, *(-(-side // stride) for side in size)) and y.isfinite().all()


def test_inference_equals_training_mode_of_the_norm():
    """The RMS norm that fast inference puts into the layer behind it."""
    block = noisy(Block(6, 3, 24, True, 1.0, 0.0)).float()
    x = maps().float()
    with torch.no_grad():
        found = block(x)
    torch.testing.assert_close(found, block(x).detach())


def test_inhibition_has_no_weight_decay():
    model = AttNet(SMALL)
    keys = {"no_decay_keys": list(AttNet.no_weight_decay), "norm_decay_mult": 0.0, "bias_decay_mult": 0.0}
    wrapper = {"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 1.0, "weight_decay": 0.05}}
    optimizer = NoDecayConstructor(wrapper, keys)(model).optimizer
    decays = {id(group["params"][0]): group["weight_decay"] for group in optimizer.param_groups}
    for name, parameter in model.named_parameters():
        if "inhibition" in name or name.endswith(("norm1.weight", "bias")):
            assert decays[id(parameter)] == 0, name
        if name.endswith("proj.weight"):
            assert decays[id(parameter)] == 0.05, name


# ------------------------------------------------------------------------------------------------- weights


def published(arch, **options):
    """Weights under their authors' names."""
    with torch.device("meta"):
        state = AttNet.create(arch, **options).state_dict()
    found = {}
    for key, value in state.items():
        key = key.removeprefix("backbone.")
        for old, new in (
            ("downsamples.0.conv1.conv.", "downsample_layers.0.0.0."),
            ("downsamples.0.conv1.norm.", "downsample_layers.0.0.1."),
            ("downsamples.0.conv2.conv.", "downsample_layers.0.2.0."),
            ("downsamples.0.conv2.norm.", "downsample_layers.0.2.1."),
            ("downsamples.", "downsample_layers."),
            (".mixer.inhibition", ".token_mixer.difference_control"),
            (".mixer.", ".token_mixer."),
            (".mlp.norm.", ".channel_mixer.norm_layer."),
            (".mlp.", ".channel_mixer."),
            ("norm1.", "norm_1."),
            ("norm2.", "norm_2."),
            ("scale1", "layer_scale_1.gamma"),
            ("scale2", "layer_scale_2.gamma"),
            ("head.norm.", "norm."),
            ("head.fc.", "head."),
        ):
            key = key.replace(old, new)
        if key.startswith("downsample_layers") and not key.startswith("downsample_layers.0."):
            key = key.replace(".conv.", ".0.").replace(".norm.", ".1.")
        if value.ndim == 2 and key != "head.weight" and "kernel_gen" not in key:
            value = value[:, :, None, None]
        found[key] = value
    return found


@pytest.mark.parametrize("arch", ["xxs", "xs", "s"])
def test_identification(arch):
    found = ZOO.identify(published(arch))
    assert (found.name, found.options) == (f"attnet_{arch}", {"num_classes": 1000})


def test_identification_of_other_depths_kernels_and_parts():
    own = {**AttNet.archs["s"], "depths": (1, 2, 1, 1), "kernel_sizes": (3, 3, 3, 5), "glu_norm": True}
    found = ZOO.identify(published(own, num_classes=7))
    assert found.options == {"num_classes": 7, "arch": own}

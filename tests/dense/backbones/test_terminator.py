"""Terminator: its operators, batches, losses, sizes and weights."""

import pytest
import torch
from torch import nn

from dense.backbones import Terminator
from dense.backbones.terminator import (
    BatchStandardization,
    ChannelInteraction,
    GroupStandardization,
    HyperInteraction,
    HyperNetwork,
    LocalConv,
    global_product,
    slow_loss,
    tile_channels,
)
from dense.registry import ZOO
from tests.parity.packs import load

ARCH = {
    "img_size": 9,
    "ratios": (4, 1, 2, 1, 1),
    "depth": 2,
    "global_dims": 8,
    "global_depths": (3, 2, 2, 2, 2),
    "local_dims": 4,
    "local_kernels": (3, 5, 3, 5),
    "channel_dims": 4,
    "interaction_dims": (4, 8),
}
PACK = "tests/parity/packs/terminator/terminator_16.json"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(batch=3, side=9):
    return torch.randn(batch, 3, side, side, dtype=torch.float64)


def network(**options):
    return Terminator.create(ARCH, num_classes=5, **options).double()


# ------------------------------------------------------------------------------------------- slow networks


def test_coordinates():
    net = HyperNetwork(1, 4, 1, (3, 2))
    assert net.coordinates().tolist() == [[-1, -1], [-1, 1], [0, -1], [0, 1], [1, -1], [1, 1]]
    assert HyperNetwork(1, 4, 1, (1,)).coordinates().tolist() == [[-1]]
    assert HyperNetwork(1, 4, 1, (3,)).coordinates().tolist() == [[-1], [0], [1]]
    assert net().shape == (1, 1, 3, 2)


def test_kernels_of_samples_and_of_the_batch():
    own = HyperNetwork(6, 8, 2, (5, 5), context_channels=3).double()
    shared = HyperNetwork(6, 8, 2, (5, 5), context_channels=3, batch_context=True).double()
    shared.load_state_dict(own.state_dict())
    x = images()
    assert own(x).shape == (3, 6, 5, 5) and shared(x).shape == (1, 6, 5, 5)
    torch.testing.assert_close(own(x)[1:2], own(x[1:2]))
    torch.testing.assert_close(own(x)[1:2], shared(x[1:2]))
    assert not torch.allclose(shared(x), shared(x[:2]))
    repeated = x[:1].expand(3, -1, -1, -1)
    torch.testing.assert_close(own(repeated)[2:], shared(repeated))


def test_no_gradient_passes_the_renormalisation_but_by_unit_kernels():
    """Scaling what is renormalised changes the kernel, but has no gradient: a unit kernel is as it was."""
    net = HyperNetwork(2, 4, 1, (3, 3), context_channels=3).double()
    x, factor = images(1), torch.ones((), dtype=torch.float64, requires_grad=True)
    linear = net.linears[0]
    weight, bias = linear.weight.detach(), linear.bias.detach()
    scaled = torch.func.functional_call(
        net, {"linears.0.weight": factor * weight, "linears.0.bias": factor * bias}, (x,)
    )
    (slope,) = torch.autograd.grad(scaled.sum(), factor)
    assert slope.abs() < 1e-12
    with torch.no_grad():
        linear.weight.mul_(2), linear.bias.mul_(2)
    assert not torch.allclose(net(x), scaled)


def test_rescaling():
    torch.manual_seed(1)
    fresh = HyperNetwork(3, 8, 2, (4, 4))
    torch.manual_seed(1)
    whole = HyperNetwork(3, 8, 2, (1, 1))  # nothing to divide by
    torch.testing.assert_close(fresh.output.weight, whole.output.weight / 4)
    again = HyperNetwork(3, 8, 2, (4, 4), rescale_after_load=True)
    again.load_state_dict(fresh.state_dict())
    torch.testing.assert_close(again.output.weight, fresh.output.weight / 4)
    plain = network()
    state = plain.state_dict()
    for flag in (False, True):
        other = network(rescale_after_load=flag)
        other.load_state_dict(state)
        part = "backbone.blocks.0.local_kernels.1.output.weight"
        torch.testing.assert_close(other.state_dict()[part], state[part] / (5 if flag else 1))


# ------------------------------------------------------------------------------------------- fast networks


def test_products():
    x, partner = torch.randn(2, 2, 4, 5, 5)
    kernel = torch.randn(1, 4, 5, 5)
    wanted = torch.einsum("bcij,cij,bcjk->bcik", x, kernel[0], partner)
    torch.testing.assert_close(global_product(x, kernel, partner), wanted)


def test_gates_lie_between_0_and_1():
    x = torch.rand(2, 6, 5, 5) + 0.1
    for gate in (ChannelInteraction(6, 4)(x) / x, HyperInteraction(6, 5, (4, 4))(torch.randn_like(x), x) / x):
        assert ((gate > 0) & (gate < 1)).all() and gate.std() > 0


def test_groups_are_standardised_in_turn():
    norm = GroupStandardization(12, 6, batch_statistics=True)
    y = norm(3 * torch.randn(4, 12, 5, 5) + torch.arange(4.0).view(4, 1, 1, 1)).unflatten(1, (6, 2))
    of_batch, of_maps = y[:, ::2], y[:, 1::2]
    for part, axes in ((of_batch, (0, 3, 4)), (of_maps, (3, 4))):
        torch.testing.assert_close(part.mean(axes), torch.zeros_like(part.mean(axes)), atol=1e-5, rtol=0)
        deviation = part.std(axes, correction=0)
        torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=1e-4, rtol=0)
    assert of_batch.mean((3, 4)).abs().max() > 0.1
    with pytest.raises(ValueError, match="channels must be a multiple of 12 groups, found 18"):
        GroupStandardization(18)


def test_a_local_kernel_for_all_equals_the_same_for_each():
    conv = LocalConv(6, batch_statistics=True)
    x, kernel = torch.randn(3, 6, 7, 7), torch.randn(1, 6, 5, 5)
    torch.testing.assert_close(conv(x, kernel), conv(x, kernel.expand(3, -1, -1, -1)))


# ------------------------------------------------------------------------------------ the whole network


def test_a_prediction_depends_on_its_batch_as_published_only():
    x = images()
    for quirks in (False, True):
        net = network(reference_quirks=quirks).train()
        net(x)
        net.eval()
        assert torch.allclose(net(x)[:1], net(x[:1])) is not quirks
        torch.testing.assert_close(net(x.flip(0)), net(x).flip(0))
        kept = any(isinstance(m, BatchStandardization) and m.track_running_stats for m in net.modules())
        assert kept is not quirks


def test_losses_of_training():
    net = network().train()
    logits, slow, norms = net(images())
    assert logits.shape == (3, 5)
    kernels = [kernel for _, kernel in net.backbone.iterate_blocks(images())]
    assert [kernel.shape[1] for kernel in kernels] == [3, 12, 12, 24, 24]
    torch.testing.assert_close(slow, slow_loss(kernels))
    torch.testing.assert_close(norms, net.backbone.sum_norms())
    losses = net.head.loss((logits, slow, norms), torch.eye(5)[[0, 1, 4]].double())
    assert losses.keys() == {"loss", "loss_slow", "loss_norms"}
    torch.testing.assert_close(losses["loss_norms"], 5e-5 * norms)
    assert isinstance(net.eval()(images()), torch.Tensor)


def test_slow_loss_of_equal_and_of_other_kernels():
    kernel = torch.randn(1, 3, 5, 5)
    same = [kernel, tile_channels(kernel, 12), tile_channels(kernel, 24)]
    assert slow_loss(same) == 0
    other = [same[0], same[1] + 2, same[2]]
    torch.testing.assert_close(slow_loss(other), torch.tensor(8.0))  # of two of the three pairs


def test_norms_count_what_is_fast():
    net = network().backbone
    before = net.sum_norms()
    for block in net.blocks:
        nn.init.zeros_(block.rgu.key.weight), nn.init.zeros_(block.interaction.channel_kernel.output.weight)
    torch.testing.assert_close(net.sum_norms(), before)
    weight = net.blocks[0].bottleneck.weight
    norm = weight.detach().norm()
    nn.init.zeros_(weight)
    torch.testing.assert_close(before - net.sum_norms(), norm)


@pytest.mark.parametrize("shape", [(8, 8), (9, 12), (32, 32)])
def test_other_sizes_are_refused(shape):
    with pytest.raises(ValueError, match=rf"must be 9 x 9, the img_size .*, found {shape[0]} x {shape[1]}"):
        network()(torch.randn(1, 3, *shape).double())


@pytest.mark.parametrize("kernels", [(3, 5, 7), (3, 4, 5, 7)])
def test_bad_kernels(kernels):
    with pytest.raises(ValueError, match="local_kernels must be four odd sides"):
        Terminator({**ARCH, "local_kernels": kernels})


# ------------------------------------------------------------------------------------------------- weights


def published():
    return {key: torch.empty(shape, device="meta") for key, shape, _ in load(PACK)["state_dict"]}


def test_identification():
    found = ZOO.identify(published())
    own = {**Terminator.archs["cifar"], "img_size": 16}
    assert found.name == "terminator_cifar"
    assert found.options == {"num_classes": 10, "reference_quirks": True, "arch": own}


def test_identification_of_the_published_variant():
    state = {
        key: torch.empty(*value.shape[:-2], 32, 32, device="meta") if value.shape[-2:] == (16, 16) else value
        for key, value in published().items()
    }
    june = {key.replace("fast_bias_p", "bias_p"): value for key, value in state.items()}
    for weights in (state, june):
        found = ZOO.identify(weights)
        assert found.options == {"num_classes": 10, "reference_quirks": True}

"""UFC: its blocks against their formulas, the read-out without the correlation, the whole network."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dense
from dense.matching.cost_volume import correlate, read_flow
from dense.matching.networks import ufc
from dense.matching.networks.ufc import UFC, IntegrativeBlock, Level, cost_tokens, position_code, swap
from dense.ops import chunks
from dense.registry import MODELS
from tests.dense.memory import LargestTensor

DIMS, SIDE, HEADS = 8, 3, 2


class Pyramid(nn.Module):
    """A backbone that costs nothing: the image at several strides, its channels by a linear map."""

    def __init__(self, strides=(4, 8), channels=(5, 7)):
        super().__init__()
        self.strides = strides
        self.layers = nn.ModuleList(nn.Conv2d(3, c, 1) for c in channels)

    def forward(self, x):
        return tuple(
            layer(F.avg_pool2d(x, stride)) for stride, layer in zip(self.strides, self.layers, strict=True)
        )


def make(strides=(4, 8), seed=0, **options):
    torch.manual_seed(seed)
    channels = tuple(range(5, 5 + 2 * len(strides), 2))
    small = {"embed_dims": DIMS, "attention_dims": 12, "num_heads": HEADS, "cost_side": SIDE, "depths": 1}
    network = UFC(Pyramid(strides, channels), **(small | options)).double()
    randomise(network)
    return network.eval()


def randomise(module):
    """Leave no weight or bias at a value that hides a mistake."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(scale * noise + (parameter if parameter.ndim == 1 else 0))
    return module


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_block():
    return randomise(IntegrativeBlock(DIMS, SIDE**2 + 1, 12, HEADS).double())


# ---------------------------------------------------------------------------------------------------- blocks


def naive_self_attention(isa, features, cost):
    d, c = isa.norm_d(features), isa.norm_c(cost)
    x = torch.cat([d, c], -1)
    q, k, v_d, v_c = isa.q(x), isa.k(x), isa.v_d(d), isa.v_c(c)
    heads = []
    for qh, kh, dh, ch in zip(*(t.chunk(HEADS, -1) for t in (q, k, v_d, v_c)), strict=True):
        attention = (qh @ kh.mT / qh.shape[-1] ** 0.5).softmax(-1)
        heads.append((attention @ dh, attention @ ch))
    d, c = (torch.cat(parts, -1) for parts in zip(*heads, strict=True))
    features, cost = features + isa.o_d(d), cost + isa.o_c(c)

    def mlp(ffn, x):
        return F.linear(F.gelu(F.linear(x, *ffn.fc1.parameters())), *ffn.fc2.parameters())

    return (
        features + mlp(isa.ffn_d, isa.norm_d2(features)),
        cost + mlp(isa.ffn_c, isa.norm_c2(cost)),
    )


def naive_cross_attention(ica, features, cost, size):
    def one(own, other, bias):
        heads = []
        y, z = ica.norm(own), ica.norm(other)
        for q, k, v in zip(*(t.chunk(HEADS, -1) for t in (ica.q(y), ica.k(z), ica.v(z))), strict=True):
            heads.append((q @ k.mT / q.shape[-1] ** 0.5 + ica.tau * bias).softmax(-1) @ v)
        own = own + ica.o(torch.cat(heads, -1))
        return own + ica.ffn(ica.norm2(own))

    side = round(cost.shape[-1] ** 0.5)
    bias = F.interpolate(cost.flatten(0, 1).view(-1, 1, side, side), size, mode="bilinear")
    (ds, dt), (bs, bt) = features.chunk(2), bias.view(*cost.shape[:2], -1).chunk(2)
    return torch.cat([one(ds, dt, bs), one(dt, ds, bt)])


def test_self_attention_is_its_formula():
    isa = make_block().isa
    features, cost = randn(2, 15, DIMS), randn(2, 15, SIDE**2 + 1, seed=1)
    for found, wanted in zip(isa(features, cost), naive_self_attention(isa, features, cost), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("pairs", [10**6, 60])
def test_cross_attention_is_its_formula(pairs, monkeypatch):
    """Whole and in rows, with the gradients of all."""
    monkeypatch.setattr(chunks, "PAIRS", pairs)
    ica = randomise(IntegrativeBlock(DIMS, SIDE**2, 12, HEADS).double()).ica
    size = (3, 5)
    features, cost = randn(4, 15, DIMS).requires_grad_(), randn(4, 15, SIDE**2, seed=1).requires_grad_()
    found = ica(features, cost, size)
    wanted = naive_cross_attention(ica, features, cost, size)
    torch.testing.assert_close(found, wanted)
    inputs = (features, cost, *ica.parameters())
    weight = randn(*found.shape, seed=2)
    gradients = (torch.autograd.grad(y, inputs, weight) for y in (found, wanted))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)
    with torch.no_grad():
        torch.testing.assert_close(ica(features, cost, size), wanted)


def test_block_gradcheck(monkeypatch):
    monkeypatch.setattr(chunks, "PAIRS", 18)  # two pieces
    block = randomise(IntegrativeBlock(4, 4, 4, 2).double())
    features, cost = randn(2, 6, 4).requires_grad_(), randn(2, 6, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, c: block(x, c, (2, 3)), (features, cost))


def test_self_attention_that_adds_nothing_is_the_identity():
    isa = make_block().isa
    for layer in (isa.o_d, isa.o_c, isa.ffn_d.fc2, isa.ffn_c.fc2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    features, cost = randn(2, 15, DIMS), randn(2, 15, SIDE**2 + 1, seed=1)
    found = isa(features, cost)
    assert torch.equal(found[0], features) and torch.equal(found[1], cost)


def test_cross_attention_with_tau_0_does_not_see_the_cost():
    ica = randomise(IntegrativeBlock(DIMS, SIDE**2, 12, HEADS).double()).ica
    features, cost = randn(2, 15, DIMS), randn(2, 15, SIDE**2, seed=1)
    seeing = ica(features, cost, (3, 5))
    nn.init.zeros_(ica.tau)
    plain = naive_cross_attention(ica, features, torch.zeros_like(cost), (3, 5))
    torch.testing.assert_close(ica(features, cost, (3, 5)), plain)
    assert not torch.allclose(seeing, plain)


def test_cost_channels_left_over_are_not_attended():
    isa = randomise(IntegrativeBlock(DIMS, 9, 12, HEADS).double()).isa
    cost = randn(1, 4, 9)
    split = ufc.split_heads(cost, HEADS)
    assert split.shape == (1, HEADS, 4, 4)
    merged = ufc.merge_heads(split, 9)
    assert torch.equal(merged[..., :8], cost[..., :8]) and (merged[..., 8] == 0).all()
    assert isa(randn(1, 4, DIMS), cost)[1].shape == cost.shape


@pytest.mark.parametrize("size, side", [((6, 6), 3), ((4, 6), 2), ((3, 3), 3)])
def test_cost_tokens_are_the_pooled_correlation(size, side):
    features = randn(4, size[0] * size[1], 5)
    found = cost_tokens(features, size, side)
    correlation = correlate(features, swap(features))
    wanted = F.adaptive_avg_pool2d(correlation.unflatten(2, size), side).flatten(2)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("pairs", [10**6, 60])
@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
def test_the_flow_is_that_of_the_whole_cost(size, pairs, monkeypatch):
    monkeypatch.setattr(chunks, "PAIRS", pairs)
    count = size[0] * size[1]
    features, cost = randn(4, count, DIMS).requires_grad_(), randn(4, count, SIDE**2, seed=1).requires_grad_()
    level = Level(features, cost, size)
    (ds, dt), (cs, ct) = features.chunk(2), cost.chunk(2)

    def upsample(tokens):
        maps = tokens.reshape(-1, 1, SIDE, SIDE)
        return F.interpolate(maps, size, mode="bilinear").view(*tokens.shape[:2], count)

    whole = correlate(ds, dt) + (upsample(cs) + upsample(ct).mT) / 2
    for image, scores in (("target", whole.mT), ("source", whole)):
        found = level.read_flow(image, beta=0.3)
        wanted = read_flow(scores, size, beta=0.3).mT.unflatten(2, size)
        torch.testing.assert_close(found, wanted)
        weight = randn(*found.shape, seed=2)
        gradients = (
            torch.autograd.grad(y, (features, cost), weight, retain_graph=True) for y in (found, wanted)
        )
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)


def test_position_codes_tell_positions_apart():
    code = position_code((4, 6), 16, torch.zeros(()))
    assert code.shape == (24, 16)
    assert torch.pdist(code).min() > 0.1
    assert torch.equal(code.view(4, 6, 16)[0, :, :8], code.view(4, 6, 16)[3, :, :8])  # the column's half
    assert torch.equal(code.view(4, 6, 16)[:, 0, 8:], code.view(4, 6, 16)[:, 5, 8:])


# ----------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("size", [(16, 16), (16, 40)])
def test_levels_follow_from_the_backbone(size):
    network = make()
    flows = network(*randn(2, 2, 3, *size))
    assert [f.shape[2:] for f in flows] == [(size[0] // 8, size[1] // 8), (size[0] // 4, size[1] // 4)]
    assert all(f.shape[:2] == (2, 2) and f.isfinite().all() for f in flows)
    assert flows[-1].abs().max() > 0.1


def test_positions_stay_in_the_source():
    for flow in make()(*5 * randn(2, 1, 3, 16, 24)):
        height, width = flow.shape[2:]
        x = flow[:, 0] + torch.arange(width)
        y = flow[:, 1] + torch.arange(height)[:, None]
        assert x.min() >= -1e-6 and x.max() <= width - 1 + 1e-6
        assert y.min() >= -1e-6 and y.max() <= height - 1 + 1e-6


def test_flows_are_single_precision_under_autocast():
    network = make().float()
    source, target = randn(2, 1, 3, 16, 16).float()
    wanted = network(source, target)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(source, target)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().mean() < 0.3


def test_swapped_images_swap_the_flows():
    network = make()
    source, target = randn(2, 2, 3, 16, 24)
    forward = [level.read_flow() for level in network.aggregate(source, target)]
    backward = [level.read_flow("source") for level in network.aggregate(target, source)]
    for a, b in zip(forward, backward, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_pair_does_not_depend_on_the_batch(batch):
    network = make(zoom=0.625)
    source, target = randn(2, 3, 3, 16, 16)
    alone = network.match(source[:1], target[:1])
    among = network.match(source[:batch], target[:batch])
    for a, b in zip(alone, among, strict=True):
        torch.testing.assert_close(a, b[:1])


def test_every_parameter_learns():
    network = make((4, 8, 16)).train()
    sum(f.square().sum() for f in network(*randn(2, 1, 3, 32, 32))).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert idle == []


def test_network_gradcheck(monkeypatch):
    monkeypatch.setattr(chunks, "PAIRS", 5)
    network = make(beta=0.5)
    images = 0.5 * randn(2, 1, 3, 8, 8)
    parameters = [
        network.levels[0][0].ica.tau,
        network.projections[1].bias,
        network.levels[1][0].isa.v_c.bias,
    ]
    assert torch.autograd.gradcheck(lambda *_: tuple(network(*images)), parameters)


@pytest.mark.parametrize("pairs", [10**6, 9])
def test_checkpoints_change_nothing(pairs, monkeypatch):
    monkeypatch.setattr(chunks, "PAIRS", pairs)
    gradients = []
    for with_cp in (False, True):
        network = make(with_cp=with_cp).train()
        sum(f.square().sum() for f in network(*randn(2, 1, 3, 16, 16))).backward()
        gradients.append([p.grad for p in network.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mode", ["predict", "train"])
def test_memory_is_linear_in_positions(mode):
    """At 512 x 512 the finest level has 4096 positions: no tensor comes near 4096^2."""
    torch.manual_seed(0)
    network = UFC(Pyramid((8, 32)), embed_dims=16, attention_dims=16, num_heads=2, cost_side=4, depths=1)
    images = torch.randn(2, 1, 3, 512, 512)
    with LargestTensor() as memory:
        if mode == "predict":
            network.eval().match(*images)
        else:
            sum(f.mean() for f in network.train()(*images)).backward()
    # 64 rows with all others, of 2 images and 2 heads; in training also the images, 2 * 3 * 512^2
    assert memory.numel <= max(2 * 2 * 64 * 4096, 2 * 3 * 512**2) < 4096**2 / 8


def test_weights_of_training_predict_the_same():
    network = make()
    again = make(seed=3)
    again.load_state_dict(network.state_dict())
    copied = copy.deepcopy(network)
    images = randn(2, 1, 3, 16, 16)
    for other in (again, copied):
        assert all(torch.equal(a, b) for a, b in zip(network(*images), other(*images), strict=True))


# --------------------------------------------------------------------------------------------------- zooming


def test_zoom_adds_candidates():
    network = make(zoom=0.625)
    images = randn(2, 2, 3, 16, 24)
    flow, confidence = network.match(*images)
    assert flow.shape == (2, 2, 4, 6) and confidence.shape == (2, 4, 6)
    network.zoom = None
    whole, without = network.match(*images)
    assert (confidence >= without - 1e-12).all() and (confidence > without).any()
    kept = (confidence == without)[:, None].expand_as(flow)
    assert torch.equal(flow[kept], whole[kept])


# ------------------------------------------------------------------------------------------------- backbones


@pytest.mark.parametrize(
    "backbone, levels",
    [
        ({"type": "dense.SHViT", "arch": "s1"}, [(1, 2), (2, 4), (4, 8)]),
        ({"type": "mmdet.ResNet", "depth": 18, "out_indices": (1, 2)}, [(4, 8), (8, 16)]),
    ],
)
def test_backbones_by_config(backbone, levels):
    torch.manual_seed(0)
    network = MODELS.build(
        {"type": "dense.UFC", "backbone": backbone, "embed_dims": 16, "attention_dims": 16, "num_heads": 2}
        | {"cost_side": 4, "depths": 1}
    )
    assert network.multiple == {3: 64, 2: 16}[len(levels)]
    assert not any(isinstance(m, nn.BatchNorm2d) and m.training for m in network.eval().modules())
    network.init_weights()
    with torch.inference_mode():
        flows = network(*torch.randn(2, 1, 3, 64, 128))
    assert [tuple(f.shape[2:]) for f in flows] == levels


def test_parameters_of_the_default_network():
    """The paper's word is about 15.5 million, of which the backbone's are none."""
    with torch.device("meta"):
        network = dense.create_model("ufc_r101")
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    backbone = counts.pop("backbone")
    assert sum(counts.values()) == 6 * 2_368_769 + 256 * (512 + 1024 + 2048) + 3 * 256
    assert UFC.num_parameters["r101"] == backbone + sum(counts.values())
    assert network.multiple == 32 and dense.list_models("ufc*") == ["ufc_r101"]


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "options, message",
    [
        ({"embed_dims": 6}, "embed_dims must be a multiple of 4, found 6"),
        ({"embed_dims": 8, "num_heads": 3}, "embed_dims must be a multiple of the 3 heads, found 8"),
        ({"attention_dims": 9}, "attention_dims must be a multiple of the 2 heads, found 9"),
        ({"depths": (1, 2, 3)}, r"the 2 maps, found \[1, 2, 3\]"),
        ({"depths": 0}, r"depths must be positive.*found \[0, 0\]"),
        ({"zoom": 0.3}, "zoom must be at least 0.5 and below 1, found 0.3"),
    ],
)
def test_impossible_networks(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_images_that_do_not_fit():
    network = make()
    with pytest.raises(ValueError, match=r"multiples of 8, found \(16, 20\)"):
        network(*randn(2, 1, 3, 16, 20))
    with pytest.raises(ValueError, match=r"of one size, found \(1, 3, 16, 16\) and \(1, 3, 16, 24\)"):
        network(randn(1, 3, 16, 16), randn(1, 3, 16, 24))

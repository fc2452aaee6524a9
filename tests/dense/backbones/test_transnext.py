"""TransNeXt: its attention against plain formulas, position biases, variants, flags and conversion."""

import copy
import json
from math import log, log2, prod
from pathlib import Path

import pytest
import torch
from mmengine.optim import DefaultOptimWrapperConstructor
from torch.nn import functional as F

import dense
from dense.backbones import ClassificationNetwork, TransNeXt
from dense.backbones.transnext import AggregatedAttention, ConvGLU, GlobalAttention, PositionBias
from pointsuite.engine.checkpoint import CheckpointError

from ..noise import noisy

PACKS = Path(__file__).parents[2] / "parity" / "packs" / "transnext"
SHALLOW = {**TransNeXt.archs["micro"], "depths": (1, 1, 1, 1)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(*size, batch=1):
    return torch.randn(batch, 3, *size)


# ------------------------------------------------------------------------------------- plain formulas


def axis_keys(queries, keys):
    """Where adaptive average pooling puts the keys."""
    return F.adaptive_avg_pool1d(torch.arange(queries).double()[None], keys)[0].tolist()


def squash(delta, reference):
    delta = delta / (reference - 1) * 8
    return (delta > 0) * log2(abs(delta) + 1) / log2(8) - (delta < 0) * log2(abs(delta) + 1) / log2(8)


def naive_bias(module, queries, keys):
    """Pair by pair: (heads, queries, keys)."""
    offsets = [
        [squash(y - v, module.reference[0]), squash(x - u, module.reference[1])]
        for y in range(queries[0])
        for x in range(queries[1])
        for v in axis_keys(queries[0], keys[0])
        for u in axis_keys(queries[1], keys[1])
    ]
    bias = module.fc2(module.fc1(torch.tensor(offsets, dtype=torch.float64)).relu())
    return bias.T.unflatten(1, (prod(queries), prod(keys)))


def heads(x, number):
    """(B, N, C) to (B, heads, N, d)."""
    return x.unflatten(-1, (number, -1)).transpose(1, 2)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def naive_aggregated(module, x, keys, pooled_bias=None):
    """(B, H, W, C) to the same: logits of all pixels, those outside of the window masked."""
    _, height, width, _ = x.shape
    radius, flat = module.window_size // 2, x.flatten(1, 2)
    pixels = [(y, x) for y in range(height) for x in range(width)]
    place = torch.full((len(pixels),) * 2, -1)
    for n, (y, u) in enumerate(pixels):
        for m, (v, w) in enumerate(pixels):
            if abs(y - v) <= radius and abs(u - w) <= radius:
                place[n, m] = (v - y + radius) * module.window_size + w - u + radius
    near = place >= 0

    query = unit(heads(module.q(flat), module.num_heads))
    pooled = F.gelu(module.sr(x)).permute(0, 3, 1, 2)
    pooled = module.norm(F.adaptive_avg_pool2d(pooled, keys).flatten(2).transpose(1, 2))
    both = torch.cat([flat, pooled], 1)
    key, value = (heads(part, module.num_heads) for part in module.kv(both).chunk(2, -1))

    scale = F.softplus(module.temperature) * (near.sum(-1) + prod(keys)).double().log()[:, None]
    logits = (query + module.query_embedding) * scale @ unit(key).transpose(-1, -2)
    local = module.relative_pos_bias_local[:, place.clamp(min=0)].masked_fill(~near, -torch.inf)
    if pooled_bias is None:
        pooled_bias = naive_bias(module.cpb, (height, width), keys)
    weights = (logits + torch.cat([local, pooled_bias], -1)).softmax(-1)
    position = query @ module.learnable_tokens + module.learnable_bias
    position = position.gather(-1, place.clamp(min=0).expand(*position.shape[:2], -1, -1)) * near
    weights[..., : len(pixels)] += position
    y = (weights @ value).transpose(1, 2).flatten(2)
    return module.proj(y).view(x.shape)


def naive_global(module, x):
    query, key, value = (heads(part, module.num_heads) for part in module.qkv(x.flatten(1, 2)).chunk(3, -1))
    scale = F.softplus(module.temperature) * log(query.shape[2])
    logits = (unit(query) + module.query_embedding) * scale @ unit(key).transpose(-1, -2)
    weights = (logits + naive_bias(module.cpb, x.shape[1:3], x.shape[1:3])).softmax(-1)
    return module.proj((weights @ value).transpose(1, 2).flatten(2)).view(x.shape)


# ------------------------------------------------------------------------------------------- attention


def aggregated(window_size=3, sr_ratio=2, reference=(7, 9), **kwargs):
    return noisy(AggregatedAttention(12, 3, reference, sr_ratio=sr_ratio, window_size=window_size, **kwargs))


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("window_size", [1, 3, 5])
@pytest.mark.parametrize(
    "size,pool_size,keys",
    [((4, 6), None, (2, 3)), ((5, 4), None, (2, 2)), ((1, 1), None, (1, 1)), ((5, 4), (3, 7), (3, 7))],
)
def test_aggregated_attention(graph, window_size, size, pool_size, keys):
    module = aggregated(window_size, pool_size=pool_size)
    x = torch.randn(2, *size, 12, dtype=torch.float64)
    with torch.set_grad_enabled(graph):
        torch.testing.assert_close(module(x), naive_aggregated(module, x, keys))


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (1, 5)])
def test_global_attention(size):
    module = noisy(GlobalAttention(12, 3, (7, 9)))
    x = torch.randn(2, *size, 12, dtype=torch.float64)
    torch.testing.assert_close(module(x), naive_global(module, x))


@torch.no_grad()
def test_rows_at_a_time_equal_all(monkeypatch):
    module, x = aggregated(), torch.randn(2, 6, 5, 12, dtype=torch.float64)
    wanted = module(x)
    for chunk in (1, 2 * 3 * 5 * 15 * 4):  # a row, four rows
        monkeypatch.setattr("dense.ops.chunks.NUMBERS_ON_CPU", chunk)
        module.cpb._kept = None
        torch.testing.assert_close(module(x), wanted)


@torch.no_grad()
def test_weights_of_the_softmax_sum_to_one():
    """Values that are all alike come out as they are; others within their range."""
    module = aggregated()
    module.learnable_tokens.zero_(), module.learnable_bias.zero_()
    module.proj.weight.copy_(torch.eye(12)), module.proj.bias.zero_()
    x = torch.randn(2, 5, 4, 12, dtype=torch.float64)
    y = module(x)
    values = torch.cat(
        [module.kv(t).flatten(1, 2)[..., 12:] for t in (x, module._pool(x, (2, 2)))], 1
    )  # (B, pixels, C)
    assert (y.flatten(1, 2) <= values.amax(1, keepdim=True)).all()
    assert (y.flatten(1, 2) >= values.amin(1, keepdim=True)).all()
    module.kv.weight[12:] = 0
    torch.testing.assert_close(module(x), module.kv.bias[12:].expand_as(x))


@torch.no_grad()
def test_a_full_window_without_pooled_keys_is_global_attention():
    module = aggregated(window_size=7, sr_ratio=4)  # one pooled key
    module.learnable_tokens.zero_(), module.learnable_bias.zero_()
    module.cpb.fc2.weight.zero_(), module.cpb.fc2.bias.fill_(-1e9)
    x = torch.randn(2, 4, 3, 12, dtype=torch.float64)
    query, key, value = (
        heads(part, 3) for part in (module.q(x.flatten(1, 2)), *module.kv(x.flatten(1, 2)).chunk(2, -1))
    )
    pixels = torch.cartesian_prod(torch.arange(4), torch.arange(3))
    offset = pixels[None] - pixels[:, None] + 3
    table = module.relative_pos_bias_local[:, offset[..., 0] * 7 + offset[..., 1]]
    scale = F.softplus(module.temperature) * log(4 * 3 + 1)
    logits = (unit(query) + module.query_embedding) * scale @ unit(key).transpose(-1, -2) + table
    wanted = module.proj((logits.softmax(-1) @ value).transpose(1, 2).flatten(2)).view(x.shape)
    torch.testing.assert_close(module(x), wanted)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["aggregated", "global"])
def test_the_length_of_queries_does_not_matter(kind):
    module = aggregated() if kind == "aggregated" else noisy(GlobalAttention(12, 3, (7, 9)))
    x = torch.randn(2, 5, 4, 12, dtype=torch.float64)
    wanted = module(x)
    layer = module.q if kind == "aggregated" else module.qkv
    layer.weight[:12] *= 7
    layer.bias[:12] *= 7
    torch.testing.assert_close(module(x), wanted)


def test_conv_glu():
    module, x = noisy(ConvGLU(6, 10)), torch.randn(2, 5, 4, 6, dtype=torch.float64)
    assert module.fc2.in_features == 6  # int(2 * 10 / 3)
    a, gate = module.fc1(x).chunk(2, -1)
    weight, bias = module.dwconv.weight, module.dwconv.bias
    a = F.conv2d(a.permute(0, 3, 1, 2), weight, bias, padding=1, groups=6).permute(0, 2, 3, 1)
    torch.testing.assert_close(module(x), module.fc2(F.gelu(a) * gate))


# ------------------------------------------------------------------------------------- position biases


@pytest.mark.parametrize(
    "queries,keys",
    [
        ((6, 8), (3, 2)),
        ((3, 4), (3, 4)),
        ((7, 5), (3, 2)),
        ((2, 5), (7, 7)),
        ((1, 1), (1, 1)),
        ((5, 6), (1, 6)),
    ],
)
@pytest.mark.parametrize("graph", [True, False])
def test_position_bias(queries, keys, graph):
    module = noisy(PositionBias(3, (7, 4), hidden_dims=8))
    with torch.set_grad_enabled(graph):
        bias = module(queries, keys)
        wanted = naive_bias(module, queries, keys)
        wanted = wanted.unflatten(1, queries)
        torch.testing.assert_close(bias(slice(None)), wanted)
        rows = slice(queries[0] // 2, queries[0])
        torch.testing.assert_close(bias(rows), wanted[:, rows])


def test_position_bias_interpolated():
    grids, queries, keys = ((6, 8), (3, 4)), (9, 4), (4, 2)
    module = noisy(PositionBias(3, (7, 4), grids, hidden_dims=8))
    bias = naive_bias(module, *grids).unflatten(2, grids[1])
    bias = F.interpolate(bias, keys, mode="bilinear").flatten(2).transpose(1, 2).unflatten(2, grids[0])
    wanted = F.interpolate(bias, queries, mode="bilinear").permute(0, 2, 3, 1)
    torch.testing.assert_close(module(queries, keys)(slice(None)), wanted)
    torch.testing.assert_close(module(queries, keys)(slice(2, 4)), wanted[:, 2:4])


def test_a_reference_of_one_pixel_is_finite():
    assert PositionBias(2, (1, 1))((2, 2), (2, 2))(slice(None)).isfinite().all()


class Calls:
    """Counts those of a module."""

    def __init__(self, module):
        self.number = 0
        module.register_forward_hook(self.count)

    def count(self, *_):
        self.number += 1


@torch.no_grad()
def test_the_kept_table_is_used_and_never_stale():
    module = noisy(PositionBias(2, (7, 7), hidden_dims=8))
    calls, sizes = Calls(module.fc2), ((4, 4), (2, 2))

    def check(number):
        before = calls.number
        found = module(*sizes)(slice(None))
        assert calls.number - before == number
        torch.testing.assert_close(found.flatten(1, 2), naive_bias(module, *sizes))

    check(1)
    check(0)
    module.fc1.weight.mul_(2)
    check(1)
    check(0)
    module.fc2.bias.data.add_(1)  # no version counter sees this, and moving averages of weights do it
    check(1)
    module.load_state_dict({name: w + 1 for name, w in module.state_dict().items()})
    check(1)
    module.fc1.weight = torch.nn.Parameter(module.fc1.weight * 3)
    check(1)
    check(0)
    sizes = ((4, 6), (2, 2))
    check(1)
    clone = copy.deepcopy(module)
    clone.fc2.bias.add_(1)
    torch.testing.assert_close(clone(*sizes)(slice(None)), module(*sizes)(slice(None)) + 1)
    assert module.float()(*sizes)(slice(None)).dtype == torch.float32
    module.double()
    with torch.enable_grad():
        calls.number = 0
        module(*sizes)(slice(None)).sum().backward()
        module(*sizes)
    assert calls.number == 2 and module.fc2.weight.grad.abs().max() > 0


# --------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("name", TransNeXt.archs)
def test_variants(name):
    with torch.device("meta"):
        backbone = TransNeXt(name)
    assert [len(stage) - 1 for stage in backbone.stages] == list(TransNeXt.archs[name]["depths"])
    kinds = [type(stage[0].attn) for stage in backbone.stages]
    last = AggregatedAttention if name == "micro_aaaa" else GlobalAttention
    assert kinds == [AggregatedAttention] * 3 + [last]
    side = 8 if name == "micro_aaaa" else 7
    assert backbone.stages[3][0].attn.cpb.reference == (side, side)


def outputs(size, **kwargs):
    """Of networks with the same weights."""
    torch.manual_seed(0)
    backbone = TransNeXt(SHALLOW, **kwargs).eval()
    for name, parameter in backbone.named_parameters():
        if "cpb" in name:  # biases that count
            torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        return backbone(images(*size))


def same(first, second):
    return all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_interpolation_at_the_training_size_is_extrapolation():
    kwargs = {"img_size": (96, 64), "pretrain_size": 224}
    assert same(outputs((96, 64), position_bias="interpolate", **kwargs), outputs((96, 64), **kwargs))
    assert not same(outputs((64, 96), position_bias="interpolate", **kwargs), outputs((64, 96), **kwargs))


def test_image_and_training_sizes():
    """Extrapolation asks only what the first training saw; interpolation also what this one does."""
    wanted = outputs((64, 64), img_size=224)
    assert same(wanted, outputs((64, 64)))
    assert same(wanted, outputs((64, 64), img_size=384, pretrain_size=224))
    assert not same(wanted, outputs((64, 64), img_size=384))
    interpolated = outputs((64, 64), position_bias="interpolate")
    assert not same(
        interpolated, outputs((64, 64), img_size=384, pretrain_size=224, position_bias="interpolate")
    )


@pytest.mark.parametrize("position_bias", ["extrapolate", "interpolate"])
def test_fixed_pool_size(position_bias):
    """64 pixels give pooled maps of 2 x 2 everywhere."""
    kwargs = {"position_bias": position_bias, "img_size": 64}
    assert same(outputs((64, 64), fixed_pool_size=2, **kwargs), outputs((64, 64), **kwargs))
    maps = outputs((96, 160), fixed_pool_size=(3, 5), **kwargs)
    assert all(x.isfinite().all() for x in maps)
    assert not same(maps, outputs((96, 160), fixed_pool_size=2, **kwargs))


@pytest.mark.parametrize("position_bias", ["extrapolate", "interpolate"])
@pytest.mark.parametrize("size", [(96, 160), (33, 130), (5, 1)])
def test_any_size(position_bias, size):
    """Also where a map has fewer pixels than one pooled pixel covers."""
    for x, stride in zip(outputs(size, position_bias=position_bias), (4, 8, 16, 32), strict=True):
        assert x.shape[2:] == tuple(-(-side // stride) for side in size)
        assert x.isfinite().all()


def test_window_sizes():
    backbone = TransNeXt(SHALLOW, window_sizes=(5, 3, 1, 3))
    assert [stage[0].attn.window_size for stage in backbone.stages[:3]] == [5, 3, 1]
    assert backbone.stages[0][0].attn.learnable_tokens.shape == (2, 24, 25)
    assert same(outputs((64, 64), window_sizes=3), outputs((64, 64)))
    assert not same(outputs((64, 64), window_sizes=5), outputs((64, 64)))


def test_qkv_bias():
    backbone = TransNeXt(SHALLOW, qkv_bias=False)
    names = [name for name, _ in backbone.named_parameters()]
    assert not any(name.endswith(("q.bias", "kv.bias", "qkv.bias")) for name in names)
    assert backbone.eval()(images(64, 64))[-1].isfinite().all()


def test_drop_path_rates():
    backbone = TransNeXt({**SHALLOW, "depths": (1, 2, 1, 1)}, drop_path_rate=0.4)
    rates = [(m.drop_path1.rate, m.drop_path2.rate) for stage in backbone.stages for m in list(stage)[:-1]]
    assert rates == [pytest.approx((0.1 * i, 0.1 * i)) for i in range(5)]


def test_initial_weights():
    network = dense.create_model("transnext_micro")
    block, last = network.backbone.stages[2][0], network.backbone.stages[3][0]
    for weight, std in (
        (block.attn.q.weight, 0.02),
        (block.attn.cpb.fc2.weight, 0.02),
        (block.attn.query_embedding, 0.02),
        (block.attn.learnable_tokens, 0.02),
        (block.attn.relative_pos_bias_local, 4e-4),
        (block.attn.sr.weight, (2 / 192) ** 0.5),
        (block.mlp.dwconv.weight, (2 / 9) ** 0.5),
        (network.backbone.downsamples[1].proj.weight, (2 / (9 * 96)) ** 0.5),
        (last.attn.qkv.weight, 0.02),
        (network.head.fc.weight, 0.02),
    ):
        assert weight.std().item() == pytest.approx(std, rel=5 * weight.numel() ** -0.5)
        assert abs(weight.mean().item()) < 5 * std * weight.numel() ** -0.5
    for name, parameter in network.named_parameters():
        if name.endswith("temperature"):
            torch.testing.assert_close(F.softplus(parameter), torch.full_like(parameter, 1 / 0.24))
        elif name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name


def test_no_weight_decay():
    """As the README has it: all one-dimensional weights, and those of the named modules."""
    backbone = TransNeXt(SHALLOW)
    keys = {name: {"decay_mult": 0.0} for name in TransNeXt.no_weight_decay}
    constructor = DefaultOptimWrapperConstructor(
        {"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.05}},
        {"flat_decay_mult": 0.0, "custom_keys": keys},
    )
    groups = constructor(backbone).optimizer.param_groups
    decays = {id(group["params"][0]): group["weight_decay"] for group in groups}
    for name, parameter in backbone.named_parameters():
        free = parameter.ndim <= 1 or any(key in name for key in TransNeXt.no_weight_decay)
        assert decays[id(parameter)] == (0 if free else 0.05), name
    official = ("query_embedding", "relative_pos_bias_local", "cpb", "temperature")
    assert TransNeXt.no_weight_decay == official


def official_shapes(name):
    pack = json.loads((PACKS / f"{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape, _ in pack["state_dict"]}


@pytest.mark.parametrize("name", ["transnext_micro", "dense_small_extrap"])
def test_conversion_covers_every_official_key(name):
    converted = TransNeXt.convert_official(official_shapes(name))
    if name == "transnext_micro":
        with torch.device("meta"):
            wanted = dense.create_model(name).state_dict()
    else:
        arch = {
            **SHALLOW,
            "embed_dims": (24, 48, 96, 192),
            "num_heads": (1, 2, 4, 8),
            "depths": (2, 2, 3, 2),
        }
        wanted = {f"backbone.{key}": value for key, value in TransNeXt(arch).state_dict().items()}
    assert {key: value.shape for key, value in converted.items()} == {
        key: value.shape for key, value in wanted.items()
    }


def test_conversion_refuses_unknown_keys():
    with pytest.raises(CheckpointError, match="neck.weight"):
        TransNeXt.convert_official({"neck.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    "kwargs,message",
    [
        ({"position_bias": "guess"}, "'guess'"),
        ({"img_size": 16}, "img_size.*32.*16"),
        ({"pretrain_size": (224, 31)}, r"pretrain_size.*\(224, 31\)"),
        ({"fixed_pool_size": 0}, "fixed_pool_size.*found 0"),
        ({"window_sizes": 4}, "odd.*found 4"),
        ({"window_sizes": (3, 3)}, r"window_sizes.*\(3, 3\)"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        TransNeXt(SHALLOW, **kwargs)


def test_the_head_is_the_mean_then_linear():
    network = ClassificationNetwork(TransNeXt(SHALLOW), 5).eval()
    with torch.no_grad():
        normed = network.backbone(images(64, 64, batch=2))[-1]
        torch.manual_seed(0)
        wanted = network.head.fc(normed.flatten(2).mean(-1))
        torch.testing.assert_close(network.head(normed), wanted)
    norm = network.backbone.stages[3].norm
    torch.testing.assert_close(normed.mean(1), torch.zeros(2, 2, 2), atol=1e-5, rtol=0)
    assert norm.eps == 1e-6 and network.backbone.stages[0][0].norm1.eps == 1e-6
    assert network.backbone.downsamples[0].norm.eps == network.backbone.stages[0][0].attn.norm.eps == 1e-5

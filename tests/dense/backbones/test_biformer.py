"""BiFormer: the attentions against loops over windows, the published files, flags."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import dense
from dense.backbones import BiFormer
from dense.backbones.biformer import Block, FullAttention, RoutingAttention, routed_attention
from pointsuite.engine.checkpoint import CheckpointError
from tests.parity.adapters.biformer import attention_weights

from ..noise import noisy

PACKS = Path(__file__).parents[2] / "parity" / "packs" / "biformer"
# how windows that stick out of the map are treated: by default, as published, and so channels-first
WAYS = {
    "mask": {},
    "input": {"padding": "input"},
    "keys": {"padding": "keys", "floor_windows": True},
    "mask, floor": {"floor_windows": True},
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def shallow(arch="tiny", width=32):
    return BiFormer.archs[arch] | {
        "depths": (1, 1, 1, 1),
        "embed_dims": tuple(width * 2**i for i in range(4)),
    }


def attend(q, k, v, heads, scale):
    """Attention of tokens (N, C) to tokens (M, C), head by head."""
    found = []
    for head in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        found.append((scale * head[0] @ head[1].T).softmax(-1) @ head[2])
    return torch.cat(found, -1)


def lepe(module, maps):
    """(H, W, C), pixel by pixel."""
    weight, bias = module.lepe.weight[:, 0], module.lepe.bias
    reach = weight.shape[-1] // 2
    height, width, _ = maps.shape
    y = bias.expand(maps.shape).clone()
    for i in range(height):
        for j in range(width):
            for a in range(max(0, i - reach), min(height, i + reach + 1)):
                for b in range(max(0, j - reach), min(width, j + reach + 1)):
                    y[i, j] += weight[:, a - i + reach, b - j + reach] * maps[a, b]
    return y


def naive_routing(module, x):
    """One map (H, W, C) by the definition, window by window; its windows' choices, too."""
    n, heads, width = module.num_windows, module.num_heads, module.qk_dims
    height, columns = x.shape[:2]
    if module.floor_windows:
        h, w = max(1, height // n), max(1, columns // n)
    else:
        h, w = -(-height // n), -(-columns // n)
    full = (n * h, n * w) if module.padding == "input" else (-(-height // h) * h, -(-columns // w) * w)
    padded = torch.zeros(*full, x.shape[-1], dtype=x.dtype)
    padded[:height, :columns] = x
    inside = torch.zeros(full, dtype=torch.bool)
    inside[:height, :columns] = True
    qkv = F.linear(padded, module.qkv.weight, module.qkv.bias)
    if module.padding == "keys":
        qkv = qkv * inside[..., None]
    q, k, v = qkv.split((width, width, x.shape[-1]), -1)

    windows = []  # (pixels of a window, 2)
    for i in range(0, full[0], h):
        for j in range(0, full[1], w):
            windows.append(torch.tensor([(a, b) for a in range(i, i + h) for b in range(j, j + w)]))
    counted = torch.ones_like(inside) if module.padding == "input" else inside
    known = counted if module.padding == "mask" else torch.ones_like(inside)

    def pick(maps, pixels):
        return maps[pixels[:, 0], pixels[:, 1]]

    means = []
    for pixels in windows:
        pixels = pixels[pick(counted, pixels)]
        means.append((pick(q, pixels).mean(0), pick(k, pixels).mean(0)))
    y, chosen, weights = torch.zeros(*full, x.shape[-1], dtype=x.dtype), [], []
    for i, pixels in enumerate(windows):
        products = torch.stack([means[i][0] @ mean for _, mean in means]) * width**-0.5
        best = sorted(range(len(windows)), key=lambda j: -products[j].item())[: module.topk]
        r = products[best].softmax(0)
        chosen.append(best)
        weights.append(r)
        factors = torch.ones_like(r) if module.routing == "hard" else r
        sources = [windows[j][pick(known, windows[j])] for j in best]
        keys = torch.cat([pick(k, s) * f for s, f in zip(sources, factors, strict=True)])
        values = torch.cat([pick(v, s) * f for s, f in zip(sources, factors, strict=True)])
        found = attend(pick(q, pixels), keys, values, heads, module.scale)
        y[pixels[:, 0], pixels[:, 1]] = found
    # outside the map, the convolution meets zeros, unless the input was padded
    y = (
        y + lepe(module, v)
        if module.padding == "input"
        else y[:height, :columns] + lepe(module, v[:height, :columns])
    )
    return module.proj(y[:height, :columns]), chosen, torch.stack(weights)


# ------------------------------------------------------------------------------------------ routed attention


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(6, 9), (7, 5), (2, 8)])
def test_against_loops(way, size):
    module = noisy(RoutingAttention(8, 2, 3, 2, **WAYS[way]))
    x = torch.randn(2, *size, 8).double()
    found = module(x)
    for y, one in zip(found, x, strict=True):
        torch.testing.assert_close(y, naive_routing(module, one)[0])


@pytest.mark.parametrize("options", [{"routing": "soft"}, {"qk_dims": 12, "scale": 0.5}, {"lepe_size": 3}])
def test_options_against_loops(options):
    module = noisy(RoutingAttention(8, 2, 3, 4, **options))
    x = torch.randn(1, 8, 6, 8).double()
    torch.testing.assert_close(module(x)[0], naive_routing(module, x[0])[0])


def test_routes_and_their_weights():
    module = noisy(RoutingAttention(8, 2, 3, 4))
    x = torch.randn(2, 6, 9, 8).double()
    weights, routes = module.route(module.qkv(x), (2, 3))
    for i in range(2):
        _, chosen, r = naive_routing(module, x[i])
        assert routes[i].tolist() == chosen
        torch.testing.assert_close(weights[i], r)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 9).double())


def test_rows_of_attention_sum_to_one():
    module = RoutingAttention(8, 2, 3, 4)
    qkv = torch.randn(2, 9, 6, 24)  # windows of 6 pixels
    routes = torch.rand(2, 9, 9).topk(4).indices
    found = attention_weights(module, qkv, routes)
    assert found.shape == (18, 2, 6, 24)
    torch.testing.assert_close(found.sum(-1), torch.ones(18, 2, 6))


def test_routed_to_all_windows_is_full_attention():
    module = noisy(RoutingAttention(16, 2, 3, 9))
    x = torch.randn(2, 6, 9, 16).double()
    for y, one in zip(module(x), x, strict=True):
        q, k, v = module.qkv(one).chunk(3, -1)
        full = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), 2, 16**-0.5).view(one.shape)
        torch.testing.assert_close(y, module.proj(full + lepe(module, v)))


def test_of_identical_windows_any_is_as_good_as_oneself():
    module = noisy(RoutingAttention(16, 2, 3, 1))
    window = torch.randn(2, 4, 16).double()
    y = module(window.repeat(3, 3, 1)[None])
    q, k, v = module.qkv(window).chunk(3, -1)
    alone = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), 2, 16**-0.5).view(window.shape)
    wanted = module.proj(alone.repeat(3, 3, 1) + lepe(module, v.repeat(3, 3, 1)))
    torch.testing.assert_close(y[0], wanted)


def test_the_first_of_equal_windows_wins():
    module = RoutingAttention(16, 2, 3, 4)
    _, routes = module.route(torch.ones(2, 6, 6, 48), (2, 2))
    assert routes.tolist() == [[[0, 1, 2, 3]] * 9] * 2


def test_permuting_windows_permutes_the_attention():
    module = noisy(RoutingAttention(16, 2, 3, 2))
    torch.nn.init.zeros_(module.lepe.weight)
    order = torch.randperm(9)
    windows = torch.randn(9, 2, 4, 16).double()

    def arrange(windows):
        return windows.unflatten(0, (3, 3)).transpose(1, 2).reshape(1, 6, 12, 16)

    torch.testing.assert_close(
        module(arrange(windows[order])),
        arrange(module(arrange(windows)).view(3, 2, 3, 4, 16).transpose(1, 2).flatten(0, 1)[order]),
    )


def test_both_published_implementations_agree_on_even_windows():
    linear, conv = (RoutingAttention(16, 2, 4, 3, **WAYS[way]) for way in ("input", "keys"))
    state = {f"stages.0.0.attn.{key}": torch.randn(shape) / 4 for key, shape in bra_nchw(16).items()}
    as_linear = {"qkv_linear": "qkv.qkv", "output_linear": "wo"}
    for module, names in ((conv, {}), (linear, as_linear)):
        given = {}
        for key, value in state.items():
            for old, new in names.items():
                if old in key:
                    key, value = key.replace(old, new), value.flatten(1) if value.ndim == 4 else value
            given[key] = value
        converted = BiFormer.convert_official(given)
        module.load_state_dict({k.removeprefix("backbone.stages.0.0.attn."): v for k, v in converted.items()})
    x = torch.randn(2, 8, 12, 16)
    torch.testing.assert_close(linear(x), conv(x))
    x = torch.randn(2, 9, 12, 16)
    assert not torch.allclose(linear(x), conv(x), atol=1e-2)


def test_no_gradient_passes_the_router():
    module = noisy(RoutingAttention(8, 2, 3, 2))
    x = torch.randn(1, 6, 6, 8).double().requires_grad_()
    qkv = module.qkv(x)
    weights, routes = module.route(qkv, (2, 2))
    assert not weights.requires_grad
    assert torch.autograd.gradcheck(module, x)
    (grad,) = torch.autograd.grad(module(x).sum(), module.qkv.weight)
    module.route = lambda *_: (weights, routes)
    torch.testing.assert_close(torch.autograd.grad(module(x).sum(), module.qkv.weight)[0], grad)


def test_differentiable_routing_differs_from_soft_in_its_gradient():
    soft, differentiable = (
        noisy(RoutingAttention(8, 2, 3, 2, routing=r)) for r in ("soft", "differentiable")
    )
    differentiable.load_state_dict(soft.state_dict())
    x = torch.randn(1, 6, 6, 8).double().requires_grad_()
    assert not soft.route(soft.qkv(x), (2, 2))[0].requires_grad
    torch.testing.assert_close(soft(x), differentiable(x))
    gradients = [torch.autograd.grad(module(x).sum(), x)[0] for module in (soft, differentiable)]
    assert not torch.allclose(*gradients)
    assert torch.autograd.gradcheck(differentiable, x)


def test_gradient_of_the_parametric_router():
    module = noisy(RoutingAttention(4, 1, 2, 2, routing="parametric"))
    x = torch.randn(1, 2, 4, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(module, x)
    module(x).sum().backward()
    assert module.router.weight.grad.abs().max() > 0


def test_the_parametric_router_maps_both_means():
    module = noisy(RoutingAttention(8, 2, 2, 4, routing="parametric"))
    qkv = torch.randn(1, 4, 4, 24).double()
    weights, routes = module.route(qkv, (2, 2))
    means = module.router(qkv.view(2, 2, 2, 2, 24).mean((1, 3)).flatten(0, 1)[:, :16].view(4, 2, 8))
    wanted = (means[:, 0] @ means[:, 1].T * 8**-0.5).softmax(-1)
    torch.testing.assert_close(torch.zeros_like(wanted).scatter(1, routes[0], weights[0]), wanted)


@pytest.mark.parametrize(
    ("pooling", "function"),
    [
        (("adaptive_avg", 2), lambda x: F.adaptive_avg_pool2d(x, 2)),
        (("adaptive_max", 1), lambda x: F.adaptive_max_pool2d(x, 1)),
        (("avg", 2), lambda x: F.avg_pool2d(x, 2)),
        (("max", 2), lambda x: F.max_pool2d(x, 2)),
    ],
)
def test_kv_pooling(pooling, function):
    """With windows of 4 x 6 pixels, each routed to all, it is attention to a pooled map."""
    module = noisy(RoutingAttention(8, 2, 2, 4, kv_pooling=pooling))
    x = torch.randn(1, 8, 12, 8).double()
    q, k, v = module.qkv(x).chunk(3, -1)
    windows = torch.cat((k, v), -1).view(2, 4, 2, 6, 16).permute(0, 2, 4, 1, 3).flatten(0, 1)
    k, pooled = function(windows).flatten(2).transpose(1, 2).flatten(0, 1).chunk(2, -1)
    y = attend(q[0].flatten(0, 1), k, pooled, 2, 8**-0.5).view(8, 12, 8)
    torch.testing.assert_close(module(x)[0], module.proj(y + lepe(module, v[0])))


@pytest.mark.parametrize("valid", [False, True])
def test_pieces_change_nothing(valid, monkeypatch):
    q, kv = torch.randn(2, 9, 4, 8), torch.randn(2, 9, 4, 16)
    routes = torch.rand(2, 9, 9).topk(3).indices
    options = {"weights": torch.rand(2, 9, 3)}
    if valid:
        options["valid"] = torch.rand(9, 4) < 0.7
        options["valid"][:, 0] = True
    whole = routed_attention(q, kv, routes, 2, 0.3, **options)
    for most in (1, 3 * 4 * 16 * 5):  # one window at a time, five
        monkeypatch.setattr("dense.ops.chunks.NUMBERS_ON_CPU", most)
        with torch.no_grad():
            torch.testing.assert_close(routed_attention(q, kv, routes, 2, 0.3, **options), whole)


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor had."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for value in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(value, torch.Tensor):
                self.numbers = max(self.numbers, value.numel())
        return found


@torch.no_grad()
def test_memory_grows_with_the_pixels_alone(monkeypatch):
    monkeypatch.setattr("dense.ops.chunks.NUMBERS_ON_CPU", 1)
    module = RoutingAttention(32, 1, 4, 8)
    for side in (16, 32, 64):
        with LargestTensor() as largest:
            module(torch.randn(2, side, side, 32))
        assert largest.numbers == 2 * side**2 * 3 * 32  # queries, keys, values; the copies are fewer


@torch.no_grad()
def test_routing_stays_in_float32_under_autocast():
    module = RoutingAttention(32, 1, 4, 3)
    x = torch.randn(1, 16, 16, 32)
    with torch.autocast("cpu", torch.bfloat16):
        qkv = module.qkv(x)
        weights, routes = module.route(qkv, (4, 4))
    assert qkv.dtype == torch.bfloat16 and weights.dtype == torch.float32
    wanted = module.route(qkv.float(), (4, 4))
    assert torch.equal(routes, wanted[1]) and torch.equal(weights, wanted[0])
    assert module.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_parametric_routing_in_bfloat16():
    module = RoutingAttention(32, 1, 4, 3, routing="parametric")
    x = torch.randn(1, 16, 16, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x).isfinite().all()
    assert module.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


# -------------------------------------------------------------------------------------- full attention, block


@pytest.mark.parametrize("lepe_of", ["input", "values"])
def test_full_attention(lepe_of):
    module = noisy(FullAttention(16, 2, lepe_of=lepe_of))
    x = torch.randn(1, 3, 5, 16).double()
    q, k, v = module.qkv(x[0]).chunk(3, -1)
    y = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), 2, 8**-0.5).view(3, 5, 16)
    wanted = module.proj(y + lepe(module, x[0] if lepe_of == "input" else v))
    torch.testing.assert_close(module(x)[0], wanted)


@pytest.mark.parametrize("position", [True, False])
def test_block(position):
    block = noisy(Block(16, FullAttention(16, 2), 2.5, 0.0, position))
    assert block.mlp.fc1.out_features == 40
    x = torch.randn(2, 5, 6, 16).double()
    y = x.permute(0, 3, 1, 2)
    if position:
        proj = block.pos_embed.proj
        y = y + F.conv2d(y, proj.weight, proj.bias, padding=1, groups=16)
    y = y.permute(0, 2, 3, 1)
    y = y + block.attn(F.layer_norm(y, (16,), block.norm1.weight, block.norm1.bias, 1e-6))
    z = F.layer_norm(y, (16,), block.norm2.weight, block.norm2.bias, 1e-6)
    y = y + block.mlp.fc2(F.gelu(block.mlp.fc1(z)))
    torch.testing.assert_close(block(x), y)


# ---------------------------------------------------------------------------------------------- the networks


@torch.no_grad()
@pytest.mark.parametrize("arch", BiFormer.archs)
@pytest.mark.parametrize("flags", [{}, {"reference_quirks": True}, {"attention_reading": "paper"}])
def test_every_variant_takes_any_size(arch, flags):
    network = BiFormer(shallow(arch), **flags).eval()
    x = torch.randn(2, 3, 75, 101)
    maps = network(x)
    assert all(y.isfinite().all() for y in maps)
    for y, alone in zip(maps, network(x[1:]), strict=True):
        torch.testing.assert_close(y[1:], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["tiny", "stl_nchw"])
def test_quirks_show_where_windows_stick_out(arch):
    network = BiFormer(shallow(arch)).eval()
    quirky = BiFormer(shallow(arch), reference_quirks=True).eval()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.normal_(1, 0.5)
    quirky.load_state_dict(network.state_dict())
    x = torch.randn(1, 3, 224, 112)  # 56 x 28, 28 x 14, 14 x 7
    for found, wanted in zip(quirky(x), network(x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    x = torch.randn(1, 3, 132, 100)  # 33 x 25
    assert not torch.allclose(quirky(x)[0], network(x)[0], atol=1e-3)


def attentions(network):
    return [block.attn for stage in network.stages for block in stage]


def test_published_reading():
    for arch in ("tiny", "stl", "stl_nchw"):
        found = attentions(BiFormer(shallow(arch)))
        assert [attention.scale for attention in found[:3]] == [32**-0.5, 64**-0.5, 128**-0.5]
        assert [attention.num_heads for attention in found] == [1, 2, 4, 8]
        assert [attention.topk for attention in found[:3]] == [1, 4, 16]
        assert found[3].lepe_of == ("values" if arch == "stl_nchw" else "input")


def test_the_papers_reading():
    found = attentions(BiFormer(shallow(), attention_reading="paper"))
    assert [attention.scale for attention in found[:3]] == [32**-0.5] * 3
    assert [attention.num_heads for attention in found] == [1, 2, 4, 8]
    assert found[3].lepe_of == "values"
    wide = BiFormer(shallow(width=64), attention_reading="paper")
    assert attentions(wide)[3].num_heads == 16  # 512 / 32


def test_windows_and_stages_are_arguments():
    network = BiFormer(shallow(), num_windows=8, topks=(None, 2, 3, 5), routing="soft")
    first, *routed = attentions(network)
    assert isinstance(first, FullAttention)
    assert [a.num_windows for a in routed] == [8, 8, 8] and [a.topk for a in routed] == [2, 3, 5]
    assert {a.routing for a in routed} == {"soft"}


@torch.no_grad()
def test_outputs_are_normed_copies():
    network = BiFormer(shallow()).eval()
    plain = BiFormer(shallow(), output_norm=False).eval()
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("norms.")})
    x = torch.randn(2, 3, 64, 96)
    for y, trunk in zip(network(x), plain(x), strict=True):
        wanted = F.layer_norm(trunk.permute(0, 2, 3, 1), trunk.shape[1:2], eps=1e-6).permute(0, 3, 1, 2)
        torch.testing.assert_close(y, wanted)


def test_head_norms_before_the_mean():
    head = BiFormer(shallow()).make_head(7).train()
    x = torch.randn(4, 256, 3, 2)
    torch.testing.assert_close(head(x), head.fc(F.batch_norm(x, None, None, training=True).mean((2, 3))))


def test_drop_path_rises_over_all_blocks():
    network = BiFormer(shallow() | {"depths": (1, 2, 1, 1)}, drop_path_rate=0.4)
    rates = [(block.drop_path1.rate, block.drop_path2.rate) for stage in network.stages for block in stage]
    assert rates == [(pytest.approx(r), pytest.approx(r)) for r in (0, 0.1, 0.2, 0.3, 0.4)]


@pytest.mark.parametrize("arch", ["tiny", "stl", "stl_nchw"])
def test_initial_weights(arch):
    network = dense.create_model(f"biformer_{arch}", num_classes=500)
    linear = 0
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear):
            convolution = arch == "stl_nchw" and name != "head.fc"
            std = (3 * module.in_features) ** -0.5 if convolution else 0.02
            assert abs(module.weight.std().item() / std - 1) < 0.05, name
            if module.bias is not None:
                assert (module.bias.abs().max() > 0) == convolution, name
            linear += 1
        elif isinstance(module, (torch.nn.LayerNorm, torch.nn.BatchNorm2d)):
            assert torch.all(module.weight == 1) and torch.all(module.bias == 0), name
            assert module.eps == (1e-6 if isinstance(module, torch.nn.LayerNorm) else 1e-5), name
    assert linear == 4 * sum(network.backbone.archs[arch]["depths"]) + 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RoutingAttention(32, 3), "32.*found 3"),
        (lambda: RoutingAttention(32, 1, 3, 10), "1..num_windows.2 = 9, found 10"),
        (lambda: RoutingAttention(32, 1, routing="firm"), "firm"),
        (lambda: RoutingAttention(32, 1, kv_pooling=("median", 2)), "median"),
        (lambda: RoutingAttention(32, 1, padding="mirror"), "mirror"),
        (
            lambda: RoutingAttention(32, 1, kv_pooling=("avg", 1))(torch.zeros(1, 9, 14, 32)),
            "2 x 2 pixels.*9 x 14",
        ),
        (lambda: FullAttention(32, 3), "32, found 3"),
        (lambda: BiFormer(attention_reading="mine"), "mine"),
        (lambda: BiFormer(topks=(1, 4)), r"must be 4.*\(1, 4\)"),
        (lambda: BiFormer(shallow() | {"design": "swin"}), "swin"),
        (lambda: BiFormer(shallow(width=16)), r"32, found \(16, 32"),
        (lambda: BiFormer(shallow("stl"))(torch.zeros(1, 3, 31, 64)), "32 x 32, found 31 x 64"),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# -------------------------------------------------------------------------------------------- published files


def affine(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def norm(name, channels):
    statistics = {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)}
    return affine(name, channels) | statistics | {f"{name}.num_batches_tracked": ()}


def bra_nchw(c):
    attn = affine("lepe", c, 1, 5, 5) | affine("qkv_linear", 3 * c, c, 1, 1)
    return attn | affine("output_linear", c, c, 1, 1)


def official(arch, dense_copy=False):
    """Names and shapes of a published file, from the description of its layout."""
    spec = BiFormer.archs[arch]
    dims, nchw, plain = spec["embed_dims"], spec["design"] == "stl_nchw", spec["design"] == "biformer"
    point = (1, 1) if nchw else ()
    down = "downsample_layers"
    if plain:
        keys = affine(f"{down}.0.0", dims[0] // 2, 3, 3, 3) | norm(f"{down}.0.1", dims[0] // 2)
        keys |= affine(f"{down}.0.3", dims[0], dims[0] // 2, 3, 3) | norm(f"{down}.0.4", dims[0])
    else:
        keys = affine(f"{down}.0.0", dims[0], 3, 4, 4) | norm(f"{down}.0.1", dims[0])
    for i in range(1, 4):
        if plain:
            keys |= affine(f"{down}.{i}.0", dims[i], dims[i - 1], 3, 3) | norm(f"{down}.{i}.1", dims[i])
        else:
            keys |= norm(f"{down}.{i}.0", dims[i - 1]) | affine(f"{down}.{i}.1", dims[i], dims[i - 1], 2, 2)
    for i, (c, depth) in enumerate(zip(dims, spec["depths"], strict=True)):
        for j in range(depth):
            if i == 3:
                attn = affine("lepe", c, 1, 5, 5) | affine("proj", c, c, *point)
                attn["qkv.weight"] = (3 * c, c, *point)
            elif nchw:
                attn = bra_nchw(c)
            else:
                attn = affine("lepe", c, 1, 5, 5) | affine("qkv.qkv", 3 * c, c) | affine("wo", c, c)
            block = {f"attn.{key}": shape for key, shape in attn.items()}
            block |= affine("norm1", c) | affine("norm2", c)
            if plain:
                block |= affine("pos_embed", c, 1, 3, 3)
            hidden = 3 * c if plain else 4 * c
            block |= affine("mlp.0", hidden, c, *point)
            block |= affine("mlp.3" if plain else "mlp.2", c, hidden, *point)
            inner = f"stages.{i}.{j}." if plain else f"stages.{i}.blocks.{j}."
            keys |= {inner + key: shape for key, shape in block.items()}
    if dense_copy:
        for i, c in enumerate(dims):
            keys |= affine(f"extra_norms.{i}", c)
        return keys
    return keys | norm("norm", dims[3]) | affine("head", 1000, dims[3])


@pytest.mark.parametrize("arch", ["tiny", "stl_nchw"])
def test_the_description_of_published_files(arch):
    pack = json.loads((PACKS / f"biformer_{arch}.json").read_text())
    assert {key: tuple(shape) for key, shape, _ in pack["state_dict"]} == official(arch)


@pytest.mark.parametrize("arch", BiFormer.archs)
@pytest.mark.parametrize("dense_copy", [False, True])
def test_convert_official(arch, dense_copy):
    with torch.device("meta"):
        network = dense.create_model(f"biformer_{arch}", features_only=dense_copy)
        state = {key: torch.empty(shape) for key, shape in official(arch, dense_copy).items()}
    converted = {
        key.removeprefix("backbone.") if dense_copy else key: value.shape
        for key, value in network.convert_official(state).items()
    }
    assert len(converted) == len(state)
    assert converted == {key: value.shape for key, value in network.state_dict().items()}


def test_convert_official_refuses_other_files():
    with pytest.raises(CheckpointError, match=r"stem\.weight"):
        BiFormer.convert_official({"stem.weight": torch.zeros(1)})

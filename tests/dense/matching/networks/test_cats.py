"""CATs: its features, its aggregator, its grid, and published weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dense
from dense.matching.cost_volume import read_flow
from dense.matching.networks.backbone import BlockFeatures
from dense.matching.networks.cats import Aggregator, CATs
from dense.registry import MODELS, ZOO
from pointsuite.engine.checkpoint import CheckpointError

RESNET18 = {"type": "mmdet.ResNet", "depth": 18}
SMALL = {"grid": 4, "proj_dims": 8, "num_heads": 4}


def make(blocks=(0, 3, 5), **options):
    torch.manual_seed(0)
    return CATs(dict(RESNET18), blocks, **(SMALL | options))


def images(batch=2, size=64, seed=0):
    return torch.randn(2, batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def randomise(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return module


# -------------------------------------------------------------------------------------------------- features


def test_features_are_those_before_the_last_relu():
    torch.manual_seed(0)
    features = BlockFeatures(dict(RESNET18), (0, 2, 3, 6)).eval()
    net = features.backbone
    x, wanted = images()[0], []
    x = net.maxpool(net.bn1(net.conv1(x)).relu())
    wanted.append(x)
    for stage in (net.layer1, net.layer2, net.layer3):
        for block in stage:
            y = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
            x = y + (x if block.downsample is None else block.downsample(x))
            wanted.append(x)
            x = x.relu()
    maps = features(images()[0])
    assert len(maps) == 4 and [m.shape[1] for m in maps] == features.out_channels == [64, 64, 128, 256]
    for found, number in zip(maps, (0, 2, 3, 6), strict=True):
        torch.testing.assert_close(found, wanted[number])
    assert (maps[1] < 0).any()


def test_blocks_after_the_last_are_taken_off():
    features = BlockFeatures(dict(RESNET18), (1, 3))
    assert [len(getattr(features.backbone, f"layer{i}")) for i in (1, 2, 3, 4)] == [2, 1, 0, 0]


def test_a_frozen_backbone_stays_as_it_is():
    network = make().train()
    assert not any(m.training for m in network.features.backbone.modules())
    before = {k: v.clone() for k, v in network.features.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 0.1, weight_decay=0.1)
    network(*images())[0].square().sum().backward()
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in network.features.state_dict().items())
    assert all(p.grad is None for p in network.features.parameters())


def test_a_backbone_that_learns():
    network = make(frozen=False).train()
    network(*images())[0].square().sum().backward()
    # branches of ResNet begin at zero, and what comes before has no gradient then
    assert network.features.backbone.conv1.weight.grad.abs().max() > 0
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(
    "blocks, message",
    [
        ((), r"blocks must ascend within 0\.\.8, found \[\]"),
        ((3, 1), r"found \[3, 1\]"),
        ((0, 9), r"found \[0, 9\]"),
    ],
)
def test_impossible_blocks(blocks, message):
    with pytest.raises(ValueError, match=message):
        BlockFeatures(dict(RESNET18), blocks)


def test_a_backbone_without_blocks():
    with pytest.raises(ValueError, match="layer1 to layer4, found Identity"):
        BlockFeatures(nn.Identity(), (0,))


# ------------------------------------------------------------------------------------------------- aggregator


def naive(aggregator, correlation, source, target, heads):
    """Token by token: (L, N, N), (L, N, P) of one pair."""
    levels, count = correlation.shape[:2]
    grid = round(count**0.5)

    def attend(attention, x):  # (n, C)
        q, k, v = attention.qkv(x).chunk(3, -1)
        parts = [
            (a @ b.T / a.shape[-1] ** 0.5).softmax(-1) @ c
            for a, b, c in zip(*(t.chunk(heads, -1) for t in (q, k, v)), strict=True)
        ]
        return attention.proj(torch.cat(parts, -1))

    def refine(rows, features):
        x = torch.cat([rows, features], -1)
        for level in range(levels):
            for position in range(count):
                row, column = divmod(position, grid)
                code = aggregator.pos_embed_x[0, level, 0, column], aggregator.pos_embed_y[0, level, row, 0]
                x[level, position] += torch.cat(code)
        for block in aggregator.blocks:
            x = torch.stack([y + attend(block.attn, block.norm1(y)) for y in x])
            if levels > 1:
                x = x + block.mlp2(block.norm4(x))
                among = [attend(block.attn_multiscale, block.norm3(x[:, p])) for p in range(count)]
                x = x + torch.stack(among, 1)
            x = x + block.mlp(block.norm2(x))
        return aggregator.proj(x)

    first = refine(correlation.mT, target).mT + correlation
    return (refine(first, source) + correlation).mean(0)


@pytest.mark.parametrize("levels", [1, 3])
def test_aggregator_is_its_formula(levels):
    torch.manual_seed(0)
    aggregator = randomise(Aggregator(levels, 3, 7, depth=2, num_heads=4).double())
    correlation, source, target = (torch.randn(2, levels, 9, n).double() for n in (9, 7, 7))
    with torch.no_grad():
        found = aggregator(correlation, source, target)
        wanted = [naive(aggregator, *x, heads=4) for x in zip(correlation, source, target, strict=True)]
    torch.testing.assert_close(found, torch.stack(wanted))


@pytest.mark.parametrize("levels, parts", [(1, 2), (4, 4)])
def test_every_parameter_of_the_aggregator_learns(levels, parts):
    torch.manual_seed(0)
    aggregator = randomise(Aggregator(levels, 4, 8, num_heads=4))
    names = [name for name, _ in aggregator.blocks[0].named_children()]
    assert sum(name.startswith(("attn", "mlp")) for name in names) == parts
    aggregator(*(torch.randn(2, levels, 16, n) for n in (16, 8, 8))).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in aggregator.parameters())


def test_impossible_tokens():
    with pytest.raises(ValueError, match="even and a multiple of the 4 heads, found 18"):
        Aggregator(2, 4, 2, num_heads=4)
    with pytest.raises(ValueError, match="found 15"):
        Aggregator(2, 3, 6, num_heads=5)


# ---------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("size", [64, 96])
def test_the_flow_is_on_the_grid(size):
    network = make().eval()
    with torch.no_grad():
        flows = network(*images(size=size))
        flow, confidence = network.match(*images(size=size))
    assert len(flows) == 1 and flows[0].shape == (2, 2, 4, 4) and flows[0].dtype == torch.float32
    assert torch.equal(flow, flows[0])
    assert confidence.shape == (2, 4, 4) and confidence.min() >= 0 and confidence.max() <= 1


def test_a_pair_does_not_depend_on_the_batch():
    network = make().eval()
    source, target = images(3)
    with torch.no_grad():
        (among,), (alone,) = network(source, target), network(source[1:2], target[1:2])
    torch.testing.assert_close(among[1:2], alone, atol=1e-4, rtol=1e-4)


def test_equal_images_of_distinct_parts_stand_still():
    """With an aggregator that adds nothing, cells match themselves."""
    network = make((5,)).eval()
    nn.init.zeros_(network.aggregator.proj.weight)
    source = images(1, size=256)[0]
    flow, confidence = network.match(source, source)
    assert flow.abs().max() < 0.1 and confidence.min() > 0.5


def test_images_of_two_sizes():
    with pytest.raises(ValueError, match=r"of one size, found \(2, 3, 64, 64\) and \(2, 3, 96, 96\)"):
        make()(images()[0], images(size=96)[0])


def test_the_grid_is_fixed_unless_asked():
    fixed, learned = make(), make(learned_grid=True)
    assert set(learned.state_dict()) - set(fixed.state_dict()) == {"x_normal", "y_normal"}
    (a,), (b,) = fixed.eval()(*images()), learned.eval()(*images())
    torch.testing.assert_close(a, b)
    b.sum().backward()
    assert learned.x_normal.grad.abs().max() > 0 and learned.y_normal.grad.abs().max() > 0
    with torch.no_grad():
        learned.x_normal.mul_(0.5)
    (c,) = learned(*images())
    column = torch.arange(4.0)
    torch.testing.assert_close(c[:, 0] + column - 1.5, (b[:, 0] + column - 1.5) / 2)
    torch.testing.assert_close(c[:, 1], b[:, 1])


# ------------------------------------------------------------------------------------------ published weights


def published(blocks=(0, 3, 5), grid=4, proj=8, multiscale=True):
    """Names and shapes as the authors' files have them, for a ResNet-18."""
    torch.manual_seed(7)
    levels, dims = len(blocks), grid**2 + proj
    state = {
        f"feature_extraction.backbone.{key}": torch.randn(value.shape) if value.is_floating_point() else value
        for key, value in MODELS.build(RESNET18).state_dict().items()
    }
    state["feature_extraction.backbone.fc.weight"] = torch.randn(1000, 512)
    state["feature_extraction.backbone.fc.bias"] = torch.randn(1000)
    for i, block in enumerate(blocks):
        state[f"proj.{i}.weight"] = torch.randn(proj, 64 * 2 ** max(0, (block - 1) // 2))
        state[f"proj.{i}.bias"] = torch.randn(proj)
    state |= {f"decoder.pos_embed_{axis}": torch.randn(shape) for axis, shape in (
        ("x", (1, levels, 1, grid, dims // 2)), ("y", (1, levels, grid, 1, dims // 2))
    )}  # fmt: skip
    layers = {"proj": (grid**2, dims), "norm": (dims,)}
    for part in ("attn", "attn_multiscale"):
        layers[f"blocks.0.{part}.qkv"] = (3 * dims, dims)
        layers[f"blocks.0.{part}.proj"] = (dims, dims)
    for part in ("mlp", "mlp2"):
        layers[f"blocks.0.{part}.fc1"] = (4 * dims, dims)
        layers[f"blocks.0.{part}.fc2"] = (dims, 4 * dims)
    layers |= {f"blocks.0.norm{i}": (dims,) for i in (1, 2, 3, 4)}
    for name, shape in layers.items():
        state[f"decoder.{name}.weight"] = torch.randn(shape)
        state[f"decoder.{name}.bias"] = torch.randn(shape[0])
    return state | {"x_normal": torch.linspace(-1, 1, grid), "y_normal": torch.linspace(-0.9, 1, grid)}


@pytest.mark.parametrize("blocks", [(0, 3, 5), (4,)])
@pytest.mark.parametrize("learned_grid", [False, True])
def test_published_weights(blocks, learned_grid):
    network = make(blocks, learned_grid=learned_grid)
    state = published(blocks)
    converted = CATs.convert_official(state, blocks=blocks, learned_grid=learned_grid)
    network.load_state_dict(converted)  # strictly
    assert network.convert_official(state).keys() == converted.keys()  # its own options
    assert torch.equal(network.aggregator.blocks[0].mlp.fc2.weight, state["decoder.blocks.0.mlp.fc2.weight"])
    conv = network.features.backbone.layer2[0].conv1.weight
    assert torch.equal(conv, state["feature_extraction.backbone.layer2.0.conv1.weight"])
    if learned_grid:
        assert torch.equal(network.y_normal, state["y_normal"])


def test_unknown_weights():
    with pytest.raises(CheckpointError, match="1 keys that no rule names: teacher.weight"):
        CATs.convert_official({**published(), "teacher.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="no key decoder.pos_embed_x"):
        CATs.convert_official({"proj.0.weight": torch.zeros(1)})


def test_published_weights_say_what_they_are():
    with torch.device("meta"):
        network = dense.create_model("cats_r101", learned_grid=True)
        spare = MODELS.build({"type": "mmdet.ResNet", "depth": 101, "out_indices": (3,)})
    state = {
        f"feature_extraction.backbone.{k}": v for k, v in spare.state_dict().items() if k.startswith("layer")
    }
    for key, value in network.state_dict().items():
        key = key.replace("features.", "feature_extraction.", 1).replace("aggregator.", "decoder.", 1)
        state[key] = value
    state |= {"decoder.norm.weight": torch.zeros(384), "decoder.norm.bias": torch.zeros(384)}
    found = ZOO.identify(state)
    assert (found.name, found.options) == ("cats_r101", {})
    with pytest.raises(CheckpointError, match="of no variant; nearest are cats_r101"):
        ZOO.identify({k: v for k, v in state.items() if not k.startswith("proj.7")})


def test_parameters_of_the_published_network():
    with torch.device("meta"):
        network = CATs({"type": "mmdet.ResNet", "depth": 101})
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in network.named_children()}
    dims = 16**2 + 128
    block = 2 * (4 * dims**2 + 4 * dims) + 2 * (8 * dims**2 + 5 * dims) + 4 * 2 * dims
    assert counts["aggregator"] == block + dims * 256 + 256 + 8 * 2 * 16 * dims // 2
    assert counts["proj"] == 128 * (64 + 7 * 1024 + 8)
    assert counts["features"] == 42_500_160 - 14_964_736  # all but the classifier, less layer4
    assert sum(counts.values()) == CATs.num_parameters["r101"]


def test_the_read_out_by_hand():
    """The published form: mean coordinates from -1 to 1, in cells, less the cell's own."""
    scores = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    flow = read_flow(scores, (4, 4)).mT.view(2, 4, 4)
    p = F.softmax(scores[0] / 0.02, -1).view(16, 4, 4)
    x = (p.sum(1) * torch.linspace(-1, 1, 4)).sum(-1)
    y = (p.sum(2) * torch.linspace(-1, 1, 4)).sum(-1)
    torch.testing.assert_close(flow[0].flatten(), (x + 1) * 1.5 - torch.arange(16) % 4)
    torch.testing.assert_close(flow[1].flatten(), (y + 1) * 1.5 - torch.arange(16) // 4)

"""The network: symmetry in time, what depends on what, statistics, blocks against loops, weights, errors."""

import json
from math import sqrt
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import dense
from dense.registry import MODELS, ZOO
from dense.video.networks.vad_hybrid import NORMS, ConvLSTM, TemporalAttention, VADHybrid
from pointsuite.engine.checkpoint import CheckpointError

PACK = Path(__file__).parents[3] / "parity/packs/vad_hybrid/convttrans_lstm_gray.json"
TINY = {"widths": (8, 8, 16), "depth": 2, "num_heads": 4, "ffn_ratio": 2, "kernel_size": 3}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make(**kwargs):
    """A tiny network in evaluation, with norms that do something."""
    network = VADHybrid(TINY, **kwargs).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return network


def make_clip(batch=1, channels=1, size=(16, 12), length=9):
    return 2 * torch.rand(batch, length, channels, *size) - 1


# ---------------------------------------------------------------------------------------------- whole clips


@pytest.mark.parametrize("arch, channels, size", [("small", 1, (32, 20)), (TINY, 3, (8, 24))])
def test_shape(arch, channels, size):
    network = VADHybrid(arch, channels).eval()
    prediction = network(make_clip(2, channels, size))
    assert prediction.shape == (2, 3, channels, *size)
    assert prediction.abs().max() < 1
    assert (network.clip_length, network.context, network.num_targets) == (9, 3, 3)


def test_smallest_frame_and_other_lengths():
    network = make(clip_length=6, context=2)
    assert network(make_clip(2, size=(4, 4), length=6)).shape == (2, 2, 1, 4, 4)
    assert network(make_clip(2, size=(4, 4), length=6), "middle").shape == (2, 1, 1, 4, 4)


@pytest.mark.parametrize("norm", NORMS)
def test_reversed_clip(norm):
    """Both branches swapped and the weight turned around: the prediction is reversed."""
    network, clip = make(norm=norm, forward_weight=0.7), make_clip(2)
    mirrored = make(norm=norm, forward_weight=0.3)
    swapped = {"past": "future", "future": "past"}
    state = {
        ".".join([swapped.get(first, first), *rest]): value
        for key, value in network.state_dict().items()
        for first, *rest in [key.split(".")]
    }
    mirrored.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(mirrored(clip.flip(1)).flip(1), network(clip), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight, used, unused", [(1, "past", "future"), (0, "future", "past")])
def test_one_branch(weight, used, unused):
    network, clip = make(forward_weight=weight), make_clip()
    with torch.no_grad():
        first = network(clip)
        for parameter in getattr(network, unused).parameters():
            parameter.add_(1)
        torch.testing.assert_close(network(clip), first, rtol=0, atol=0)
        for parameter in getattr(network, used).parameters():
            parameter.add_(1)
        assert (network(clip) - first).abs().max() > 1e-2


@pytest.mark.parametrize("target", range(3))
@pytest.mark.parametrize("weight", [0, 1])
def test_causality(target, weight):
    """With fixed statistics, forward predictions see earlier targets only, backward ones later ones only."""
    network, clip = make(norm="tracked", forward_weight=weight), make_clip()
    changed = clip.clone()
    changed[:, 3 + target] = make_clip()[:, 0]
    with torch.no_grad():
        difference = (network(clip) - network(changed)).abs().flatten(2).amax((0, 2))
    blind = difference[: target + 1] if weight else difference[target:]
    seeing = difference[target + 1 :] if weight else difference[:target]
    assert (blind == 0).all()
    assert (seeing > 1e-4).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("length", [9, 8])
def test_middle_target_alone(norm, length):
    network, clip = make(norm=norm, clip_length=length), make_clip(2, length=length)
    with torch.no_grad():
        every, middle = network(clip), network(clip, "middle")
        number = network.num_targets // 2
        torch.testing.assert_close(middle, every[:, number : number + 1], rtol=1e-5, atol=1e-6)


def test_middle_target_costs_less():
    network, clip = make(norm="tracked"), make_clip()
    steps = []
    for branch in (network.past, network.future):
        branch["beta"].register_forward_hook(lambda _, inputs, __: steps.append(inputs[0].shape[1]))
        branch["decoder"][0].register_forward_hook(lambda _, inputs, __: steps.append(inputs[0].shape[1]))
    with torch.no_grad():
        network(clip, "middle")
    assert steps == [2] * 4


def test_inference_equals_training_code():
    """The kernels without gradient compute what the differentiable code does."""
    network, clip = make(), make_clip()
    with torch.inference_mode():
        found = network(clip)
    torch.testing.assert_close(network(clip).detach(), found.clone(), rtol=1e-4, atol=1e-5)


def test_bfloat16():
    network, clip = make(), make_clip()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = network(clip)
    assert (found.float() - network(clip)).abs().mean() < 0.02


@pytest.mark.slow
def test_compiles():
    network, clip = make(), make_clip()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(network)(clip), network(clip), rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("norm, independent", [("sample", True), ("tracked", True), ("batch", False)])
def test_whose_statistics(norm, independent):
    network, clips = make(norm=norm), make_clip(4) * torch.tensor([1, 0.1, 0.5, 0.9]).view(4, 1, 1, 1, 1)
    with torch.no_grad():
        together = network(clips)
        alone = torch.cat([network(clip[None]) for clip in clips])
    difference = (together - alone).abs().max()
    assert difference < 1e-5 if independent else difference > 1e-2


def test_sample_statistics_are_the_published_ones_of_a_batch_of_one():
    published, ours, clip = make(norm="batch"), make(), make_clip()
    ours.load_state_dict(published.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(clip), published(clip), rtol=0, atol=0)


def test_tracked_statistics_are_learned():
    network, clip = make(norm="tracked"), make_clip(2)
    before = network.low.norm.running_mean.clone()
    assert not any("running" in key for key in make().state_dict())
    network.train()(clip)
    assert (network.low.norm.running_mean - before).abs().max() > 1e-4
    assert int(network.low.norm.num_batches_tracked) == 1


# ------------------------------------------------------------------------------------------------- training


def test_every_parameter_learns():
    network = make().train()
    network(make_clip(2)).square().mean().backward()
    silent = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert not silent


def test_checkpointing_changes_nothing():
    plain, saving, clip = make(dropout=0), make(dropout=0, with_cp=True), make_clip(2)
    saving.load_state_dict(plain.state_dict())
    losses = []
    for network in (plain, saving):
        losses.append(network.train()(clip).square().mean())
        losses[-1].backward()
    torch.testing.assert_close(*losses)
    for (name, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_initial_weights():
    network = VADHybrid("small")
    weight = network.encoder[0].attn.qkv.weight  # as three convolutions of 32 to 32 channels
    bound = sqrt(6 / (9 * (32 + 32)))
    assert all(0.98 * bound < part.abs().max() <= bound for part in weight.chunk(3))
    weight = network.past["beta"].conv.weight
    bound = sqrt(6 / (9 * (24 + 32)))
    assert 0.98 * bound < weight.abs().max() <= bound
    assert (network.low.norm.weight == 1).all()


# --------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_attention_equals_loops(masked, cross):
    attention = TemporalAttention(8, 2).double().eval()
    x = torch.randn(2, 3, 8, 4, 5, dtype=torch.float64)
    memory = torch.randn(2, 4, 8, 4, 5, dtype=torch.float64) if cross else None
    source = memory if cross else x
    mask = torch.rand(2, 1, 3, source.shape[1]) < 0.6 if masked else None
    if masked:
        mask[0, 0, 1] = False  # nothing to see: the mean of all
    with torch.no_grad():
        found = attention(x, memory, mask)
        weights, biases = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
        for b in range(2):
            query, key, value = (
                F.conv2d(y[b], w, bias, padding=1)
                for y, w, bias in zip((x, source, source), weights, biases, strict=True)
            )
            for i in range(3):
                heads = []
                for q, k, v in zip(query[i].chunk(2), key.chunk(2, 1), value.chunk(2, 1), strict=True):
                    logits = (q * k).sum((1, 2, 3)) / sqrt(4 * 4 * 5)
                    if masked:
                        logits = torch.where(mask[b, 0, i], logits, -1e9)
                    share = torch.exp(logits - logits.max())
                    heads.append((share[:, None, None, None] / share.sum() * v).sum(0))
                wanted = F.conv2d(torch.cat(heads), attention.out.weight, attention.out.bias, padding=1)
                torch.testing.assert_close(found[b, i], wanted)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_lstm_equals_plain_one(kernel_size):
    """The published order x, h, e in one convolution, step by step; silent alpha is the same as zeros."""
    lstm = ConvLSTM(6, 8, kernel_size).double()
    torch.nn.init.normal_(lstm.norm.weight)
    x = torch.randn(2, 3, 6, 5, 7, dtype=torch.float64)
    for extra in (torch.randn(2, 3, 8, 5, 7, dtype=torch.float64), torch.zeros(2, 3, 8, 5, 7).double()):
        hidden = cell = x.new_zeros(2, 8, 5, 7)
        wanted = []
        for step in range(3):
            gates = lstm.conv(torch.cat([x[:, step], hidden, extra[:, step]], 1))
            centred = gates - gates.mean((1, 2, 3), keepdim=True)  # 32 channels: one group
            gates = centred / (centred.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
            gates = gates * lstm.norm.weight[:, None, None] + lstm.norm.bias[:, None, None]
            i, f, g, o = gates.split(8, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            wanted.append(hidden)
        torch.testing.assert_close(lstm(x, extra), torch.stack(wanted, 1))
    torch.testing.assert_close(lstm(x), torch.stack(wanted, 1))


def test_white_pixels():
    quirky, ours, clip = make(white_pixel_mask=True), make(), make_clip()
    ours.load_state_dict(quirky.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(quirky(clip), ours(clip), rtol=0, atol=0)
        for frame, hides in ((1, True), (4, True), (7, True)):
            white = clip.clone()
            white[:, frame, 0, 0, 0] = 1
            assert ((quirky(white) - ours(white)).abs().max() > 1e-4) == hides
        white = clip.clone()
        white[:, :, 0, 0, 1] = 1  # another pixel
        torch.testing.assert_close(quirky(white), ours(white), rtol=0, atol=0)
        clip[:, :, 0, 0, 0] = 1  # all frames hidden: a mean, not NaN
        assert quirky(clip).isfinite().all()


# -------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("arch, coloured", [("base", 8_469_251), ("small", 851_427)])
def test_parameter_counts(arch, coloured):
    for channels, count in ((1, VADHybrid.num_parameters[arch]), (3, coloured)):
        with torch.device("meta"):
            network = dense.create_model(f"vad_hybrid_{arch}", in_channels=channels)
        assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_convert_official():
    rows = json.loads(PACK.read_text())["state_dict"]
    official = {key: torch.empty(shape, device="meta") for key, shape, _ in rows}
    with torch.device("meta"):
        wanted = VADHybrid().state_dict()
    converted = VADHybrid.convert_official(official)
    assert {key: value.shape for key, value in converted.items()} == {k: v.shape for k, v in wanted.items()}
    with pytest.raises(CheckpointError, match="bn_8.weight"):
        VADHybrid.convert_official({**official, "bn_8.weight": torch.empty(16)})

    part = {f"net.{key}": value for key, value in official.items()}
    assert VADHybrid.convert_official(part).keys() == converted.keys()


def test_published_weights_say_what_they_are():
    rows = json.loads(PACK.read_text())["state_dict"]
    found = ZOO.identify({f"net.{key}": torch.empty(shape, device="meta") for key, shape, _ in rows})
    assert (found.name, found.options) == ("vad_hybrid_base", {})


@pytest.mark.parametrize("arch", VADHybrid.archs)
@pytest.mark.parametrize("options", [{}, {"in_channels": 3, "norm": "tracked"}])
def test_options_follow_from_shapes(arch, options):
    with torch.device("meta"):
        state = VADHybrid(arch, **options).state_dict()
    (found,) = VADHybrid.guess_options(state)
    assert found[:2] == (arch, options)
    with torch.device("meta"):
        state = VADHybrid({**VADHybrid.archs[arch], "depth": 1}).state_dict()
    found = [guess["arch"] for _, guess, _ in VADHybrid.guess_options(state)]
    assert [own["num_heads"] for own in found] == [4, 8]  # which no weight tells
    assert all(own["depth"] == 1 for own in found)


def test_built_from_config():
    network = MODELS.build({"type": "VADHybrid", "arch": TINY, "in_channels": 3})
    assert isinstance(network, VADHybrid)


# --------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 9, 1, 16, 18), "multiples of 4, found 16 x 18"),
        ((1, 9, 1, 0, 16), "multiples of 4, found 0 x 16"),
        ((1, 8, 1, 16, 16), r"\(B, 9, 1, H, W\), found \(1, 8, 1, 16, 16\)"),
        ((1, 9, 3, 16, 16), r"found \(1, 9, 3, 16, 16\)"),
        ((9, 1, 16, 16), r"found \(9, 1, 16, 16\)"),
    ],
)
def test_bad_clip(shape, message):
    with pytest.raises(ValueError, match=message):
        make()(torch.zeros(shape))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"arch": "large"}, "no arch 'large'; there are .*'base', 'small'"),
        ({"arch": {"depth": 2}}, "has keys .*found"),
        ({"arch": {**TINY, "widths": (6, 8, 16)}}, "multiple of 8, found 6"),
        ({"arch": {**TINY, "num_heads": 3}}, "multiple of num_heads 3, found 16"),
        ({"clip_length": 6}, "longer than its 2 x 3 .*found clip_length 6"),
        ({"context": 0}, "2 x 0"),
        ({"norm": "layer"}, "norm must be one of .*found 'layer'"),
        ({"norm": "tracked", "with_cp": True}, "updated twice"),
        ({"forward_weight": 1.5}, "0..1, found 1.5"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        VADHybrid(**{"arch": TINY, **kwargs})


def test_bad_targets():
    with pytest.raises(ValueError, match="targets must be one of .*found 'first'"):
        make()(make_clip(), "first")

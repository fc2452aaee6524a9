"""The network of objects: end and padding, what a step may see, decoding, tables of positions."""

import numpy as np
import pytest
import torch

import dense
from dense.gaze.networks import oat
from dense.gaze.networks.oat import (
    NO_TARGET,
    OAT,
    choose,
    fit_position_table,
    pool_to_grid,
    position_table_loss,
    sinusoid,
)
from pointsuite.engine.checkpoint import CheckpointError, save_checkpoint
from tests.parity.run import run_pack

from ..toy import ARCH, make_network

PICTURE = (30, 24)


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    pictures = torch.rand(2, 6, 3, *PICTURE, generator=generator)
    return pictures, torch.tensor([4, 0]), torch.tensor([[8, 4, 1, 3, 2], [8, 0, 0, 5, 1]])


@torch.no_grad()
def test_objects_have_no_order_but_their_places(network, inputs):
    """Objects that are renumbered with their places get the same logits."""
    pictures, target, path = inputs
    order = torch.tensor([3, 1, 5, 0, 4, 2])  # new number -> old
    new = torch.cat((order.argsort(), torch.tensor([6, 7, 8])))  # old -> new
    moved = make_network()
    moved.places[:6] = network.places[order]
    found = moved(pictures[:, order], new[target], new[path])
    wanted = network(*inputs)[..., torch.cat((order, torch.tensor([6, 7])))]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_step_does_not_see_later_ones(network, inputs):
    pictures, target, path = inputs
    other = path.clone()
    other[:, 3:] = torch.tensor([0, 4])
    found, wanted = network(pictures, target, other), network(*inputs)
    torch.testing.assert_close(found[:, :3], wanted[:, :3])
    assert (found[:, 3:] - wanted[:, 3:]).abs().max() > 1e-3


@torch.no_grad()
def test_padding_hides_and_scores_the_bias(network, inputs):
    pictures, target, path = inputs
    logits = network(*inputs)
    assert logits.shape == (2, 5, 8)
    assert torch.equal(logits[..., 7], network.mix.bias.expand(2, 5))
    filled = torch.cat((path, torch.full((2, 3), network.padding)), 1)
    found = network(pictures, target, filled)
    torch.testing.assert_close(found[:, :5], logits)
    assert found.isfinite().all()
    lone = make_network(arch={"readout_heads": 1})
    assert not lone(*inputs)[..., 7].any()


@torch.no_grad()
def test_paths_share_their_objects(network, inputs):
    pictures, target, path = inputs
    several = torch.stack((path, path.roll(1, 1).index_fill(1, torch.tensor([0]), 8)), 1)  # (B, 2, T)
    found = network(pictures, target, several)
    for i in range(2):
        torch.testing.assert_close(found[:, i], network(pictures, target, several[:, i]))


@torch.no_grad()
def test_each_picture_is_encoded_once(network, inputs, monkeypatch):
    seen = []
    network.cnn.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        network.decode(*inputs[:2], 4, torch.rand(2, 3, 4))
    finally:
        network.cnn._forward_pre_hooks.clear()
    assert seen == [12, 3]  # the objects of two scenes, and blanks


@torch.no_grad()
@pytest.mark.parametrize("drawn", [False, True])
def test_cached_decoding_equals_full_decoding(network, inputs, drawn):
    pictures, target, _ = inputs
    draws = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(3)) if drawn else None
    found = network.decode(pictures, target, 7, draws)
    assert found.shape[:2] == (2, 5 if drawn else 1)
    for b in range(2):
        for s in range(found.shape[1]):
            path, done = [network.start], False
            for step in range(found.shape[2]):
                logits = network(pictures[b : b + 1], target[b : b + 1], torch.tensor([path]))[0, -1]
                allowed = logits[: 7 if step else 6]
                chosen = int(choose(allowed, draws[b, s, step] if drawn else None))
                done |= chosen == network.end
                path.append(network.padding if done else chosen)
                if done:
                    assert (found[b, s, step:] == network.padding).all()
                    break
            assert found[b, s, : len(path) - 1].tolist() == path[1:]


@torch.no_grad()
def test_the_cache_gives_the_logits_of_all_steps(network, inputs):
    pictures, target, path = inputs
    scene, past, found = network.encode(pictures, target), None, []
    for token in path.unbind(1):
        logits, past = network.read(scene, token[:, None, None], past)
        found.append(logits[:, 0, 0])
    torch.testing.assert_close(torch.stack(found, 1), network(*inputs), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_path_has_an_object_and_may_end(network, inputs):
    eager = make_network()  # the end is always the likeliest
    eager.pointers[0].query.weight.zero_(), eager.pointers[1].query.weight.zero_()
    scene = eager.encode(*inputs[:2])
    for pointer, keys in zip(eager.pointers, scene.keys, strict=True):
        direction = (keys[:, -1] - keys[:, :-1].mean(1)).mean(0)
        pointer.query.bias.copy_(1e4 * direction)
    eager.mix.weight.fill_(1.0)
    found = eager.decode(*inputs[:2], 5)
    assert (found[..., 0] < 6).all() and (found[..., 1:] == eager.padding).all()
    assert network.decode(*inputs[:2], 1).shape == (2, 1, 1)


def test_what_is_drawn_follows_the_chances():
    logits = torch.tensor([0.1, 0.2, 0.7]).log()
    draws = torch.tensor([0.0, 0.05, 0.15, 0.29, 0.31, 0.9999999])
    assert choose(logits.expand(6, 3), draws).tolist() == [0, 0, 1, 1, 2, 2]
    assert choose(logits, None).item() == 2


@torch.no_grad()
def test_without_a_target_none_is_marked(network, inputs):
    pictures, _, path = inputs
    none = torch.full((2,), NO_TARGET)
    scene = network.encode(pictures, none)
    blank = network.cnn(torch.ones(1, 3, *PICTURE))
    torch.testing.assert_close(scene.pictures[:, network.start], blank.expand(2, -1))
    assert network(pictures, none, path).isfinite().all()
    assert (network.decode(pictures, none, 4) <= network.padding).all()
    # the end is scored as the last token, which no object of the path can stand for
    assert (network(pictures, none, path) - network(*inputs)).abs().max() > 1e-3


@torch.no_grad()
def test_blank_pictures_of_decoding(inputs):
    """Only entries that come after a path's end are blank, so what is decoded does not tell."""
    pictures, target, path = inputs
    path = path.index_fill(1, torch.tensor([3]), 6)
    quirk, plain = make_network(), make_network(blank_zero_at_decode=False)
    assert torch.equal(plain(pictures, target, path, decoding=True), plain(pictures, target, path))
    found, wanted = quirk(pictures, target, path, decoding=True), quirk(pictures, target, path)
    torch.testing.assert_close(found[:, :3], wanted[:, :3])
    assert (found[:, 3] - wanted[:, 3]).abs().max() > 1e-4
    draws = torch.rand(2, 8, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(quirk.decode(pictures, target, 9, draws), plain.decode(pictures, target, 9, draws))


def test_dropout_acts_in_training(network, inputs):
    training = make_network().train()
    assert not torch.equal(training(*inputs), training(*inputs))
    still = make_network(dropout=0.0).train()
    assert torch.equal(still(*inputs), still(*inputs))


# ----------------------------------------------------------------------------------------------- positions


def test_places():
    network = make_network()
    assert network.places.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [1, 1]]
    for grid, middle in (((6, 14), [3, 7]), ((2, 11), [1, 5])):
        assert make_network(arch={"grid": grid, "table": (14, 8)}).places[-1].tolist() == middle


def test_learned_codes_are_rows_of_the_table():
    network = make_network()
    codes = network.position_codes(torch.empty(1, 1, 24))
    wanted = torch.cat((network.table[1], network.table[2], network.table[1]))[:24]
    assert torch.equal(codes[1, 5], wanted)
    flat = make_network(arch={"table": (1, 8), "grid": (3, 2)})  # rows below the table are zeros
    assert not flat.position_codes(torch.empty(1, 1, 24))[1, 5, :16].any()


@pytest.mark.parametrize("frequency", oat.FREQUENCIES)
def test_sinusoids(frequency):
    positions, alpha = torch.tensor([0.0, 1.0, 3.0]), 1.5
    found = sinusoid(positions, 6, frequency, alpha)
    exponent = {"linear": 4 * alpha / 6, "exp1": 4**alpha / 6, "exp2": (4 / 6) ** alpha}[frequency]
    assert found[0].tolist() == [0, 1, 0, 1, 0, 1]
    torch.testing.assert_close(found[2, 4], torch.tensor(3 * 10000.0**-exponent).sin())
    torch.testing.assert_close(sinusoid(positions, 6, frequency, 1.0), sinusoid(positions, 6, "linear", 1.0))


def test_row_three():
    """Published sinusoids lose it, also where a grid has one."""
    like, four = torch.empty(1, 1, 24), {"grid": (5, 2)}
    right = make_network(arch=four, positions="sinusoidal").position_codes(like)
    quirk = make_network(arch=four, positions="sinusoidal", reference_quirks=True).position_codes(like)
    rows = make_network(arch=four, positions="sinusoidal").places[:, 0]
    assert right[:, rows == 3].abs().sum(-1).min() > 0 and not quirk[:, rows == 3].any()
    assert torch.equal(right[:, rows != 3], quirk[:, rows != 3])
    three = make_network(arch={"grid": (3, 2)}, positions="sinusoidal")
    assert not three.position_codes(like)[:, three.end].any()


def test_the_table_is_fitted():
    torch.manual_seed(0)
    table, loss = fit_position_table(6, 9, steps=800)
    assert loss < 1e-3
    unit = table / table.norm(dim=1, keepdim=True)
    torch.testing.assert_close(unit[0] @ unit[2], torch.tensor(np.exp(-0.5)).float(), rtol=0, atol=0.05)
    network = make_network()
    before = network.table.clone()
    assert network.fit_positions(steps=50) > 0 and not torch.equal(network.table, before)
    assert "table" in network.state_dict() and "table" not in dict(network.named_parameters())


def test_the_gradient_of_the_table_is_that_of_its_loss():
    table = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(position_table_loss(table, 2.0), table)
    similar = oat._wanted_similarity(torch.arange(5.0).double(), 2.0).numpy()
    found = oat._table_gradient(table.detach().numpy(), similar)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-9, atol=1e-12)


def test_a_perfect_table_has_no_loss():
    wide = torch.eye(3, dtype=torch.float64)  # rows far apart for so small a sigma
    assert position_table_loss(wide, 0.1).item() < 1e-12
    assert position_table_loss(wide, 2.0).item() > 0.1


# ---------------------------------------------------------------------------------------------- pyramid


def test_pooling_to_a_grid():
    x = torch.arange(1.0, 16.0).view(1, 1, 3, 5)
    assert pool_to_grid(x, 1).flatten().tolist() == [15]
    # 3 x 5 becomes 4 x 6: one row of zeros below, one column of zeros to the right
    assert pool_to_grid(x, 2).flatten().tolist() == [8, 10, 13, 15]
    assert pool_to_grid(x, 8).shape == (1, 1, 8, 8)


@torch.no_grad()
@pytest.mark.parametrize(("pyramid", "features"), [(2, 160), (3, 672), (4, 2720), (0, 1440)])
def test_features_of_pyramids(pyramid, features):
    cnn = oat.PictureEncoder(8, pyramid, oat.PICTURE_SIZE)
    assert cnn.fc.in_features == features
    assert cnn(torch.rand(2, 3, *oat.PICTURE_SIZE)).shape == (2, 8)


# ---------------------------------------------------------------------------------- published weights, errors


def official(network, prefix="", generator=8):
    """The weights as their authors name them, with what the network does not use."""
    names = (
        ("encoder.", "transformer_encoder.layers."),
        ("decoder.", "transformer_decoder.layers."),
        (".attn.", ".self_attn."),
        (".cross_attn.", ".multihead_attn."),
        (".qkv.", ".in_proj_"),
        (".proj.", ".out_proj."),
        ("cnn.conv", "cnn_embedding.cnn"),
        ("cnn.fc", "cnn_embedding.fc"),
        ("pointers.", "cross_attentions."),
        (".query.", ".decode_fc."),
        (".key.", ".encode_fc."),
        ("mix.", "readout."),
    )
    state = {}
    for key, value in network.state_dict().items():
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        if "cnn_embedding.cnn" in key:
            key = key.replace("cnn1.", "cnn1.0.").replace("cnn2.", "cnn2.0.")
        state["position_table" if key == "table" else key] = value
    width = network.cnn.fc.out_features
    state |= {"generator.weight": torch.ones(generator, 2 * width), "generator.bias": torch.ones(generator)}
    state |= {"LinearEmbedding.weight": torch.ones(width, 3), "LinearEmbedding.bias": torch.ones(width)}
    state["onedpositional_encoding.pos_embedding"] = torch.ones(5, 1, 2 * width)
    return {prefix + key: value for key, value in state.items()}


@torch.no_grad()
def test_published_weights(network, inputs):
    for prefix in ("", "model."):
        other = make_network(seed=5)
        other.load_state_dict(OAT.convert_official(official(network, prefix)))
        assert torch.equal(other(*inputs), network(*inputs))
    lone = make_network(arch={"readout_heads": 1})
    state = {**official(lone), "readout.weight": torch.ones(1, 1), "readout.bias": torch.ones(1)}
    assert OAT.convert_official(state).keys() == lone.state_dict().keys()
    with pytest.raises(CheckpointError, match="no rule names: decoder.norm.weight"):
        OAT.convert_official({**official(network), "decoder.norm.weight": torch.ones(1)})


def test_published_files_are_known_by_their_classes(tmp_path):
    table = {"wine": 24, "yogurt": 29, "books": 86}
    assert all(
        OAT.names_fit(arch, {"model.generator.weight": torch.empty(count, 1)}) == (arch == name)
        for name, count in table.items()
        for arch in OAT.archs
    )


@pytest.mark.slow  # whose weights they are is asked of all systems
def test_a_published_file_is_loaded(tmp_path):
    wine = OAT("wine")
    save_checkpoint({"state_dict": official(wine, "model.", 24)}, tmp_path / "wine.ckpt")
    found = dense.load_official(tmp_path / "wine.ckpt")
    assert found.grid == (2, 11) and torch.equal(found.table, wine.table)


def test_packs_of_operators():
    assert max(run_pack("tests/parity/packs/oat/oat_tiny_sin_spp2.json")[0].values()) < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.tensor([4, 6])}, "target: found 6, wanted -1 to 5"),
        ({"target": torch.tensor([4])}, r"target must be \(2,\), found \(1,\)"),
        ({"path": torch.tensor([[8, 9], [8, 1]])}, "path: found 9, wanted 0 to 8"),
        ({"path": torch.tensor([[8, -1], [8, 1]])}, "path: found -1, wanted 0 to 8"),
        ({"path": torch.tensor([[8, 1], [2, 1]])}, "must begin with the start, 8, found 2"),
        ({"path": torch.tensor([8, 1])}, r"path must be \(2, T\) or \(2, S, T\), found \(2,\)"),
        ({"pictures": torch.rand(2, 5, 3, *PICTURE)}, r"pictures must be \(B, 6, 3, H, W\), found \(2, 5,"),
        ({"pictures": torch.rand(2, 6, 3, 18, 24)}, r"at least 19 x 19 pixels, found \(18, 24\)"),
    ],
)
def test_bad_inputs(network, inputs, change, message):
    named = dict(zip(("pictures", "target", "path"), inputs, strict=True))
    with pytest.raises(ValueError, match=message):
        network(**{**named, **change})


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ({"pyramid": 1}, {}, "pyramid must be 0, 2, 3 or 4 levels, found 1"),
        ({"num_heads": 5}, {}, "num_heads must divide embed_dims 48, found 5"),
        ({"embed_dims": 47}, {}, "embed_dims must be even, found 47"),
        ({"table": (2, 8), "grid": (2, 9)}, {}, "too few rows"),
        ({"table": (5, 7)}, {}, "or columns for embed_dims 48"),
        ({"grid": (0, 3)}, {}, r"grid must have rows and columns, found \(0, 3\)"),
        ({"pyramid": 0}, {"picture_size": (20, 40)}, "at least 29 x 29 pixels"),
        ({}, {"positions": "none"}, "positions must be one of"),
        ({}, {"frequency": "log"}, "frequency must be one of"),
    ],
)
def test_bad_options(arch, options, message):
    with pytest.raises(ValueError, match=message):
        OAT({**ARCH, **arch}, **options)


def test_other_bad_input(network, inputs):
    with pytest.raises(ValueError, match=r"draws must be \(2, S, 4\), found \(2, 3, 5\)"):
        network.decode(*inputs[:2], 4, torch.rand(2, 3, 5))
    with pytest.raises(ValueError, match="max_length must be at least 1, found 0"):
        network.decode(*inputs[:2], 0)
    with pytest.raises(ValueError, match=r"without pyramid must be of \(150, 93\), found \(30, 24\)"):
        make_network(arch={"pyramid": 0})(*inputs)
    with pytest.raises(ValueError, match=r"must be \(n, d\), n at least 2, found \(1, 3\)"):
        position_table_loss(torch.ones(1, 3))
    with pytest.raises(ValueError, match="sigma must be above 0, found 0"):
        position_table_loss(torch.ones(3, 3), 0)

"""RISurConv beyond the contract: published behaviour behind flags, published weights, the geometry."""

from pathlib import Path

import pytest
import torch

import pointsuite
from pointsuite.engine.checkpoint import CheckpointError, save_checkpoint
from pointsuite.engine.zoo import ZOO
from pointsuite.layers.surface_backbone import find_neighbours
from pointsuite.models.risurconv import QUIRKS, RISurConvClassifier

from ...parity import packs
from .test_contract import clouds, movement, rotated

PACK = Path(__file__).parents[2] / "parity/packs/risurconv/risurconv_cls_scanobject_canonical_b1.json"


@pytest.fixture(scope="module")
def published():
    """A published state dict (width 1, 15 classes), its values made from the keys."""
    return {k: torch.from_numpy(v) for k, v in packs.fill_state_dict(packs.load(PACK)).items()}


def build(published, **flags):
    network = pointsuite.create_model("risurconv_cls", num_classes=15, width=1, **flags).eval()
    network.load_state_dict(network.convert_official(published))
    return network


def test_parameter_counts(published):
    """What the published model has, less what never gets a gradient."""
    network = build(published)
    total = sum(value.numel() for key, value in published.items() if "running" not in key)
    dead = sum(v.numel() for k, v in published.items() if k.startswith("encoder_layer."))
    assert (total, dead) == (13_959_855, 3_152_384)
    encoder_queries = 3 * 2 * (512 * 512 + 512)
    global_queries = 2 * 16 * 64 + 2 * 128 * 512
    widths = (32, 64, 128, 256, 512)
    # The transforms', the global layer's values', and both of the points' attention.
    attention_biases = 5 * 64 + 64 + 2 * sum(widths)
    before_norms = sum(widths) + 256 + 128
    dead += encoder_queries + global_queries + attention_biases + before_norms
    assert sum(p.numel() for p in network.parameters()) == total - dead


def test_default_equals_published_attention_for_one_cloud(published):
    points = clouds(1)
    default, across = build(published), build(published, batch_attention="published")
    torch.testing.assert_close(default(points), across(points), atol=1e-5, rtol=1e-5)


def test_published_attention_sees_the_batch(published):
    points, network = clouds(3), build(published, batch_attention="published")
    together, alone = network(points), torch.cat([network(p[None]) for p in points])
    assert (together - alone).abs().max() > 1e-2
    default = build(published)
    torch.testing.assert_close(default(points), torch.cat([default(p[None]) for p in points]))


def test_the_sign_of_the_global_frame(published):
    """Left to LAPACK, it flips under some rotations; fixed, the descriptor does not move."""
    points = clouds(1, dtype=torch.float64)
    moves = {}
    for sign in QUIRKS["global_sign"]:
        network = build(published, global_sign=sign).double()
        network.forward = lambda p, network=network: network.embed(network.geometry(p))
        moves[sign] = max(movement(network, points, rotated(points, seed)) for seed in range(8))
    assert moves["third_moment"] < 1e-9
    assert moves["lapack"] > 1e-3


def test_the_origin_of_the_global_features(published):
    points = clouds(1, dtype=torch.float64)
    shifted = points + torch.tensor([0.5, 0, 0, 0, 0, 0], dtype=torch.float64)
    assert movement(build(published).double(), points, shifted) < 1e-9
    assert movement(build(published, global_origin="origin").double(), points, shifted) > 1e-4


def test_reference_quirks_sets_every_flag():
    network = RISurConvClassifier(4, 1, reference_quirks=True)
    assert network.quirks == {name: values[1] for name, values in QUIRKS.items()}
    assert RISurConvClassifier(4, 1).quirks == {name: values[0] for name, values in QUIRKS.items()}
    mixed = RISurConvClassifier(4, 1, reference_quirks=True, batch_attention="none")
    assert mixed.quirks["batch_attention"] == "none"
    assert network.eval()(clouds(2)).isfinite().all()


def test_unknown_flag():
    with pytest.raises(ValueError, match="neighbour_order must be one of .* found 'random'"):
        RISurConvClassifier(4, neighbour_order="random")


@pytest.mark.parametrize("order", QUIRKS["neighbour_order"])
def test_neighbour_orders_hold_the_same_neighbours(order):
    points = clouds(2)[..., :3]
    found = find_neighbours(points[:, :9], points, 12, order)
    wanted = find_neighbours(points[:, :9], points, 12)
    assert torch.equal(found.sort(-1).values, wanted.sort(-1).values)
    if order == "sorted":
        assert torch.equal(found[..., 0], torch.arange(9).expand(2, 9))  # the centre itself
    if order == "index":  # the farthest last, the others by index
        assert torch.equal(found[..., -1], wanted[..., -1])
        assert (found[..., :-1].diff(dim=-1) > 0).all()


def test_convert_official_names_unknown_keys(published):
    network = pointsuite.create_model("risurconv_cls", num_classes=15, width=1)
    with pytest.raises(CheckpointError, match="decoder.weight"):
        network.convert_official(published | {"decoder.weight": torch.zeros(1)})


def test_convert_official_without_a_network(published):
    """By default for the default network; a network converts for its own flags."""
    found = RISurConvClassifier.convert_official(published)
    wanted = build(published).state_dict()
    assert found.keys() == {key for key in wanted if not key.endswith("num_batches_tracked")}
    assert all(torch.equal(value, wanted[key]) for key, value in found.items())
    quirky = RISurConvClassifier(15, 1, reference_quirks=True).convert_official(published)
    assert "encoder.0.attention.attention.in_proj_weight" in quirky.keys() - found.keys()


def test_convert_official_names_what_is_missing(published):
    with pytest.raises(CheckpointError, match="found no head.0.bias, wanted both head.0.bias and head.1.run"):
        RISurConvClassifier.convert_official({k: v for k, v in published.items() if k != "fc1.bias"})


def test_published_files_say_what_they_are(published, tmp_path):
    """The width is told by the classes alone: 15 are ScanObjectNN's."""
    save_checkpoint({"model_state_dict": published}, tmp_path / "scanobjectnn.pth")
    network = pointsuite.load_official(tmp_path / "scanobjectnn.pth").eval()
    points = clouds(1, 1024)
    assert torch.equal(network(points), build(published)(points))
    for classes, options in ((40, {}), (13, {"num_classes": 13})):
        head = {"fc3.weight": torch.zeros(classes, 128), "fc3.bias": torch.zeros(classes)}
        found = ZOO.identify(published | head)
        assert (found.name, found.options) == ("risurconv_cls", options)
    for lost in ("sc0.", "fc3."):
        with pytest.raises(CheckpointError):
            ZOO.identify({key: value for key, value in published.items() if not key.startswith(lost)})


def test_geometry_can_be_kept():
    network, points = pointsuite.create_model("risurconv_s_cls").eval(), clouds(2)
    geometry = network.geometry(points)
    assert torch.equal(network.forward_geometry(geometry), network(points))
    assert [tuple(stage.features.shape[1:3]) for stage in geometry] == [
        (256, 8),
        (128, 16),
        (64, 16),
        (32, 32),
        (1, 32),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": -1}, "num_classes must be at least 0 and width 1, found -1 and 2"),
        ({"width": 0}, "found 40 and 0"),
        ({"centres": (64, 32)}, "one entry a layer"),
        ({"centres": (64, 128, 32, 16)}, "layer 1 wants 128 centres of 16 neighbours, but has 64 points"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RISurConvClassifier(**arguments)


@torch.no_grad()
def test_no_classes_give_features():
    network = pointsuite.create_model("risurconv_s_cls", num_classes=0).eval()
    (points,) = network.example_inputs(2)
    assert network(points).shape == (2, 128)

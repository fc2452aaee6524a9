"""What is particular to the part segmenter; see also test_contract.py and the parity packs."""

from pathlib import Path

import pytest
import torch

import pointsuite
from pointsuite.engine.checkpoint import CheckpointError
from pointsuite.engine.zoo import ZOO, load_converted
from pointsuite.models import RISurConvPartSegmenter

from ...parity import packs
from .test_contract import clouds

PACK = Path(__file__).parents[2] / "parity/packs/risurconv/risurconv_partseg_canonical.json"

SMALL = {
    "centres": (32, 16, 8, 8),
    "neighbours": (4, 4, 4, 4),
    "channels": (8, 8, 12, 16),
    "up_neighbours": (4, 4, 4, 4),
    "up_channels": (16, 12, 8, 8),
    "mlp_channels": ((12, 8), (8,), (8,), ()),
    "embed_channels": 8,
    "head_dims": (8,),
}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return RISurConvPartSegmenter(5, 3, **SMALL).eval()


def test_published_size():
    published = 4_063_730
    network = pointsuite.create_model("risurconv_partseg")
    # Biases before a batch norm are left out: four a layer, one an MLP, one in the head.
    widths = [64, 128, 256, 512, 512, 512, 256, 128]  # of the surface convolutions
    left_out = sum(64 + 3 * width for width in widths) + 512 + 256 + 128 + 128
    assert sum(p.numel() for p in network.parameters()) == published - left_out


@pytest.fixture(scope="module")
def published():
    """A published state dict, its values made from the keys."""
    return {key: torch.from_numpy(value) for key, value in packs.fill_state_dict(packs.load(PACK)).items()}


def test_published_files_say_what_they_are(published):
    found = ZOO.identify(published)
    assert (found.name, found.options) == ("risurconv_partseg", {})
    head = {"conv2.weight": torch.zeros(7, 128, 1), "conv2.bias": torch.zeros(7)}
    joined = {"conv1.weight": torch.zeros(128, 128 + 3, 1)}
    found = ZOO.identify(published | head | joined)
    assert found.options == {"num_parts": 7, "num_categories": 3}
    other = RISurConvPartSegmenter.create("", **found.options)
    load_converted(other, found.state_dict, "altered")


def test_convert_official_names_unknown_keys(published):
    with pytest.raises(CheckpointError, match="decoder.weight"):
        RISurConvPartSegmenter.convert_official(published | {"decoder.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"found no keys fp0\.\*"):
        RISurConvPartSegmenter.convert_official({"sa0.x": torch.zeros(1)})


def test_category_is_an_integer_or_one_hot(network):
    points, category = clouds(3, 64), torch.tensor([2, 0, 1])
    logits = network(points, category)
    assert logits.shape == (3, 64, 5)
    assert torch.equal(logits, network(points, torch.eye(3)[category]))
    other = network(points, torch.tensor([2, 1, 1]))
    assert torch.equal(logits[0], other[0]) and not torch.allclose(logits[1], other[1], atol=1e-4)


def test_geometry_can_be_kept(network):
    points, category = clouds(2, 64), torch.tensor([0, 1])
    geometry = network.geometry(points)
    shapes = [tuple(stage.idx.shape) for stage in geometry]
    assert shapes == [(2, s, 4) for s in (32, 16, 8, 8, 8, 16, 32, 64)]
    assert torch.equal(network(points, category), network.forward_geometry(geometry, category))


def test_options_of_the_layers(network, monkeypatch):
    """Neighbours are two slots apart from 1024 centres on; propagations round as the published ones."""
    import pointsuite.layers.surface_backbone as module

    options, features = [], module.surface_features
    monkeypatch.setattr(module, "surface_features", lambda *a, **k: (options.append(k), features(*a, **k))[1])
    for size in (1023, 1024):
        network.geometry(clouds(1, size))
    assert [o["shift"] for o in options] == [1] * 8 + [1] * 7 + [2]
    assert [o["rounding"] for o in options] == 2 * (["abstraction"] * 4 + ["propagation"] * 4)


def test_quirks():
    assert RISurConvPartSegmenter(**SMALL).backbone.neighbour_order == "sorted"
    quirky = RISurConvPartSegmenter(**SMALL, reference_quirks=True)
    assert (quirky.backbone.neighbour_order, quirky.backbone.reference_sign) == ("index", "rounded")


@pytest.mark.parametrize(
    ("category", "message"),
    [
        (None, "knows 3 categories, found none given"),
        (torch.tensor([0]), r"integers \(2,\) or one-hot \(2, 3\), found torch.int64 \(1, 3\)"),
        (torch.tensor([0.0, 1.0]), r"found torch.float32 \(2,\)"),
    ],
)
def test_bad_category(network, category, message):
    with pytest.raises(ValueError, match=message):
        network(clouds(2, 64), category)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_categories": 0}, "must be at least 1, found 50 and 0"),
        ({"up_channels": (8,)}, "one entry a layer, 4, found 4, 1 and 4"),
        ({"up_neighbours": (9, 4, 4, 4)}, "wants 9 neighbours among 8 centres"),
        ({"neighbour_order": "random"}, "neighbour_order must be one of"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        RISurConvPartSegmenter(**(SMALL | options))

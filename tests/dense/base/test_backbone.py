"""What every pyramid does besides what tests/test_contract.py asks of all networks."""

import copy
from inspect import signature
from pathlib import Path

import pytest
import torch

from dense.backbones import Backbone
from dense.registry import MODELS
from pointsuite.engine.checkpoint import CheckpointError
from tests.parity.packs import load

SIZES = ((64, 64), (96, 64))
PACKS = Path(__file__).parents[2] / "parity" / "packs"


def backbones():
    MODELS.import_from_location()
    classes = [
        cls for cls in MODELS.module_dict.values() if isinstance(cls, type) and issubclass(cls, Backbone)
    ]
    return sorted(classes, key=lambda cls: cls.__name__)


BACKBONES = backbones()
OPTIONS = {"NAT": {"small_input": "pad"}}  # its windows want 193 pixels else


def shallow(cls):
    """The first variant with one block a stage."""
    arch = next(iter(cls.archs.values()))
    return {**arch, "depths": tuple(min(depth, 1) for depth in arch["depths"])}


def images(batch, size=SIZES[0], seed=0):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def awaken(module):
    """Give a weight to branches that start out (nearly) switched off, and statistics to batch norms."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.abs().max() < 1e-3:
                parameter.normal_(0, 0.3)
        module.train()(images(4))
    return module


@pytest.fixture(scope="module", params=BACKBONES, ids=lambda cls: cls.__name__)
def backbone(request):
    torch.manual_seed(0)
    options = dict(OPTIONS.get(request.param.__name__, {}))
    if "drop_path_rate" in signature(request.param).parameters:  # not all drop paths
        options["drop_path_rate"] = 0.0
    return awaken(request.param(shallow(request.param), **options)).eval()


@pytest.fixture(scope="module")
def wanted(backbone):
    with torch.no_grad():
        return backbone(images(4))


def difference(found, wanted):
    """Of two tuples of maps, relative to the size of the second."""
    return max(((f - w).norm() / w.norm()).item() for f, w in zip(found, wanted, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_forward(backbone, size):
    maps = backbone(images(2, size))
    assert len(maps) == len(backbone.spec["depths"])
    for x, channels, stride in zip(maps, backbone.out_channels, backbone.strides, strict=True):
        # strides of odd maps round either way
        assert x.shape[:2] == (2, channels)
        assert all(abs(found - s / stride) < 1 for found, s in zip(x.shape[2:], size, strict=True))
        assert x.isfinite().all() and x.std() > 0
    again = backbone(images(2, size))
    assert all(torch.equal(x, y) for x, y in zip(maps, again, strict=True))  # deterministic


@torch.no_grad()
@pytest.mark.parametrize("size", [(75, 101), (33, 130)])
def test_any_size_works_or_is_refused_by_name(backbone, size):
    try:
        maps = backbone(images(1, size))
    except ValueError as error:
        assert str(size[0]) in str(error) and str(size[1]) in str(error)
    else:
        assert all(x.isfinite().all() for x in maps)


def test_frozen_stages(backbone):
    cls = type(backbone)
    frozen = cls(shallow(cls), frozen_stages=1, norm_eval=True, **OPTIONS.get(cls.__name__, {})).train()
    names = ("downsamples.0.", "stages.0.")
    assert [n for n, p in frozen.named_parameters() if not p.requires_grad] == [
        n for n, _ in frozen.named_parameters() if n.startswith(names)
    ]
    before = copy.deepcopy(frozen.state_dict())
    frozen(images(4))
    for name, value in frozen.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} changed in training with norm_eval"


@torch.no_grad()
def test_out_indices(backbone, wanted):
    cls = type(backbone)
    first = cls(shallow(cls), out_indices=(0, 1)).eval()
    names = first.state_dict().keys()
    assert not any(name.startswith(("stages.2.", "downsamples.2.")) for name in names)
    first.load_state_dict({name: backbone.state_dict()[name] for name in names})
    assert difference(first(images(4)), wanted[:2]) < 1e-6


@pytest.mark.parametrize(
    ("x", "message"),
    [(torch.zeros(1, 4, 64, 64), r"\(1, 4, 64, 64\)"), (torch.zeros(3, 64, 64), r"\(3, 64, 64\)")],
)
def test_bad_images(backbone, x, message):
    with pytest.raises(ValueError, match=message):
        backbone(x)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"arch": "giant-of-nobody"}, "giant-of-nobody"),
        ({"arch": {"depth": 1}}, "depth"),
        ({"out_indices": (1, 0)}, r"\(1, 0\)"),
        ({"out_indices": (9,)}, r"\(9,\)"),
        ({"frozen_stages": 9}, "9"),
    ],
)
def test_bad_arguments(backbone, kwargs, message):
    with pytest.raises(ValueError, match=message):
        type(backbone)(**kwargs)


def packs_of(cls):
    return sorted((PACKS / (cls.folder or cls.system)).glob("*.json"))


def test_takes_the_backbone_of_a_detector(backbone):
    """Published files of detectors and segmentors have ``backbone.`` before each of its keys, and heads."""
    cls = type(backbone)
    for path in packs_of(cls):
        state = {key: torch.empty(shape, device="meta") for key, shape, _ in load(path)["state_dict"] or ()}
        if not state:  # of a function
            continue
        try:
            wanted = cls.convert_official(state)
        except CheckpointError:  # of a part, or of another host
            continue
        detector = {f"backbone.{key}": value for key, value in state.items()}
        found = cls.convert_official({**detector, "decode_head.weight": torch.zeros(1)})
        assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in wanted.items()}
        return
    if "convert_official" not in vars(cls):
        pytest.skip("no weights were published")
    raise AssertionError(f"no pack of {cls.system} converts")

"""What every network of clouds must fulfil beside what tests/test_contract.py asks of the smallest variants.

Other variants are given those checks here. As there, what a network cannot fulfil it declares on its class,
and the check must then fail.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import pointsuite
from pointsuite.datasets.examples import example_clouds
from pointsuite.engine.zoo import ZOO
from pointsuite.models import PointNetClassifier
from pointsuite.transforms import random_rotation

from ... import contract as general

SYSTEMS = ZOO.systems()
NAMES = {cls.model_name(arch): (cls, arch) for cls in SYSTEMS.values() for arch in cls.archs}
OTHERS = [name for name, (cls, arch) in NAMES.items() if arch != next(iter(cls.archs))]
# The published widths over fewer points, so that the tests are quick.
FEW = {"centres": (128, 64, 32, 16), "neighbours": (8, 16, 16, 16)}
QUICK = {
    "dgcnn_cls": {"k": 12},
    "riconv2_cls": FEW,
    "risurconv_cls": FEW,
    "risurconv_partseg": {**FEW, "up_neighbours": (8, 8, 8, 8)},
    "pointnet2_msg_cls": {
        "arch": {
            **SYSTEMS["pointnet2"].archs["msg_cls"],
            "centres": (64, 16),
            "radii": ((0.2, 0.4, 0.8), (0.4, 0.8, 1.6)),
            "neighbours": ((4, 8, 16), (4, 8, 16)),
        }
    },
}


def clouds(batch, size=512, dtype=torch.float32, seed=0):
    """Examples (B, N, 6), the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return example_clouds(batch, size).to(dtype)


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def network(name):
    torch.manual_seed(0)
    network = pointsuite.create_model(name, **QUICK.get(name, {}))
    return general.awaken(network, NAMES[name][0])


@pytest.fixture(scope="module")
def double(network):
    """In float64, of clouds alone: where the network wants a category, all are of the first."""
    network = copy.deepcopy(network).double()
    category = [torch.zeros(1, dtype=torch.int64)] if hasattr(network, "num_categories") else []
    return torch.no_grad()(lambda points: network(points, *category))


@pytest.mark.parametrize("name", OTHERS, indirect=True, scope="module")
@pytest.mark.parametrize(
    "check", [pytest.param(c, marks=[pytest.mark.slow] * (c in general.SLOW)) for c in general.CHECKS]
)
def test_other_variants(name, network, check, tmp_path):
    cls = NAMES[name][0]
    general.fulfil(cls, check, lambda: general.CHECKS[check](network, cls, tmp_path))


# ----------------------------------------------------------------------------------------------- symmetries


def movement(network, points, *moved):
    """How far the logits move at most, relative to their size."""
    before = network(points)
    return max(distance(before, network(other)) for other in moved)


def distance(before, after):
    return ((after - before).norm(dim=-1) / before.norm(dim=-1)).max().item()


def turned(points, turn):
    return torch.cat([points[..., :3] @ turn.T, points[..., 3:] @ turn.T], -1)


def rotated(points, seed):
    return turned(points, torch.from_numpy(random_rotation(np.random.default_rng(seed))).to(points))


def cube_rotations():
    """The 24 rotations of a cube."""
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            turn = torch.diag(torch.tensor(signs, dtype=torch.float64))[list(axes)]
            if torch.det(turn) > 0:
                yield turn


def check_rotation(network, points):
    assert movement(network, points, *(rotated(points, seed) for seed in range(4))) <= 1e-6
    assert movement(network, points, *(turned(points, turn) for turn in cube_rotations())) <= 1e-6


def check_translation(network, points):
    shift = torch.tensor([3.0, -5, 2, 0, 0, 0], dtype=torch.float64)
    assert movement(network, points, points + shift) <= 1e-6


def check_permutation(network, points):
    # Sampling begins at the first point, so that one stays.
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(points.shape[1] - 1)])
    before = network(points)
    if before.ndim == 3:  # of every point
        before = before[:, order]
    assert distance(before, network(points[:, order])) <= 1e-6


CHECKS = {"rotation": check_rotation, "translation": check_translation, "permutation": check_permutation}


@pytest.mark.parametrize("check", CHECKS)
def test_symmetry(name, double, check):
    general.fulfil(NAMES[name][0], check, lambda: CHECKS[check](double, clouds(1, dtype=torch.float64)))


def test_the_general_contract_knows_the_names_of_the_symmetries():
    assert CHECKS.keys() == general.SYMMETRIES


# ---------------------------------------------------------------------------------------------- hard clouds


def degenerate(kind):
    points = clouds(1, dtype=torch.float64)
    if kind == "plane":
        points[..., 2], points[..., 3:] = 0, torch.tensor([0, 0, 1.0])
    elif kind == "line":
        points[..., 1:3] = 0
    elif kind == "cube corners":
        corners = np.random.default_rng(1).integers(0, 2, (*points.shape[:2], 3)) * 2.0 - 1
        points = torch.cat([torch.from_numpy(corners), normalize(torch.from_numpy(corners), dim=-1)], -1)
    elif kind == "duplicates":
        points = points[:, :100].repeat(1, 6, 1)[:, : points.shape[1]]
    elif kind == "one point":
        points = points[:, :1].expand(points.shape).clone()
    return points


@pytest.mark.parametrize("kind", ["plane", "line", "cube corners", "duplicates", "one point"])
def test_degenerate_clouds(double, kind):
    points = degenerate(kind)
    logits = double(points)
    assert logits.isfinite().all() and torch.equal(logits, double(points.clone()))
    assert all(double(rotated(points, seed)).isfinite().all() for seed in range(3))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(1, 1024, 3), r"\(B, N, 6\), xyz and unit normal, found \(1, 1024, 3\)"),
        (torch.zeros(1, 10, 6), "found 10 points"),
        (torch.full((1, 1100, 6), torch.nan), "must be finite"),
        (torch.zeros(0, 1100, 6), "at least one cloud"),
    ],
)
def test_bad_input(network, points, message):
    if isinstance(network, PointNetClassifier) and points.shape[1] == 10:
        assert network(points).isfinite().all()  # takes any number of points
        return
    with pytest.raises(ValueError, match=message):
        network(points)


def test_old_names():
    """Those that the scheme of the zoo does not make."""
    made = [
        pointsuite.create_model(name, num_parts=3) for name in ("risurconv_s_partseg", "risurconv_partseg_s")
    ]
    shapes = [[(key, value.shape) for key, value in model.state_dict().items()] for model in made]
    assert shapes[0] == shapes[1]

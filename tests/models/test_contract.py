"""What every registered network of clouds must fulfil."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import pointsuite
from pointsuite.models import PointNetClassifier, RISurConvPartSegmenter
from pointsuite.models.pointnet2 import ARCHS
from pointsuite.transforms import random_rotation

MODELS = pointsuite.list_models()
SIZES = (1024, 1100)
# The published widths over fewer points, so that the tests are quick.
SMALL = {
    "dgcnn_cls": {"k": 12},
    "pointnet2_ssg_cls": {
        "arch": {
            "centres": (64, 16),
            "radii": ((0.4,), (0.8,)),
            "neighbours": ((16,), (16,)),
            "channels": ARCHS["ssg"]["channels"],
        }
    },
    "pointnet2_msg_cls": {
        "arch": {
            "centres": (64, 16),
            "radii": ((0.2, 0.4, 0.8), (0.4, 0.8, 1.6)),
            "neighbours": ((4, 8, 16), (4, 8, 16)),
            "channels": ARCHS["msg"]["channels"],
        }
    },
    "risurconv_partseg": {"up_neighbours": (16, 8, 8, 8)},
    "riconv2_cls": {"centres": (128, 64, 32, 16), "neighbours": (8, 16, 16, 16)},
}


def clouds(batch, size=SIZES[0], dtype=torch.float32, seed=0):
    """Ellipsoids with unit normals, each of its own shape, in general position."""
    rng = np.random.default_rng(seed)
    axes = rng.uniform(0.3, 1, (batch, 1, 3))
    points = rng.standard_normal((batch, size, 3))
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    normals = points / axes
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    points = points * axes * (1 + 0.1 * np.sin(5 * points[..., :1]))  # no symmetry
    return torch.from_numpy(np.concatenate([points, normals], -1)).to(dtype)


@pytest.fixture(scope="module", params=MODELS)
def network(request):
    torch.manual_seed(0)
    labels = {"num_parts": 7, "num_categories": 1} if "partseg" in request.param else {"num_classes": 7}
    network = pointsuite.create_model(request.param, **labels, **SMALL.get(request.param, {}))
    with torch.no_grad():
        network(clouds(4))  # running statistics that are not the initial ones
    return network.eval()


@pytest.mark.parametrize("size", SIZES)
def test_forward(network, size):
    logits = network(clouds(2, size))
    assert logits.shape == ((2, size, 7) if is_segmenter(network) else (2, 7)) and logits.isfinite().all()
    assert torch.equal(logits, network(clouds(2, size)))  # deterministic


def test_every_parameter_gets_a_gradient(network):
    network = copy.deepcopy(network).train()
    torch.manual_seed(0)
    logits = network(clouds(4))
    logits = logits.flatten(0, -2)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 3, 5, 6]).repeat(len(logits) // 4)).backward()
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-6 * parameter.detach().abs().max(), name


def test_a_cloud_alone_equals_it_in_a_batch(network):
    whole = clouds(4)
    alone = torch.cat([network(cloud[None]) for cloud in whole])
    for size in (2, 3, 4):
        torch.testing.assert_close(network(whole[:size]), alone[:size], atol=2e-5, rtol=2e-5)


def test_bfloat16_follows_float32(network):
    wanted = network(clouds(2)).softmax(-1)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(clouds(2)).float().softmax(-1)
    torch.testing.assert_close(found, wanted, atol=0.05, rtol=0)


def test_state_dict_round_trip(network, tmp_path):
    from pointsuite.engine.checkpoint import load_checkpoint, save_checkpoint

    save_checkpoint(network.state_dict(), tmp_path / "weights.pth")
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    other.load_state_dict(load_checkpoint(tmp_path / "weights.pth"))
    assert torch.equal(network(clouds(1)), other(clouds(1)))


def movement(network, points, moved):
    """How far the logits move, relative to their size."""
    before, after = network(points), network(moved)
    return ((after - before).norm(dim=-1) / before.norm(dim=-1)).max().item()


def rotated(points, seed):
    turn = torch.from_numpy(random_rotation(np.random.default_rng(seed))).to(points)
    return torch.cat([points[..., :3] @ turn.T, points[..., 3:] @ turn.T], -1)


def is_segmenter(network):
    """It labels points, not clouds."""
    return isinstance(network, RISurConvPartSegmenter)


def is_invariant(network):
    """To rotation and translation, by its own account; the others must be seen to move."""
    return getattr(network, "rotation_invariant", False)


@pytest.mark.parametrize("half", [0, 1])
def test_rotation(network, half):
    network, points = copy.deepcopy(network).double(), clouds(1, dtype=torch.float64)
    for seed in range(12 * half, 12 * half + 12):
        assert (movement(network, points, rotated(points, seed)) <= 1e-6) == is_invariant(network)


def test_translation_and_permutation(network):
    network, points = copy.deepcopy(network).double(), clouds(1, dtype=torch.float64)
    shift = torch.tensor([3.0, -5, 2, 0, 0, 0], dtype=torch.float64)
    assert (movement(network, points, points + shift) <= 1e-6) == is_invariant(network)
    # Sampling begins at the first point, so that one stays.
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(points.shape[1] - 1)])
    if is_segmenter(network):
        torch.testing.assert_close(network(points)[:, order], network(points[:, order]), atol=1e-6, rtol=0)
        return
    assert movement(network, points, points[:, order]) <= 1e-6


def degenerate(kind):
    points = clouds(1, dtype=torch.float64)
    rng = np.random.default_rng(1)
    if kind == "plane":
        points[..., 2], points[..., 3:] = 0, torch.tensor([0, 0, 1.0])
    elif kind == "line":
        points[..., 1:3] = 0
    elif kind == "cube corners":
        corners = torch.from_numpy(rng.integers(0, 2, points.shape[:2] + (3,)) * 2.0 - 1)
        points = torch.cat([corners, normalize(corners, dim=-1)], -1)
    elif kind == "duplicates":
        points = points[:, :100].repeat(1, 11, 1)[:, : points.shape[1]]
    elif kind == "one point":
        points = points[:, :1].expand(points.shape).clone()
    return points


@pytest.mark.parametrize("kind", ["plane", "line", "cube corners", "duplicates", "one point"])
def test_degenerate_clouds(network, kind, record_property, capsys):
    network, points = copy.deepcopy(network).double(), degenerate(kind)
    logits = network(points)
    assert logits.isfinite().all()
    assert torch.equal(logits, network(points.clone()))
    if not is_invariant(network):
        return
    moves = [movement(network, points, rotated(points, seed)) for seed in range(3)]
    assert np.isfinite(moves).all()
    with capsys.disabled():
        print(
            f"\n{type(network).__name__}, {kind}: rotation moves the logits by up to {max(moves):.1e}",
            end=" ",
        )


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


@pytest.mark.slow
def test_compile(network):
    compiled = torch.compile(network, backend="aot_eager")  # the default one wants a C++ compiler
    torch.testing.assert_close(compiled(clouds(2)), network(clouds(2)), atol=1e-4, rtol=1e-4)

"""What the contract does not cover: sizes, formulas and arguments of the baselines."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch.nn.functional import leaky_relu, normalize

import pointsuite
from pointsuite.models import (
    DGCNNClassifier,
    PointCloudClassifier,
    PointNet2Classifier,
    PointNetClassifier,
    RIConv2Classifier,
)
from pointsuite.models.dgcnn import EdgeConv, feature_neighbours
from pointsuite.models.pointnet2 import BallPointNet
from pointsuite.models.riconv2 import angle, informative_features, relate
from pointsuite.ops import ball_query, gather_points
from pointsuite.registry import MODELS

from .test_classifier import sample
from .test_contract import clouds

CONFIGS = sorted((Path(__file__).parents[3] / "configs/baselines").glob("*.py"))


# Millions, as published or counted by later papers: with biases before batch norms, which we leave out,
# PointNet++ SSG has 1.48. Coordinates only and 40 classes.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("pointnet_cls", 3.47),
        ("pointnet2_ssg_cls", 1.47),
        ("pointnet2_msg_cls", 1.74),
        ("dgcnn_cls", 1.81),
        ("riconv2_cls", 0.42),
    ],
)
def test_parameters(name, millions):
    options = {} if name == "riconv2_cls" else {"in_channels": 3}
    network = pointsuite.create_model(name, **options)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("network", [PointNetClassifier, PointNet2Classifier, DGCNNClassifier])
def test_coordinates_only(network):
    network = network(5, in_channels=3).eval()
    points = clouds(2, 512)
    assert torch.equal(network(points), network(points[..., :3]))
    with pytest.raises(ValueError, match=r"\(B, N, 3\) or \(B, N, 6\), found \(2, 512, 4\)"):
        network(points[..., :4])
    with pytest.raises(ValueError, match="in_channels must be 3 .* found 4"):
        type(network)(5, in_channels=4)


def test_pointnet_regularizer_joins_the_loss():
    torch.manual_seed(0)
    network = PointNetClassifier(3, global_channels=(16,), dropout=0)
    assert network(clouds(1, 1).expand(2, -1, -1)).shape == (2, 3)
    points = clouds(4, 32)
    with torch.no_grad():  # a known transform: twice the identity
        network.feature_transform.matrix.weight.zero_()
        network.feature_transform.matrix.bias.copy_(2 * torch.eye(64).flatten())
    model = PointCloudClassifier(network)
    batch = {"inputs": points, "data_samples": [sample(i % 3) for i in range(4)]}
    losses = model(**batch, mode="loss")
    assert losses["loss_transform"].item() == pytest.approx(1e-3 * 64 * 3**2)
    assert losses["loss"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(model(points), torch.tensor([0, 1, 2, 0])).item(), rel=1e-4
    )


def test_ball_pointnet_equals_the_plain_form():
    torch.manual_seed(0)
    scale = BallPointNet(0.5, 8, 4, (16, 8)).double().eval()
    xyz = clouds(2, 64, torch.float64)[..., :3]
    values, centres = torch.randn(2, 64, 4, dtype=torch.float64), xyz[:, :10]
    idx, count = ball_query(centres, xyz, 0.5, 8)
    assert count.min() < 8  # repeats of the nearest change no maximum
    grouped = torch.cat([gather_points(xyz, idx) - centres[:, :, None], gather_points(values, idx)], -1)
    torch.testing.assert_close(scale(centres, xyz, values), scale.rest(scale.linear(grouped)).amax(2))


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("ssg2", r"no arch 'ssg2'; there are \['msg_cls', 'ssg_cls'\]"),
        ({"centres": (8,)}, r"has keys .*, found \['centres'\]"),
        (
            {"centres": (8,), "radii": ((1,),) * 2, "neighbours": ((4,),), "channels": (((8,),),)},
            "one entry a level",
        ),
        (
            {
                "centres": (8, 16),
                "radii": ((1,),) * 2,
                "neighbours": ((4,),) * 2,
                "channels": (((8,),),) * 2,
            },
            "must not grow",
        ),
    ],
)
def test_bad_arch(arch, message):
    with pytest.raises(ValueError, match=message):
        PointNet2Classifier(5, arch)


def test_edge_conv_equals_the_plain_form():
    torch.manual_seed(0)
    conv = EdgeConv(5, 7).double().eval()
    with torch.no_grad():
        conv.norm.weight.normal_()  # negative slopes too
    x = torch.randn(2, 12, 5, dtype=torch.float64)
    idx = torch.randint(0, 12, (2, 12, 4))
    centre = x[:, :, None].expand(-1, -1, 4, -1)
    edges = torch.cat([gather_points(x, idx) - centre, centre], -1)
    wanted = leaky_relu(conv.norm(conv.linear(edges)), 0.2).amax(2)
    torch.testing.assert_close(conv(x, idx), wanted)


def test_feature_neighbours():
    torch.manual_seed(0)
    values = torch.randn(3, 50, 16, dtype=torch.float64) + 100
    wanted = torch.cdist(values, values).topk(6, largest=False).indices
    assert torch.equal(feature_neighbours(values, 6).sort(-1).values, wanted.sort(-1).values)
    assert (feature_neighbours(values, 1)[..., 0] == torch.arange(50)).all()


def test_relation_by_hand():
    x, y, up, right = (torch.tensor(v) for v in ([0.0, 0, 0], [2.0, 0, 0], [0.0, 0, 1], [1.0, 0, 0]))
    quarter, half = math.pi / 2, math.pi
    for x_normal, y_normal, wanted in [
        (up, up, [2, quarter, quarter, 0]),
        (up, right, [2, quarter, 0, quarter]),
        (-right, up, [2, half, quarter, -quarter]),  # points away from y
    ]:
        torch.testing.assert_close(relate(x, x_normal, y, y_normal), torch.tensor(wanted))
    assert angle(up, torch.zeros(3)) == 0
    assert angle(up, normalize(torch.tensor([0, 1e-4, 1]), dim=0)) == pytest.approx(1e-4)


def test_informative_features_join_neighbour_and_next():
    points = clouds(1, 20, torch.float64)
    xyz, normals = points.split(3, -1)
    idx = torch.arange(5)[None, None]
    features, order = informative_features(xyz[:, :1], normals[:, :1], xyz, normals, idx)
    assert features.shape == (1, 1, 5, 8) and sorted(order.flatten().tolist()) == list(range(5))
    for slot in range(5):
        i, j = order[0, 0, slot], order[0, 0, (slot + 1) % 5]
        wanted = [relate(xyz[0, i], normals[0, i], xyz[0, k], normals[0, k]) for k in (0, j)]
        torch.testing.assert_close(features[0, 0, slot], torch.cat(wanted))


def test_riconv2_layers_must_fit():
    with pytest.raises(ValueError, match="one entry a layer and channels one more, found 3, 4 and 5"):
        RIConv2Classifier(5, centres=(8, 8, 8))
    with pytest.raises(ValueError, match="wants 16 centres of 8 neighbours, but has 8 points"):
        RIConv2Classifier(5, centres=(8, 16), neighbours=(4, 8), channels=(8, 8, 8))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_takes_a_step(path):
    cfg = Config.fromfile(path)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    losses = model(clouds(3, 256), [sample(i) for i in range(3)], mode="loss")
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert [step.type for step in cfg.train_dataloader.dataset.pipeline].count("RandomRotate") == 1

import pytest
import torch

from pointsuite.models import PointCloudClassifier
from pointsuite.models.voting import Votes


def radius(points, weight=1.0):
    """Logits (B, 2) that depend on the scale of xyz, and on the normals."""
    return torch.stack([weight * points[..., :3].norm(dim=-1).mean(1), points[..., 3:].sum((1, 2))], -1)


def test_mean_over_scales():
    points = torch.randn(3, 5, 6)
    votes = Votes(2, (0.5, 1.5))
    assert votes.scales() == [0.75, 1.25]
    copies = [torch.cat([points[..., :3] * s, points[..., 3:]], -1) for s in (0.75, 1.25)]
    wanted = sum(radius(copy, 2.0).softmax(-1) for copy in copies) / 2
    torch.testing.assert_close(votes(radius, points, 2.0), wanted)
    assert not torch.allclose(wanted, radius(points, 2.0).softmax(-1))


def test_no_votes_are_the_network_as_it_is():
    points = torch.randn(3, 5, 6)
    assert torch.equal(Votes()(radius, points), radius(points).softmax(-1))


@pytest.mark.parametrize("options", [{"num": 0}, {"scale": (1.2, 0.8)}, {"scale": (0, 1)}])
def test_bad_votes(options):
    with pytest.raises(ValueError, match="wanted num >= 1 and scale 0 < low <= high"):
        Votes(**options)


def test_a_classifier_votes_when_it_predicts():
    class Radius(torch.nn.Module):
        def forward(self, points):
            return radius(points)

    points = torch.randn(2, 5, 6)
    model = PointCloudClassifier(Radius(), votes={"num": 3, "scale": (0.2, 2)})
    found = torch.stack([sample.pred_scores for sample in model(points, mode="predict")])
    torch.testing.assert_close(found, Votes(3, (0.2, 2))(radius, points))
    assert torch.equal(model(points), radius(points))

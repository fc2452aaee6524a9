import pytest
import torch
from torch import nn

from pointsuite.datasets import PointDataSample
from pointsuite.models import PointCloudPartSegmenter
from pointsuite.registry import MODELS

NETWORK = {
    "type": "RISurConvPartSegmenter",
    "num_parts": 3,
    "num_categories": 2,
    "centres": (16, 8, 8, 4),
    "neighbours": (4, 4, 4, 4),
    "channels": (8, 8, 8, 8),
    "up_neighbours": (4, 4, 4, 4),
    "up_channels": (8, 8, 8, 8),
    "mlp_channels": ((8,), (8,), (8,), ()),
    "embed_channels": 8,
}


class PerPoint(nn.Module):
    """Logits (B, N, 3) from coordinates and category."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(7, 3)

    def forward(self, points, category):
        return self.head(torch.cat([points, category[:, None, None].expand(-1, points.shape[1], 1)], -1))


def sample(label, size=5):
    found = PointDataSample(metainfo={"index": label})
    found.gt_label, found.gt_part = torch.tensor(label), torch.arange(size) % 3
    return found


@pytest.fixture
def data():
    torch.manual_seed(0)
    return {
        "inputs": [torch.randn(5, 6) for _ in range(4)],
        "data_samples": [sample(i % 2) for i in range(4)],
    }


def test_modes(data):
    model = PointCloudPartSegmenter(PerPoint())
    batch = model.data_preprocessor(data)
    logits = model(**batch)
    assert logits.shape == (4, 5, 3)
    torch.testing.assert_close(logits, model.network(batch["inputs"], torch.tensor([0, 1, 0, 1])))
    wanted = nn.functional.cross_entropy(logits.reshape(20, 3), (torch.arange(5) % 3).repeat(4))
    torch.testing.assert_close(model(**batch, mode="loss")["loss"], wanted)
    for i, found in enumerate(model(**batch, mode="predict")):
        assert torch.equal(found.pred_part, logits[i].argmax(-1)) and found.index == i % 2
        torch.testing.assert_close(found.pred_part_scores, logits[i].softmax(-1))
    with pytest.raises(ValueError, match="mode must be"):
        model(**batch, mode="train")


def test_votes(data):
    model = PointCloudPartSegmenter(PerPoint(), votes={"num": 2, "scale": (0.5, 1.5)})
    batch = model.data_preprocessor(data)
    category = torch.tensor([0, 1, 0, 1])
    copies = [batch["inputs"] * torch.tensor([s, s, s, 1, 1, 1]) for s in (0.75, 1.25)]
    wanted = sum(model.network(copy, category).softmax(-1) for copy in copies) / 2
    found = torch.stack([s.pred_part_scores for s in model(**batch, mode="predict")])
    torch.testing.assert_close(found, wanted)


def test_built_from_a_config_it_learns():
    torch.manual_seed(0)
    model = MODELS.build({"type": "PointCloudPartSegmenter", "network": NETWORK})
    points = nn.functional.normalize(torch.randn(4, 40, 3), dim=-1)
    data = {"inputs": torch.cat([points, points], -1), "data_samples": [sample(i % 2, 40) for i in range(4)]}
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(15):
        loss = model(**data, mode="loss")["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize(
    ("loss", "part"),
    [
        ({}, -100),
        ({"label_smoothing": 0.1}, -100),
        ({"ignore_index": 1}, 1),
        ({"weight": [1.0, 2.0, 0.0]}, 2),
        ({"weight": [1.0, 2.0, 3.0], "label_smoothing": 0.1}, -100),
    ],
)
def test_a_batch_in_which_no_point_counts_costs_nothing(data, loss, part):
    """A mean over no points is not a number; beside a point that counts, the others change nothing."""
    model = PointCloudPartSegmenter(PerPoint(), {"type": "CrossEntropyLoss", **loss})
    for sample in data["data_samples"]:
        sample.gt_part = torch.full((5,), part)
    batch = model.data_preprocessor(data)
    found = model(**batch, mode="loss")["loss"]
    found.backward()
    assert found == 0 and all((p.grad == 0).all() for p in model.parameters())
    data["data_samples"][1].gt_part[3] = 0
    found = model(**batch, mode="loss")["loss"]
    wanted = model.criterion(model(**batch)[1, 3:4].float(), torch.tensor([0]))
    assert found > 0
    torch.testing.assert_close(found, wanted)

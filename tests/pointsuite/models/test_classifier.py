import pytest
import torch
from torch import nn

from pointsuite.datasets import PointDataSample
from pointsuite.models import PointCloudClassifier
from pointsuite.registry import MODELS


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, points):
        return self.head(points.mean(1))


def sample(label):
    found = PointDataSample(metainfo={"index": label})
    found.gt_label = torch.tensor(label)
    return found


@pytest.fixture
def data():
    torch.manual_seed(0)
    inputs = [torch.randn(5, 6) for _ in range(4)]
    return {"inputs": inputs, "data_samples": [sample(i % 3) for i in range(4)]}


def test_modes(data):
    model = PointCloudClassifier(Mean())
    batch = model.data_preprocessor(data)
    assert batch["inputs"].shape == (4, 5, 6)
    logits = model(**batch)
    assert logits.shape == (4, 3)
    labels = torch.tensor([0, 1, 2, 0])
    wanted = nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(model(**batch, mode="loss")["loss"], wanted)
    for i, found in enumerate(model(**batch, mode="predict")):
        assert found.pred_label == logits[i].argmax() and found.index == i % 3
        torch.testing.assert_close(found.pred_scores, logits[i].softmax(-1))
    with pytest.raises(ValueError, match="mode must be"):
        model(**batch, mode="train")


def test_built_from_a_config():
    model = MODELS.build(
        {
            "type": "PointCloudClassifier",
            "network": {"type": "RISurConvClassifier", "num_classes": 3, "width": 1},
            "loss": {"type": "CrossEntropyLoss", "label_smoothing": 0.1},
        }
    )
    assert model.criterion.label_smoothing == 0.1


def test_predicts_without_samples(data):
    model = PointCloudClassifier(Mean())
    found = model(model.data_preprocessor({"inputs": data["inputs"]})["inputs"], mode="predict")
    assert len(found) == 4 and found[0].pred_scores.shape == (3,)


def test_clouds_of_different_sizes(data):
    data["inputs"][1] = torch.randn(6, 6)
    with pytest.raises(ValueError, match=r"one size, found \[\(5, 6\), \(6, 6\)\].*SamplePoints"):
        PointCloudClassifier(Mean()).data_preprocessor(data)


def test_a_batch_in_which_no_label_counts_costs_nothing(data):
    model = PointCloudClassifier(Mean(), {"type": "CrossEntropyLoss", "ignore_index": 2})
    batch = model.data_preprocessor(data)
    for sample in batch["data_samples"]:
        sample.gt_label.fill_(2)
    loss = model(**batch, mode="loss")["loss"]
    loss.backward()
    assert loss == 0 and all((p.grad == 0).all() for p in model.parameters())

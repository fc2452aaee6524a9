import numpy as np
import pytest
import torch

from pointsuite.engine.errors import UsageError
from pointsuite.evaluation import ConfusionMatrix, format_confusion


def test_classes_without_samples():
    lines = format_confusion(np.array([[2, 0], [0, 0]]), ["a", "b"]).splitlines()
    assert lines[2].split() == ["b", "0", "-", "-", "-"] and len(lines) == 4


def count(sample, **meta):
    metric = ConfusionMatrix()
    metric.dataset_meta = meta
    metric.process({}, [sample, sample])
    assert metric.evaluate(2) == {}
    return metric.matrix.tolist()


def test_counts_by_hand():
    label = {"gt_label": torch.tensor(1), "pred_label": torch.tensor(0)}
    assert count(label, classes=["a", "b"]) == [[0, 0], [2, 0]]
    pixels = [{"data": torch.tensor(rows)} for rows in ([[0, 1], [255, 1]], [[0, 0], [1, 1]])]
    maps = dict(zip(("gt_sem_seg", "pred_sem_seg"), pixels, strict=True))
    assert count(maps, classes=["a", "b"]) == [[2, 0], [2, 2]]  # 255 is no class
    parts = {"gt_part": torch.tensor([0, 2]), "pred_part": torch.tensor([0, 1]), **label}
    assert count(parts, classes=["a"], part_classes=list("xyz")) == [[2, 0, 0], [0, 0, 0], [0, 2, 0]]


def test_refusals():
    with pytest.raises(UsageError, match="wanted one of the pairs gt_sem_seg and pred_sem_seg"):
        count({"gt_label": 1}, classes=["a"])
    with pytest.raises(UsageError, match="the test data name no classes"):
        count({"gt_label": torch.tensor(0), "pred_label": torch.tensor(0)})

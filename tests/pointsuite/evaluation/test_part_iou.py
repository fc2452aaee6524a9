import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from pointsuite.datasets import PointDataSample
from pointsuite.evaluation import PartIoU, restrict_to_parts, shape_iou
from pointsuite.registry import METRICS


def test_one_shape_by_hand():
    truth, prediction = [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]
    assert shape_iou(truth, prediction, [0, 1]) == pytest.approx((2 / 3 + 3 / 4) / 2)
    # neither there nor predicted: 1; predicted and not there: 0
    assert shape_iou(truth, prediction, [0, 1, 2]) == pytest.approx((2 / 3 + 3 / 4 + 1) / 3)
    assert shape_iou([0, 0], [0, 1], [0, 1]) == pytest.approx((1 / 2 + 0) / 2)


def test_restricted_to_the_parts_of_the_category():
    scores = np.array([[0.9, 0.1, 0.3], [0.8, 0.3, 0.1]])
    assert restrict_to_parts(scores, [1, 2]).tolist() == [2, 1]
    assert restrict_to_parts(scores, range(3)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("truth", "prediction", "parts", "message"),
    [
        ([0, 1], [0], [0, 1], r"truth has shape \(2,\), prediction \(1,\)"),
        ([0], [0], [], "there are 0 parts"),
    ],
)
def test_bad_input(truth, prediction, parts, message):
    with pytest.raises(ValueError, match=message):
        shape_iou(truth, prediction, parts)


def make_sample(label, truth, best, count=4):
    sample = PointDataSample()
    sample.gt_label, sample.gt_part = torch.tensor(label), torch.tensor(truth)
    sample.pred_part_scores = torch.nn.functional.one_hot(torch.tensor(best), count).float()
    return sample


def evaluate(samples, classes, **options):
    evaluator = Evaluator(METRICS.build({"type": "PartIoU", **options}))
    evaluator.dataset_meta = {"classes": classes}
    for sample in samples:
        evaluator.process([sample])
    return evaluator.evaluate(len(samples))


def test_metric_by_hand():
    samples = [
        make_sample(0, [0, 0, 1, 1], [0, 0, 1, 1]),  # 1
        make_sample(0, [0, 0, 1, 1], [0, 1, 1, 1]),  # (1/2 + 2/3) / 2
        make_sample(1, [2, 2, 3, 3], [0, 0, 3, 3]),  # the best of parts 2 and 3 is 2 at a tie: 1
    ]
    found = evaluate(samples, ("a", "b", "unseen"), category_parts={"a": (0, 1), "b": (2, 3), "unseen": (1,)})
    middle = (1 / 2 + 2 / 3) / 2
    assert found == {
        "instance_miou": pytest.approx(100 * (1 + middle + 1) / 3),
        "class_miou": pytest.approx(100 * ((1 + middle) / 2 + 1) / 2),
    }


def test_one_category_with_every_part():
    found = evaluate([make_sample(0, [0, 0, 1], [0, 2, 1])], ("a",))
    wanted = pytest.approx(100 * (1 / 2 + 1 + 0 + 1) / 4)  # part 3 is neither there nor predicted
    assert found == {"instance_miou": wanted, "class_miou": wanted}


@pytest.mark.parametrize(
    ("parts", "message"),
    [({"b": (0,)}, "the dataset has a shape of 'a' too"), ({"a": (0, 9)}, "the network knows parts 0 to 3")],
)
def test_bad_category_parts(parts, message):
    with pytest.raises(ValueError, match=message):
        evaluate([make_sample(0, [0], [0])], ("a",), category_parts=parts)


def test_unlabelled_points_do_not_count():
    """Part 255 of a file, -100 in a sample: left out of the scores; a cloud of nothing else, too."""
    metric = PartIoU()
    metric.dataset_meta = {"classes": ["lamp"]}
    scores = torch.tensor([[2.0, 1], [1, 2], [2, 1], [2, 1]])
    for parts in ([0, 1, -100, -100], [-100] * 4):
        sample = {"gt_label": torch.tensor(0), "gt_part": torch.tensor(parts), "pred_part_scores": scores}
        metric.process(None, [sample])
    assert len(metric.results) == 1
    assert metric.compute_metrics(metric.results)["instance_miou"] == 100

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log

from pointsuite.datasets import PointDataSample
from pointsuite.evaluation import (
    ClassificationAccuracy,
    confusion_matrix,
    mean_class_accuracy,
    overall_accuracy,
)
from pointsuite.registry import METRICS

LABELS, PREDICTIONS = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2]


def test_by_hand():
    confusion = confusion_matrix(LABELS, PREDICTIONS, 4)
    assert confusion.dtype == np.int64
    assert confusion.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert overall_accuracy(confusion) == pytest.approx(100 * 4 / 6)
    # class 3 has no samples and is left out
    assert mean_class_accuracy(confusion) == pytest.approx(100 * (2 / 3 + 1 / 2 + 1) / 3)


def test_small_integers_do_not_overflow():
    labels = np.full(3, 200, np.uint8)
    assert confusion_matrix(labels, labels, 250)[200, 200] == 3


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0], r"labels have shape \(2,\), predictions \(1,\)"),
        ([0, 3], [0, 1], "labels hold 3, wanted 0 to 2"),
        ([0, 1], [0, -1], "predictions hold -1, wanted 0 to 2"),
    ],
)
def test_bad_input(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(labels, predictions, 3)


@pytest.mark.parametrize("measure", [overall_accuracy, mean_class_accuracy])
def test_nothing_measured(measure):
    with pytest.raises(ValueError, match="the confusion matrix is empty"):
        measure(np.zeros((3, 3), np.int64))


def make_data_samples(labels, predictions):
    samples = []
    for label, prediction in zip(labels, predictions, strict=True):
        sample = PointDataSample()
        sample.gt_label, sample.pred_label = torch.tensor(label), torch.tensor(prediction)
        samples.append(sample)
    return samples


def test_metric_over_batches(monkeypatch):
    warned = []

    def spy(text, **options):
        warned.append(text)
        print_log(text, **options)

    monkeypatch.setattr("pointsuite.evaluation.accuracy.print_log", spy)
    evaluator = Evaluator(METRICS.build({"type": "ClassificationAccuracy"}))
    evaluator.dataset_meta = {"classes": ("a", "b", "c", "d")}
    samples = make_data_samples(LABELS, PREDICTIONS)
    evaluator.process(samples[:4])
    evaluator.process(samples[4:])
    assert evaluator.evaluate(6) == {
        "overall_accuracy": pytest.approx(66.667, abs=1e-3),
        "mean_class_accuracy": pytest.approx(72.222, abs=1e-3),
    }
    assert warned == ["mean_class_accuracy leaves out classes without samples: d"]


def measure(rank, folder):
    options = {"init_method": f"file://{folder}/meet", "rank": rank, "world_size": 2}
    torch.distributed.init_process_group("gloo", **options)
    metric = ClassificationAccuracy(collect_device="cpu", collect_dir=f"{folder}/collected")
    metric.dataset_meta = {"classes": ("a", "b", "c")}
    # five samples on two processes: the sampler gives rank 1 the first once more
    rows = [[0, 2, 4], [1, 3, 0]][rank]
    samples = make_data_samples([LABELS[i] for i in rows], [PREDICTIONS[i] for i in rows])
    metric.process(None, [sample.to_dict() for sample in samples])
    Path(folder, f"result{rank}").write_text(json.dumps(metric.evaluate(5)))
    torch.distributed.destroy_process_group()


def test_metric_gathers_from_all_processes(tmp_path):
    torch.multiprocessing.start_processes(measure, (str(tmp_path),), nprocs=2, start_method="fork")
    results = [json.loads((tmp_path / f"result{rank}").read_text()) for rank in range(2)]
    wanted = confusion_matrix(LABELS[:5], PREDICTIONS[:5], 3)
    assert results[0] == results[1]
    assert results[0]["overall_accuracy"] == pytest.approx(overall_accuracy(wanted))
    assert results[0]["mean_class_accuracy"] == pytest.approx(mean_class_accuracy(wanted))

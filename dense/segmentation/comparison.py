"""Segmentors side by side, and beside the class that training has most of."""

from collections.abc import Iterator

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, DefaultScope

from pointsuite.engine.comparison import Comparison


class SegmentationComparison(Comparison):
    """Trains and tests as the configs say; adds what their metric gives the commonest class."""

    def references(self, cfg: Config) -> dict[str, dict[str, float]]:
        """What the test's metric gives the class that training labels have most of, everywhere."""
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            metric = METRICS.build(cfg.test_evaluator)
            dataset = DATASETS.build(cfg.test_dataloader.dataset)
            metric.dataset_meta = dataset.metainfo
            classes = dataset.metainfo["classes"]
            training = _read_labels(cfg.train_dataloader)
            counts = sum(np.bincount(labels.ravel(), minlength=256) for labels in training)
            winner = int(counts[: len(classes)].argmax())
            for labels in map(torch.from_numpy, _read_labels(cfg.test_dataloader)):
                said = torch.full_like(labels, winner)
                metric.process({}, [{"pred_sem_seg": {"data": said}, "gt_sem_seg": {"data": labels}}])
            return {f"only {classes[winner]!r}": metric.evaluate(len(dataset))}


def _read_labels(dataloader: dict) -> Iterator[np.ndarray]:
    dataset = DATASETS.build({**dataloader["dataset"], "pipeline": [{"type": "LoadAnnotations"}]})
    return (dataset[i]["gt_seg_map"] for i in range(len(dataset)))

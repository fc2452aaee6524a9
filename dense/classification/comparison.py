"""Classifiers side by side on clean and on corrupted photographs, and on classes that they do not know."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from pointsuite.engine.comparison import Comparison
from pointsuite.engine.corruptions import CLEAN, mean_accuracy
from pointsuite.engine.runner import Runner

from .corruptions import evaluate_corruptions
from .datasets import OpenSetFolder
from .open_set_evaluation import evaluate_open_set
from .open_set_model import open_set_loaders


class CorruptionComparison(Comparison):
    """Trains as the configs say; tests on clean images and under each corruption, the mean of its severities.

    Args:
        images: so many of the test are corrupted, spread evenly; 0 for all.
    """

    def __init__(self, images: int = 0) -> None:
        super().__init__()
        self.settings = {"images": images}

    def evaluate(self, runner: Runner, variant: str) -> dict[str, Any]:
        dataset = runner.build_dataloader(runner.cfg.test_dataloader).dataset
        images = self.settings["images"] or None
        results = evaluate_corruptions(runner.model, dataset, max_samples=images)
        found = {name: float(result.overall_accuracy.mean()) for name, result in results.items()}
        return {CLEAN: found.pop(CLEAN), **found, "mean of corruptions": mean_accuracy(results)}


class OpenSetComparison(Comparison):
    """Trains as the configs say; tells known from unknown classes by every score, see
    :func:`~dense.classification.open_set_evaluation.evaluate_open_set`. The metric ``costarr/auroc`` is that
    score's; of several sets of unknown samples it is the mean.

    The seed of a run draws its known classes, too.

    Args:
        balanced: OSA weighs known and unknown samples equally.
    """

    def __init__(self, balanced: bool = False) -> None:
        super().__init__()
        self.settings = {"balanced": balanced}

    def adapt(self, cfg: Config, variant: str) -> None:
        _set_class_seed(cfg._cfg_dict, cfg.randomness.seed)

    def evaluate(self, runner: Runner, variant: str) -> dict[str, Any]:
        loaders, names = open_set_loaders(runner)
        report = evaluate_open_set(runner.model, **loaders, names=names, balanced=self.settings["balanced"])
        sets = list(report.metrics.values())
        found = {"accuracy": next(iter(sets[0].values()))["accuracy"]}
        for kind, metrics in sets[0].items():
            for key in metrics:
                if key != "accuracy":
                    found[f"{kind}/{key}"] = sum(own[kind][key] for own in sets) / len(sets)
        return found


def _set_class_seed(node: Any, seed: int) -> None:
    if isinstance(node, Mapping):
        if str(node.get("type")).rpartition(".")[2] == OpenSetFolder.__name__:
            node["class_seed"] = seed
        node = node.values()
    if not isinstance(node, str) and hasattr(node, "__iter__"):
        for child in node:
            _set_class_seed(child, seed)

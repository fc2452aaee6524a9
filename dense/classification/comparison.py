"""Classifiers side by side on clean and on corrupted photographs."""

from typing import Any

from pointsuite.engine.comparison import Comparison
from pointsuite.engine.corruptions import CLEAN, mean_accuracy
from pointsuite.engine.runner import Runner

from .corruptions import evaluate_corruptions


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

"""Ways of tuning a trained network side by side."""

from typing import Any

from pointsuite.engine.comparison import Comparison
from pointsuite.engine.runner import Runner


class TuningComparison(Comparison):
    """Trains and tests as the configs say, and counts the parameters that were trained."""

    def evaluate(self, runner: Runner, variant: str) -> dict[str, Any]:
        trained = sum(p.numel() for p in runner.model.parameters() if p.requires_grad)
        return {**super().evaluate(runner, variant), "trained": trained}

"""How well tokens are predicted."""

from collections.abc import Sequence
from math import log

from mmengine.evaluator import BaseMetric

from ..registry import METRICS


@METRICS.register_module()
class TokenLikelihood(BaseMetric):
    """The mean of -log p over all tokens of the test: ``loss/nats``, and ``loss/bits_per_UNIT`` to base 2.

    Args:
        unit: what a token is: "character", "byte", or "dimension" of pictures, a byte each.
        **kwargs: of MMEngine's ``BaseMetric``.
    """

    default_prefix = "loss"

    def __init__(self, unit: str = "character", **kwargs):
        super().__init__(**kwargs)
        self.unit = unit

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        self.results += [(float(sample["nats"]), int(sample["tokens"])) for sample in data_samples]

    def compute_metrics(self, results: list[tuple[float, int]]) -> dict[str, float]:
        tokens = sum(count for _, count in results)
        if not tokens:
            raise ValueError("the test has no token to predict, wanted targets")
        nats = sum(found for found, _ in results) / tokens
        return {"nats": nats, f"bits_per_{self.unit}": nats / log(2)}


@METRICS.register_module()
class TokenAccuracy(BaseMetric):
    """For which part of all targets the most likely token is the right one: ``accuracy/top1``, in %."""

    default_prefix = "accuracy"

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        self.results += [(int(sample["hits"]), int(sample["tokens"])) for sample in data_samples]

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        tokens = sum(count for _, count in results)
        if not tokens:
            raise ValueError("the test has no token to predict, wanted targets")
        return {"top1": 100 * sum(hits for hits, _ in results) / tokens}

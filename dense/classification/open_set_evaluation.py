"""Scores of :mod:`.open_set`, fitted and compared on sets of known and of unknown samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pointsuite.engine.tables import align_columns

from .open_set import ABLATION, UNKNOWN, OpenSetScore, make_score
from .open_set_features import FeatureReader
from .open_set_metrics import OpenSetCurve, measure_open_set, open_set_curve


def build_scores(
    reader: FeatureReader, names: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, OpenSetScore]:
    """Scores of a classifier, not fitted.

    Args:
        names: by the name that a table gives it: the ``type``, of :data:`SCORES`, and options; by default
            :data:`ABLATION`.
    """
    wanted = ABLATION if names is None else names
    parts = {name: dict(options) for name, options in wanted.items()}
    return {
        name: make_score(options.pop("type"), reader.weight, reader.bias, **options)
        for name, options in parts.items()
    }


def fit_scores(
    scores: Mapping[str, OpenSetScore],
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    names: Sequence[str] | None = None,
) -> None:
    """Fit several scores in one pass over features (B, D), logits (B, K) and labels (B)."""
    for score in scores.values():
        score.reset()
    for features, logits, labels in batches:
        for score in scores.values():
            if score.fits:
                score.update(features, labels, logits)
    for score in scores.values():
        if score.fits:
            score.merge()
            score.finish(names)


def read_batches(
    model: nn.Module, reader: FeatureReader, loader: Iterable[Any]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Features, logits and labels of a loader's batches; -1 is the label of a sample that has none.

    Args:
        model: an :class:`~dense.classification.model.ImageClassifier`, in evaluation mode.
    """
    for batch in loader:
        data = model.data_preprocessor(batch, False)
        labels = [int(sample.get("gt_label", UNKNOWN)) for sample in data["data_samples"]]
        features, logits = reader(data["inputs"])
        yield features, logits, torch.tensor(labels, device=features.device)


@dataclass(frozen=True)
class Scored:
    """A set of samples as scores see it.

    Attributes:
        labels, predicted: (N) ints.
        scores: (N) by a score's name.
    """

    labels: np.ndarray
    predicted: np.ndarray
    scores: dict[str, np.ndarray]

    def curve(self, name: str, unknown: Scored) -> OpenSetCurve:
        """Of the known samples here and the unknown ones of another set."""
        unlabelled = np.full_like(unknown.labels, UNKNOWN)
        return open_set_curve(
            np.concatenate((self.labels, unlabelled)),
            np.concatenate((self.predicted, unknown.predicted)),
            np.concatenate((self.scores[name], unknown.scores[name])),
        )


@torch.no_grad()
def score_batches(
    scores: Mapping[str, OpenSetScore], batches: Iterable[tuple[Tensor, Tensor, Tensor]]
) -> Scored:
    """All scores of features (B, D), logits (B, K) and labels (B).

    Raises:
        ValueError: no batch.
    """
    labels, predicted, found = [], [], {name: [] for name in scores}
    for features, logits, truth in batches:
        labels.append(truth.cpu().numpy())
        predicted.append(logits.argmax(1).cpu().numpy())
        for name, score in scores.items():
            found[name].append(score(features, logits)[0].double().cpu().numpy())
    if not labels:
        raise ValueError("found no sample, wanted some to be scored")
    parts = {name: np.concatenate(values) for name, values in found.items()}
    return Scored(np.concatenate(labels), np.concatenate(predicted), parts)


@dataclass(frozen=True)
class OpenSetReport:
    """What :func:`evaluate_open_set` finds.

    Attributes:
        metrics: in percent, by set of unknown samples, score and metric, see
            :func:`~dense.classification.open_set_metrics.measure_open_set`.
        curves: by set and score.
        counts: samples of each set.
    """

    metrics: dict[str, dict[str, dict[str, float]]]
    curves: dict[str, dict[str, OpenSetCurve]]
    counts: dict[str, int]


def evaluate_open_set(
    model: nn.Module,
    train: Iterable[Any],
    known: Iterable[Any],
    unknown: Mapping[str, Iterable[Any]],
    validation: tuple[Iterable[Any], Iterable[Any]] | None = None,
    *,
    scores: Mapping[str, Mapping[str, Any]] | None = None,
    names: Sequence[str] | None = None,
    fprs: Sequence[float] = (0.01, 0.1),
    balanced: bool = False,
) -> OpenSetReport:
    """Fit scores on training data, and tell by them known test samples from unknown ones.

    Args:
        model: an :class:`~dense.classification.model.ImageClassifier`.
        train: loader of what the scores are fitted to, prepared as in a test.
        known: loader of the test of known classes.
        unknown: loaders of unknown samples, by name; each is told by itself.
        validation: loaders of known samples and of surrogates of unknown ones, which choose the threshold of
            OOSA.
        scores: see :func:`build_scores`.
        names: of the classes.
        fprs, balanced: see :func:`~dense.classification.open_set_metrics.measure_open_set`.

    Raises:
        ValueError: a network without a linear last layer; sets without samples.
    """
    training = model.training
    model.eval()
    try:
        reader = FeatureReader(model)
        own = build_scores(reader, scores)

        def score(loader: Iterable[Any]) -> Scored:
            return score_batches(own, read_batches(model, reader, loader))

        fit_scores(own, read_batches(model, reader, train), names)
        test, sets = score(known), {name: score(loader) for name, loader in unknown.items()}
        chosen = None if validation is None else tuple(map(score, validation))
    finally:
        model.train(training)
    metrics, curves = {}, {}
    for name, samples in sets.items():
        curves[name] = {kind: test.curve(kind, samples) for kind in own}
        metrics[name] = {}
        for kind, curve in curves[name].items():
            other = None if chosen is None else chosen[0].curve(kind, chosen[1])
            metrics[name][kind] = measure_open_set(curve, other, fprs=fprs, balanced=balanced)
    counts = {"known": len(test.labels), **{name: len(samples.labels) for name, samples in sets.items()}}
    return OpenSetReport(metrics, curves, counts)


def format_open_set(report: OpenSetReport) -> str:
    """A table of each set of unknown samples: a row a score, numbers in percent."""
    parts = []
    for name, rows in report.metrics.items():
        columns = list(next(iter(rows.values())))
        head = f"{report.counts['known']} known and {report.counts[name]} unknown samples ({name}), percent"
        cells = [[kind, *[f"{found[key]:.2f}" for key in columns]] for kind, found in rows.items()]
        parts += [head, align_columns([["score", *columns], *cells])]
    return "\n".join(parts)

"""Open-set metrics: by hand, against naive loops, what changes nothing, bad input."""

import numpy as np
import pytest
import torch

from dense.classification.open_set_metrics import (
    OpenSetMetric,
    auoscr,
    auroc,
    best_threshold,
    ccr_at_fpr,
    closed_set_accuracy,
    fpr_at_tpr,
    measure_open_set,
    oosa,
    open_set_curve,
    osa_at,
)


def drawn(seed, count=80):
    rng = np.random.default_rng(seed)
    return rng.integers(-1, 3, count), rng.integers(0, 3, count), rng.integers(0, 20, count)


LABELS = np.array([0, 1, 1, -1, -1])
PREDICTED = np.array([0, 1, 0, 1, 0])
SCORES = np.array([5.0, 3.0, 3.0, 3.0, 1.0])


def test_by_hand():
    curve = open_set_curve(LABELS, PREDICTED, SCORES)
    assert curve.thresholds.tolist() == [np.inf, 5, 3, 1]
    assert curve.ccr.tolist() == [0, 1 / 3, 2 / 3, 2 / 3] and curve.fpr.tolist() == [0, 0, 0.5, 1]
    assert auoscr(curve) == pytest.approx(0.25 + 1 / 3) and auroc(curve) == pytest.approx(5 / 6)
    assert [ccr_at_fpr(curve, fpr) for fpr in (0, 0.4, 0.5)] == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert fpr_at_tpr(curve) == 0.5 and fpr_at_tpr(curve, 0.3) == 0
    assert curve.osa().tolist() == pytest.approx([0.4, 0.6, 0.6, 0.4])
    assert best_threshold(curve) == (5.0, pytest.approx(0.6))  # of two, the higher one
    assert curve.osa(balanced=True)[1] == pytest.approx((1 / 3 + 1) / 2)


def test_against_loops():
    labels, predicted, scores = drawn(0)
    curve = open_set_curve(labels, predicted, scores)
    known = labels >= 0
    for threshold in (-1, 0, 7, 7.5, 19, 30):
        taken = scores >= threshold
        wanted = ((labels == predicted) & known & taken).sum() + (~known & ~taken).sum()
        assert osa_at(curve, threshold) == pytest.approx(wanted / len(labels))
    pairs = scores[known][:, None] - scores[~known]
    assert auroc(curve) == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)


def test_perfect_and_constant_scores():
    labels = np.array([0, 1, 2, -1, -1])
    perfect = open_set_curve(labels, np.abs(labels), labels >= 0)
    assert auoscr(perfect) == auroc(perfect) == 1 and fpr_at_tpr(perfect) == 0
    constant = open_set_curve(LABELS, PREDICTED, np.zeros(5))
    assert auroc(constant) == 0.5 and auoscr(constant) == closed_set_accuracy(constant) / 2
    assert osa_at(constant, -np.inf) == pytest.approx(closed_set_accuracy(constant) * 3 / 5)


def test_order_and_rising_maps_change_nothing():
    labels, predicted, scores = drawn(1)
    wanted = measure_open_set(open_set_curve(labels, predicted, scores))
    order = np.random.default_rng(2).permutation(len(labels))
    for found in (
        open_set_curve(labels[order], predicted[order], scores[order]),
        open_set_curve(labels, predicted, scores + 100),
        open_set_curve(labels, predicted, np.exp(scores / 5)),
    ):
        assert measure_open_set(found) == pytest.approx(wanted)
    assert wanted["auoscr"] <= wanted["accuracy"]


def test_validation_alone_chooses_the_threshold():
    test, validation = open_set_curve(*drawn(3)), open_set_curve(*drawn(4))
    value, threshold = oosa(test, validation)
    assert threshold == best_threshold(validation)[0] and value == osa_at(test, threshold)
    assert value <= best_threshold(test)[1]
    balanced, _ = oosa(test, validation, balanced=True)
    found = measure_open_set(test, validation, balanced=True, fprs=(0.2,))
    assert found["oosa"] == 100 * balanced and "ccr@fpr0.2" in found


def test_scores_of_minus_infinity_are_the_last():
    curve = open_set_curve([0, 1, -1], [0, 1, 0], [2.0, -np.inf, -np.inf])
    assert curve.thresholds.tolist() == [np.inf, 2, -np.inf] and auroc(curve) == 0.75


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (([0, 1], [0, 1], [1.0, 2.0]), "found 2 samples, none of them unknown"),
        (([-1], [0], [1.0]), "none of them known"),
        (([0, -1], [0, 1], [1.0, np.nan]), "scores must not be NaN, found 1 of 2"),
        (([0, -1], [0], [1.0, 2.0]), r"must be \(N,\), found \(2,\), \(1,\), \(2,\)"),
    ],
)
def test_bad_input(args, message):
    with pytest.raises(ValueError, match=message):
        open_set_curve(*args)


def test_bad_rates():
    curve = open_set_curve(LABELS, PREDICTED, SCORES)
    with pytest.raises(ValueError, match=r"fpr must be in 0..1, found 2"):
        ccr_at_fpr(curve, 2)
    with pytest.raises(ValueError, match="tpr must be above 0 and at most 1, found 0"):
        fpr_at_tpr(curve, 0)


@pytest.mark.parametrize("given", [False, True])
def test_registered_metric(given):
    """Scores of samples, or their largest probabilities."""
    metric = OpenSetMetric(fprs=(0.4,), threshold=0.55)
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.3, 0.7], [0.5, 0.5]])
    samples = [
        {"pred_scores": row, "gt_label": torch.tensor(label), "known_score": torch.tensor(score)}
        for row, label, score in zip(probabilities, LABELS, SCORES / 10, strict=True)
    ]
    for sample in samples:
        if not given:
            del sample["known_score"]
    metric.process(None, samples)
    scores = SCORES / 10 if given else probabilities.amax(1).numpy()
    curve = open_set_curve(LABELS, probabilities.argmax(1).numpy(), scores)
    found = metric.evaluate(len(samples))
    assert found["open_set/osa"] == pytest.approx(100 * osa_at(curve, 0.55))
    assert found["open_set/auroc"] == pytest.approx(100 * auroc(curve)) and "open_set/ccr@fpr0.4" in found

import numpy as np
import pytest
import torch

from dense.classification.metrics import (
    Agreement,
    BalancedAccuracy,
    ConfidenceGap,
    TopK,
    cohen_kappa,
    macro_scores,
    matthews_correlation,
)


def sample(scores, label, **kwargs):
    return {"pred_scores": torch.tensor(scores), "gt_label": torch.tensor(label), **kwargs}


def accuracy(samples, **kwargs):
    metric = TopK(**kwargs)
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def test_by_hand():
    scores = [0.1, 0.4, 0.2, 0.3]
    samples = [sample(scores, label) for label in range(4)]  # ranks 3, 0, 2, 1
    assert accuracy(samples, topk=(1, 2, 3)) == {
        "accuracy/top1": 25.0,
        "accuracy/top2": 50.0,
        "accuracy/top3": 75.0,
    }
    assert accuracy(samples) == {"accuracy/top1": 25.0}  # any label is in the top 5 of 4


def test_equal_scores_count_as_argmax_has_them():
    samples = [sample([0.25] * 4, label) for label in range(4)]
    assert accuracy(samples, topk=(1, 3)) == {"accuracy/top1": 25.0, "accuracy/top3": 75.0}


def test_agrees_with_argmax_and_topk():
    scores = torch.rand(200, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 7
    found = accuracy([sample(s.tolist(), n.item()) for s, n in zip(scores, labels, strict=True)])
    assert found["accuracy/top1"] == pytest.approx(100 * (scores.argmax(1) == labels).float().mean().item())
    hits = (scores.topk(5).indices == labels[:, None]).any(1)
    assert found["accuracy/top5"] == pytest.approx(100 * hits.float().mean().item())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (sample([0.5, float("nan")], 1, img_path="a.jpg"), "a.jpg: scores are not finite"),
        (sample([0.5, 0.5], 2, index=7), "image 7: found the label 2, wanted 0 to 1"),
        (sample([0.5, 0.5], -1), "found the label -1"),
    ],
)
def test_refusals(bad, message):
    with pytest.raises(ValueError, match=message):
        accuracy([bad])


def test_k_must_be_positive():
    with pytest.raises(ValueError, match=r"at least 1, found \(0,\)"):
        TopK(topk=(0,))


def balanced(pairs, classes, names=None, **kwargs):
    metric = BalancedAccuracy(**kwargs)
    if names:
        metric.dataset_meta = {"classes": names}
    metric.process(None, [sample(torch.eye(classes)[found].tolist(), label) for label, found in pairs])
    return metric.evaluate(len(pairs))


def test_balanced_by_hand():
    """Nine of class 0, of which two are taken for 1; one of class 1, found; none of class 2, to which one
    of class 0 goes.
    """
    pairs = [(0, 0)] * 6 + [(0, 1)] * 2 + [(0, 2), (1, 1)]
    found = balanced(pairs, 3, names=("a", "b", "c"), by_class=True)
    assert found == pytest.approx(
        {
            "accuracy/balanced": (100 * 6 / 9 + 100) / 2,
            "accuracy/f1": (100 * 12 / 15 + 100 * 2 / 4) / 2,
            "accuracy/recall_a": 100 * 6 / 9,
            "accuracy/recall_b": 100.0,
            "accuracy/f1_a": 80.0,
            "accuracy/f1_b": 50.0,
        }
    )
    assert balanced(pairs, 3).keys() == {"accuracy/balanced", "accuracy/f1"}


def test_balanced_refuses_other_labels():
    with pytest.raises(ValueError, match="found the label 3, wanted 0 to 2"):
        balanced([(3, 0)], 3)


# -------------------------------------------------------------------------- agreement and confidence


def test_kappa_by_hand():
    assert cohen_kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    assert cohen_kappa(np.eye(3)) == 1 and cohen_kappa(np.array([[3, 0], [5, 0]])) == 0
    assert cohen_kappa(np.array([[7, 0], [0, 0]])) == 0  # 0 / 0
    # 97.23 % of balanced classes, as published
    table = np.full((10, 10), 0.0277 / 90) + np.eye(10) * (0.9723 / 10 - 0.0277 / 90)
    assert cohen_kappa(table) == pytest.approx(0.9692, abs=5e-5)


def test_matthews_correlation_by_hand():
    a, b, c, d = 6, 3, 1, 2
    wanted = (a * d - b * c) / ((a + b) * (a + c) * (d + b) * (d + c)) ** 0.5
    assert matthews_correlation(np.array([[a, b], [c, d]])) == pytest.approx(wanted)
    assert matthews_correlation(np.eye(4)) == pytest.approx(1)
    assert matthews_correlation(np.array([[3, 0], [5, 0]])) == 0


def test_macro_scores_by_hand():
    """The last class is neither there nor found."""
    table = np.array([[2, 1, 0, 0], [0, 3, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    wanted = (2 / 3 + 3 / 4 + 0) / 3, (2 / 3 + 1 + 0) / 3, (4 / 6 + 6 / 7 + 0) / 3
    assert macro_scores(table) == pytest.approx(wanted)
    with pytest.raises(ValueError, match=r"wanted counts \(K, K\), at least one, found 0 in \(2, 2\)"):
        macro_scores(np.zeros((2, 2)))


def test_agreement_of_samples():
    metric = Agreement()
    pairs = [(0, 0)] * 20 + [(0, 1)] * 5 + [(1, 0)] * 10 + [(1, 1)] * 15
    metric.process(None, [sample(np.eye(2)[found].tolist(), label) for label, found in pairs])
    found = metric.evaluate(len(pairs))
    table = np.array([[20, 5], [10, 15]])
    assert found["accuracy/kappa"] == pytest.approx(0.4)
    assert found["accuracy/mcc"] == pytest.approx(matthews_correlation(table))
    scores = [found[f"accuracy/{name}"] for name in ("precision", "recall", "macro_f1")]
    assert scores == pytest.approx([100 * value for value in macro_scores(table)])
    with pytest.raises(ValueError, match="found the label 2, wanted 0 to 1"):
        metric.process(None, [sample([0.5, 0.5], 2)])


def test_confidence_gap():
    def gap(*pairs):
        metric = ConfidenceGap()
        metric.process(None, [sample([p, 1 - p], label) for p, label in pairs])
        return metric.evaluate(len(pairs))

    found = gap((0.9, 0), (0.7, 0), (0.6, 1))
    assert found == pytest.approx({"confidence/right": 80, "confidence/wrong": 60, "confidence/gap": 20})
    assert gap((0.9, 0)) == {"confidence/right": pytest.approx(90)}

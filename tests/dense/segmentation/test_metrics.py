import numpy as np
import pytest
import torch

from dense.registry import METRICS


def sample(scan, position, found, true):
    maps = {"pred_sem_seg": found, "gt_sem_seg": true}
    maps = {key: {"data": torch.tensor(labels)[None]} for key, labels in maps.items()}
    return {"img_path": f"GT/Subj_{scan}slice_{position}.png", **maps}


def evaluate(samples, **kwargs):
    metric = METRICS.build({"type": "DiceMetric", **kwargs})
    metric.dataset_meta = {"classes": ("background", "liver", "spleen")}
    for one in samples:
        metric.process({}, [one])
    return metric.evaluate(len(samples))


def test_by_hand():
    scores = evaluate(
        [
            sample(1, 1, [[1, 1, 0, 0]], [[1, 0, 0, 0]]),  # liver: 1 shared, sizes 2 and 1
            sample(1, 2, [[0, 0, 2, 2]], [[0, 2, 2, 2]]),  # spleen: 2 shared, sizes 2 and 3
            sample(2, 1, [[1, 1, 1, 2]], [[1, 1, 1, 255]]),  # liver: all; the last pixel does not count
        ]
    )
    assert scores["dice/2d/liver"] == pytest.approx(100 * 2 * 4 / 9, abs=0.01)
    assert scores["dice/3d/liver"] == pytest.approx(100 * (2 / 3 + 1) / 2, abs=0.01)
    assert scores["dice/2d/spleen"] == 80
    assert scores["dice/3d/spleen"] == 90  # the second scan has none and is given none
    assert scores["dice/2d"] == pytest.approx((800 / 9 + 80) / 2, abs=0.01)
    assert "dice/2d/background" not in scores


def test_skip_and_ignore_index():
    scores = evaluate([sample(1, 1, [[0, 1, 1]], [[0, 0, 9]])], skip=(2,), ignore_index=9)
    assert scores["dice/3d/background"] == pytest.approx(200 / 3, abs=0.01)
    assert scores["dice/3d/liver"] == 0 and "dice/3d/spleen" not in scores


def test_equals_a_direct_sum():
    rng = np.random.default_rng(0)
    found, true = rng.integers(0, 3, (2, 6, 8, 8))
    scores = evaluate([sample(1 + i // 2, i, found[i], true[i]) for i in range(6)])
    for c, name in ((1, "liver"), (2, "spleen")):
        volumes = [(found[i : i + 2] == c, true[i : i + 2] == c) for i in (0, 2, 4)]
        dice = [2 * (p & t).sum() / (p.sum() + t.sum()) for p, t in volumes]
        assert scores[f"dice/3d/{name}"] == pytest.approx(100 * np.mean(dice), abs=0.01)


def test_a_class_without_truth_is_nan_and_left_out():
    scores = evaluate([sample(1, 1, [[1, 0]], [[1, 0]])])
    assert scores["dice/2d"] == scores["dice/3d"] == 100 and np.isnan(scores["dice/2d/spleen"])
    assert np.isnan(evaluate([sample(1, 1, [[0, 0]], [[0, 0]])])["dice/2d"])

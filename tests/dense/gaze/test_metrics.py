"""Scores of scanpaths, on cases that can be checked by hand."""

import numpy as np
import pytest
import torch

from dense.gaze.metrics import (
    ScanpathSimilarity,
    align,
    behaviour,
    behaviour_gaps,
    multimatch,
    sequence_score,
    sequence_scores,
    similarity,
    simplify,
)

SIZE = (30, 40)  # whose diagonal is 50


def test_sequence_score():
    assert sequence_score([3, 1, 4], [3, 1, 4]) == 1
    assert sequence_score([1, 2, 3, 4], [2, 4]) == 0.5  # both of two, by four
    assert sequence_score([1, 2], [3, 4, 5]) == 0
    assert sequence_score([1, 2, 3], [3, 2, 1]) == pytest.approx(1 / 3)


def test_sequence_scores_are_symmetric_and_batched():
    rng = np.random.default_rng(0)
    paths = [rng.integers(4, size=n) for n in (1, 5, 9, 3, 12)]
    found = sequence_scores(paths, paths)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(found.diagonal(), 1)
    assert found[1, 2] == sequence_score(paths[1], paths[2])

    def longest(a, b):
        if not len(a) or not len(b):
            return 0
        if a[0] == b[0]:
            return 1 + longest(a[1:], b[1:])
        return max(longest(a[1:], b), longest(a, b[1:]))

    assert found[1, 3] == longest(paths[1], paths[3]) / 5


def test_behaviour():
    #            first, stays, first, back, stays, first
    found = behaviour([2, 2, 5, 2, 2, 7], 7)
    np.testing.assert_allclose(found, [1, 6, 3 / 6, 2 / 6, 1 / 6])
    assert behaviour([2, 2, 5], 7)[0] == 0 and np.isnan(behaviour([2, 2, 5])[0])
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert behaviour(rng.integers(5, size=rng.integers(1, 12)))[2:].sum() == pytest.approx(1)


def test_behaviour_gaps():
    gaps = behaviour_gaps([1, 6, 0, 0.2, np.nan], [0.5, 8, 0, 0, 1])
    np.testing.assert_array_equal(gaps, [1, 0.25, 0, np.inf, np.nan])


def test_similarity():
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log()
    assert similarity(logits, torch.tensor([0, 2])).item() == pytest.approx(0.65)
    over_time = similarity(logits, torch.tensor([0, 2]), sim_over_time=True)
    assert over_time.item() == pytest.approx((0.5 / 0.6 + 0.8 / 1.05) / 2)


def test_multimatch_of_equal_paths():
    points = np.array([[3, 3], [10, 5], [20, 30], [4, 8]])
    times = [100, 300, 200, 50]
    np.testing.assert_allclose(multimatch(points, points, SIZE, times, times), 1)
    found = multimatch(points, points, SIZE)
    assert (found[:4] == 1).all() and np.isnan(found[4])


def test_multimatch_by_hand():
    """One saccade each: to the right by 10, and down by 20, from places 5 apart."""
    a, b = [[0, 0], [10, 0]], [[3, 4], [3, 24]]
    found = multimatch(a, b, SIZE, [100, 1], [400, 1])
    shape = 1 - np.hypot(10, 20) / 100
    np.testing.assert_allclose(found, [shape, 0.5, 0.8, 0.9, 0.25])
    np.testing.assert_allclose(multimatch(b, a, SIZE, [400, 1], [100, 1]), found)
    back = multimatch([[0, 0], [10, 0]], [[10, 0], [0, 0]], SIZE)
    np.testing.assert_allclose(back[:4], [0.8, 0, 1, 0.8])


def test_multimatch_aligns_and_takes_the_median():
    a = [[0, 0], [10, 0], [10, 10], [0, 10]]
    b = [[0, 0], [10, 0], [10, 10], [10, 11], [0, 11]]  # a step more
    found = multimatch(a, b, SIZE)
    assert (found[:4] > 0.97).all()
    assert np.isnan(multimatch([[1, 1]], b, SIZE)).all()


def test_align():
    cost = np.array([[0.0, 9, 9], [9, 0, 0], [9, 9, 0]])
    rows, columns = align(cost)
    assert rows.tolist() == [0, 1, 2] and columns.tolist() == [0, 1, 2]
    rows, columns = align(np.array([[0.0, 0, 5]]))
    assert rows.tolist() == [0, 0, 0] and columns.tolist() == [0, 1, 2]


def test_simplify():
    straight = np.array([[0.0, 0], [10, 0], [20, 0], [20, 10]])
    points, times = simplify(straight, np.array([100.0, 50, 70, 90]), 0, 45, 300)
    assert points.tolist() == [[0, 0], [20, 0], [20, 10]] and times.tolist() == [150, 70, 90]
    points, _ = simplify(straight, np.array([100.0, 400, 70, 90]), 0, 45, 300)  # looked at for long
    assert len(points) == 4
    points, _ = simplify(straight, None, 15, 0, 300)  # all saccades are short
    assert len(points) < 4 and points[0].tolist() == [0, 0] and points[-1].tolist() == [20, 10]
    assert multimatch(straight, straight[[0, 2, 3]], SIZE, amplitude=1)[0] == 1


def sample(pred, gt, **more):
    return {"pred_paths": [*map(torch.tensor, pred)], "gt_paths": [*map(torch.tensor, gt)], **more}


def test_metric():
    metric = ScanpathSimilarity()
    metric.process(None, [sample([[1, 2]], [[1, 2], [3, 4]], target=2, sim=0.4)])
    metric.process(None, [sample([[1, 1, 2]], [[1, 2]], target=1, sim=0.2)])
    found = metric.compute_metrics(metric.results)
    assert found["sequence_score"] == pytest.approx((0.5 + 2 / 3) / 2)
    assert found["sim"] == pytest.approx(0.3)
    assert found["target_hit"] == 0.5 and found["length"] == 2.5
    assert found["target_hit_gap"] == pytest.approx(1) and found["length_gap"] == pytest.approx(0.25)
    assert not any(name.startswith("multimatch") for name in found)


def test_metric_without_target_and_with_points():
    points = [torch.tensor([[0.0, 0], [10, 0]])]
    metric = ScanpathSimilarity()
    metric.process(
        None, [sample([[1, 2]], [[1, 2]], pred_points=points, gt_points=points, size=SIZE, target=None)]
    )
    found = metric.compute_metrics(metric.results)
    assert found["multimatch_shape"] == 1 and "multimatch_duration" not in found
    assert "target_hit" not in found and found["delta"] == 0 and "sim" not in found


def test_a_person_is_not_compared_with_itself():
    paths = [[1, 2], [3, 4], [3, 5]]
    metric = ScanpathSimilarity()
    metric.process(None, [sample(paths, paths, pred_person=[0, 1, 2], target=None)])
    assert metric.compute_metrics(metric.results)["sequence_score"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sequence_score([], [1]), r"n at least 1, found \(0,\)"),
        (lambda: behaviour([0.5]), r"must be \(n,\) integers.* float64"),
        (lambda: multimatch([[0, np.nan]], [[0, 0]], SIZE), "must be finite"),
        (lambda: multimatch([[0, 0]], [[0, 0]], SIZE, [-1], [1]), r"durations must be \(1,\) finite ms"),
        (lambda: similarity(torch.ones(2, 3), torch.tensor([1])), r"logits must be \(T, N\)"),
        (lambda: similarity(torch.ones(1, 3), torch.tensor([3])), r"must be of 0 to 2, found \[3\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

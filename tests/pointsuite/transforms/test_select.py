import numpy as np
import pytest

from pointsuite.transforms import RandomPointDropout, SamplePoints, ShufflePoints


def make_sample(count=64, seed=0):
    """The row of a point is written into all that belongs to it."""
    row = np.arange(count)
    column = np.repeat(row[:, None], 3, 1).astype(np.float32)
    rng = np.random.default_rng(seed)
    return {"points": column, "normals": -column, "part": row, "label": 5, "name": "a shape", "rng": rng}


def rows_of(sample):
    """Which rows the sample holds; fails where points, normals and parts are not in step."""
    rows = sample["part"]
    np.testing.assert_array_equal(sample["points"], np.repeat(rows[:, None], 3, 1))
    np.testing.assert_array_equal(sample["normals"], -sample["points"])
    assert sample["label"] == 5
    return rows.tolist()


def test_dropout_puts_the_first_point_in_place():
    sample = make_sample(1000)
    ratios = []
    for _ in range(200):
        rows = np.array(rows_of(RandomPointDropout(0.6)(sample)))
        dropped = rows != np.arange(1000)
        assert (rows[dropped] == 0).all()
        ratios.append(dropped.mean())
    assert min(ratios) < 0.05 and 0.52 < max(ratios) < 0.66 and abs(np.mean(ratios) - 0.3) < 0.04
    assert rows_of(RandomPointDropout(0)(sample)) == list(range(1000))


def test_shuffle():
    rows = rows_of(ShufflePoints()(make_sample()))
    assert sorted(rows) == list(range(64)) and rows != list(range(64))
    assert rows_of(ShufflePoints()(make_sample())) == rows
    assert rows_of(ShufflePoints()(make_sample(seed=1))) != rows


def test_sample():
    assert rows_of(SamplePoints(5, "first")(make_sample())) == [0, 1, 2, 3, 4]
    rows = rows_of(SamplePoints(20)(make_sample()))
    assert len(set(rows)) == 20 and rows != sorted(rows)
    assert sorted(rows_of(SamplePoints(64)(make_sample()))) == list(range(64))
    everything = {row for seed in range(40) for row in rows_of(SamplePoints(8)(make_sample(seed=seed)))}
    assert everything == set(range(64))


def test_sample_farthest_points():
    # on a line: an end, the other end, the middle
    assert rows_of(SamplePoints(3, "fps")(make_sample(65))) == [0, 64, 32]


def test_part_is_optional():
    sample = make_sample()
    del sample["part"]
    for transform in (RandomPointDropout(), ShufflePoints(), SamplePoints(9), SamplePoints(9, "fps")):
        result = transform(sample)
        assert "part" not in result
        np.testing.assert_array_equal(result["normals"], -result["points"])


@pytest.mark.parametrize("method", ["random", "first", "fps"])
def test_too_few_points(method):
    with pytest.raises(ValueError, match="SamplePoints: sample a shape has 64 points, wanted at least 65"):
        SamplePoints(65, method)(make_sample())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SamplePoints(0), "SamplePoints: num is 0, wanted at least 1"),
        (lambda: SamplePoints(5, "best"), "SamplePoints: method is 'best', wanted one of"),
        (lambda: RandomPointDropout(1.5), "RandomPointDropout: max_ratio is 1.5, wanted 0 to 1"),
        (lambda: RandomPointDropout(float("nan")), "RandomPointDropout"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()

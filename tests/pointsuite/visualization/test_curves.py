import numpy as np
import pytest
from matplotlib.figure import Figure

from pointsuite.engine.logs import Log
from pointsuite.visualization import curves, draw_beside_chance, draw_logs, draw_schedule, draw_seeds


@pytest.fixture
def figure(monkeypatch):
    """The figure that was drawn, by its name."""
    drawn = {}

    def write(picture, out):
        assert isinstance(picture, Figure)
        drawn[str(out)] = picture
        return out

    monkeypatch.setattr(curves, "write_png", write)
    return drawn


def lines(axes):
    return [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.get_lines()]


def test_logs(figure):
    first = Log({10: {"loss": 3.0}, 20: {"loss": 1.0}}, {1: {"top1": 50.0}})
    second = Log({5: {"loss": 2.0}}, {})
    draw_logs({"a": first, "b": second}, ["loss", "top1"], "x.png")
    loss, top1 = figure["x.png"].axes
    assert lines(loss) == [([10, 20], [3.0, 1.0]), ([5], [2.0])] and lines(top1) == [([1], [50.0])]
    assert (loss.get_xlabel(), top1.get_xlabel()) == ("iteration", "validation")


def test_seeds(figure):
    draw_seeds({"a": ([5, 10], np.array([[1.0, 2.0], [3.0, 6.0]]))}, "score", "x.png")
    (axes,) = figure["x.png"].axes
    assert lines(axes) == [([5, 10], [1.0, 2.0]), ([5, 10], [3.0, 6.0]), ([5, 10], [2.0, 4.0])]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a"]


def test_schedule(figure):
    draw_schedule([0, 0.5], [(0.1, 0.9), (0.2, 0.8)], "epoch", "x.png", "run")
    rate, momentum = figure["x.png"].axes
    assert lines(rate) == [([0, 0.5], [0.1, 0.2])] and lines(momentum) == [([0, 0.5], [0.9, 0.8])]
    assert momentum.get_xlabel() == "epoch"


def test_beside_chance(figure):
    draw_beside_chance({"a": (np.array([0.1, 0.1, 0.9, 0.9]), np.full(3, 0.5))}, "x", "percent", "x.png")
    (axes,) = figure["x.png"].axes
    found, chance = (patch.get_data().values for patch in axes.patches)
    assert sorted(found[found > 0]) == [50, 50] and chance.tolist().count(100) == 1
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["a: mean 0.500", "a, by chance: mean 0.500"]


def test_a_picture_is_written(tmp_path):
    out = draw_seeds({"a": ([1], np.ones((1, 1)))}, "score", tmp_path / "new/seeds.png")
    assert out.read_bytes().startswith(b"\x89PNG")

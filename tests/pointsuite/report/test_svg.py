import re
from math import inf, nan

import pytest

from pointsuite.report.svg import MOST, draw_curve, name_gaps


def lines(svg):
    return [len(points.split()) for points in re.findall(r'<polyline points="([^"]*)"', svg)]


def test_a_curve_rises_where_its_values_do():
    svg = draw_curve([1, 2, 3], [0.0, 5.0, 10.0], "iteration")
    points = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', svg)]
    assert points == sorted(points, reverse=True) and lines(svg) == [3]
    assert 'data-points="1,0,' in svg and 'data-unit="iteration"' in svg


def test_what_is_not_finite_is_a_gap_and_named():
    steps, values = [10, 20, 30, 40, 50], [1.0, 2.0, nan, 3.0, inf]
    svg = draw_curve(steps, values, "iteration")
    assert lines(svg) == [2] and svg.count("<circle") == 3 and "nan" not in svg and "inf" not in svg
    said = "2 of 5 values are not finite (inf and nan; iteration 30, 50): gaps"
    assert name_gaps(steps, values, "iteration") == said and name_gaps([1], [2.0], "epoch") == ""
    assert draw_curve([1], [nan], "epoch") == '<p class="empty">no finite value</p>'


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [1e30, 1e30], [1e-30, 2e-30], [-5.0, 1e9]])
def test_any_range(values):
    svg = draw_curve(range(len(values)), values, "iteration")
    numbers = [float(y) for y in re.findall(r'cy="([^"]+)"', svg)]
    assert len(numbers) == len(values) and all(0 <= y <= 190 for y in numbers)


def test_long_curves_keep_their_peaks_and_gaps():
    values = [1.0] * 100_000
    values[54_321], values[77_777] = 9.0, nan
    svg = draw_curve(range(100_000), values, "iteration")
    assert sum(lines(svg)) <= MOST + 2 and "54321,9," in svg and len(lines(svg)) == 2
    assert len(svg) < 50_000


def test_spans_are_shaded():
    assert draw_curve([0, 1, 2, 3], [0.0, 1, 1, 0], "frame", [(1, 2)]).count('class="span"') == 1

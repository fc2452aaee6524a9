"""Curves as SVG: drawn by hand, since a report is to be light and to need nothing else."""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, isfinite, log10

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 8, 24  # margins
MOST = 600  # points of a curve: of more, the least and the most of each bin are drawn
NAMED = 5  # steps that are listed of values that are no numbers


def draw_curve(
    steps: Sequence[float], values: Sequence[float], unit: str, spans: Sequence[tuple] = ()
) -> str:
    """A curve; what is not finite is a gap.

    Args:
        steps: ascending.
        values: as many.
        unit: of the steps, such as "iteration".
        spans: pairs (first, last) of steps whose ground is shaded.

    Returns:
        an ``<svg>``, whose data attributes hold what is drawn, for a reader of its values.
    """
    finite = [(x, y) for x, y in zip(steps, values, strict=True) if isfinite(y)]
    if not finite:
        return '<p class="empty">no finite value</p>'
    low, high = min(y for _, y in finite), max(y for _, y in finite)
    pad = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    ticks = _ticks(low - pad, high + pad, 5)
    low, high = min(low - pad, ticks[0]), max(high + pad, ticks[-1])
    first, last = min(steps), max(steps)
    if first == last:
        first, last = first - 1, last + 1

    def x_of(x: float) -> float:
        return round(LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT), 2)

    def y_of(y: float) -> float:
        return round(TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM), 2)

    parts = []
    for start, end in spans:
        a, b = x_of(max(start - 0.5, first)), x_of(min(end + 0.5, last))
        size = f'width="{max(b - a, 1):.2f}" height="{HEIGHT - TOP - BOTTOM}"'
        parts.append(f'<rect class="span" x="{a}" y="{TOP}" {size}/>')
    for tick in ticks:
        y = y_of(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5}" text-anchor="end">{_number(tick)}</text>')
    for tick in _ticks(first, last, 5):
        if tick == round(tick):
            parts.append(
                f'<text x="{x_of(tick)}" y="{HEIGHT - 8}" text-anchor="middle">{_number(tick)}</text>'
            )
    shown = _thin(list(zip(steps, values, strict=True)))
    for run in _runs(shown):
        points = [(x_of(x), y_of(y)) for x, y in run]
        if len(points) > 1:
            parts.append(f'<polyline points="{" ".join(f"{x},{y}" for x, y in points)}"/>')
        if len(points) == 1 or len(shown) <= 30:
            parts += [f'<circle cx="{x}" cy="{y}" r="2.2"/>' for x, y in points]
    said = " ".join(f"{x:g},{y:.6g},{x_of(x)},{y_of(y)}" for x, y in shown if isfinite(y))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="curve" role="img" data-unit="{escape(unit)}" '
        f'data-points="{said}">{"".join(parts)}<g class="reader"></g></svg>'
    )


def name_gaps(steps: Sequence[float], values: Sequence[float], unit: str) -> str:
    """What is said of values that are not finite; "" where all are."""
    bad = [(x, y) for x, y in zip(steps, values, strict=True) if not isfinite(y)]
    if not bad:
        return ""
    places = ", ".join(f"{x:g}" for x, _ in bad[:NAMED]) + (", …" if len(bad) > NAMED else "")
    kinds = " and ".join(sorted({str(float(y)) for _, y in bad}))
    return f"{len(bad)} of {len(values)} values are not finite ({kinds}; {unit} {places}): gaps"


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about MOST points: of each bin the least and the most, and a gap where the bin has one."""
    if len(points) <= MOST:
        return points
    size = ceil(2 * len(points) / MOST)
    kept = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        finite = sorted((y, i) for i, (_, y) in enumerate(part) if isfinite(y))
        gaps = [i for i, (_, y) in enumerate(part) if not isfinite(y)]
        chosen = {i for _, i in (finite[0], finite[-1])} if finite else set()
        kept += [part[i] for i in sorted(chosen | set(gaps[:1]))]
    return kept


def _runs(points: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    runs: list[list] = [[]]
    for x, y in points:
        if isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, about so many."""
    raw = (high - low) / count
    if not (isfinite(raw) and raw > 0):
        return [low]
    power = 10.0 ** floor(log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda m: (m * power < raw * 0.8, m))
    ticks = [i * step for i in range(ceil(low / step), floor(high / step) + 1)]
    return ticks or [low]


def _number(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e6:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.6g}"

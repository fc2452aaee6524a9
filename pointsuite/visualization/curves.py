"""Curves of runs: logs, metrics of several seeds, schedules; and histograms."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pointsuite.engine.logs import Log
from pointsuite.visualization.png import write_png


def draw_logs(logs: Mapping[str, Log], keys: Sequence[str], out: str | Path) -> Path:
    """Draws a panel for each key, a line for each run that has it.

    Args:
        logs: by the runs' names.
        keys: of losses and metrics.
        out: a .png file.
    """
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure((4.5 * columns, 3.4 * rows), dpi=100, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, key in zip(panels, keys, strict=False):
        for run, log in logs.items():
            steps, values, unit = log.curve(key)
            if steps:
                axes.plot(steps, values, marker="." if len(steps) < 50 else None, label=run)
                axes.set(title=key, xlabel=unit)
        axes.grid(alpha=0.3)
    for axes in list(panels)[len(keys) :]:
        axes.remove()
    if len(logs) > 1:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    return write_png(figure, out)


def draw_seeds(curves: Mapping[str, tuple[Sequence[int], np.ndarray]], name: str, out: str | Path) -> Path:
    """Draws a thin line for each seed and a thick one for the seeds' mean.

    Args:
        curves: by what was trained, the iterations and the values (seeds, iterations) of a metric.
        name: of the metric.
        out: a .png file.
    """
    figure = Figure((7, 4.5), dpi=100, layout="constrained")
    axes = figure.subplots()
    for i, (label, (steps, values)) in enumerate(curves.items()):
        for row in values:
            axes.plot(steps, row, color=f"C{i}", linewidth=0.8, alpha=0.5)
        axes.plot(steps, values.mean(0), color=f"C{i}", linewidth=2.2, marker=".", label=label)
    axes.set(xlabel="iteration", ylabel=name)
    axes.grid(alpha=0.3)
    axes.legend()
    return write_png(figure, out)


def draw_schedule(
    x: Sequence[float], values: Sequence[tuple[float, float]], unit: str, out: str | Path, heading: str = ""
) -> Path:
    """Draws learning rate and momentum, as :func:`~pointsuite.engine.schedules.follow_schedule` gives them.

    Args:
        x: where each pair of values stands, in ``unit``.
        out: a .png file.
        heading: a line above the picture.
    """
    figure = Figure((8, 5), dpi=100, layout="constrained")
    panels = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    columns = zip(*values, strict=True)
    for axes, name, column in zip(panels, ("learning rate", "momentum"), columns, strict=True):
        axes.plot(x, column)
        axes.set(ylabel=name)
        axes.grid(alpha=0.3)
    panels[1].set(xlabel=unit)
    figure.suptitle(heading, fontsize=10)
    return write_png(figure, out)


def draw_beside_chance(
    values: Mapping[str, tuple[np.ndarray, np.ndarray]], xlabel: str, ylabel: str, out: str | Path
) -> Path:
    """Draws histograms of values from 0 to 1, a solid line each, with a dashed one for what chance gives.

    Args:
        values: by name, the values (M,) and those by chance (K,).
        out: a .png file.
    """
    figure = Figure((8, 5), dpi=100, layout="constrained")
    axes = figure.subplots()
    for i, (name, (found, chance)) in enumerate(values.items()):
        for array, style, label in ((found, "-", name), (chance, "--", f"{name}, by chance")):
            count, edges = np.histogram(array, bins=40, range=(0, 1))
            label = f"{label}: mean {array.mean():.3f}"
            axes.stairs(100 * count / len(array), edges, color=f"C{i % 10}", linestyle=style, label=label)
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return write_png(figure, out)

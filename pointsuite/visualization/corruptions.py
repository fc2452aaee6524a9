"""Accuracy under corruptions as lines over their severity."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from pointsuite.visualization.png import write_png

MARKERS = "os^vDPX*<>"


def draw_corruptions(
    clean: float,
    accuracies: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    out: str | Path,
    *,
    heading: str = "",
) -> Path:
    """Draws one line a corruption, beginning at the accuracy on clean clouds.

    Args:
        clean: accuracy without corruption, in percent.
        accuracies: by the name of a corruption, its severities (1 to 5) and the accuracies there, in percent.
        out: a .png file.
        heading: a line above the picture.
    """
    figure = Figure(figsize=(8, 4.8), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(clean, color="gray", linewidth=1, linestyle=":")
    for i, (name, (severities, values)) in enumerate(accuracies.items()):
        marker = MARKERS[i % len(MARKERS)]
        axes.plot([0, *severities], [clean, *values], marker=marker, markersize=5, label=name)
    axes.set(xlabel="severity (0: clean)", ylabel="overall accuracy, %", ylim=(0, 102), title=heading)
    axes.set_xticks(range(6))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return write_png(figure, out)

"""Pictures of what is inside classifiers: numbers of heads, trees of tokens, maps over images."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from pointsuite.engine.checkpoint import atomic_write

from .open_set_metrics import OpenSetCurve, auoscr, auroc

FAR, ROOT = (253, 231, 37), (230, 50, 50)  # of the tree's leaves, and of its root
NEAR = (68, 1, 84)  # of the root's children


def draw_heads(values: ArrayLike, label: str, out: str | os.PathLike, first: int = 0) -> Path:
    """A dot for each head above its block, and a line through their means.

    Args:
        values: (blocks, heads).
        label: what they are.
        out: picture to write (.png, .pdf, .svg).
        first: number of the first block.

    Raises:
        ValueError: not (blocks, heads), or none.
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values must be (blocks, heads), at least one, found {values.shape}")
    blocks = np.arange(first, first + len(values))
    figure = Figure((6, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(blocks.repeat(values.shape[1]), values.ravel(), "o", alpha=0.5, markersize=5, label="head")
    axes.plot(blocks, values.mean(1), color="black", label="mean")
    axes.set(xlabel="block", ylabel=label, xticks=blocks)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(out).suffix.removeprefix(".") or "png")
    with atomic_write(out) as file:
        file.write(buffer.getvalue())
    return Path(out)


def tree_depths(parents: ArrayLike) -> np.ndarray:
    """How many edges lead from each node to the root: (N,).

    Args:
        parents: (N,) ints, -1 for the root.

    Raises:
        ValueError: it is no tree.
    """
    parents = np.asarray(parents)
    depths, node = np.zeros(len(parents), int), np.arange(len(parents))
    for _ in range(len(parents)):
        above = parents[node] >= 0
        depths += above
        node = np.where(above, parents[node], node)
    if (parents < 0).sum() != 1 or (parents[node] >= 0).any():
        raise ValueError(
            f"a tree has one root, to which all lead; found {int((parents < 0).sum())} and a cycle or more"
        )
    return depths


def draw_heat(image: np.ndarray, values: ArrayLike, least: int = 448) -> np.ndarray:
    """A map of numbers over an image: blue where they are lowest, red where highest.

    Args:
        image: uint8 (H, W, 3).
        values: (h, w), of parts of the image; enlarged smoothly.
        least: pixels of the picture's shorter side, if it has not more.

    Returns:
        uint8 (H', W', 3).

    Raises:
        ValueError: no map.
    """
    values = np.asarray(values, np.float32)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values must be (h, w), at least one, found {values.shape}")
    scale = max(1, least / min(image.shape[:2]))
    size = tuple(round(side * scale) for side in image.shape[1::-1])
    low, high = values.min(), values.max()
    levels = Image.fromarray((values - low) / (high - low if high > low else 1))
    heat = colormaps["jet"](np.asarray(levels.resize(size, Image.Resampling.BICUBIC)), bytes=True)[..., :3]
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(Image.blend(picture, Image.fromarray(heat), 0.45))


def draw_tree(image: np.ndarray, parents: ArrayLike, grid: tuple[int, int], least: int = 448) -> np.ndarray:
    """A tree of an image's patches over the image: lines to parents, yellow far from the root, red at it.

    Args:
        image: uint8 (H, W, 3).
        parents: (h * w,) ints, of the patches row by row, -1 for the root.
        grid: h and w.
        least: pixels that the shorter side of the picture has at least.

    Returns:
        uint8 (H', W', 3).

    Raises:
        ValueError: it is no tree of the grid.
    """
    parents, (rows, columns) = np.asarray(parents), grid
    if parents.shape != (rows * columns,):
        raise ValueError(f"a grid of {rows} x {columns} has {rows * columns} parents, found {parents.shape}")
    depths = tree_depths(parents)
    scale = max(1, -(-least // min(image.shape[:2])))
    width, height = scale * image.shape[1], scale * image.shape[0]
    canvas = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    y, x = np.divmod(np.arange(len(parents)), columns)
    centres = np.stack(((x + 0.5) * width / columns, (y + 0.5) * height / rows), 1)
    thick = max(1, round(min(width / columns, height / rows) / 12))
    share = depths / max(depths.max(), 1)
    colours = (np.outer(1 - share, NEAR) + np.outer(share, FAR)).round().astype(int)
    for node in np.argsort(-depths, kind="stable"):  # the root last, on top
        colour = tuple(colours[node].tolist()) if parents[node] >= 0 else ROOT
        if parents[node] >= 0:
            draw.line([tuple(centres[i]) for i in (node, parents[node])], fill=colour, width=thick)
        radius = (3 if parents[node] < 0 else 1.5) * thick
        (across, down) = centres[node]
        draw.ellipse((across - radius, down - radius, across + radius, down + radius), fill=colour)
    return np.asarray(canvas)


def draw_open_set(curves: Mapping[str, OpenSetCurve], out: str | os.PathLike, heading: str = "") -> Path:
    """OSCR curves, on a logarithmic axis of false positives, beside ROC curves: a line a score.

    Args:
        curves: by the score's name.
        out: picture to write (.png, .pdf, .svg).
        heading: a line above it.

    Raises:
        ValueError: no curve.
    """
    if not curves:
        raise ValueError("found no curve to draw, wanted one a score")
    figure = Figure((11, 4.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    least = min(1 / max(curve.unknown[-1], 1) for curve in curves.values())
    for i, (name, curve) in enumerate(curves.items()):
        style = {"color": f"C{i % 10}", "linewidth": 1.4, "linestyle": "-" if i < 6 else "--"}
        shown = curve.fpr > 0
        left.plot(curve.fpr[shown], curve.ccr[shown], **style, label=f"{name}: {100 * auoscr(curve):.1f}")
        right.plot(curve.fpr, curve.tpr, **style, label=f"{name}: {100 * auroc(curve):.1f}")
    left.set(xscale="log", xlim=(least, 1), ylim=(0, 1), ylabel="known ones right and accepted (CCR)")
    left.set_title("OSCR, with the area")
    right.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    right.set(xlim=(0, 1), ylim=(0, 1), ylabel="known ones accepted")
    right.set_title("ROC, with the area")
    for axes in (left, right):
        axes.set_xlabel("unknown ones accepted (FPR)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(heading, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(out).suffix.removeprefix(".") or "png")
    with atomic_write(out) as file:
        file.write(buffer.getvalue())
    return Path(out)

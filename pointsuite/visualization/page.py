"""Clouds as one HTML file that needs nothing else: they turn in any browser, offline.

Plotly draws them (it comes with Open3D) and is embedded: 5 MB of each file.
"""

import html
import json
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pointsuite.engine.checkpoint import atomic_write
from pointsuite.visualization.scene import PALETTE, RIGHT, WRONG, point_colors, upright

MOST_POINTS = 200_000  # that a browser turns without a jerk; of more, every n-th is shown


class Exhibit(NamedTuple):
    """A cloud to look at."""

    points: np.ndarray  # (N, 3), finite
    title: str
    colors: np.ndarray | str | None = None  # as of draw_cloud
    normals: np.ndarray | None = None  # (N, 3)
    part: np.ndarray | None = None  # int (N,)
    up: str = "z"
    right: bool | None = None  # whether a prediction was; wrong ones can be shown alone


def is_page(path: str | Path) -> bool:
    """Whether a path is that of an HTML file."""
    return Path(path).suffix.lower() in (".html", ".htm")


def write_page(
    out: str | Path,
    exhibits: Sequence[Exhibit],
    *,
    title: str,
    heading: str = "",
    legend: Sequence[str] = (),
) -> Path:
    """Write clouds as a page, one shown at a time, beside a list of all.

    Args:
        out: an .html file, written whole or not at all.
        exhibits: at least one.
        title: of the page.
        heading: a line below it.
        legend: names of the parts, in the order of their colours.

    Raises:
        ValueError: no cloud, another suffix, points that are not finite.
    """
    out = Path(out)
    if not is_page(out):
        raise ValueError(f"{out}: found the suffix {out.suffix!r}, wanted .html")
    if not exhibits:
        raise ValueError(f"{out}: found no clouds to write, wanted at least 1")
    colors = [_css(PALETTE[i % len(PALETTE)]) for i in range(len(legend))]
    key = "".join(
        f'<li><span style="background:{color}"></span>{html.escape(name)}</li>'
        for color, name in zip(colors, legend, strict=True)
    )
    filled = {
        "TITLE": html.escape(title),
        "HEADING": html.escape(heading),
        "LEGEND": f"<ul class=legend>{key}</ul>" if key else "",
        "RIGHT": _css(RIGHT),
        "WRONG": _css(WRONG),
        "DATA": json.dumps([_pack(exhibit, out) for exhibit in exhibits]).replace("<", "\\u003c"),
        "PLOTLY": _plotly(),
    }
    text = _PAGE
    for name, value in filled.items():  # the library last: what it holds is not looked at
        text = text.replace(f"@{name}@", value)
    with atomic_write(out) as file:
        file.write(text.encode())
    return out


def _pack(exhibit: Exhibit, out: Path) -> dict:
    points = np.asarray(exhibit.points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
        raise ValueError(
            f"{out}: {exhibit.title}: points are {points.shape}, wanted finite numbers (N, 3), N >= 1"
        )
    step = -(-len(points) // MOST_POINTS)
    points, normals = upright(points, exhibit.up), upright(exhibit.normals, exhibit.up)
    colors = point_colors(exhibit.colors, points, normals, exhibit.part)
    points, colors = points[::step], colors[::step]
    centre, scale = points.mean(0), max(np.ptp(points, axis=0).max(), np.finfo(float).tiny)
    shown = np.ascontiguousarray((points - centre) / scale, "<f4")
    count = f"{len(exhibit.points):,} points" + f", every {step}th is shown" * (step > 1)
    return {
        "title": exhibit.title,
        "count": count,
        "right": None if exhibit.right is None else bool(exhibit.right),
        "points": b64encode(shown).decode(),
        "colors": b64encode(np.ascontiguousarray(np.round(255 * colors), np.uint8)).decode(),
    }


def _css(color: np.ndarray) -> str:
    return "#" + "".join(f"{round(255 * value):02x}" for value in color)


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ValueError("a page wants plotly, which comes with Open3D: pip install plotly") from error
    return get_plotlyjs()


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title>
<style>
body { margin: 0; font: 15px/1.4 system-ui, sans-serif; display: flex; height: 100vh; color: #222; }
nav { width: 19em; overflow-y: auto; border-right: 1px solid #ddd; padding: 1em; box-sizing: border-box; }
main { flex: 1; display: flex; flex-direction: column; min-width: 0; }
h1 { font-size: 1.15em; margin: 0 0 .3em; overflow-wrap: anywhere; }
#view { flex: 1; min-height: 0; }
#caption { padding: .8em 1em; }
button { display: block; width: 100%; text-align: left; border: 0; padding: .3em .5em; background: none; }
button { font: inherit; cursor: pointer; }
button.shown { background: #eee; }
.right { border-left: .3em solid @RIGHT@; } .wrong { border-left: .3em solid @WRONG@; }
.legend { list-style: none; padding: 0; } .legend span { display: inline-block; width: .8em; height: .8em; }
.legend span { margin-right: .5em; }
</style></head><body>
<nav><h1>@TITLE@</h1><p>@HEADING@</p>@LEGEND@
<label id="choice" hidden><input type="checkbox" id="only"> wrong ones only</label><div id="list"></div></nav>
<main><div id="view"></div><div id="caption"></div></main>
<script id="data" type="application/json">@DATA@</script>
<script>@PLOTLY@</script>
<script>
const shapes = JSON.parse(document.getElementById("data").textContent);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const axis = { visible: false, showspikes: false };
let shown = 0;
function show(i) {
  shown = i;
  const shape = shapes[i], xyz = new Float32Array(bytes(shape.points).buffer), rgb = bytes(shape.colors);
  const at = k => Array.from({ length: xyz.length / 3 }, (_, n) => xyz[3 * n + k]);
  const color = at(0).map((_, n) => `rgb(${rgb[3 * n]},${rgb[3 * n + 1]},${rgb[3 * n + 2]})`);
  const size = Math.max(1.5, Math.min(6, 160 / Math.sqrt(color.length)));
  const cloud = { type: "scatter3d", mode: "markers", x: at(0), y: at(1), z: at(2), hoverinfo: "none" };
  cloud.marker = { size, color, opacity: 1, line: { width: 0 } };
  const scene = { xaxis: axis, yaxis: axis, zaxis: axis, aspectmode: "data", uirevision: 1 };
  const layout = { margin: { l: 0, r: 0, t: 0, b: 0 }, scene, showlegend: false };
  Plotly.react("view", [cloud], layout, { responsive: true, displaylogo: false });
  document.getElementById("caption").textContent = `${shape.title} (${shape.count})`;
  document.querySelectorAll("#list button").forEach(b => b.classList.toggle("shown", +b.dataset.i === i));
}
function list() {
  const only = document.getElementById("only").checked, place = document.getElementById("list");
  place.replaceChildren(...shapes.flatMap((shape, i) => {
    if (only && shape.right !== false) return [];
    const button = document.createElement("button");
    button.textContent = shape.title; button.dataset.i = i; button.onclick = () => show(i);
    if (shape.right !== null) button.className = shape.right ? "right" : "wrong";
    return [button];
  }));
}
document.getElementById("choice").hidden = shapes.every(shape => shape.right === null);
document.getElementById("only").onchange = list;
document.addEventListener("keydown", event => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const order = [...document.querySelectorAll("#list button")].map(b => +b.dataset.i);
  const next = order[order.indexOf(shown) + step];
  if (next !== undefined) { event.preventDefault(); show(next); }
});
list(); show(0);
</script></body></html>
"""

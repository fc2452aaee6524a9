"""The page around what a report shows: one HTML file that needs nothing else, light or dark."""

import re
from html import escape
from pathlib import Path

from pointsuite.engine.checkpoint import atomic_write


def write_html(out: Path, title: str, body: str) -> Path:
    """A whole page around what :func:`render_gallery` and others make."""
    parts = {"TITLE": escape(title), "STYLE": _STYLE, "BODY": body, "SCRIPT": _SCRIPT}
    text = re.sub("@([A-Z]+)@", lambda match: parts[match[1]], _PAGE)
    with atomic_write(out) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # names of files may be no text
    return out


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,"><title>@TITLE@</title>
<style>@STYLE@</style></head><body><main>
@BODY@
</main>
<dialog id="large"><div class="stage"></div>
<div class="caption"><button type="button" class="step" data-by="-1" aria-label="previous">←</button>
<div><b class="title"></b><div class="note"></div></div>
<button type="button" class="step" data-by="1" aria-label="next">→</button>
<button type="button" class="close" aria-label="close">×</button></div></dialog>
<script>@SCRIPT@</script>
</body></html>
"""

_STYLE = """
:root { --ground: #fff; --card: #fff; --text: #1f2328; --quiet: #5b636d; --line: #dfe3e8; --mark: #0072b2;
  --right: #0072b2; --wrong: #d55e00; --soft: #f4f6f8; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ground: #15181c; --card: #1c2025; --text: #e4e7eb;
  --quiet: #9aa4af; --line: #343b43; --mark: #56b4e9; --right: #56b4e9; --wrong: #f08c3c;
    --soft: #22272d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; font-weight: 650; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
p { margin: .4rem 0; overflow-wrap: anywhere; }
header p, .quiet, .empty { color: var(--quiet); }
nav { margin-top: .8rem; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }
a { color: var(--mark); text-decoration: none; } a:hover { text-decoration: underline; }
.tiles { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1.2rem 0 0; }
.tiles div { background: var(--soft); border-radius: 8px; padding: .55rem .9rem; min-width: 8rem;
  max-width: 100%; }
.tiles b { display: block; font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
.tiles span { color: var(--quiet); font-size: .85rem; overflow-wrap: anywhere; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr));
  gap: 1rem; }
figure { margin: 0; padding: .8rem; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card);
  min-width: 0; }
figcaption { font-weight: 600; font-size: .92rem; overflow-wrap: anywhere; }
figcaption span { color: var(--quiet); font-weight: 400; font-size: .85em; }
.warning { color: var(--wrong); font-size: .85rem; }
svg.curve { display: block; width: 100%; height: auto; touch-action: pan-y; }
svg.curve text { fill: var(--quiet); font-size: 10.5px; font-variant-numeric: tabular-nums; }
svg.curve polyline { fill: none; stroke: var(--mark); stroke-width: 1.6; stroke-linejoin: round; }
svg.curve circle { fill: var(--mark); } svg.curve .grid { stroke: var(--line); }
svg.curve .span { fill: var(--wrong); opacity: .18; }
svg.curve .reader line { stroke: var(--quiet); stroke-dasharray: 3 3; }
svg.curve .reader text { fill: var(--text); font-weight: 600; paint-order: stroke; stroke: var(--card);
  stroke-width: 4px; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
table.plain td, table.plain th { padding: .3rem .8rem; border-bottom: 1px solid var(--line);
  text-align: right; }
table.plain th { color: var(--quiet); font-weight: 500; }
table.plain td:first-child, table.plain th:first-child { text-align: left; padding-left: 0;
  overflow-wrap: anywhere;
  max-width: 24rem; }
table.confusion { font-size: .78rem; }
table.confusion td { min-width: 2.1rem; height: 2.1rem; padding: 0 .25rem; text-align: center;
  border: 1px solid var(--line);
    background: color-mix(in srgb, var(--tone) calc(var(--s) * 75%), transparent); }
table.confusion td.hit { --tone: var(--right); } table.confusion td.miss { --tone: var(--wrong); }
table.confusion th { font-weight: 400; padding: .15rem .4rem; text-align: right; white-space: nowrap;
  max-width: 16rem; overflow: hidden; text-overflow: ellipsis; }
table.confusion thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  max-width: none;
  max-height: 12rem; padding: .4rem .1rem; vertical-align: bottom; }
table.confusion thead td, table.confusion thead th.corner { border: 0; background: none; }
pre { white-space: pre-wrap; overflow-wrap: anywhere;
  font: .8rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace;
  margin: 0; }
pre.table { white-space: pre; }
details { border: 1px solid var(--line); border-radius: 8px; padding: .6rem .9rem; margin: .6rem 0;
  background: var(--card); }
summary { cursor: pointer; overflow-wrap: anywhere; } details pre { margin-top: .6rem; max-height: 40rem;
  overflow-y: auto; }
.only { display: inline-block; margin-bottom: .7rem; cursor: pointer; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 210px), 1fr));
  gap: .9rem; }
.card { display: flex; flex-direction: column; text-align: left; font: inherit; color: inherit; padding: 0;
  border: 1px solid var(--line); border-radius: 8px; background: var(--card); cursor: zoom-in;
    overflow: hidden;
  min-width: 0; }
.card:hover, .card:focus-visible { border-color: var(--mark); outline: none; }
.card.right { border-top: 3px solid var(--right); } .card.wrong { border-top: 3px solid var(--wrong); }
.card .shown { display: flex; align-items: center; justify-content: center; height: 165px;
  background: var(--soft);
  overflow: hidden; }
.card img { max-width: 100%; max-height: 100%; width: auto; height: auto; object-fit: contain; }
.card img.pixels { width: 100%; height: 100%; }
.pixels { image-rendering: pixelated; object-fit: contain; }
.card canvas { width: 100%; height: 100%; object-fit: contain; }
.card pre { padding: .6rem; height: 100%; width: 100%; overflow: hidden; }
.card .title { padding: .5rem .7rem 0; font-weight: 600; font-size: .88rem; overflow-wrap: anywhere; }
.card .note { padding: 0 .7rem .6rem; color: var(--quiet); font-size: .82rem; overflow-wrap: anywhere; }
.gallery.filtered .card:not(.wrong) { display: none; }
dialog { border: 0; padding: 0; width: 94vw; height: 94vh; max-width: none; max-height: none;
  border-radius: 10px;
  background: var(--ground); color: var(--text); overflow: hidden; }
dialog[open] { display: flex; flex-direction: column; } dialog::backdrop { background: rgb(0 0 0 / .6); }
dialog .stage { flex: 1; min-height: 0; display: flex; align-items: center; justify-content: center;
  overflow: auto;
  background: var(--soft); }
dialog .stage img { width: 100%; height: 100%; object-fit: contain; }
dialog .stage canvas { width: 100%; height: 100%; cursor: grab; touch-action: none; }
dialog .stage pre { font-size: .95rem; padding: 1.5rem; max-width: 60rem; max-height: 100%;
  overflow-y: auto; }
.caption { display: flex; gap: .8rem; align-items: center; padding: .7rem 1rem; }
.caption > div { flex: 1; min-width: 0; overflow-wrap: anywhere; } .caption .note { color: var(--quiet);
  font-size: .9rem; }
.caption button { font: inherit; font-size: 1.2rem; width: 2.4rem; height: 2.4rem;
  border: 1px solid var(--line);
  border-radius: 8px; background: var(--card); color: inherit; cursor: pointer; flex: none; }
@media print { .only { display: none; } .card { break-inside: avoid; } }
"""

_SCRIPT = """
"use strict";
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const cloudOf = canvas => {
  const data = JSON.parse(canvas.dataset.cloud);
  return { points: new Int16Array(bytes(data.points).buffer), colors: bytes(data.colors) };
};
function drawCloud(canvas, cloud, yaw, pitch, zoom) {
  const w = canvas.width, h = canvas.height, context = canvas.getContext("2d");
  const image = context.createImageData(w, h), pixels = new Uint32Array(image.data.buffer);
  const depth = new Float32Array(w * h).fill(-9);
  const scale = zoom * Math.min(w, h) * 0.46 / 32767, n = cloud.points.length / 3;
  const radius = Math.max(1, Math.min(zoom * Math.min(w, h) * 0.45 / Math.sqrt(n), 14 * w / 600));
  const [sy, cy, sp, cp] = [Math.sin(yaw), Math.cos(yaw), Math.sin(pitch), Math.cos(pitch)];
  const r = Math.ceil(radius);
  for (let i = 0; i < n; i++) {
    const x = cloud.points[3 * i], y = cloud.points[3 * i + 1], z = cloud.points[3 * i + 2];
    const across = x * cy - y * sy, away = x * sy + y * cy;
    const near = (z * sp - away * cp) / 32767;
    const px = w / 2 + scale * across, py = h / 2 - scale * (z * cp + away * sp);
    const light = 0.62 + 0.38 * (near + 1) / 2;
    const rgb = [0, 1, 2].map(k => cloud.colors[3 * i + k] * light);
    for (let dy = -r; dy <= r; dy++) for (let dx = -r; dx <= r; dx++) {
      const d = dx * dx + dy * dy;
      if (d > radius * radius) continue;
      const u = Math.round(px) + dx, v = Math.round(py) + dy;
      if (u < 0 || v < 0 || u >= w || v >= h) continue;
      const place = v * w + u, edge = 1 - 0.3 * d / (radius * radius);
      if (near <= depth[place]) continue;
      depth[place] = near;
      pixels[place] = 0xff000000 | (rgb[2] * edge) << 16 | (rgb[1] * edge) << 8 | (rgb[0] * edge);
    }
  }
  context.putImageData(image, 0, 0);
}
const START = [0.9, 0.45, 1];
document.querySelectorAll(".card canvas").forEach(canvas => drawCloud(canvas, cloudOf(canvas), ...START));

const large = document.getElementById("large"), stage = large.querySelector(".stage");
let shown = null, redraw = null;
function open(card) {
  shown = card;
  const canvas = card.querySelector("canvas"), copy = card.querySelector("img, pre");
  redraw = null;
  if (canvas) stage.replaceChildren(turning(cloudOf(canvas)));
  else stage.replaceChildren(copy.cloneNode(true));
  for (const part of ["title", "note"])
    large.querySelector("." + part).textContent = card.querySelector("." + part).textContent;
  if (!large.open) large.showModal();
  if (redraw) redraw();
  history.replaceState(null, "", "#show=" + card.id);
}
function turning(cloud) {
  const canvas = document.createElement("canvas");
  let [yaw, pitch, zoom] = START, held = null;
  redraw = () => {
    const box = canvas.getBoundingClientRect();
    canvas.width = Math.max(1, Math.round(box.width)); canvas.height = Math.max(1, Math.round(box.height));
    drawCloud(canvas, cloud, yaw, pitch, zoom);
  };
  canvas.onpointerdown = event => { held = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId); };
  canvas.onpointerup = () => { held = null; };
  canvas.onpointermove = event => {
    if (!held) return;
    yaw += (event.clientX - held[0]) / 150; pitch += (event.clientY - held[1]) / 150;
    pitch = Math.max(-1.57, Math.min(1.57, pitch)); held = [event.clientX, event.clientY];
    requestAnimationFrame(redraw);
  };
  canvas.onwheel = event => {
    event.preventDefault(); zoom = Math.max(0.3, Math.min(8, zoom * Math.exp(-event.deltaY / 600)));
    requestAnimationFrame(redraw);
  };
  return canvas;
}
function step(by) {
  const all = [...shown.closest(".cards").children].filter(card => card.offsetParent);
  const next = all[all.indexOf(shown) + by];
  if (next) open(next);
}
document.querySelectorAll(".card").forEach(card => card.onclick = () => open(card));
large.querySelectorAll(".step").forEach(button => button.onclick = () => step(+button.dataset.by));
large.querySelector(".close").onclick = () => large.close();
large.onclick = event => { if (event.target === large) large.close(); };
large.onclose = () => { if (shown) shown.focus();
  history.replaceState(null, "", location.pathname + location.search); };
addEventListener("resize", () => { if (large.open && redraw) redraw(); });
addEventListener("keydown", event => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (large.open && by) { event.preventDefault(); step(by); }
});
document.querySelectorAll(".only input").forEach(box => box.onchange = () =>
  box.closest(".gallery").classList.toggle("filtered", box.checked));

const make = (name, attributes, text = "") => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return node;
};
document.querySelectorAll("svg.curve").forEach(svg => {
  const points = svg.dataset.points.split(" ").map(text => text.split(",").map(Number));
  const reader = svg.querySelector(".reader");
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  svg.onpointermove = event => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) * width / box.width;
    const [x, y, px, py] = points.reduce((a, b) => Math.abs(a[2] - at) <= Math.abs(b[2] - at) ? a : b);
    const end = px > width / 2;
    reader.replaceChildren(make("line", { x1: px, x2: px, y1: 8, y2: height - 24 }),
      make("circle", { cx: px, cy: py, r: 3.5 }),
      make("text", { x: px + (end ? -7 : 7), y: 18, "text-anchor": end ? "end" : "start" },
        `${y} (${svg.dataset.unit} ${x})`));
  };
  svg.onpointerleave = () => reader.replaceChildren();
});
const linked = location.hash.startsWith("#show=") && document.getElementById(location.hash.slice(6));
if (linked) open(linked);
document.documentElement.dataset.loaded = document.querySelectorAll(".card").length;
"""

"""Pictures, clouds and texts to click through."""

import io
import json
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .page import write_html

LARGEST = 800  # pixels of a picture's longer side; larger ones are made smaller
PLAIN = 128  # up to this side a picture is kept as it is, and shown with its pixels
MOST_POINTS = 2048  # of a cloud; of more, every n-th is shown
MOST_LETTERS = 2000  # of a text


class Item(NamedTuple):
    """Something to look at: a picture, a cloud or a text, as plain data."""

    title: str
    note: str = ""
    right: bool | None = None
    picture: str = ""  # data URI
    size: tuple[int, int] = (0, 0)  # width and height of the picture
    points: str = ""  # base64 of int16 (N, 3), little-endian, 32767 for 1; z points up
    colors: str = ""  # base64 of uint8 (N, 3)
    text: str = ""


def picture_item(picture: np.ndarray, title: str, note: str = "", right: bool | None = None) -> Item:
    """A picture uint8 (H, W, 3); larger ones are shown at :data:`LARGEST` pixels and their size is noted."""
    image = Image.fromarray(picture)
    if max(image.size) > LARGEST:
        said = f"{image.width} × {image.height} pixels, shown smaller"
        note = f"{note}; {said}" if note else said
        image.thumbnail((LARGEST, LARGEST))
    kind = "png" if max(image.size) <= PLAIN else "jpeg"
    buffer = io.BytesIO()
    image.save(buffer, kind, **({} if kind == "png" else {"quality": 85}))
    data = b64encode(buffer.getvalue()).decode()
    return Item(title, note, right, f"data:image/{kind};base64,{data}", image.size)


def cloud_item(
    points: np.ndarray, colors: np.ndarray, title: str, note: str = "", right: bool | None = None
) -> Item:
    """A cloud (N, 3), z upwards, N >= 1 and finite, in colours (N, 3) of 0..1."""
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
        raise ValueError(f"{title}: points are {points.shape}, wanted finite numbers (N, 3), N >= 1")
    step = -(-len(points) // MOST_POINTS)
    said = f"{len(points):,} points" + f", every {step}th is shown" * (step > 1)
    points, colors = points[::step], np.asarray(colors)[::step]
    points = points - (points.max(0) + points.min(0)) / 2
    points = points / max(np.linalg.norm(points, axis=1).max(), np.finfo(float).tiny)
    return Item(
        title,
        f"{note}; {said}" if note else said,
        right,
        points=b64encode((32767 * points).round().astype("<i2").tobytes()).decode(),
        colors=b64encode((255 * colors).round().clip(0, 255).astype(np.uint8).tobytes()).decode(),
    )


def text_item(text: str, title: str, note: str = "", right: bool | None = None) -> Item:
    """A text, cut where it is too long, which it says."""
    cut = "" if len(text) <= MOST_LETTERS else f"… ({len(text) - MOST_LETTERS:,} letters more)"
    return Item(title, note, right, text=text[:MOST_LETTERS] + cut)


def write_gallery(out: str | Path, items: Sequence[Item], *, title: str, heading: str = "") -> Path:
    """Write items as a page; one that is clicked on is shown large, a cloud can be turned there.

    Args:
        out: an .html file, written whole or not at all.
        items: at least one.
        title: of the page.
        heading: a line below it.

    Raises:
        ValueError: no item, or another suffix.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{out}: found the suffix {out.suffix!r}, wanted .html")
    if not items:
        raise ValueError(f"{out}: found nothing to show, wanted at least 1 item")
    body = f"<header><h1>{escape(title)}</h1><p>{escape(heading)}</p></header>{render_gallery(items)}"
    return write_html(out, title, body)


def render_gallery(items: Sequence[Item], name: str = "item") -> str:
    """Cards of items; ``name`` begins their addresses in the page: ``#item-0``."""
    mixed = len({item.right for item in items}) > 1 and any(item.right is False for item in items)
    choice = '<label class="only"><input type="checkbox"> wrong ones only</label>' if mixed else ""
    cards = "".join(_render_card(item, f"{name}-{i}") for i, item in enumerate(items))
    return f'<div class="gallery">{choice}<div class="cards">{cards}</div></div>'


def _render_card(item: Item, name: str) -> str:
    mark = {True: " right", False: " wrong", None: ""}[item.right]
    if item.picture:
        width, height = item.size
        pixels = ' class="pixels"' if max(item.size) <= PLAIN else ""
        shown = f'<img src="{escape(item.picture)}" width="{width}" height="{height}" alt=""{pixels}>'
    elif item.points:
        data = json.dumps({"points": item.points, "colors": item.colors})
        shown = f'<canvas width="320" height="240" data-cloud="{escape(data)}"></canvas>'
    else:
        shown = f"<pre>{escape(item.text)}</pre>"
    return (
        f'<button type="button" class="card{mark}" id="{escape(name)}"><span class="shown">{shown}</span>'
        f'<span class="title">{escape(item.title)}</span>'
        f'<span class="note">{escape(item.note)}</span></button>'
    )

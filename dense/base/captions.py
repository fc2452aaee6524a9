"""Words on pictures: what each part of one is, and what its colours mean."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pointsuite.engine.checkpoint import atomic_write

FONT_SIZE = 12
MARGIN = 3  # pixels around a line
Color = tuple[int, int, int]


def add_captions(
    picture: np.ndarray, headings: Sequence[str] = (), legend: Sequence[tuple[str, Color | None]] = ()
) -> np.ndarray:
    """A picture uint8 (H, W, 3) with white strips above and below it, in which words are wrapped, never cut.

    Args:
        headings: of as many columns of one width.
        legend: lines below, each behind a square of its colour, if it has one.

    Returns:
        uint8 (more than H, W, 3).
    """
    parts = [picture]
    if headings:
        parts.insert(0, _draw_strip([(text, None) for text in headings], picture.shape[1], len(headings)))
    if legend:
        parts.append(_draw_strip(legend, picture.shape[1], 1))
    return np.concatenate(parts)


def write_note(picture: np.ndarray, text: str) -> np.ndarray:
    """A copy of a picture uint8 (H, W, 3) with words in its lower left corner, white on black."""
    note = 255 - _draw_strip([(text, None)], picture.shape[1], 1)[: len(picture)]
    used = np.flatnonzero(note.any(axis=(0, 2)))
    width = min(used[-1] + 1 + MARGIN, picture.shape[1]) if len(used) else 0
    picture = picture.copy()
    picture[len(picture) - len(note) :, :width] = note[:, :width]
    return picture


def _draw_strip(texts: Sequence[tuple[str, Color | None]], width: int, columns: int) -> np.ndarray:
    font = ImageFont.load_default(FONT_SIZE)
    line = FONT_SIZE + MARGIN
    column = width // columns
    wrapped = []
    for text, color in texts:
        indent = line if color else MARGIN
        wrapped.append((_wrap(text, font, column - indent - MARGIN), color, indent))
    counts = [len(lines) for lines, _, _ in wrapped]
    strip = Image.new("RGB", (width, line * (max(counts) if columns > 1 else sum(counts)) + MARGIN), "white")
    draw = ImageDraw.Draw(strip)
    y = 0
    for i, (lines, color, indent) in enumerate(wrapped):
        x = i * column if columns > 1 else 0
        y = 0 if columns > 1 else y
        if color:
            draw.rectangle((x + MARGIN, y + MARGIN, x + line - MARGIN, y + line - MARGIN), fill=color)
        for text in lines:
            draw.text((x + indent, y + 1), text, "black", font)
            y += line
    return np.asarray(strip)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        while word:
            joined = f"{lines[-1]} {word}".strip()
            if font.getlength(joined) <= width:
                lines[-1], word = joined, ""
            elif lines[-1]:
                lines.append("")
            else:  # a word that is longer than a line
                fits = max(1, sum(font.getlength(word[: n + 1]) <= width for n in range(len(word))))
                lines[-1], word = word[:fits], word[fits:]
                lines += [""] if word else []
    return lines


class CaptionedPairs:
    """Mixed into a visualizer of MMDetection or MMSegmentation: names truth and prediction side by side."""

    _held = False

    def add_image(self, name: str, image: np.ndarray, step: int = 0) -> None:
        if self._held:
            self._drawn = image
        else:
            super().add_image(name, image, step)

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: object = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
        **options,
    ) -> None:
        """See the library's."""
        self._held = True
        try:
            super().add_datasample(
                name, image, data_sample, draw_gt=draw_gt, draw_pred=draw_pred, step=step, **options
            )
        finally:
            self._held = False
        picture, note = self._drawn, self.describe(data_sample, draw_pred, **options)
        if picture.shape[1] == 2 * image.shape[1]:
            picture = add_captions(picture, ("truth", "prediction"), [(note, None)] if note else ())
        elif note:
            picture = write_note(picture, note)
        self.set_image(picture)
        if show:
            self.show(picture, win_name=name, wait_time=wait_time)
        if out_file is not None:
            write_image(out_file, picture)
        else:
            self.add_image(name, picture, step)

    def describe(self, data_sample: object, draw_pred: bool, **options) -> str:
        """What a picture leaves out; "" for nothing."""
        return ""


def write_image(path: str, picture: np.ndarray) -> None:
    """Write a picture uint8 (H, W, 3), red first, of the kind that the suffix says; folders are made."""
    suffix, formats = Path(path).suffix.lower(), Image.registered_extensions()
    if suffix not in formats:
        raise ValueError(f"{path}: a suffix of an image format, such as .png, is wanted, found {suffix!r}")
    with atomic_write(path) as file:
        Image.fromarray(picture).save(file, formats[suffix])

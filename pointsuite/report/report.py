"""The page of a run: curves, tables, confusions, the worst samples, config and environment."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from mmengine.config import Config
from torch.utils.data import Dataset

from pointsuite.engine.errors import UsageError, one_line
from pointsuite.engine.files import list_files, read_text
from pointsuite.engine.logs import Log, read_log

from .findings import FOLDER, Collector, Findings, load_findings
from .gallery import Item, render_gallery
from .judging import judge
from .page import write_html
from .samples import Sampler
from .svg import draw_curve, name_gaps

PAGE = "report.html"
ORDER = ("test", "val")  # of findings
MOST_CLASSES = 40  # of a matrix; of more, those with most errors
MOST_CURVES = 60
ALSO_DRAWN = ("lr", "grad_norm", "memory")


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run from what it left in its work dir: log, config, findings of tests.

    Args:
        run: a work dir.
        out: an .html file, written whole or not at all; by default ``report.html`` in the work dir.

    Returns:
        the file.

    Raises:
        UsageError: no run in there, a damaged log, or another suffix.
    """
    run = Path(run)
    out = run / PAGE if out is None else Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{out}: found the suffix {out.suffix!r}, wanted .html")
    log = read_log(run) if list(run.glob("*/vis_data/scalars.json")) else Log({}, {})
    found = [load_findings(path) for name in ORDER if (path := run / FOLDER / f"{name}.json").is_file()]
    config, environment = _find_config(run), _find_environment(run)
    if not (log.train or log.val or found or environment):
        raise UsageError(f"{run}: found neither a log nor what a test found, wanted the work dir of a run")
    name = run.resolve().name
    sections = {f"test-{i}": (part.title, _render_findings(part, f"{i}")) for i, part in enumerate(found)}
    if curves := _render_curves(log):
        sections = {"curves": ("Curves", curves), **sections}
    if config is not None:
        sections["config"] = ("Config", _fold(config.name, f"<pre>{escape(_read(config))}</pre>"))
    if environment:
        shown = _fold("as the run saw it", f"<pre>{escape(environment)}</pre>")
        sections["environment"] = ("Environment", shown)
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, (title, _) in sections.items())
    body = (
        f"<header><h1>{escape(name)}</h1><p>{escape(_describe(log, config))}</p><nav>{links}</nav></header>"
        + _render_tiles(log, found)
        + "".join(
            f'<section id="{key}"><h2>{escape(title)}</h2>{text}</section>'
            for key, (title, text) in sections.items()
        )
    )
    return write_html(out, name, body)


def report_predictions(
    cfg: Config,
    dataset: Dataset,
    labels: np.ndarray,
    predictions: np.ndarray,
    title: str,
    metrics: Mapping[str, float],
    tables: Mapping[str, str],
) -> str:
    """Write the page of a run after a classifier was tested otherwise than by MMEngine's loop.

    Args:
        cfg: of the run, with its ``work_dir``.
        dataset: that was tested.
        labels, predictions: int (M,), of its samples.
        title, metrics, tables: see :class:`~pointsuite.report.findings.Findings`.

    Returns:
        a line for the user: where the page is, or why there is none.
    """
    try:
        collector, meta = Collector(), dataset.metainfo
        turn = np.random.default_rng(0).permutation(len(labels))  # all are as bad: any shall be shown

        def keep(index: int) -> tuple:
            item = dataset[index]
            return item["inputs"], item["data_samples"]

        for index, (label, found) in enumerate(zip(labels.tolist(), predictions.tolist(), strict=True)):
            verdict = judge({"gt_label": label, "pred_label": found}, meta)
            collector.add(int(turn[index]), verdict, partial(keep, index))
        findings = collector.findings(title, metrics, meta, show_worst(collector, cfg, meta))
        findings.order, findings.tables = "chosen at random", dict(tables)
        findings.save(cfg.work_dir, "test")
        return f"report: {write_report(cfg.work_dir)}"
    except Exception as error:  # the test is worth more than its report
        return explain(cfg.work_dir, error)


def show_worst(collector: Collector, cfg: Config, meta: Mapping[str, Any]) -> list[Item]:
    """What was kept, drawn, the worst first."""
    sampler = Sampler(cfg, meta)
    shown = (sampler.show(inputs, sample, verdict) for verdict, (inputs, sample) in collector.ranked())
    return [item for item in shown if item is not None]


def explain(work_dir: str | Path, error: Exception) -> str:
    """Why there is no page, in one line."""
    return f"{Path(work_dir) / PAGE}: not written ({type(error).__name__}: {one_line(error)})"


# ------------------------------------------------------------------------------------------------- curves


def _describe(log: Log, config: Path | None) -> str:
    of = f"{config.name}. " if config else ""
    if not log.train:
        return f"{of}No log of training."
    last, times = log.train[max(log.train)], [line["time"] for line in log.train.values() if "time" in line]
    counts = {"epoch": last.get("epoch"), "iteration": max(log.train), "validation": len(log.val)}
    said = ", ".join(f"{n:,} {what}{'s' * (n != 1)}" for what, n in counts.items() if n is not None)
    speed = f"; {median(times):.3g} s an iteration" if times else ""
    return f"{of}Training: {said}{speed}."


def _render_tiles(log: Log, found: Sequence[Findings]) -> str:
    """The newest numbers, at the top."""
    numbers: dict[str, tuple[float, str]] = {}
    for part in found[:1]:
        numbers = {key: (value, part.title) for key, value in part.metrics.items() if not _is_time(key)}
    if not numbers:
        for key in log.names():
            steps, values, unit = log.curve(key)
            if unit == "validation":
                numbers[key] = (values[-1], f"at {unit} {steps[-1]}")
    for key in ("loss",):
        steps, values, unit = log.curve(key)
        if steps:
            numbers[key] = (values[-1], f"at {unit} {steps[-1]}")
    tiles = "".join(
        f"<div><b>{_number(value)}</b><span>{escape(key)}<br>{escape(note)}</span></div>"
        for key, (value, note) in list(numbers.items())[:8]
    )
    return f'<div class="tiles">{tiles}</div>' if tiles else ""


def _render_curves(log: Log) -> str:
    drawn = [(name, *log.curve(name)) for name in dict.fromkeys([*log.names(), *ALSO_DRAWN])]
    drawn = [each for each in drawn if each[1]]
    drawn.sort(key=lambda each: each[-1] != "validation")  # metrics first
    if not drawn:
        return ""
    figures, rows = [], []
    for name, steps, values, unit in drawn[:MOST_CURVES]:
        gaps = name_gaps(steps, values, unit)
        warning = f'<p class="warning">{escape(gaps)}</p>' if gaps else ""
        figures.append(
            f"<figure><figcaption>{escape(name)} <span>by {escape(unit)}</span></figcaption>"
            f"{draw_curve(steps, values, unit)}{warning}</figure>"
        )
        pairs = [(value, step) for value, step in zip(values, steps, strict=True) if isfinite(value)]
        (low, at_low), (high, at_high) = (min(pairs), max(pairs)) if pairs else ((np.nan, "-"),) * 2
        rows.append(
            [name, _number(values[0]), _number(values[-1]), f"{_number(low)} at {at_low}",
             f"{_number(high)} at {at_high}"]
        )  # fmt: skip
    more = len(drawn) - len(figures)
    left = f'<p class="quiet">{more} further curves are left out.</p>' if more > 0 else ""
    table = _render_table([["", "first", "last", "least", "most"], *rows])
    return f'<div class="curves">{"".join(figures)}</div>{left}{_fold("in numbers", _scroll(table))}'


# ------------------------------------------------------------------------------------------------ findings


def _render_findings(part: Findings, name: str) -> str:
    texts = [_render_metrics(part)]
    texts += [f"<h3>{escape(key)}</h3>{_render_text_table(text)}" for key, text in part.tables.items()]
    if part.pairs:
        texts.append(_render_confusion(part))
    if part.timelines:
        figures = "".join(
            f"<figure><figcaption>{escape(video)} <span>squared error by frame"
            f"{', true events shaded' if line['spans'] else ''}</span></figcaption>"
            f"{draw_curve(line['frames'], line['errors'], 'frame', line['spans'])}</figure>"
            for video, line in part.timelines.items()
        )
        texts.append(f'<h3>Errors over time</h3><div class="curves">{figures}</div>')
    if part.items:
        count = len(part.items)
        worst = "worst ones" if part.order == "the worst first" else "samples"
        what = "wrong ones" if part.wrong is not None else worst
        of = f"{part.wrong:,} wrong ones" if part.wrong is not None else f"{part.samples:,} samples"
        said = (
            f"All {count} are shown"
            if count == (part.wrong or part.samples)
            else f"{count} of {of} are shown"
        )
        texts.append(
            f"<h3>The {what}</h3><p class=quiet>{said}, {escape(part.order)}; a click enlarges.</p>"
            f"{render_gallery(part.items, f'item-{name}')}"
        )
    elif part.wrong == 0 and part.samples:
        texts.append(f'<p class="quiet">None of {part.samples:,} samples is wrong.</p>')
    return "".join(texts)


def _render_metrics(part: Findings) -> str:
    rows = [[key, _number(value)] for key, value in part.metrics.items() if not _is_time(key)]
    said = "" if part.wrong is None else f"{part.samples - part.wrong:,} of {part.samples:,} right. "
    table = _scroll(_render_table([["metric", "value"], *rows])) if rows else ""
    return f"<p>{said}</p>{table}" if said else table


def _render_text_table(text: str) -> str:
    return _scroll(f'<pre class="table">{escape(text)}</pre>')


def _render_confusion(part: Findings) -> str:
    classes = part.classes
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for row, column, count in part.pairs:
        matrix[row, column] = count
    total = matrix.sum(1)
    heading = "Which are taken for which"
    said = f"Rows are true, columns predicted; {part.kind} are counted."
    shown = np.arange(len(classes))
    if len(classes) > MOST_CLASSES:
        errors = matrix.sum(0) + total - 2 * np.diag(matrix)
        shown = np.sort(np.argsort(-errors, kind="stable")[:MOST_CLASSES])
        said += f" Of {len(classes)} classes the {MOST_CLASSES} with most errors are shown."
    shares = matrix.max() > 9999  # such counts do not fit into a cell
    if shares:
        said = said.replace("are counted", "in % of the true class")
    head = "".join(f'<th title="{escape(classes[j])}">{escape(classes[j])}</th>' for j in shown)
    rows = []
    for i in shown:
        cells = []
        for j in shown:
            count, share = int(matrix[i, j]), matrix[i, j] / max(total[i], 1)
            text = "" if not count else f"{100 * share:.1f}" if shares else str(count)
            title = f"{classes[i]} → {classes[j]}: {count:,} ({100 * share:.1f} %)"
            kind = "hit" if i == j else "miss"
            cells.append(f'<td class="{kind}" style="--s:{share:.3f}" title="{escape(title)}">{text}</td>')
        rows.append(f'<tr><th title="{escape(classes[i])}">{escape(classes[i])}</th>{"".join(cells)}</tr>')
    table = f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    table = _scroll(f'<table class="confusion">{table}</table>')
    by_class = _fold("by class", _scroll(_by_class(matrix, classes)))
    return f"<h3>{heading}</h3><p class=quiet>{escape(said)}</p>{table}{by_class}"


def _by_class(matrix: np.ndarray, classes: Sequence[str]) -> str:
    right, true, found = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    rows = [["class", "true", "recall, %", "precision, %", "IoU, %"]]
    for name, hit, a, b in zip(classes, right, true, found, strict=True):
        parts = ((hit, a), (hit, b), (hit, a + b - hit))
        rows.append([name, f"{a:,}", *(f"{100 * p / w:.2f}" if w else "-" for p, w in parts)])
    return _render_table(rows)


def _fold(summary: str, html: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def _scroll(html: str) -> str:
    return f'<div class="scroll">{html}</div>'


def _render_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    text = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in body)
    return f'<table class="plain"><thead><tr>{text}</tr></thead><tbody>{lines}</tbody></table>'


def _number(value: float) -> str:
    return f"{value:.5g}" if isfinite(value) else str(float(value))


def _is_time(key: str) -> bool:
    return key.rpartition("/")[2] in ("time", "data_time")


# ------------------------------------------------------------------------------------- config, environment


def _find_config(run: Path) -> Path | None:
    """The config that the latest run left."""
    found = list_files(run, "*.py") or list_files(run, "*/vis_data/config.py")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _find_environment(run: Path) -> str:
    """What the latest log says of machine and libraries; "" where none does."""
    for log in reversed(list_files(run, "*/*.log")):
        if match := re.search(r"^System environment:\n(.*?)^-{20,}$", _read(log), re.MULTILINE | re.DOTALL):
            lines = match[1].rstrip().splitlines()
            return "\n".join(line for line in lines if not line.lstrip().startswith("- Build settings"))
    return ""


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except UsageError as error:  # a page is worth having without it
        return str(error)

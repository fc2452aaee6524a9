"""What a validation or a test found, as far as a report shows it: numbers, confusions, the worst samples."""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from torch import Tensor

from pointsuite.engine.checkpoint import atomic_write
from pointsuite.engine.errors import UsageError
from pointsuite.engine.files import read_json

from .gallery import Item
from .judging import Verdict

MOST = 24  # samples that a report shows of a test: the worst
ROOM = 2**29  # bytes that are kept of samples until they are drawn
LONGEST = 20_000  # steps of a timeline
FOLDER = "report/data"  # in a work dir; MMEngine keeps its results in */*.json


@dataclass
class Findings:
    """What is kept of one test.

    Attributes:
        title: "Test" or "Validation", and of what.
        metrics: by name.
        samples: how many were looked at.
        wrong: how many of them were wrong; None where there is more or less, and no right or wrong.
        kind: what ``pairs`` counts.
        classes: their names.
        pairs: true class, predicted class, and how often that was; [] without classes.
        items: the worst samples.
        order: of ``items``.
        tables: texts by their headings.
        timelines: by the name of a video: frames, errors, and spans that are marked.
    """

    title: str
    metrics: dict[str, float] = field(default_factory=dict)
    samples: int = 0
    wrong: int | None = None
    kind: str = "samples"
    classes: list[str] = field(default_factory=list)
    pairs: list[list[int]] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    order: str = "the worst first"
    tables: dict[str, str] = field(default_factory=dict)
    timelines: dict[str, dict[str, list]] = field(default_factory=dict)

    def save(self, work_dir: str | Path, name: str) -> Path:
        """Write ``work_dir/report/data/NAME.json``, whole or not at all."""
        path = Path(work_dir) / FOLDER / f"{name}.json"
        said = {**asdict(self), "items": [item._asdict() for item in self.items]}
        with atomic_write(path) as file:
            file.write(json.dumps(said).encode())
        return path


def load_findings(path: Path) -> Findings:
    """What :meth:`Findings.save` wrote.

    Raises:
        UsageError: it is something else.
    """
    said = read_json(path)
    try:
        items = [Item(**{**item, "size": tuple(item["size"])}) for item in said.pop("items")]
        return Findings(**said, items=items)
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: found {error}, wanted what a run's report hook wrote") from None


class Collector:
    """Takes verdicts one by one; keeps sums, and of the samples the worst.

    Args:
        most: samples that are kept; fewer where they need more than :data:`ROOM` bytes.
    """

    def __init__(self, most: int = MOST):
        self.most = most
        self.samples = self.judged = self.wrong = 0
        self.decided = False
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.kind = "samples"
        self.worst: list[tuple[float, int, Verdict, Any, int]] = []
        self.timelines: dict[str, dict[int, float]] = {}

    def add(self, place: int, verdict: Verdict | None, keep: Callable[[], Any]) -> None:
        """One sample; ``keep`` gives what is needed to show it, if it is among the worst so far.

        Where nothing can be said of samples, the first ones are kept.
        """
        self.samples += 1
        if verdict is None:
            verdict = Verdict(-np.inf, "")
        else:
            self.judged += 1
            if verdict.right is not None:
                self.decided, self.wrong = True, self.wrong + (not verdict.right)
        if verdict.pairs:
            self.kind = verdict.kind
            self.pairs.update(verdict.pairs)
        badness = np.inf if np.isnan(verdict.badness) else verdict.badness  # what is no number is worst
        if verdict.right or (len(self.worst) >= self.most and (badness, -place) <= self.worst[0][:2]):
            return
        if verdict.key is not None:
            same = next((entry for entry in self.worst if entry[2].key == verdict.key), None)
            if same is not None and same[0] >= badness:
                return
            if same is not None:
                self.worst.remove(same)
                heapq.heapify(self.worst)
        kept = keep()
        heapq.heappush(self.worst, (badness, -place, verdict._replace(pairs={}), kept, _count_bytes(kept)))
        while len(self.worst) > self.most or (len(self.worst) > 1 and self.held > ROOM):
            heapq.heappop(self.worst)

    @property
    def held(self) -> int:
        """Bytes of the samples that are kept."""
        return sum(entry[-1] for entry in self.worst)

    def merge(self, others: Iterable["Collector"]) -> None:
        """Take in what other processes collected."""
        for other in others:
            self.samples += other.samples
            self.judged += other.judged
            self.wrong += other.wrong
            self.decided |= other.decided
            if other.pairs:
                self.kind = other.kind
                self.pairs.update(other.pairs)
            self.worst = heapq.nlargest(self.most, [*self.worst, *other.worst], key=lambda entry: entry[:2])
            for video, found in other.timelines.items():
                self.timelines.setdefault(video, {}).update(found)

    def ranked(self) -> list[tuple[Verdict, Any]]:
        """The worst samples, the worst first."""
        ordered = sorted(self.worst, key=lambda entry: entry[:2], reverse=True)
        return [(verdict, kept) for _, _, verdict, kept, _ in ordered]

    def findings(
        self, title: str, metrics: Mapping[str, Any], meta: Mapping[str, Any], items: list[Item]
    ) -> Findings:
        names = meta.get("part_classes" if self.kind == "points" else "classes") or ()
        numbers = {k: float(v) for k, v in metrics.items() if np.ndim(v) == 0 and not isinstance(v, str)}
        return Findings(
            title,
            numbers,
            self.samples,
            self.wrong if self.decided else None,
            self.kind,
            [str(name) for name in names] if self.pairs else [],
            [[*pair, count] for pair, count in sorted(self.pairs.items())],
            items,
            order="the worst first" if self.judged else "the first ones",
            timelines={video: self._timeline(video, meta) for video in sorted(self.timelines)[: self.most]},
        )

    def _timeline(self, video: str, meta: Mapping[str, Any]) -> dict[str, list]:
        found = sorted(self.timelines[video].items())[:LONGEST]
        known = (meta.get("videos") or {}).get(video) or {}
        label = known.get("label")
        marked = [] if label is None else np.flatnonzero(np.diff([0, *np.asarray(label, int).tolist(), 0]))
        spans = [[int(a), int(b) - 1] for a, b in zip(marked[::2], marked[1::2], strict=True)]
        return {"frames": [f for f, _ in found], "errors": [e for _, e in found], "spans": spans}


def _count_bytes(kept: Any) -> int:
    """Of the tensors in nested tuples, dicts and data samples."""
    if isinstance(kept, Tensor):
        return kept.numel() * kept.element_size()
    if isinstance(kept, (BaseDataElement, Mapping)):
        kept = list(kept.values())
    return sum(map(_count_bytes, kept)) if isinstance(kept, list | tuple) else 0

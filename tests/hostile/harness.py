"""Runs cases of damaged, hostile and mistaken input under a limit of time and memory, and counts outcomes.

A case makes an input in a folder of its own and reads it. Cases run in a process beside the test's, so that a
hang or a crash ends only that; the next case gets a new one.
"""

import gc
import multiprocessing
import os
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

SECONDS, MEGABYTES = 20, 2000


class Outcome(Enum):
    REFUSED = "refused clearly"
    RIGHT = "accepted and right"
    WRONG = "accepted though wrong"
    STRICT = "refused though right"
    TRACEBACK = "traceback"
    UNCLEAR = "unclear"
    HANG = "hang"
    MEMORY = "too much memory"
    CRASH = "crash"


GOOD = (Outcome.REFUSED, Outcome.RIGHT)


@dataclass(frozen=True)
class Case:
    """One input.

    Args:
        name: kind of the fault and what it is done to, as "truncated: a.ply at 120".
        run: makes the input in the folder that it is given, reads it and returns what came of it.
        check: whether that is right; None where the input must be refused.
        may_refuse: the input may be refused, too: the file cannot tell the fault from another content.
        names: what the error must name: the file.
    """

    name: str
    run: Callable[[Path], Any]
    check: Callable[[Any], bool] | None = None
    may_refuse: bool = False
    names: str = ""


class Refusal(Exception):
    """A command of the project that ended with an error: its last line on stderr."""


class Result(NamedTuple):
    case: str
    outcome: Outcome
    message: str
    seconds: float
    megabytes: float


class Report(list[Result]):
    """Results of a run."""

    def table(self, title: str) -> str:
        count = Counter(result.outcome for result in self)
        counts = " · ".join(f"{outcome.value} {count[outcome]}" for outcome in Outcome if count[outcome])
        slowest, largest = (max(self, key=lambda r, i=i: r[i]) for i in (3, 4))
        return (
            f"{title}: {len(self)} cases: {counts}; at most {slowest.seconds:.1f} s ({slowest.case}) and "
            f"{largest.megabytes:.0f} MB ({largest.case})"
        )

    def bad(self) -> list[str]:
        return [f"{r.outcome.value}: {r.case}: {r.message}" for r in self if r.outcome not in GOOD]


def run_cases(
    cases: Sequence[Case],
    folder: Path,
    errors: Sequence[type[Exception]],
    *,
    seconds: float = SECONDS,
    megabytes: float = MEGABYTES,
) -> Report:
    """Run all cases.

    Args:
        folder: an empty one.
        errors: the project's own, which are for its users.
        seconds, megabytes: that a case may take; memory is what it needs beyond what was in use before.
    """
    context = multiprocessing.get_context("fork")
    report, worker = Report(), None
    for i, case in enumerate(cases):
        if worker is None:
            ours, theirs = context.Pipe()
            arguments = cases, folder, tuple(errors), megabytes, theirs
            worker = context.Process(target=_work, args=arguments, daemon=True)
            worker.start()
            theirs.close()
        ours.send(i)
        lost = None
        if not ours.poll(seconds):
            lost = Outcome.HANG
        else:
            try:
                report.append(ours.recv())
            except EOFError:
                lost = Outcome.CRASH
        if lost is not None:
            worker.kill()
            worker.join()
            report.append(Result(case.name, lost, "", seconds, 0))
            worker = None
    if worker is not None:
        ours.send(None)
        worker.join()
    return report


def _work(cases, folder, errors, megabytes, pipe) -> None:
    """Run the cases whose numbers come through a pipe."""
    gc.freeze()  # data sets collect garbage when they are made: not that of all imports each time
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # what libraries write there
    used = _peak()
    limit = int((_size() + 2 * megabytes) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while (i := pipe.recv()) is not None:
        case, start = cases[i], time.perf_counter()
        place = folder / f"{i:04d}"
        place.mkdir()
        _forget_peak()
        outcome, message = _judge(case, place, errors)
        taken = max(0.0, _peak() - used)
        if taken > megabytes:
            outcome, message = Outcome.MEMORY, f"{taken:.0f} MB; {message}"
        pipe.send(Result(case.name, outcome, message, time.perf_counter() - start, taken))


def _judge(case: Case, place: Path, errors) -> tuple[Outcome, str]:
    try:
        found = case.run(place)
    except (*errors, Refusal) as error:
        message = str(error)
        if "\n" in message.strip() or not message or case.names not in message or len(message) > 600:
            return Outcome.UNCLEAR, message
        refused = case.check is None or case.may_refuse
        return (Outcome.REFUSED if refused else Outcome.STRICT), message
    except BaseException:
        return Outcome.TRACEBACK, traceback.format_exc()[-800:]
    if case.check is None:
        return Outcome.WRONG, f"found {str(found)[:200]}"
    try:
        right = case.check(found)
    except Exception:
        return Outcome.WRONG, traceback.format_exc()[-400:]
    return (Outcome.RIGHT, "") if right else (Outcome.WRONG, f"found {str(found)[:300]}")


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return 0.0


def _peak() -> float:
    """The most memory in use, MB, since :func:`_forget_peak`."""
    return _status("VmHWM")


def _size() -> float:
    """Address space in use, MB."""
    return _status("VmSize")


def _forget_peak() -> None:
    with suppress(OSError):  # not allowed: the peak is that of all cases so far
        Path("/proc/self/clear_refs").write_text("5")

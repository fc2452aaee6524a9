"""Logs of runs: what MMEngine's scalars.json hold, read and told."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .errors import UsageError
from .files import read_text

NOT_METRICS = ("time", "data_time", "step", "epoch", "iter", "memory", "lr", "base_lr", "momentum")


class Log(NamedTuple):
    """Lines of a run's log, by ``step``: iterations of training, epochs or iterations of validation."""

    train: dict[int, dict]
    val: dict[int, dict]

    def names(self) -> list[str]:
        """Losses of training and metrics of validation, as they first come."""
        losses = (key for line in self.train.values() for key in line if "loss" in key)
        metrics = (key for line in self.val.values() for key in line if key not in NOT_METRICS)
        return list(dict.fromkeys([*losses, *metrics]))

    def curve(self, key: str) -> tuple[list[int], list[float], str]:
        """Steps, values and the name of the steps; empty where the log has no such key."""
        for lines, unit in ((self.train, "iteration"), (self.val, "validation")):
            found = [(step, line[key]) for step, line in sorted(lines.items()) if key in line]
            if found:
                return *map(list, zip(*found, strict=True)), unit
        return [], [], ""


def read_log(run: Path) -> Log:
    """The log of a work dir or file.

    Of several runs in a work dir, a later one stands for what it repeats of earlier ones.

    Raises:
        UsageError: no log, or one that cannot be read.
    """
    files = sorted(run.glob("*/vis_data/scalars.json")) if run.is_dir() else [run]
    if not files:
        raise UsageError(f"{run}: found no */vis_data/scalars.json, wanted the work dir of a run")
    whole = Log({}, {})
    for file in files:
        log = _read_lines(file)
        for old, new in zip(whole, log, strict=True):
            for step in [step for step in old if new and step >= min(new)]:
                del old[step]
            old.update(new)
    if not (whole.train or whole.val):
        raise UsageError(f"{run}: the log is empty")
    return whole


def _read_lines(file: Path) -> Log:
    log = Log({}, {})
    for number, text in enumerate(read_text(file).splitlines(), 1):
        try:
            line = json.loads(text)
            lines = log.train if "iter" in line and "lr" in line else log.val
            lines[line["step"]] = {k: v for k, v in line.items() if isinstance(v, (int, float))}
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{file}, line {number}: not a line of MMEngine's scalars") from error
    return log


def format_logs(logs: dict[str, Log], keys: Iterable[str]) -> str:
    """Of each run, how long its iterations took, and first, last, least and most of each key."""
    lines = []
    for run, log in logs.items():
        times = [line["time"] for line in log.train.values() if "time" in line]
        lines.append(f"{run}: {max(log.train, default=0)} iterations, {len(log.val)} validations")
        if times:
            waits = [line.get("data_time", 0) for line in log.train.values() if "time" in line]
            median = statistics.median(times)
            lines.append(
                f"  seconds an iteration: median {median:.4f}, mean {statistics.mean(times):.4f}, "
                f"standard deviation {statistics.pstdev(times):.4f}, {min(times):.4f} to {max(times):.4f}; "
                f"{100 * sum(waits) / sum(times):.1f} % waiting for data"
            )
        for key in keys:
            steps, values, unit = log.curve(key)
            if steps:
                pairs = list(zip(values, steps, strict=True))
                (low, at_low), (high, at_high) = min(pairs), max(pairs)
                lines.append(
                    f"  {key}: {values[0]:.5g} at {unit} {steps[0]}, {values[-1]:.5g} at {steps[-1]}, least "
                    f"{low:.5g} at {at_low}, most {high:.5g} at {at_high}"
                )
    return "\n".join(lines)

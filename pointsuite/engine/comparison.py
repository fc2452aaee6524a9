"""Configs trained by several seeds and told side by side, in a way that can be stopped and continued."""

import datetime
import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import mmengine.runner
import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from . import command
from .checkpoint import atomic_write, find_latest_checkpoint
from .errors import UsageError, one_line
from .files import read_json
from .runner import Runner
from .tables import align_columns


@dataclass
class Run:
    """A config trained with a seed, and what came of it.

    Attributes:
        config: name of its file, without suffix.
        seed: of weights, order and augmentation.
        variant: which of the comparison's variants of the config.
        settings: what else decides the result, as options and device: runs of one table have it in common.
        parameters: of the model.
        metrics: of the test; where the config has none, of the last validation.
        curves: by a metric of the validations, pairs of iteration and value.
        train_seconds, test_seconds: wall times; that of training counts validations and all its parts.
        environment: where and when it was measured.
    """

    config: str
    seed: int
    variant: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    parameters: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    train_seconds: float = 0.0
    test_seconds: float = 0.0
    environment: dict[str, Any] = field(default_factory=dict)

    def repeats(self, other: "Run") -> bool:
        """Whether the two must give the same, up to what the machine adds."""
        names = ("config", "seed", "variant", "settings")
        return all(getattr(self, name) == getattr(other, name) for name in names)


class Comparison:
    """How a config is trained and measured: as it says, by its test. Subclasses say what is special.

    Attributes:
        variants: every config is trained as each of them, see :meth:`adapt`.
        settings: of all runs, for :class:`Run`.
    """

    variants: tuple[str, ...] = ("",)

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}

    def adapt(self, cfg: Config, variant: str) -> None:
        """Change the config of a run before it is built."""

    def evaluate(self, runner: Runner, variant: str) -> Mapping[str, Any]:
        """Metrics of the trained model; none where the config has no test."""
        return runner.test() if runner.cfg.get("test_cfg") is not None else {}

    def references(self, cfg: Config) -> dict[str, dict[str, float]]:
        """Metrics, by name, of what learns nothing, on the data of a config."""
        return {}


# --------------------------------------------------------------------------------------------- running


def run_comparison(
    comparison: Comparison,
    configs: Sequence[str | os.PathLike],
    seeds: Sequence[int],
    out: str | os.PathLike,
    work_dir: str | os.PathLike = "work_dirs/comparison",
    options: Mapping[str, Any] | None = None,
) -> list[Run]:
    """Train and test what ``out`` does not have yet, and return the runs that were asked for.

    Every finished run is added to ``out`` at once. A run that was stopped continues from its last checkpoint.

    Args:
        configs: files.
        seeds: each config is trained with each of them.
        out: JSON file of runs; it may hold others, too.
        work_dir: a folder for each run is made in it, named after what decides its result.
        options: override the configs, as ``--cfg-options``.

    Raises:
        UsageError: see :func:`~pointsuite.engine.command.load_config`; or two configs have one name; or a
            run has neither test nor validation.
    """
    files = {Path(config).stem: Path(config) for config in configs}
    if len(files) < len(configs):
        raise UsageError(f"found {len(configs)} configs of {len(files)} names, wanted each to have its own")
    # where the data lie says nothing about a run
    told = {key: value for key, value in (options or {}).items() if key != "data_root"}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    settings = {"options": str(told), "device": device, **comparison.settings}
    wanted = [
        Run(name, seed, variant, settings)
        for seed in seeds  # seed by seed: a table that was stopped has all configs
        for name in files
        for variant in comparison.variants
    ]
    out = Path(out)
    for i, run in enumerate(wanted):
        done = _find(read_runs(out), run)
        if done is None:
            done = _train_and_test(comparison, run, files[run.config], options, Path(work_dir))
            write_runs(out, [*read_runs(out), done])  # read again: others may write, too
            said = ", ".join(f"{key} {value:.4g}" for key, value in done.metrics.items())
            print(" ".join(filter(None, (run.config, run.variant, f"seed {run.seed}: {said}"))), flush=True)
        wanted[i] = done
    return wanted


def _find(runs: Sequence[Run], wanted: Run) -> Run | None:
    return next((run for run in runs if run.repeats(wanted)), None)


def _train_and_test(
    comparison: Comparison, run: Run, path: Path, options: Mapping[str, Any] | None, work_dir: Path
) -> Run:
    cfg = command.read_config(path, options, run.seed)
    comparison.adapt(cfg, run.variant)
    # a run continues only what was trained by the same config
    digest = hashlib.sha256(cfg.pretty_text.encode()).hexdigest()[:8]
    cfg.experiment_name = "_".join(filter(None, (path.stem, run.variant, f"seed{run.seed}", digest)))
    cfg.work_dir = str(work_dir / cfg.experiment_name)
    if find_latest_checkpoint(cfg.work_dir):
        cfg.resume, cfg.load_from = True, None
    runner = command.build_runner(cfg)
    recorder = _Recorder()
    runner.register_hook(recorder)
    runner.train()
    began = time.perf_counter()
    metrics = _scalars(comparison.evaluate(runner, run.variant))
    if not (metrics or recorder.points):
        raise UsageError(f"{path}: has neither test nor validation, wanted one to compare by")
    curves = {}
    for step, values in recorder.points:
        for key, value in values.items():
            curves.setdefault(key, []).append([step, value])
    return Run(
        run.config,
        run.seed,
        run.variant,
        run.settings,
        parameters=sum(p.numel() for p in runner.model.parameters()),
        metrics=metrics or recorder.points[-1][1],
        curves=curves,
        train_seconds=round(recorder.seconds, 1),
        test_seconds=round(time.perf_counter() - began, 1),
        environment={
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "date": datetime.date.today().isoformat(),
        },
    )


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    numbers = (int, float, np.number, torch.Tensor)
    return {k: float(v) for k, v in metrics.items() if isinstance(v, numbers) and np.ndim(v) == 0}


class _Recorder(Hook):
    """Keeps a run's validations and seconds, those before it was stopped, too."""

    priority = "LOWEST"

    def __init__(self):
        self.points: list[tuple[int, dict[str, float]]] = []
        self.before = 0.0  # seconds of earlier parts
        self.resumed = False

    def before_run(self, runner) -> None:
        if not hasattr(self, "began"):
            self.began = time.perf_counter()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        seconds = self.before + time.perf_counter() - self.began
        checkpoint["comparison"] = {"points": self.points, "seconds": seconds}

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if runner.cfg.get("resume") and "comparison" in checkpoint:
            state = checkpoint["comparison"]
            self.points, self.before, self.resumed = list(state["points"]), state["seconds"], True

    def before_train(self, runner) -> None:
        # checkpoints are saved before the validation of their iteration, which may have been cut off
        missing = not self.points or self.points[-1][0] < runner.iter
        if self.resumed and missing and _validation_is_due(runner):
            runner.val_loop.run()

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        self.points.append((runner.iter, _scalars(metrics or {})))

    def after_train(self, runner) -> None:
        self.seconds = self.before + time.perf_counter() - self.began


def _validation_is_due(runner: Runner) -> bool:
    """Whether the train loop validates after what it has trained so far."""
    loop = runner.train_loop
    if runner.val_loop is None or getattr(loop, "batch", 0):
        return False
    by_epoch = isinstance(loop, mmengine.runner.EpochBasedTrainLoop)
    done, end = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    loop._decide_current_val_interval()
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == end)


# ---------------------------------------------------------------------------------------------- telling


def read_runs(path: str | os.PathLike) -> list[Run]:
    """The runs in a file of :func:`run_comparison`; none where there is no file.

    Raises:
        UsageError: it holds something else.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        runs = [Run(**run) for run in read_json(path)]
    except TypeError as error:
        raise UsageError(f"{path}: not a file of compared runs ({error})") from error
    for run in runs:
        for key, wanted in get_type_hints(Run).items():
            if not isinstance(found := getattr(run, key), _plain(wanted)) or isinstance(found, bool):
                found = one_line(repr(found))[:80]
                raise UsageError(f"{path}: {key}: found {found}, wanted {wanted.__name__}")
        if wrong := [v for v in run.metrics.values() if not isinstance(v, int | float)]:
            raise UsageError(f"{path}: metrics: found {one_line(repr(wrong[0]))[:80]}, wanted numbers")
    return runs


def _plain(kind: Any) -> Any:
    """What isinstance takes for the type of a field of :class:`Run`."""
    return (int, float) if kind is float else get_origin(kind) or kind


def write_runs(path: str | os.PathLike, runs: Sequence[Run]) -> None:
    """Write runs as JSON, all or none."""
    with atomic_write(path) as file:
        file.write((json.dumps([asdict(run) for run in runs], indent=1) + "\n").encode())


def format_runs(
    runs: Sequence[Run],
    metrics: Sequence[str] | None = None,
    references: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """A row for each config: mean of a metric over the seeds and standard deviation (n - 1).

    Runs of different settings are in tables of their own.

    Args:
        metrics: which, by names or patterns as ``"coco/*"``; None for all.
        references: rows to add, see :meth:`Comparison.references`.

    Raises:
        UsageError: no run has a metric of that name.
    """
    known = list(dict.fromkeys(key for run in runs for key in run.metrics))
    for pattern in metrics or ():
        if not any(fnmatchcase(key, pattern) for key in known):
            raise UsageError(f"metric {pattern!r}: no run has it, there are {', '.join(known)}")
    patterns = metrics or ["*"]
    shown = list(dict.fromkeys(k for pattern in patterns for k in known if fnmatchcase(k, pattern)))
    tables = {}
    for run in runs:
        tables.setdefault(json.dumps(run.settings), []).append(run)
    parts = ["mean +- standard deviation over the seeds; seconds of the fastest run, training and test"]
    for own in tables.values():
        if len(tables) > 1:
            parts.append(", ".join(f"{key} {value}" for key, value in own[0].settings.items()))
        parts.append(_format_table(own, shown, references or {}))
    return "\n".join(parts)


def _format_table(
    runs: Sequence[Run], metrics: Sequence[str], references: Mapping[str, Mapping[str, float]]
) -> str:
    digits = {key: _digits(run.metrics[key] for run in runs if key in run.metrics) for key in metrics}
    rows = [["config", "parameters", *metrics, "seeds", "seconds"]]
    for name, own in _by_config(runs).items():
        values = ([run.metrics[key] for run in own if key in run.metrics] for key in metrics)
        cells = (_mean_and_spread(v, digits[key]) for key, v in zip(metrics, values, strict=True))
        seconds = min(run.train_seconds + run.test_seconds for run in own)
        seeds = len({run.seed for run in own})
        rows.append([name, str(own[0].parameters), *cells, str(seeds), f"{seconds:.0f}"])
    for name, found in references.items():
        cells = (_mean_and_spread([found[key]] if key in found else [], digits[key]) for key in metrics)
        rows.append([name, "0", *cells])
    return align_columns(rows)


def _by_config(runs: Sequence[Run]) -> dict[str, list[Run]]:
    return {name: [r for r in runs if r.config == name] for name in dict.fromkeys(r.config for r in runs)}


def _digits(values) -> int:
    """Percents and decibels are told to the hundredth, shares to the thousandth."""
    return 3 if max(map(abs, values), default=0) <= 1 else 2


def _mean_and_spread(values: Sequence[float], digits: int) -> str:
    if not len(values):
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {np.std(values, ddof=1):5.{digits}f}"


def collect_curves(runs: Sequence[Run], key: str) -> dict[str, tuple[list[int], np.ndarray]]:
    """How a metric of the validations grows: by config, iterations and values (runs, iterations).

    Raises:
        UsageError: a run has no such metric, or was validated at other iterations than the config's others.
    """
    curves = {}
    for name, own in _by_config(runs).items():
        if lacking := [run for run in own if key not in run.curves]:
            known = ", ".join(lacking[0].curves) or "none: nothing was validated"
            raise UsageError(f"{name}: its validations have no {key!r}, they have {known}")
        steps = [step for step, _ in own[0].curves[key]]
        if any([step for step, _ in run.curves[key]] != steps for run in own):
            raise UsageError(f"{name}: its seeds were validated at different iterations")
        curves[name] = steps, np.array([[value for _, value in run.curves[key]] for run in own])
    return curves


def format_curves(runs: Sequence[Run], key: str) -> str:
    """A row for each iteration: of each config the mean over the seeds and the standard deviation (n - 1)."""
    curves = collect_curves(runs, key)
    digits = _digits(value for _, values in curves.values() for value in values.flat)
    rows = [["iteration", *curves]]
    for step in sorted({step for steps, _ in curves.values() for step in steps}):
        columns = (values[:, steps.index(step)] if step in steps else [] for steps, values in curves.values())
        rows.append([str(step), *(_mean_and_spread(column, digits) for column in columns)])
    return f"{key}, mean +- standard deviation over the seeds\n" + align_columns(rows, left=0)

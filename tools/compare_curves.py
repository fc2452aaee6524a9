"""Train configs on several seeds and show how a metric of their validations grows, as a table and a plot.

    python tools/compare_curves.py CONFIG CONFIG ... --key coco/bbox_mAP [--seeds 0 1 2] [--out FILE.json]

The configs have one data set, metric and schedule and differ in the network. Every finished run is added to
--out at once, and a run that is there is not repeated: stop and start again as you like. Beside --out comes
a plot of the same name: a thin line for each seed, a thick one for their mean.
"""

import datetime
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from compare_segmentors import KEY, load_config, write_runs
from mmengine.config import Config
from mmengine.hooks import Hook

from pointsuite.engine import command
from pointsuite.visualization.png import write_png


class Recorder(Hook):
    """Keeps (iteration, metrics) of every validation."""

    def __init__(self):
        self.points: list[tuple[int, dict]] = []

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        self.points.append((runner.iter, dict(metrics or {})))


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG")
    parser.add_argument("--key", required=True, help="metric of the validations, as coco/bbox_mAP")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cfg-options", nargs="+", action=command.KeyValue, default={}, metavar="KEY=VALUE")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/curves"))
    parser.add_argument("--out", type=Path, default=Path("work_dirs/curves.json"))
    args = parser.parse_args(argv)

    # where the data lie says nothing about a run
    options = {key: value for key, value in args.cfg_options.items() if key != "data_root"}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    wanted = [
        {"config": config.stem, "seed": seed, "options": str(options), "device": device}
        for seed in args.seeds  # seed by seed: a table that was stopped has all configs
        for config in args.configs
    ]
    files = {config.stem: config for config in args.configs}
    for run in wanted:
        if find_run(read_runs(args.out), run) is None:
            cfg = load_config(files[run["config"]], run["seed"], args)
            found = run | train(cfg, args.key)
            write_runs(args.out, [*read_runs(args.out), found])  # read again: others may write, too
    runs = [find_run(read_runs(args.out), run) for run in wanted]
    print(format_table(runs, args.key), end="")
    draw(runs, args.key, args.out.with_suffix(".png"))
    print(args.out.with_suffix(".png"))


def read_runs(path: Path) -> list[dict]:
    return json.loads(path.read_text()) if path.exists() else []


def find_run(runs: Sequence[dict], wanted: dict) -> dict | None:
    return next((run for run in runs if all(run[key] == wanted[key] for key in KEY)), None)


def train(cfg: Config, key: str) -> dict:
    """Points (iteration, value) of a run, its wall time in seconds, and where it was measured."""
    runner = command.build_runner(cfg)
    recorder = Recorder()
    runner.register_hook(recorder)
    began = time.perf_counter()
    runner.train()
    seconds = time.perf_counter() - began
    if not recorder.points or key not in recorder.points[-1][1]:
        known = ", ".join(recorder.points[-1][1]) if recorder.points else "none: nothing was validated"
        raise command.UsageError(f"--key {key!r}: not a metric of this run's validations, they have {known}")
    return {
        "parameters": sum(p.numel() for p in runner.model.parameters()),
        key: [(step, float(metrics[key])) for step, metrics in recorder.points],
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def group(runs: Sequence[dict], key: str) -> dict[str, tuple[list[int], np.ndarray]]:
    """Of each config its steps and the values (seeds, steps)."""
    curves = {}
    for name in dict.fromkeys(run["config"] for run in runs):
        own = [run[key] for run in runs if run["config"] == name]
        steps = [step for step, _ in own[0]]
        if any([step for step, _ in points] != steps for points in own):
            raise command.UsageError(f"{name}: its seeds were validated at different iterations")
        curves[name] = steps, np.array([[value for _, value in points] for points in own])
    return curves


def format_table(runs: Sequence[dict], key: str) -> str:
    """One row an iteration: of each config the mean over the seeds and the standard deviation (n - 1)."""
    curves = group(runs, key)
    width = max(16, *map(len, curves)) + 2
    lines = [f"{key}, mean over the seeds +- standard deviation"]
    lines.append(f"{'iteration':>9}" + "".join(f"{name:>{width}}" for name in curves))
    for step in sorted({step for steps, _ in curves.values() for step in steps}):
        cells = []
        for steps, values in curves.values():
            column = values[:, steps.index(step)] if step in steps else np.empty(0)
            spread = f"{column.std(ddof=1):6.3f}" if len(column) > 1 else "     -"
            cells.append(f"{column.mean():6.3f} +- {spread}" if len(column) else "-")
        lines.append(f"{step:9d}" + "".join(f"{cell:>{width}}" for cell in cells))
    for label, of in (
        ("seeds", len),
        ("seconds", lambda own: round(np.mean([run["seconds"] for run in own]))),
    ):
        cells = [of([run for run in runs if run["config"] == name]) for name in curves]
        lines.append(f"{label:>9}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines) + "\n"


def draw(runs: Sequence[dict], key: str, out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((7, 4.5), dpi=100, layout="constrained")
    axes = figure.subplots()
    for i, (name, (steps, values)) in enumerate(group(runs, key).items()):
        for row in values:
            axes.plot(steps, row, color=f"C{i}", linewidth=0.8, alpha=0.5)
        axes.plot(steps, values.mean(0), color=f"C{i}", linewidth=2.2, marker=".", label=name)
    axes.set(xlabel="iteration", ylabel=key)
    axes.grid(alpha=0.3)
    axes.legend()
    write_png(figure, out)


if __name__ == "__main__":
    command.run(main)

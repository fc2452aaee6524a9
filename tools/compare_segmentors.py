"""Train segmentors on one schedule and print what they reach, beside the class that training has most of.

    python tools/compare_segmentors.py [CONFIG ...] [--cfg-options data_root=DIR] [--seeds 0]

The configs have one data set, metric and schedule and differ in the network. Every finished run is added to
--out at once, and a run that is there is not repeated: stop and start again as you like. The default is
estimated at 18 minutes on two CPU cores.
"""

import datetime
import json
import platform
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS

from pointsuite.engine import command
from pointsuite.engine.checkpoint import atomic_write

ROOT = Path(__file__).parents[1]
CONFIGS = [
    ROOT / "configs/resnet/resnet18_fpn_camvid-small.py",
    ROOT / "configs/davit/davit-t_fpn_camvid-small.py",
    ROOT / "configs/shvit/shvit-s1_fpn_camvid-small.py",
]
KEY = ("config", "seed", "options", "device")
METRIC_NAMES = ("mIoU", "mAcc", "aAcc")


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", type=Path, default=CONFIGS, metavar="CONFIG")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--cfg-options", nargs="+", action=command.KeyValue, default={}, metavar="KEY=VALUE")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/segmentors"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/camvid_small.json")
    args = parser.parse_args(argv)

    # where the data lie says nothing about a run
    options = {key: value for key, value in args.cfg_options.items() if key != "data_root"}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    runs = json.loads(args.out.read_text()) if args.out.exists() else []
    wanted = []
    for seed in args.seeds:
        for config in args.configs:
            run = {"config": config.stem, "seed": seed, "options": str(options), "device": device}
            wanted.append(tuple(run.values()))
            if wanted[-1] not in {tuple(done[key] for key in KEY) for done in runs}:
                runs.append(run | train_and_test(load_config(config, seed, args)))
                write_runs(args.out, runs)
    majority = score_majority(load_config(args.configs[0], args.seeds[0], args))
    print(format_table([run for run in runs if tuple(run[key] for key in KEY) in wanted], majority), end="")


def write_runs(path: Path, runs: list[dict]) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(runs, indent=1) + "\n").encode())


def load_config(config: Path, seed: int, args: Namespace) -> Config:
    work_dir = args.work_dir / f"{config.stem}_seed{seed}"
    arguments = command.build_parser("").parse_args([str(config), "--work-dir", str(work_dir)])
    arguments.seed, arguments.cfg_options = seed, dict(args.cfg_options)
    cfg = command.load_config(arguments)
    cfg.experiment_name = work_dir.name
    return cfg


def train_and_test(cfg: Config) -> dict:
    """Metrics in percent, wall times in seconds, and where they were measured."""
    runner = command.build_runner(cfg)
    began = time.perf_counter()
    runner.train()
    trained = time.perf_counter()
    metrics = runner.test()
    return {
        "parameters": sum(p.numel() for p in runner.model.parameters()),
        **{name: float(metrics[name]) for name in METRIC_NAMES},
        "train_seconds": round(trained - began, 1),
        "test_seconds": round(time.perf_counter() - trained, 1),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def score_majority(cfg: Config) -> dict:
    """What the test's metric gives the class that training labels have most of, everywhere."""
    command.build_runner(cfg)  # makes the config's library the one in which names are looked up
    metric = METRICS.build(cfg.test_evaluator)
    counts = sum(np.bincount(labels.ravel(), minlength=256) for labels in read_labels(cfg.train_dataloader))
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    metric.dataset_meta = dataset.metainfo
    classes = dataset.metainfo["classes"]
    winner = int(counts[: len(classes)].argmax())
    for labels in map(torch.from_numpy, read_labels(cfg.test_dataloader)):
        found, true = torch.full_like(labels, winner), labels
        metric.process({}, [{"pred_sem_seg": {"data": found}, "gt_sem_seg": {"data": true}}])
    scores = metric.evaluate(len(dataset))
    return {"config": f"only {classes[winner]!r}", **{name: float(scores[name]) for name in METRIC_NAMES}}


def read_labels(dataloader: dict) -> Iterator[np.ndarray]:
    dataset = DATASETS.build({**dataloader["dataset"], "pipeline": [{"type": "LoadAnnotations"}]})
    return (dataset[i]["gt_seg_map"] for i in range(len(dataset)))


def format_table(runs: Sequence[dict], majority: dict) -> str:
    """One row a config: means over the seeds, and the standard deviation (n - 1) of mIoU."""
    lines = [
        "percent, mean over the seeds; seconds of training",
        f"{'network':28} {'parameters':>10} {'mIoU':>6} {'+-':>5} {'mAcc':>6} {'aAcc':>6} seeds seconds",
    ]
    for name in dict.fromkeys(run["config"] for run in runs):
        own = [run for run in runs if run["config"] == name]
        miou, macc, aacc = (np.mean([run[metric] for run in own]) for metric in METRIC_NAMES)
        spread = f"{np.std([run['mIoU'] for run in own], ddof=1):5.2f}" if len(own) > 1 else "    -"
        seconds = np.mean([run["train_seconds"] for run in own])
        lines.append(
            f"{name:28} {own[0]['parameters']:10d} {miou:6.2f} {spread} {macc:6.2f} {aacc:6.2f} "
            f"{len(own):5d} {seconds:7.0f}"
        )
    miou, macc, aacc = (majority[metric] for metric in METRIC_NAMES)
    lines.append(f"{majority['config']:28} {0:10d} {miou:6.2f}     - {macc:6.2f} {aacc:6.2f}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command.run(main)

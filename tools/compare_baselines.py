"""Train RISurConv-s and the baselines under z and SO(3) rotation and print their accuracies side by side.

    python tools/compare_baselines.py [--networks NAME ...] [--seeds 0 1 2] [--epochs 8] [--points 256]

All networks get the same clouds, epochs, batches and optimiser; only the network and the training rotation
differ. Every finished run is added to --out at once, and a run that is there is not repeated: stop and
start again as you like. The defaults are cut down for two CPU cores; ``--epochs 30 --points 768`` is the
budget of the configs. Runs on a GPU where there is one. --out may hold runs of several budgets; the table
shows those of the one asked for.
"""

import datetime
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config

from pointsuite.datasets import DatasetError
from pointsuite.engine import command
from pointsuite.evaluation import PROTOCOLS, evaluate_protocols

ROOT = Path(__file__).parents[1]
NETWORKS = {  # as the table calls them, and their config
    "PointNet": "baselines/pointnet_kicad.py",
    "PointNet++ SSG": "baselines/pointnet2-ssg_kicad.py",
    "PointNet++ MSG": "baselines/pointnet2-msg_kicad.py",
    "DGCNN": "baselines/dgcnn_kicad.py",
    "RIConv++": "baselines/riconv2_kicad.py",
    "RISurConv-s": "risurconv/risurconv-s_kicad_z.py",
}
BUDGET = ("epochs", "points", "rotations", "device")  # what runs of one table have in common


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--points", type=int, default=256, help="of each cloud, in training and test")
    parser.add_argument("--rotations", type=int, default=3, help="of each test shape")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/baselines"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/rotation_protocols.json")
    args = parser.parse_args(argv)
    if min(args.epochs, args.points, args.rotations) < 1:
        parser.error("--epochs, --points and --rotations must be at least 1")
    args.device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    budget = {key: getattr(args, key) for key in BUDGET}

    runs = json.loads(args.out.read_text()) if args.out.exists() else []
    done = {run_key(run) for run in runs}
    for seed in args.seeds:  # seed by seed: a table that was stopped has all networks
        for name in args.networks:
            for rotation in ("z", "SO3"):
                run = {"network": name, "train_rotation": rotation, "seed": seed, **budget}
                if run_key(run) in done:
                    continue
                runs.append(run | train_and_test(run, args.work_dir))
                write_atomically(args.out, json.dumps(runs, indent=1) + "\n")
                found = ", ".join(f"{key} {value:.2f}" for key, value in runs[-1]["accuracy"].items())
                print(f"{name}, trained under {rotation}, seed {seed}: {found}", flush=True)
    wanted = [
        run
        for run in runs
        if all(run[key] == value for key, value in budget.items())
        and run["network"] in args.networks
        and run["seed"] in args.seeds
    ]
    print(format_table(wanted), end="")


def run_key(run: dict) -> tuple:
    return tuple(run[key] for key in ("network", "train_rotation", "seed", *BUDGET))


def make_config(run: dict, work_dir: Path) -> Config:
    """The config of one run: rotation, seed, and the budget over the config's own."""
    path = ROOT / "configs" / NETWORKS[run["network"]]
    cfg = Config.fromfile(path)
    name = f"{path.stem}_{run['train_rotation']}_{run['points']}x{run['epochs']}_seed{run['seed']}"
    cfg.experiment_name = name
    cfg.work_dir = str(work_dir / name)
    cfg.launcher = "none"
    cfg.randomness = {"seed": run["seed"]}
    cfg.log_level = "WARNING"
    cfg.visualizer = None
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None

    train, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    train.seed = run["seed"]
    steps = {step.type: step for step in train.pipeline}
    steps["RandomRotate"].mode = run["train_rotation"].lower()
    steps["SamplePoints"].num = run["points"]
    test.pipeline = [{"type": "SamplePoints", "num": run["points"]}, *test.pipeline]

    warmup, cosine = cfg.param_scheduler
    warmup.end = cosine.begin = warmup.end * run["epochs"] // cfg.train_cfg.max_epochs
    cosine.end = cfg.train_cfg.max_epochs = run["epochs"]
    cosine.T_max = cosine.end - cosine.begin
    cfg.param_scheduler = [warmup, cosine] if warmup.end else [cosine]
    cfg.default_hooks.checkpoint.interval = run["epochs"]
    return cfg


def train_and_test(run: dict, work_dir: Path) -> dict:
    """Accuracies in percent, wall times in seconds, and where they were measured."""
    runner = command.build_runner(make_config(run, work_dir))
    began = time.perf_counter()
    runner.train()
    trained = time.perf_counter()
    protocols = [protocol for protocol in PROTOCOLS if protocol.startswith(f"{run['train_rotation']}/")]
    results = evaluate_protocols(
        runner.model,
        runner.build_dataloader(runner.cfg.test_dataloader).dataset,
        protocols,
        num_rotations=run["rotations"],
        device=next(runner.model.parameters()).device,
    )
    tested = time.perf_counter()
    return {
        "parameters": sum(p.numel() for p in runner.model.parameters()),
        "accuracy": {protocol: result.summary()["overall_accuracy"] for protocol, result in results.items()},
        "mean_class_accuracy": {
            protocol: result.summary()["mean_class_accuracy"] for protocol, result in results.items()
        },
        "train_seconds": round(trained - began, 1),
        "test_seconds": round(tested - trained, 1),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def format_table(runs: Sequence[dict]) -> str:
    """One row a network: overall accuracy in percent, mean and standard deviation of the seeds (n - 1)."""
    lines = [
        "overall accuracy in percent, mean and standard deviation over the seeds; seconds of the fastest run",
        " ".join(
            [f"{'network':15}", f"{'parameters':>10}", *(f"{p:>15}" for p in PROTOCOLS), "seeds seconds"]
        ),
    ]
    for name in NETWORKS:
        own = [run for run in runs if run["network"] == name]
        if not own:
            continue
        cells = []
        for protocol in PROTOCOLS:
            values = [run["accuracy"][protocol] for run in own if protocol in run["accuracy"]]
            spread = f"{np.std(values, ddof=1):5.2f}" if len(values) > 1 else "    -"
            cells.append(f"{np.mean(values):6.2f} +- {spread}" if values else f"{'-':>15}")
        seconds = min(run["train_seconds"] + run["test_seconds"] for run in own)
        seeds = len({run["seed"] for run in own})
        cells += [f"{seeds:5d}", f"{seconds:7.0f}"]
        lines.append(" ".join([f"{name:15}", f"{own[0]['parameters']:10d}", *cells]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command.run(main, DatasetError)

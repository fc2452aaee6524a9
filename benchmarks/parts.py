"""Say where the time of RISurConv's networks goes, part by part.

Examples:
    python benchmarks/parts.py --threads 2
    python benchmarks/parts.py --model risurconv_partseg --batch 8 --points 2048

A part is an operator of the geometry, or what a module does itself, without parts inside it. PyTorch's
profiler times evaluations and training steps; each backward function counts for the part whose forward
operator it belongs to. A row gives medians of several calls in units, one being a 2048x2048 float32 matrix
product that takes turns with them: of evaluation, and of a training step forwards and backwards. The profiler
itself takes time; "all" is without it. Writes benchmark_parts_<model>_cpu.json and .txt to `--out`.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import pointsuite  # before PyTorch: it sets how threads wait  # isort: skip
import torch
from points import make_calls
from torch import nn

from pointsuite.engine import command, profiling
from pointsuite.engine.part_times import time_parts
from pointsuite.engine.profiling import measure_time
from pointsuite.engine.tables import align_columns

OPERATORS = {
    "pointsuite::farthest_point_sample": "sampling",
    "pointsuite::knn": "neighbours",
    "pointsuite::surface_features": "surface features",
}
MODULES = {
    "SurfaceEmbedding": "embedding of the features",
    "NeighbourAttention": "attention among neighbours",
    "SurfaceConv": "convolution and maximum",
    "PointAttention": "attention among points",
    "EncoderLayer": "encoder",
}


def name_parts(network: nn.Module) -> dict[nn.Module, str]:
    """The modules that make a part of their own."""
    parts = {
        module: MODULES[kind] for module in network.modules() if (kind := type(module).__name__) in MODULES
    }
    return parts | {module: name for name, module in network.named_children() if name == "head"}


def measure(name: str, batch: int, points: int, rounds: int) -> dict:
    """Units of the whole and of its parts, medians over the rounds; in a round of either all take turns."""
    network, calls = make_calls(name, batch, points, "cpu")
    marks = name_parts(network), OPERATORS
    for call in calls.values():  # compile
        call()
    # all that is timed as a whole first: what the profiler keeps would slow it down
    whole = [{what: measure_time(call, "cpu") for what, call in calls.items()} for _ in range(rounds)]
    told = ("evaluation", "training step")
    parts = [[time_parts(calls[what], *marks) for what in told] for _ in range(rounds)]
    unit = statistics.median(ms["unit"] for ms in whole)
    units = {what: statistics.median(ms[what] / ms["unit"] for ms in whole) for what in told}

    def median(of_round: Callable) -> float:
        return statistics.median(map(of_round, parts)) / unit

    names = {name: None for of_round in parts for found in of_round for name in found}
    rows = [
        {
            "part": name,
            "evaluation": median(lambda r, n=name: r[0].get(n, (0, 0))[0]),
            "forward": median(lambda r, n=name: r[1].get(n, (0, 0))[0]),
            "backward": median(lambda r, n=name: r[1].get(n, (0, 0))[1]),
        }
        for name in names
    ]
    rows.sort(key=lambda row: -row["forward"] - row["backward"])
    size = {"model": name, "batch": batch, "points": points, "rounds": rounds}
    return size | {"unit_ms": unit, "units": units, "rows": rows}


def table(report: dict) -> str:
    lines = [("part", "evaluation", "training, forward", "training, backward")]
    for row in report["rows"]:
        lines.append((row["part"], *(f"{row[what]:.2f}" for what in ("evaluation", "forward", "backward"))))
    lines.append(
        ("all", f"{report['units']['evaluation']:.2f}", f"{report['units']['training step']:.2f}", "")
    )
    size = f"{report['model']}, {report['batch']} x {report['points']:,}, unit {report['unit_ms']:.1f} ms"
    return f"{profiling.format_head(report)}{size}\n{align_columns(lines)}\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("--model", default="risurconv_cls", help="a network of RISurConv")
    parser.add_argument("--batch", type=int, default=16, help="clouds")
    parser.add_argument("--points", type=int, default=1024, help="a cloud")
    parser.add_argument("--rounds", type=int, default=7, help="calls of each")
    parser.add_argument("--threads", type=int, help="PyTorch's choice by default")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    args = parser.parse_args(argv)
    known = [name for name in pointsuite.list_models() if name.startswith("risurconv")]
    if args.model not in known:
        parser.error(f"--model wants one of {known}, found {args.model!r}")
    for name in ("batch", "points", "rounds"):
        if (value := getattr(args, name)) < 1:
            parser.error(f"--{name} must be at least 1, found {value}")
    if args.threads:
        torch.set_num_threads(args.threads)
    report = profiling.begin_report("benchmarks/parts.py", argv, "cpu")
    report |= measure(args.model, args.batch, args.points, args.rounds)
    profiling.write_report(args.out / f"benchmark_parts_{args.model}_cpu", report, table(report))


if __name__ == "__main__":
    main()

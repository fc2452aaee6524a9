"""Time the networks of images: `python tools/benchmark.py images ...`.

    python tools/benchmark.py images --model davit_tiny shvit_s1 --size 224 --batch 8 --threads 2
    python tools/benchmark.py images --model davit_tiny --batch 1 --growth
    python tools/benchmark.py images --model configs/hat/hat_srx4_df2k.py --size 64 --batch 1

Evaluation of random images by `dense.create_model(NAME)`; or by the model of a config of dense, up to its
network's outputs: then a batch is of what its task takes, as pairs of images or clips. All models of a call
take turns in one process with a 2048x2048 float32 matrix product, the unit in which a batch is timed, too.
"peak" is the most memory that the tensors of a batch hold at once, besides the weights; MACs are those of one
image. `--growth` times each model at several sizes instead and fits t = c * pixels^a: a = 1 is linear, 2
quadratic. Writes benchmark_<name>_<device>.json and .txt to `--out`.
"""

import argparse
import datetime
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import dense  # before PyTorch: pointsuite, which it imports, sets how threads wait  # isort: skip
import numpy as np
import torch
from get_flops import build_config, example_images
from measure import count_costs, machine, peak_memory, take_turns
from torch import nn

import pointsuite
from dense.registry import ZOO

GROWTH = (112, 224, 448)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmark.py images", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", nargs="+", required=True, metavar="NAME", help="of dense's zoo, or a config"
    )
    parser.add_argument("--size", type=int, nargs="+", default=[224], metavar="N", help="H or H W")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--growth",
        type=int,
        nargs="*",
        metavar="SIZE",
        help=f"time at these sizes instead (default: {' '.join(map(str, GROWTH))})",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="PyTorch's choice by default")
    parser.add_argument("--amp", action="store_true", help="mixed precision in bfloat16")
    parser.add_argument(
        "--channels-last", action="store_true", help="images and weights in that memory format"
    )
    parser.add_argument("--seconds", type=float, default=5, help="for each model, at least 3 rounds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--name", help="of the files that are written (default: images, or growth)")
    args = parser.parse_args(argv)
    for name in args.model:
        if name not in ZOO and not name.endswith(".py"):
            try:
                dense.create_model(name)
            except ValueError as error:  # it says what there is
                parser.error(str(error))
    if len(args.size) > 2 or min(*args.size, args.batch, *(args.growth or [1])) < 1:
        parser.error("--size wants H or H W; sizes and --batch must be at least 1")
    if args.growth is not None and len(args.growth or GROWTH) < 2:
        parser.error("--growth wants at least two sizes to fit a power of")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda wants an NVIDIA GPU, found none")
    if args.threads:
        torch.set_num_threads(args.threads)
    sizes = [(side, side) for side in args.growth or GROWTH]
    if args.growth is None:
        sizes = [(args.size[0], args.size[-1])]
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(args.device),
        "versions": f"torch {torch.__version__}, pointsuite {pointsuite.__version__}",
        "command": shlex.join(["python", "tools/benchmark.py", "images", *argv]),
        "rows": [row for size in sizes for row in time_models(args, size)],
    }
    if args.growth is not None:
        report["growth"] = {name: fit_growth(report["rows"], name) for name in args.model}
    args.out.mkdir(parents=True, exist_ok=True)
    name = args.name or ("images" if args.growth is None else "growth")
    stem = args.out / f"benchmark_{name}_{args.device}"
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    stem.with_suffix(".txt").write_text(table(report))
    print(table(report), end="")


def time_models(args: argparse.Namespace, size: tuple[int, int]) -> list[dict]:
    """A row for each model at one size, all timed in turns."""
    models = {name: build(name, args) for name in args.model}
    inputs = {name: example_images(model, args.batch, size).to(args.device) for name, model in models.items()}
    if args.channels_last:
        inputs = {n: x.contiguous(memory_format=torch.channels_last) for n, x in inputs.items()}
    matrix = torch.randn(2048, 2048, device=args.device)
    calls = {name: evaluation(model, inputs[name], args) for name, model in models.items()}
    # before the timing: what a model remembers of inference mode could not be trained with
    macs = {n: count_costs(m, evaluation(m, inputs[n][:1], args))[""].macs for n, m in models.items()}
    peaks = {name: peak_memory(call, args.device) for name, call in calls.items()}
    parts = {"unit": lambda: matrix @ matrix, **calls}
    with torch.inference_mode():
        times = take_turns(parts, args.device, args.seconds * len(calls))
    return [
        {
            "model": name,
            "batch": args.batch,
            "size": list(size),
            "parameters": sum(p.numel() for p in model.parameters()),
            "macs": macs[name],
            "ms": times[name],
            "unit_ms": times["unit"],
            "units": times[name] / times["unit"],
            "images_per_second": 1e3 * args.batch / times[name],
            "peak_bytes": peaks[name],
        }
        for name, model in models.items()
    ]


def build(name: str, args: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    model = build_config(name, {})[0] if name.endswith(".py") else dense.create_model(name)
    model = model.to(args.device).eval()
    return model.to(memory_format=torch.channels_last) if args.channels_last else model


def evaluation(model: nn.Module, images: torch.Tensor, args: argparse.Namespace) -> Callable:
    def run():
        with torch.autocast(args.device, torch.bfloat16, enabled=args.amp):
            return model(images)

    return run


def fit_growth(rows: list[dict], name: str) -> dict[str, float]:
    """The exponents of pixels with which time and peak memory grow, by least squares of logarithms."""
    rows = [row for row in rows if row["model"] == name]
    pixels = np.log([row["size"][0] * row["size"][1] for row in rows])
    return {
        key: float(np.polyfit(pixels, np.log([row[value] for row in rows]), 1)[0])
        for key, value in (("time", "units"), ("memory", "peak_bytes"))
    }


def table(report: dict) -> str:
    head = f"{report['date']}  {report['machine']}  {report['versions']}\n{report['command']}\n"
    lines = [["model", "batch", "parameters", "MACs", "images/s", "ms", "units", "peak MB"]]
    for row in report["rows"]:
        height, width = row["size"]
        lines.append(
            [
                Path(row["model"]).stem,
                f"{row['batch']} x {height} x {width}",
                f"{row['parameters']:,}",
                f"{row['macs'] / 1e9:.3f} G",
                f"{row['images_per_second']:.2f}",
                f"{row['ms']:.1f}",
                f"{row['units']:.3g}",
                f"{row['peak_bytes'] / 1e6:.1f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        )
        + "\n"
        for line in lines
    )
    for name, grown in report.get("growth", {}).items():
        text += f"{name}: time ~ pixels^{grown['time']:.2f}, memory ~ pixels^{grown['memory']:.2f}\n"
    return head + text

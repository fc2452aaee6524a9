"""Time attention of sequences at growing length: which of them grows linearly, and from where it is faster.

Examples:
    python benchmarks/sequence.py --threads 2
    python benchmarks/sequence.py --operators lightning --lengths 1024 65536 --mode evaluation

"softmax" is PyTorch's causal scaled_dot_product_attention, which is timed up to --longest-softmax tokens: its
time grows with their square. Peers of a length take turns in one process. "growth" is the time beside that
of the length before, divided by that of the tokens: 1 is linear. Writes benchmark_sequence_<device>.json,
.txt and .png to `--out`, with `--name` behind "sequence".
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import dense  # before PyTorch: pointsuite, which it imports, sets how threads wait  # noqa: F401  # isort: skip
import torch
from torch import Tensor
from torch.nn import functional as F

from dense.ops import combiner_attention, draw_features, head_slopes, lightning_attention, toeplitz_attention
from pointsuite.engine import command, profiling
from pointsuite.engine.profiling import take_turns
from pointsuite.engine.tables import align_columns

MODES = ("evaluation", "gradients")


class Inputs(NamedTuple):
    """Queries, keys and values (B, heads, n, d), of a row."""

    q: Tensor
    k: Tensor
    v: Tensor


def lightning(inputs: Inputs) -> Callable[[], Tensor]:
    slopes = head_slopes(inputs.q.shape[1]).to(inputs.q.device)
    return lambda: lightning_attention(*inputs, slopes)[0]


def softmax(inputs: Inputs) -> Callable[[], Tensor]:
    return lambda: F.scaled_dot_product_attention(*inputs, is_causal=True)


def toeplitz(method: str, clip: int | None = None) -> Callable[[Inputs], Callable[[], Tensor]]:
    """Kernelised attention with relative positions, 64 features, by one of its methods."""

    def prepare(inputs: Inputs) -> Callable[[], Tensor]:
        heads, length, width = inputs.q.shape[1:]
        features = draw_features(64, width).to(inputs.q)
        bias = inputs.q.new_zeros(heads, 2 * length - 1 if clip is None else 2 * clip + 1)
        options = {"causal": True, "clip": clip, "method": method}
        return lambda: toeplitz_attention(*inputs, features, bias, **options)

    return prepare


def combiner(factorization: str) -> Callable[[Inputs], Callable[[], Tensor]]:
    return lambda inputs: lambda: combiner_attention(*inputs, factorization)


# from a row's inputs to what is timed; another operator is another line
OPERATORS: dict[str, Callable[[Inputs], Callable[[], Tensor]]] = {
    "softmax": softmax,
    "lightning": lightning,
    "toeplitz-pairs": toeplitz("pairs"),
    "toeplitz-fft": toeplitz("fft"),
    "toeplitz-blocks": toeplitz("blocks", clip=64),
    "combiner-fixed": combiner("fixed"),
    "combiner-mixture": combiner("mixture"),
    "combiner-logsparse": combiner("logsparse"),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("--operators", nargs="+", choices=OPERATORS, default=["softmax", "lightning"])
    parser.add_argument("--lengths", nargs="+", type=command.whole(1), default=[1024, 2048, 4096, 16384])
    parser.add_argument("--longest-softmax", type=command.whole(1), default=4096, metavar="N")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=["gradients"])
    parser.add_argument("--batch", type=command.whole(1), default=1)
    parser.add_argument("--heads", type=command.whole(1), default=8)
    parser.add_argument("--width", type=command.whole(1), default=64, help="of a head")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--name", default="", help="of the report")
    profiling.add_timing_options(parser, seconds=3)
    args = parser.parse_args(argv)
    profiling.check_timing_options(parser, args)
    rows = [row for mode in args.mode for row in time_mode(args, mode)]
    report = profiling.begin_report("benchmarks/sequence.py", argv, args.device) | {
        "batch": args.batch,
        "heads": args.heads,
        "width": args.width,
        "dtype": args.dtype,
        "rows": rows,
    }
    name = "_".join(filter(None, ("benchmark_sequence", args.name, args.device)))
    profiling.write_report(args.out / name, report, table(report))
    plot(report, args.out / f"{name}.png")


def time_mode(args: argparse.Namespace, mode: str) -> list[dict]:
    """A row for each length and operator."""
    rows, before = [], {}
    for length in sorted(args.lengths):
        names = [name for name in args.operators if name != "softmax" or length <= args.longest_softmax]
        with torch.set_grad_enabled(mode == "gradients"):
            times = take_turns({name: make_call(args, name, length, mode) for name in names}, args.device,
                               args.seconds)  # fmt: skip
        for name, ms in times.items():
            row = {"mode": mode, "length": length, "operator": name, "ms": ms, "growth": None}
            if name in before:
                old_length, old_ms = before[name]
                row["growth"] = ms / old_ms / (length / old_length)
            row["softmax_ratio"] = ms / times["softmax"] if "softmax" in times else None
            rows.append(row)
            before[name] = length, ms
    return rows


def make_call(args: argparse.Namespace, name: str, length: int, mode: str) -> Callable[[], object]:
    """What is timed: the operator, or the gradients of its inputs, forward pass included."""
    torch.manual_seed(0)
    options = {
        "device": args.device,
        "dtype": getattr(torch, args.dtype),
        "requires_grad": mode == "gradients",
    }
    shape = (args.batch, args.heads, length, args.width)
    inputs = Inputs(*(torch.randn(shape, **options) for _ in range(3)))
    call = OPERATORS[name](inputs)
    if mode == "evaluation":
        return call
    grad = torch.randn_like(call())
    return lambda: torch.autograd.grad(call(), inputs, grad)


def table(report: dict) -> str:
    head = ["mode", "tokens", "", "ms", "growth", "of softmax's time"]
    rows = [
        [
            row["mode"],
            str(row["length"]),
            row["operator"],
            f"{row['ms']:.2f}",
            *("" if row[key] is None else f"{row[key]:.2f}" for key in ("growth", "softmax_ratio")),
        ]
        for row in report["rows"]
    ]
    return profiling.format_head(report) + align_columns([head, *rows]) + "\n"


def plot(report: dict, path: Path) -> None:
    """Milliseconds over tokens, log-log, one panel a mode."""
    from matplotlib.figure import Figure

    modes = list(dict.fromkeys(row["mode"] for row in report["rows"]))
    figure = Figure((4.5 * len(modes), 3.6), layout="constrained")
    for axes, mode in zip(figure.subplots(1, len(modes), squeeze=False).flat, modes, strict=True):
        rows = [row for row in report["rows"] if row["mode"] == mode]
        for name in dict.fromkeys(row["operator"] for row in rows):
            found = [(row["length"], row["ms"]) for row in rows if row["operator"] == name]
            axes.loglog(*zip(*found, strict=True), marker="o", markersize=3, label=name)
        axes.set(title=mode, xlabel="tokens", ylabel="ms")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.suptitle(f"{report['machine']}, {report['date']}", fontsize=9)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    command.run(main)

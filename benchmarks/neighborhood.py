"""Time neighborhood attention beside dense windows of as many products, and count its memory.

Examples:
    python benchmarks/neighborhood.py --threads 2
    python benchmarks/neighborhood.py --shape 56 56 --heads 2 --dilation 8 --batch 8 --threads 2

"windows" is PyTorch's attention in windows that do not overlap, of as many keys to a query, already cut out:
the floor. "portable" is our form of PyTorch's operators. "natten" is that package, where it is installed
(`pip install natten==0.21.7`), evaluation alone, without the bias, which it does not have; "no bias" is ours
likewise. By default the maps are those of NAT-Mini at 224 pixels. Evaluation and gradients (forward and
backward) take turns in one process with a 2048x2048 float32 matrix product, the unit. "peak" is the most
memory that tensors hold at once, besides inputs. Writes benchmark_neighborhood_<device>.json and .txt to
`--out`.
"""

import argparse
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from math import prod

import dense  # before PyTorch: pointsuite, which it imports, sets how threads wait  # noqa: F401  # isort: skip
import torch
from torch.nn import functional as F

from dense.ops import neighborhood_attention
from pointsuite.engine import command, profiling
from pointsuite.engine.profiling import peak_memory, take_turns
from pointsuite.engine.tables import align_columns

CASES = (((56, 56), 2, 1), ((56, 56), 2, 8), ((28, 28), 4, 1), ((14, 14), 8, 1), ((7, 7), 16, 1))


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs="+", metavar="N", help="of one map instead, 1 to 3 axes")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--dilation", type=int, default=1)
    parser.add_argument("--window", type=int, default=7)
    parser.add_argument("--width", type=int, default=32, help="of a head")
    parser.add_argument("--batch", type=int, default=8)
    profiling.add_timing_options(parser, seconds=10)
    args = parser.parse_args(argv)
    if min(args.heads, args.dilation, args.window, args.width, args.batch, *(args.shape or [1])) < 1:
        parser.error("numbers must be at least 1")
    profiling.check_timing_options(parser, args)
    cases = [(tuple(args.shape), args.heads, args.dilation)] if args.shape else CASES
    report = profiling.begin_report("benchmarks/neighborhood.py", argv, args.device) | {
        "batch": args.batch,
        "window": args.window,
        "width": args.width,
        "rows": [row for case in cases for grad in (False, True) for row in time_row(args, *case, grad)],
    }
    profiling.write_report(args.out / f"benchmark_neighborhood_{args.device}", report, table(report))


def time_row(
    args: argparse.Namespace, shape: tuple[int, ...], heads: int, dilation: int, gradients: bool
) -> list[dict]:
    """A row for each peer, timed in turns."""
    calls = make_calls(args, shape, heads, dilation, gradients)
    peaks = {
        name: None if name == "natten" else peak_memory(call, args.device, gradients)
        for name, call in calls.items()
    }
    matrix = torch.randn(2048, 2048, device=args.device)
    with torch.set_grad_enabled(gradients):
        times = take_turns({**calls, "unit": lambda: matrix @ matrix}, args.device, args.seconds)
    return [
        {
            "shape": shape,
            "heads": heads,
            "dilation": dilation,
            "mode": "gradients" if gradients else "evaluation",
            "peer": name,
            "ms": times[name],
            "units": times[name] / times["unit"],
            "time_ratio": times[name] / times["windows"],
            "peak_bytes": peaks[name],
        }
        for name in calls
    ]


def make_calls(
    args: argparse.Namespace, shape: tuple[int, ...], heads: int, dilation: int, gradients: bool
) -> dict[str, Callable]:
    """By name, functions without arguments."""
    keys, options = args.window ** len(shape), {"device": args.device, "requires_grad": gradients}
    q, k, v = (torch.randn(args.batch, *shape, heads, args.width, **options) for _ in range(3))
    bias = torch.randn(heads, *[2 * args.window - 1] * len(shape), **options)
    count = -(-args.batch * prod(shape) // keys)
    dense_q, dense_k, dense_v = (torch.randn(count, heads, keys, args.width, **options) for _ in range(3))
    dense_bias = torch.randn(1, heads, keys, keys, **options)

    def ours(own: torch.Tensor | None, backend: str = "auto") -> torch.Tensor:
        return neighborhood_attention(q, k, v, args.window, dilation, bias=own, backend=backend)

    peers = {
        "windows": (
            lambda: F.scaled_dot_product_attention(dense_q, dense_k, dense_v, dense_bias),
            (dense_q, dense_k, dense_v, dense_bias),
        ),
        "ours": (lambda: ours(bias), (q, k, v, bias)),
        "no bias": (lambda: ours(None), (q, k, v)),
        "portable": (lambda: ours(bias, "torch"), (q, k, v, bias)),
    }
    if not gradients and find_spec("natten"):
        import natten

        attend = (natten.na1d, natten.na2d, natten.na3d)[len(shape) - 1]
        peers["natten"] = lambda: attend(q, k, v, args.window, dilation=dilation), (q, k, v)
    if not gradients:
        return {name: call for name, (call, _) in peers.items()}

    def differentiate(call: Callable, leaves: tuple[torch.Tensor, ...]) -> Callable:
        return lambda: torch.autograd.grad(call().sum(), leaves)

    return {name: differentiate(*peer) for name, peer in peers.items()}


def table(report: dict) -> str:
    head = ["map", "heads", "dilation", "mode", "", "ms", "units", "of windows' time", "peak MB"]
    rows = [
        [
            "x".join(map(str, row["shape"])),
            str(row["heads"]),
            str(row["dilation"]),
            row["mode"],
            row["peer"],
            f"{row['ms']:.2f}",
            f"{row['units']:.2f}",
            f"{row['time_ratio']:.2f}",
            "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.1f}",
        ]
        for row in report["rows"]
    ]
    return profiling.format_head(report) + align_columns([head, *rows]) + "\n"


if __name__ == "__main__":
    command.run(main)

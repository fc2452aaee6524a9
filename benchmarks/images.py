"""Time networks of images, of clips and of pairs of images, and count their operations and memory.

Examples:
    python benchmarks/images.py --model davit_tiny shvit_s1 --size 224 --batch 8 --threads 2
    python benchmarks/images.py --model davit_tiny --batch 1 --growth
    python benchmarks/images.py --model configs/hat/hat_srx4_df2k.py --size 64 --batch 1
    python benchmarks/images.py --model convit_tiny timm:convit_tiny --threads 2     # pip install timm
    python benchmarks/images.py --model vit_small "sparsifiner_deit_small(keep_rate=0.25)" --threads 2

Evaluation of random images by `dense.create_model(NAME)`, or NAME(option=value, ...); by timm's model; or by
the model of a config of dense, up to its network's outputs: then a batch is of what its task takes, as pairs
of images or clips. All models of a call take turns in one process with a 2048x2048 float32 matrix product,
the unit in which a batch is timed, too. "floor" is that time in units of the model's multiply-adds at the
rate of the faster of PyTorch's two such products on CPUs, its own and oneDNN's. "peak" is the most memory
that the tensors of a batch hold at once, besides the weights; MACs are those of one image. `--growth` times
each model at several sizes instead and fits t = c * pixels^a: a = 1 is linear, 2 quadratic. Writes
benchmark_<name>_<device>.json and .txt to `--out`.
"""

import argparse
import ast
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import dense  # before PyTorch: pointsuite, which it imports, sets how threads wait  # isort: skip
import numpy as np
import torch
from torch import nn

from dense.registry import ZOO
from pointsuite.engine import command, profiling
from pointsuite.engine.profiling import count_costs, example_inputs, peak_memory, take_turns
from pointsuite.engine.tables import align_columns

GROWTH = (112, 224, 448)
TIMM = "timm:"


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument(
        "--model", nargs="+", required=True, metavar="NAME", help="of dense's zoo, timm:NAME, or a config"
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
    parser.add_argument("--amp", action="store_true", help="mixed precision in bfloat16")
    parser.add_argument(
        "--channels-last", action="store_true", help="images and weights in that memory format"
    )
    profiling.add_timing_options(parser, seconds=5, what="model")
    parser.add_argument("--name", help="of the files that are written (default: images, or growth)")
    args = parser.parse_args(argv)
    for name in args.model:
        if name not in ZOO and not name.endswith(".py") and not name.startswith(TIMM):
            try:
                create(name)
            except (SyntaxError, ValueError) as error:  # it says what there is
                parser.error(str(error))
    if len(args.size) > 2 or min(*args.size, args.batch, *(args.growth or [1])) < 1:
        parser.error("--size wants H or H W; sizes and --batch must be at least 1")
    if args.growth is not None and len(args.growth or GROWTH) < 2:
        parser.error("--growth wants at least two sizes to fit a power of")
    profiling.check_timing_options(parser, args)
    sizes = [(side, side) for side in args.growth or GROWTH]
    if args.growth is None:
        sizes = [(args.size[0], args.size[-1])]
    report = profiling.begin_report("benchmarks/images.py", argv, args.device)
    report["rows"] = [row for size in sizes for row in time_models(args, size)]
    if args.growth is not None:
        report["growth"] = {name: fit_growth(report["rows"], name) for name in args.model}
    name = args.name or ("images" if args.growth is None else "growth")
    profiling.write_report(args.out / f"benchmark_{name}_{args.device}", report, table(report))


def time_models(args: argparse.Namespace, size: tuple[int, int]) -> list[dict]:
    """A row for each model at one size, all timed in turns."""
    models = {name: build(name, args) for name in args.model}
    inputs = {name: make_inputs(model, args, size) for name, model in models.items()}
    matrix = torch.randn(2048, 2048, device=args.device)
    calls = {name: evaluation(model, inputs[name], args) for name, model in models.items()}
    # before the timing: what a model remembers of inference mode could not be trained with
    macs = {
        n: count_costs(m, evaluation(m, [x[:1] for x in inputs[n]], args))[""].macs for n, m in models.items()
    }
    peaks = {name: peak_memory(call, args.device) for name, call in calls.items()}
    parts = {"unit": lambda: matrix @ matrix, "onednn": lambda: dense.ops.linear(matrix, matrix), **calls}
    with torch.inference_mode():
        times = take_turns(parts, args.device, args.seconds * len(calls))
    rate = 2048**3 / min(times["unit"], times["onednn"])  # multiply-adds a millisecond
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
            "floors": times[name] / (args.batch * macs[name] / rate),
            "images_per_second": 1e3 * args.batch / times[name],
            "peak_bytes": peaks[name],
        }
        for name, model in models.items()
    ]


def build(name: str, args: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    if name.endswith(".py"):
        model = command.build_model(command.read_config(name))
    elif name.startswith(TIMM):
        model = import_timm().create_model(name.removeprefix(TIMM))
    else:
        model = create(name)
    model = model.to(args.device).eval()
    return model.to(memory_format=torch.channels_last) if args.channels_last else model


def create(name: str) -> nn.Module:
    """Of "NAME" or "NAME(option=value, ...)", the values as in Python."""
    call = ast.parse(name, mode="eval").body if "(" in name else None
    if call is None:
        return dense.create_model(name)
    if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
        raise ValueError(f"--model {name!r}: wanted NAME or NAME(option=value, ...)")
    return dense.create_model(call.func.id, **{k.arg: ast.literal_eval(k.value) for k in call.keywords})


def import_timm():
    """timm, with a stand-in for torchvision, of which its networks need nothing."""
    sys.meta_path.insert(0, StandIn())
    import timm

    return timm


class AnyName(type):
    """A class that has every attribute: another such class."""

    def __getattr__(cls, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return AnyName(name, (), {})


class StandIn(MetaPathFinder, Loader):
    """Imports any module of torchvision as one whose names are all classes of nothing."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__version__ = "0"
        anything = AnyName(spec.name, (), {})
        module.__getattr__ = lambda name: getattr(anything, name)  # not __file__ and its like
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


def make_inputs(model: nn.Module, args: argparse.Namespace, size: tuple[int, int]) -> list[torch.Tensor]:
    inputs = [x.to(args.device) for x in example_inputs(model, args.batch, size)]
    if args.channels_last:
        inputs = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
    return inputs


def evaluation(model: nn.Module, inputs: Sequence[torch.Tensor], args: argparse.Namespace) -> Callable:
    def run():
        with torch.autocast(args.device, torch.bfloat16, enabled=args.amp):
            return model(*inputs)

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
    lines = [["model", "batch", "parameters", "MACs", "images/s", "ms", "units", "floor", "peak MB"]]
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
                f"{row['floors']:.2f}",
                f"{row['peak_bytes'] / 1e6:.1f}",
            ]
        )
    text = align_columns(lines) + "\n"
    for name, grown in report.get("growth", {}).items():
        text += f"{name}: time ~ pixels^{grown['time']:.2f}, memory ~ pixels^{grown['memory']:.2f}\n"
    return profiling.format_head(report) + text


if __name__ == "__main__":
    command.run(main)

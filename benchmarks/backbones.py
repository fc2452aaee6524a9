"""Measure every backbone of images of the zoo in one run that can be stopped and continued.

Examples:
    python benchmarks/backbones.py --threads 2 --parts memory speed growth --peers
    python benchmarks/backbones.py --threads 1 --parts field independence
    python benchmarks/backbones.py --threads 1 --parts training --variants smallest \\
        --cfg-options data_root=data/cifar10_jpeg
    python benchmarks/backbones.py --parts --write-docs
    python benchmarks/backbones.py --only "davit*" "shvit*" --parts speed

Of each family two variants: that of fewest parameters, for images of 224 pixels where there are such, and
that nearest to 25 million. Whatever is measured is added to benchmark_backbones_<device>.json in `--out` at
once, and not measured again unless the settings differ; stop and start as you like. Parts:

memory        parameters, multiply-adds of an image, most memory that the tensors of a batch of the last of
              --batches hold at once, besides the weights
speed         milliseconds of a batch, in float32 and (autocast) bfloat16, in turns with a 2048x2048 product
              by PyTorch's and by oneDNN's routine: "floor" is the time as a multiple of that of the
              multiply-adds at the rate of the faster of the two
growth        milliseconds of one image at the sizes of --growth, to maps: some heads take one size alone
field         effective receptive field of the last map, random weights: least share of the pixels that hold
              half of the gradient of its middle, mean over 4 random images
independence  largest relative change of a sample's logits by the samples beside it
training      top-1 on photographs after --config, the same for all, from random weights

Times are medians of 3 rounds at least; a call of more than half a second is timed once after a warm-up, one
of more than 2 seconds at once.
What would take longer than `--budget PART=SECONDS` allows is left out, says so, and is tried again with a
larger budget. Each timing notes how many cores other processes kept busy meanwhile; tables mark those above
0.1 with an asterisk, and `--again` makes them anew. `--peers` times timm's networks in turns with ours, for
three times --seconds (pip install timm). `--write-docs` writes tables and plots of all that is in the JSON.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import dense  # before PyTorch: pointsuite, which it imports, sets how threads wait  # isort: skip
import numpy as np
import torch
from images import evaluation, import_timm
from torch import nn

from dense.base import BaseBackbone
from dense.explain.receptive_field import covered_share, effective_receptive_field, open_branches
from dense.registry import ZOO
from pointsuite.engine import command, profiling
from pointsuite.engine.catalogue import replace_between
from pointsuite.engine.checkpoint import atomic_write
from pointsuite.engine.comparison import Comparison, run_comparison
from pointsuite.engine.errors import NonFiniteLossError, UsageError, one_line
from pointsuite.engine.files import read_json
from pointsuite.engine.independence import batch_effect, find_tensors, in_float64
from pointsuite.engine.profiling import count_costs, measure_time, peak_memory, time_turns, watch_load
from pointsuite.engine.tables import align_columns

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs/classification/backbone_cifar10-120-steps.py"
MARKS = "<!-- backbones: begin -->", "<!-- backbones: end -->"
NEAR = 25_000_000
VARIANTS = {"smallest": "Smallest variants", "nearest": "About 25 million parameters"}  # and their titles
BUDGETS = {"memory": 120, "speed": 10, "growth": 10, "field": 60, "independence": 60, "training": 240}
PEERS_BUDGET = 60
SIDE = 64  # of the images that tests give most families
PRODUCT = 2048  # rows and columns of the matrices whose product tells how fast the processor can be
IMAGES = 4  # of the receptive field
SLOW, LONG = 500, 2000  # milliseconds of a call, from which on it is timed once, and at its first call
OVER = "over the budget: "
RECORD = {"settings", "environment", "budget"}  # what each has, whatever was measured
TIMINGS = ("speed", "growth", "peers")
BUSY = 0.1  # cores that others use, from which on a time is marked
# ours -> timm's of the same number of parameters
PEERS = {
    "davit_tiny": "davit_tiny",
    "shvit_s1": "shvit_s1",
    "shvit_s4": "shvit_s4",
    "convit_tiny": "convit_tiny",
    "convit_small": "convit_small",
    "crossvit_tiny": "crossvit_tiny_240",
    "crossvit_small": "crossvit_small_240",
    "volo_d1": "volo_d1_224",
    "halonet_26t": "halonet26t",
    "halonet_50ts": "halonet50ts",
}


class Variant(NamedTuple):
    """A backbone of the zoo."""

    cls: type[BaseBackbone]
    arch: str

    @property
    def name(self) -> str:
        return self.cls.model_name(self.arch)

    @property
    def parameters(self) -> int:
        return self.cls.num_parameters[self.arch]


class LeftOut(Exception):
    """A measurement that is not made, and why."""


def find_variants() -> tuple[list[Variant], list[Variant]]:
    """Of each family the smallest variant, and that nearest to 25 million parameters where it is another."""
    smallest, nearest = [], []
    for cls in ZOO.systems().values():
        if issubclass(cls, BaseBackbone):
            own = [Variant(cls, arch) for arch in cls.archs]
            # a patch of 2 pixels, as for 32 pixels, makes 12,544 tokens of 224
            own = [v for v in own if cls.archs[v.arch].get("img_size", 224) != 32] or own
            smallest.append(min(own, key=lambda v: v.parameters))
            nearest.append(min(own, key=lambda v: abs(v.parameters - NEAR)))
    return (
        sorted(smallest, key=lambda v: v.parameters),
        sorted(set(nearest) - set(smallest), key=lambda v: v.parameters),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=[*PARTS], help="(default: all)")
    parser.add_argument("--peers", action="store_true", help="time timm's networks beside ours, too")
    parser.add_argument(
        "--again", action="store_true", help="time anew what was timed while other processes ran"
    )
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="of the models' names")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS], help="(default: both)"
    )
    parser.add_argument("--size", type=command.whole(1), default=224)
    parser.add_argument("--batches", type=command.whole(1), nargs="+", default=[1, 8])
    parser.add_argument("--growth", type=command.whole(1), nargs="+", default=[224, 448, 896])
    parser.add_argument("--config", type=Path, default=CONFIG, help="of the training")
    told = ", ".join(f"{part} {seconds}" for part, seconds in BUDGETS.items())
    for option, what in (
        ("--cfg-options", "override it"),
        ("--budget", f"seconds that a part of one variant may take (default: {told}, peers {PEERS_BUDGET})"),
    ):
        parser.add_argument(
            option, nargs="+", action=command.KeyValue, default={}, metavar="KEY=VALUE", help=what
        )
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/backbones"))
    parser.add_argument("--write-docs", action="store_true", help="write docs/backbones.md and its plots")
    profiling.add_timing_options(parser, seconds=1, what="timing")
    args = parser.parse_args(argv)
    known = {**BUDGETS, "peers": PEERS_BUDGET}
    if wrong := [key for key, value in args.budget.items() if key not in known or not _is_positive(value)]:
        parser.error(
            f"--budget: found {wrong[0]}={args.budget[wrong[0]]}, wanted seconds of {', '.join(known)}"
        )
    args.budget = known | args.budget
    profiling.check_timing_options(parser, args)
    path = args.out / f"benchmark_backbones_{args.device}.json"
    tasks = [*find_tasks(args)]
    if not tasks and args.only:
        parser.error(f"--only: found no backbone {' or '.join(args.only)}")
    for part, variant, measure in tasks:
        run_task(path, part, variant, measure, args)
    report = read_results(path)
    if args.write_docs:
        write_docs(report)
    print("\n\n".join(align_columns(rows) for _, rows in tables(report) if len(rows) > 1))


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


# ---------------------------------------------------------------------------------------------- the run


def find_tasks(args: argparse.Namespace) -> Iterator[tuple[str, Variant, Callable]]:
    """What is asked for, part by part: the small ones first."""
    for part in args.parts:
        for group, variants in zip(VARIANTS, find_variants(), strict=True):
            for variant in variants if group in args.variants else ():
                if not args.only or any(fnmatchcase(variant.name, pattern) for pattern in args.only):
                    yield part, variant, PARTS[part]
    if args.peers:
        for name in PEERS:
            if not args.only or any(fnmatchcase(name, pattern) for pattern in args.only):
                yield "peers", Variant(*ZOO.find_system(name)), time_peers


def run_task(path: Path, part: str, variant: Variant, measure: Callable, args: argparse.Namespace) -> None:
    """Measure what the file lacks, and write it, all or none."""
    settings, budget = make_settings(part, args), args.budget[part]
    known = read_results(path).get(variant.name, {}).get(part, {})
    missing = known.get("settings") != settings or (known.get("left_out") and known["budget"] < budget)
    if not missing and not (args.again and part in TIMINGS and is_busy(known)):
        return
    torch.manual_seed(0)
    report = profiling.begin_report("benchmarks/backbones.py", None, args.device)
    with watch_load() as load:
        try:
            found = measure(variant, args)
        except (LeftOut, NonFiniteLossError, RuntimeError, ValueError) as error:
            found = {"left_out": {part: one_line(str(error))}}
    record = {
        "settings": settings,
        "environment": {key: report[key] for key in ("date", "machine", "versions")} | load,
        "budget": budget,
        **found,
    }
    results = read_results(path)  # again: others may write, too
    results.setdefault(variant.name, {})[part] = record
    with atomic_write(path) as file:
        file.write((json.dumps(dict(sorted(results.items())), indent=1) + "\n").encode())
    print(f"{part} of {variant.name}", *record.get("left_out", {}).values(), sep=": ", flush=True)


def make_settings(part: str, args: argparse.Namespace) -> dict[str, Any]:
    """What else decides a part's numbers."""
    return {
        "memory": {"size": args.size, "batch": args.batches[-1]},
        "speed": {"size": args.size, "batches": args.batches, "threads": torch.get_num_threads()},
        "growth": {"sizes": args.growth, "threads": torch.get_num_threads()},
        "peers": {"batches": args.batches, "threads": torch.get_num_threads()},
        "field": {"size": args.size},
        "independence": {},
        # where the data lie says nothing about a run
        "training": {
            "config": args.config.stem,
            "options": {k: str(v) for k, v in args.cfg_options.items() if k != "data_root"},
        },
    }[part]


def read_results(path: Path) -> dict[str, dict[str, dict]]:
    """By model and part what was measured; none where there is no file.

    Raises:
        UsageError: it holds something else.
    """
    if not path.exists():
        return {}
    results = read_json(path)
    if not isinstance(results, dict) or not all(
        isinstance(parts, dict) and all(isinstance(r, dict) and r.keys() >= RECORD for r in parts.values())
        for parts in results.values()
    ):
        raise UsageError(f"{path}: found other JSON, wanted results of benchmarks/backbones.py")
    return results


# -------------------------------------------------------------------------------------------- the parts


def build(variant: Variant, args: argparse.Namespace, size: int) -> nn.Module:
    """The classifier, or the backbone alone where the head takes no images of that size."""
    model = variant.cls.create(variant.arch).to(args.device).eval()
    try:
        with torch.no_grad():
            model(make_images(model, args, 1, size))
    except ValueError:
        model = variant.cls.create(variant.arch, features_only=True).to(args.device).eval()
    return model


def find_size(model: nn.Module, args: argparse.Namespace, least: int) -> int:
    """The first side of images, of ``least`` pixels or a few more, that a network takes."""
    for size in range(least, least + 33):
        images = make_images(model, args, 2, size)
        try:
            with torch.no_grad():
                model(images)
        except ValueError as error:
            reason = error
        else:
            return images.shape[-1]  # some say by their examples what they take
    raise LeftOut(f"takes no images of {least} to {least + 32} pixels ({reason})")


def small_side(model: nn.Module, cls: type[BaseBackbone]) -> int:
    """Of the images that tests give its family, or more where the variant needs it."""
    return max(cls.example_sizes[0][0], model.backbone.min_size)


def make_images(model: nn.Module, args: argparse.Namespace, batch: int, size: int) -> torch.Tensor:
    (images,) = profiling.example_inputs(model, batch, (size, size))
    return images.to(args.device)


def make_call(model: nn.Module, args: argparse.Namespace, batch: int, size: int, dtype: str = "float32"):
    options = argparse.Namespace(device=args.device, amp=dtype == "bfloat16")
    return evaluation(model, [make_images(model, args, batch, size)], options)


def afford(call: Callable, times: float, budget: float, device: str) -> None:
    """Call once; refuse what takes so many times as long, if those are more seconds than the budget has."""
    began = time.process_time()  # on a busy machine, too
    spent = measure_time(call, device) / 1e3
    if device == "cpu":
        spent = (time.process_time() - began) / torch.get_num_threads()
    if times * spent > budget:
        raise LeftOut(f"{OVER}{times * spent:.0f} s")


def measure_memory(variant: Variant, args: argparse.Namespace) -> dict[str, Any]:
    model, batch = build(variant, args, args.size), args.batches[-1]
    one = make_call(model, args, 1, args.size)
    with torch.no_grad():
        afford(one, 3 * batch, args.budget["memory"], args.device)
    return {
        "maps": isinstance(model, BaseBackbone),
        "pixels": make_images(model, args, 1, args.size).shape[-1],
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": count_costs(model, one)[""].macs,
        "peak_bytes": peak_memory(make_call(model, args, batch, args.size), args.device),
    }


def measure_speed(variant: Variant, args: argparse.Namespace) -> dict[str, Any]:
    model = build(variant, args, args.size)
    matrix = torch.randn(PRODUCT, PRODUCT, device=args.device)
    calls = {
        f"{dtype} {batch}": make_call(model, args, batch, args.size, dtype)
        for dtype in ("float32", "bfloat16")
        for batch in args.batches
    }
    fixed = {"plain": lambda: matrix @ matrix, "onednn": lambda: dense.ops.linear(matrix, matrix)}
    images = dict(zip(calls, 2 * args.batches, strict=True))
    times, left_out = time_affordable(calls, images, args, args.budget["speed"], fixed)
    products = {name: times.pop(name) for name in fixed}
    return {"ms": times, "product_ms": products, "left_out": left_out}


def measure_growth(variant: Variant, args: argparse.Namespace) -> dict[str, Any]:
    model = variant.cls.create(variant.arch, features_only=True).to(args.device).eval()  # heads may resize
    if (only := make_images(model, args, 1, args.growth[-1]).shape[-1]) != args.growth[-1]:
        raise LeftOut(f"takes images of {only} x {only} alone")
    calls = {str(size): make_call(model, args, 1, size) for size in args.growth}
    pixels = {str(size): size**2 for size in args.growth}
    times, left_out = time_affordable(calls, pixels, args, args.budget["growth"])
    return {"ms": times, "left_out": left_out}


def time_affordable(
    calls: dict[str, Callable],
    amounts: dict[str, float],
    args: argparse.Namespace,
    budget: float,
    fixed: dict[str, Callable] | None = None,
) -> tuple[dict[str, float], dict[str, str]]:
    """Milliseconds of each call by name, and why others are left out.

    Args:
        calls: each is predicted from the one before, in proportion to ``amounts``.
        budget: seconds for all.
        fixed: calls that take turns with them, whatever they cost.
    """
    times, quick, left_out, last = {}, dict(fixed or {}), {}, None
    with torch.inference_mode():
        for name, call in calls.items():
            expected = last[1] * amounts[name] / amounts[last[0]] if last else 0
            if expected * (1 if expected > LONG else 2) > 1e3 * budget:
                left_out[name] = f"{OVER}{expected / 1e3:.0f} s"
                continue
            try:
                spent = [measure_time(call, args.device)]
                if spent[0] <= LONG:
                    spent.append(measure_time(call, args.device))
            except RuntimeError as error:  # as of a network that does not fulfil the contract in bfloat16
                left_out[name] = one_line(str(error))
                continue
            last = name, spent[-1]
            budget -= sum(spent) / 1e3
            if spent[-1] > SLOW:
                times[name] = spent[-1]
            else:
                quick[name] = call
                budget -= 5e-3 * spent[-1]
        turns = time_turns(quick, args.device, args.seconds) if quick else {}
    return times | {name: float(np.median(rounds)) for name, rounds in turns.items()}, left_out


def measure_field(variant: Variant, args: argparse.Namespace) -> dict[str, Any]:
    model = variant.cls.create(variant.arch, features_only=True).to(args.device).eval()
    images = make_images(model, args, IMAGES, args.size)
    with torch.no_grad():
        afford(lambda: model(images[:1]), 5 * IMAGES, args.budget["field"], args.device)
    field = effective_receptive_field(open_branches(model, images), images)
    return {"share_of_half": covered_share(field)}


def measure_independence(variant: Variant, args: argparse.Namespace) -> dict[str, Any]:
    model = variant.cls.create(variant.arch).to(args.device).eval()
    size = find_size(model, args, small_side(model, variant.cls))
    inputs = [make_images(model, args, 4, size)]
    with torch.inference_mode():
        afford(lambda: model(*inputs), 10, args.budget["independence"], args.device)
        effect = {"float32": batch_effect(model, inputs)}
        if effect["float32"] >= 2e-5:  # as the contract test asks: rounding may choose other queries or keys
            effect["float64"] = batch_effect(model.double(), in_float64(inputs))
    return {"effect": effect, "size": size}


class Training(Comparison):
    """Trains a backbone in the place of a config's, images as large as it needs."""

    def __init__(self, variant: Variant, size: int):
        super().__init__()
        self.variants = (variant.name,)
        self.settings = {"size": size}
        self.backbone = {"type": f"dense.{variant.cls.__name__}", "arch": variant.arch}

    def adapt(self, cfg, variant: str) -> None:
        cfg.model.backbone = self.backbone
        size = self.settings["size"]
        cfg.scale = (size, size)
        cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None  # the validation at the end is enough
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            for step in loader.dataset.pipeline:
                if step.type == "Resize":
                    step.scale = (size, size)


def measure_training(variant: Variant, args: argparse.Namespace) -> dict[str, Any]:
    cfg = command.read_config(args.config, args.cfg_options)
    model = variant.cls.create(variant.arch, num_classes=cfg.model.num_classes)
    if not any(p.requires_grad for p in model.backbone.parameters()):
        raise LeftOut("its trunk is frozen: it adapts a trained one")
    own = small_side(model, variant.cls)  # 32 of what is made for CIFAR; some need more than 64
    size = find_size(model, args, cfg.scale[0] if own == SIDE else own)
    images = make_images(model, args, cfg.train_dataloader.batch_size, size)
    step = partial(train_once, model.train(), images)
    step()
    afford(step, cfg.train_cfg.max_iters, args.budget["training"], args.device)
    del model, step
    comparison = Training(variant, size)
    (run,) = run_comparison(
        comparison, [args.config], [0], args.work_dir / "training.json", args.work_dir, args.cfg_options
    )
    return {
        "top1": run.metrics["accuracy/top1"],
        "size": size,
        "steps": cfg.train_cfg.max_iters,
        "seconds": run.train_seconds + run.test_seconds,
    }


def train_once(model: nn.Module, images: torch.Tensor) -> None:
    sum(y.square().mean() for y in find_tensors(model(images))).backward()
    model.zero_grad(set_to_none=True)


def time_peers(variant: Variant, args: argparse.Namespace) -> dict[str, Any]:
    """Our network and timm's at the size that timm's is for, round by round."""
    name = PEERS[variant.name]
    try:
        timm = import_timm()
    except ImportError as error:
        raise UsageError(f"--peers: found no timm ({error}), wanted it: pip install timm") from error
    theirs = timm.create_model(name).to(args.device).eval()
    ours = variant.cls.create(variant.arch).to(args.device).eval()
    size = theirs.pretrained_cfg["input_size"][1]
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    if counts[0] != counts[1]:
        raise LeftOut(f"timm's {name} has {counts[1]:,} parameters, ours {counts[0]:,}")
    found = {"peer": name, "size": size, "timm": timm.__version__, "batches": {}, "left_out": {}}
    with torch.inference_mode():
        for batch in args.batches:
            calls = {
                "ours": make_call(ours, args, batch, size),
                "theirs": make_call(theirs, args, batch, size),
            }
            afford(calls["ours"], 10, args.budget["peers"], args.device)
            turns = time_turns(calls, args.device, 3 * args.seconds)
            ratios = np.divide(turns["theirs"], turns["ours"])
            found["batches"][str(batch)] = {
                "ms": {key: float(np.median(rounds)) for key, rounds in turns.items()},
                "ratio": [float(q) for q in np.percentile(ratios, (25, 50, 75))],
                "rounds": len(ratios),
            }
    return found


PARTS: dict[str, Callable[[Variant, argparse.Namespace], dict[str, Any]]] = {
    "memory": measure_memory,
    "speed": measure_speed,
    "growth": measure_growth,
    "field": measure_field,
    "independence": measure_independence,
    "training": measure_training,
}


# ------------------------------------------------------------------------------------- tables and plots


def tables(results: dict[str, dict[str, dict]]) -> Iterator[tuple[str, list[list[str]]]]:
    """Title and rows, a head first, of what was measured."""
    batches = _settings(results, "speed", "batches")
    sizes = _settings(results, "growth", "sizes")
    head = ["model", "parameters", "MACs", "peak MB"]
    head += [f"{dtype}, {batch}" for dtype in ("float32", "bfloat16") for batch in batches]
    head += ["floor", *(f"{a} to {b}" for a, b in zip(sizes, sizes[1:], strict=False))]
    head += ["field, %", "beside others", "top-1, %"]
    for title, variants in zip(VARIANTS.values(), find_variants(), strict=True):
        known = [v.name for v in variants if results.get(v.name, {}).keys() & PARTS.keys()]
        yield title, [head, *(_row(name, results[name], batches, sizes) for name in known)]
    rows = [["ours", "timm's", "pixels", "batch", "ours, ms", "timm's, ms", "timm's / ours", "rounds"]]
    for name, parts in results.items():
        found = parts.get("peers", {})
        for batch, row in found.get("batches", {}).items():
            low, middle, high = (f"{value:.2f}" for value in row["ratio"])
            times = [f"{row['ms'][key]:.1f}{_mark(found)}" for key in ("ours", "theirs")]
            own = [name, found["peer"], str(found["size"]), batch]
            rows.append([*own, *times, f"{middle} ({low} to {high})", str(row["rounds"])])
    yield "Beside timm", rows


def _settings(results: dict, part: str, key: str) -> list[int]:
    found = (parts[part]["settings"][key] for parts in results.values() if part in parts)
    return sorted({value for values in found for value in values})


def is_busy(record: dict) -> bool:
    """Whether other processes ran meanwhile."""
    return record["environment"]["load"] > BUSY


def _mark(record: dict) -> str:
    return "*" if is_busy(record) else ""


def _row(name: str, parts: dict[str, dict], batches: list[int], sizes: list[int]) -> list[str]:
    def cell(part: str, text: Callable[[dict], str]) -> str:
        try:
            return text(parts[part])
        except KeyError:  # not measured, or left out
            return "-"

    def note(record: dict) -> str:
        other = record["pixels"] != record["settings"]["size"]
        return " (maps)" * record["maps"] + f" ({record['pixels']} px)" * other

    def speed(record: dict, dtype: str, batch: int) -> str:
        return f"{1e3 * batch / record['ms'][f'{dtype} {batch}']:.3g}{_mark(record)}"

    def growth(record: dict, a: int, b: int) -> str:
        return f"{record['ms'][str(b)] / record['ms'][str(a)]:.1f}{_mark(record)}"

    def effect(record: dict) -> str:
        return f"{list(record['effect'].values())[-1]:.0e}"

    def accuracy(record: dict) -> str:
        return f"{record['top1']:.1f}" + (f" ({record['size']} px)" if record["size"] != SIDE else "")

    return [
        name + cell("memory", note).rstrip("-"),
        cell("memory", lambda r: f"{r['parameters'] / 1e6:.1f} M"),
        cell("memory", lambda r: f"{r['macs'] / 1e9:.2f} G"),
        cell("memory", lambda r: f"{r['peak_bytes'] / 1e6:.0f}"),
        *(
            cell("speed", lambda r, d=dtype, b=batch: speed(r, d, b))
            for dtype in ("float32", "bfloat16")
            for batch in batches
        ),
        cell("speed", lambda r: f"{floors(r, parts['memory']):.2f}{_mark(r)}"),
        *(
            cell("growth", lambda r, a=a, b=b: growth(r, a, b))
            for a, b in zip(sizes, sizes[1:], strict=False)
        ),
        cell("field", lambda r: f"{100 * r['share_of_half']:.1f}"),
        cell("independence", effect),
        cell("training", accuracy),
    ]


def floors(speed: dict, memory: dict) -> float:
    """Time of the largest batch in float32, of that of its multiply-adds in the faster matrix product."""
    if speed["settings"]["size"] != memory["settings"]["size"]:
        raise KeyError("MACs of images of another size")
    batch = speed["settings"]["batches"][-1]
    rate = PRODUCT**3 / min(speed["product_ms"].values())  # multiply-adds a millisecond
    return speed["ms"][f"float32 {batch}"] / (batch * memory["macs"] / rate)


def format_docs(results: dict[str, dict[str, dict]]) -> str:
    """What docs/backbones.md shows: tables, when and where they were measured, what was left out and why."""
    text = ""
    for title, rows in tables(results):
        if len(rows) > 1:
            lines = ["| " + " | ".join(row) + " |" for row in rows]
            text += "\n".join([f"\n### {title}\n", lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"
    text += "\n### Measured\n\n"
    for part in (*PARTS, "peers"):
        records = [parts[part] for parts in results.values() if part in parts]
        found = {" ".join(r["environment"][key] for key in ("date", "machine")) for r in records}
        versions = {r["environment"]["versions"] for r in records}
        if records:
            busy = f", {sum(map(is_busy, records))} of them on a busy machine (*)"
            loaded = busy if part in TIMINGS else ""
            where = "; ".join(sorted(found | versions))
            text += f"- {part}: {len(records)} variants{loaded}; {where}\n"
    left_out = {}
    for name, parts in results.items():
        for part, record in parts.items():
            for what, reason in record.get("left_out", {}).items():
                reason, _, seconds = reason.partition(OVER) if reason.startswith(OVER) else (reason, "", "")
                key = (
                    " ".join(dict.fromkeys((part, what))),
                    reason or f"more than was left of {record['budget']:g} s",
                )
                left_out.setdefault(key, []).append(f"{name} ({seconds})" if seconds else name)
    if left_out:
        lines = (f"- {what}: {reason}: {', '.join(names)}\n" for (what, reason), names in left_out.items())
        text += "\n### Left out\n\n" + "".join(lines)
    return text + "\n"


def plot_accuracy(results: dict[str, dict[str, dict]], path: Path) -> None:
    """Top-1 over milliseconds an image, a point for each variant that has both."""
    figure, (axes,) = _figure(1)
    for name, parts in results.items():
        speed, training = parts.get("speed", {}), parts.get("training", {})
        batch = speed["settings"]["batches"][-1] if speed else 0
        ms = speed.get("ms", {}).get(f"float32 {batch}")
        if ms and "top1" in training:
            place = ms / batch, training["top1"]
            axes.plot(*place, "o", markersize=4)
            axes.annotate(name, place, fontsize=6, xytext=(3, 2), textcoords="offset points")
    axes.set(xscale="log", xlabel="ms an image, largest batch, float32", ylabel="top-1, %")
    figure.savefig(path, dpi=100)


def plot_growth(results: dict[str, dict[str, dict]], path: Path) -> None:
    """Milliseconds of one image over its side, a line for each variant; the steepest and flattest named."""
    groups = {}
    for title, variants in zip(VARIANTS.values(), find_variants(), strict=True):
        for name in (v.name for v in variants):
            ms = results.get(name, {}).get("growth", {}).get("ms", {})
            if len(ms) > 1:
                curve = sorted((int(side), value) for side, value in ms.items())
                groups.setdefault(title, {})[name] = np.array(curve)
    figure, panels = _figure(max(1, len(groups)))
    for axes, (title, curves) in zip(panels, groups.items(), strict=False):
        steepness = {n: np.polyfit(*np.log(c).T, 1)[0] / 2 for n, c in curves.items()}
        order = sorted(curves, key=steepness.get)
        for name in order:
            told = name in (*order[:3], *order[-3:])
            label = f"{name}, pixels^{steepness[name]:.2f}" if told else None
            style = {"linewidth": 1.6} if told else {"color": "0.8", "linewidth": 0.8, "zorder": 1}
            axes.loglog(*curves[name].T, marker="o", markersize=3, label=label, **style)
        sides = sorted({side for curve in curves.values() for side in curve[:, 0]})
        axes.set_xticks(sides, [f"{side:.0f}" for side in sides], minor=False)
        axes.minorticks_off()
        axes.set(title=title, xlabel="pixels of a side", ylabel="ms, one image, float32")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=100)


def _figure(panels: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure((max(7.5, 5 * panels), 5), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False).flat)
    for own in axes:
        own.grid(alpha=0.3)
    return figure, axes


def write_docs(results: dict[str, dict[str, dict]]) -> None:
    """docs/backbones.md between its marks, and the plots that it shows."""
    page = ROOT / "docs/backbones.md"
    text = replace_between(page.read_text(), *MARKS, format_docs(results))
    with atomic_write(page) as file:
        file.write(text.encode())
    for name, plot in (("accuracy", plot_accuracy), ("growth", plot_growth)):
        plot(results, page.with_name(f"backbones_{name}.png"))


if __name__ == "__main__":
    command.run(main)

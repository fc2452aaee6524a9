"""Times in turns, operations and memory of models, and reports of them."""

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import sys
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .checkpoint import atomic_write
from .tables import align_columns

# ------------------------------------------------------------------------------------------------ times


def measure_time(function: Callable, device: str, calls: int = 1) -> float:
    """Milliseconds of one call, the mean of ``calls`` in a row; ``device`` is "cpu" or "cuda"."""
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return 1e3 * (time.perf_counter() - start) / calls
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(calls):
        function()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / calls


def take_turns(peers: dict[str, Callable], device: str, seconds: float) -> dict[str, float]:
    """Median milliseconds of each function, see :func:`time_turns`."""
    return {name: statistics.median(times) for name, times in time_turns(peers, device, seconds).items()}


def time_turns(peers: dict[str, Callable], device: str, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each function by round: 3 of them, or as many as fit into ``seconds`` (at most 100).

    A turn repeats a short call for about 5 ms: its neighbours' use of the caches is not its own cost.
    """
    for function in peers.values():  # compile
        function()
    calls = {name: max(1, int(5 / measure_time(function, device))) for name, function in peers.items()}
    times = {name: [] for name in peers}
    end = time.perf_counter() + seconds
    for done in range(100):
        if done >= 3 and time.perf_counter() > end:
            break
        for name, function in peers.items():
            times[name].append(measure_time(function, device, calls[name]))
    return times


@contextmanager
def watch_load() -> Iterator[dict[str, float]]:
    """What else the machine does meanwhile: the dict gets ``load``, cores that others kept busy (Linux)."""
    found: dict[str, float] = {}
    began, others = time.perf_counter(), _others_seconds()
    yield found
    seconds = time.perf_counter() - began
    found["load"] = round(max(0.0, _others_seconds() - others) / max(seconds, 1e-3), 2)


def _others_seconds() -> float:
    """Processor time since the start of the machine that was not this process's, nor its children's."""
    user, nice, system, _, _, *interrupts = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    busy = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    return busy - sum(os.times()[:4])


# ------------------------------------------------------------------------------ operations and memory


class Cost(NamedTuple):
    macs: int  # multiply-adds of matrix products, convolutions and attention
    kept: int  # bytes that a forward pass keeps for the backward pass, besides weights


def count_costs(model: nn.Module, forward: Callable) -> dict[str, Cost]:
    """What one call of ``forward`` costs in each module of ``model``, by name; "" is the whole.

    In the mode (training or evaluation) that the model is in. A module that is not called itself, as a list
    of others, costs what its parts cost.
    """
    lacking = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    counter = FlopCounterMode(display=False, custom_mapping=lacking)
    seen = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = defaultdict(int)

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            for module in counter.mod_tracker.parents:
                kept[module] += storage.nbytes()
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(note, lambda tensor: tensor), counter:
        result = forward()  # while it lives, so does what was kept: no address is used twice
    del result
    flops = {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}
    costs = {}
    for name, module in reversed(list(model.named_modules())):  # parts before what they are of
        key = f"{type(model).__name__}.{name}" if name else "Global"
        cost = Cost(flops.get(key, 0) // 2, kept.get(key, 0))
        if cost == (0, 0):
            parts = (costs[f"{name}.{part}" if name else part] for part, _ in module.named_children())
            cost = Cost(*map(sum, zip(*parts, strict=True))) if any(module.children()) else cost
        costs[name] = cost
    return costs


def format_costs(model: nn.Module, costs: dict[str, Cost], depth: int) -> str:
    """A table of the modules down to ``depth``: parameters, MACs, their share of all, what training keeps."""
    rows = [("module", "parameters", "MACs", "share", "kept")]
    for name, module in model.named_modules():
        level = name.count(".") + 1 if name else 0
        parameters = sum(p.numel() for p in module.parameters())
        macs, kept = costs[name]
        if level > depth or not (parameters or macs or kept):
            continue
        share = f"{100 * macs / max(costs[''].macs, 1):.1f} %"
        rows.append(
            (name or "(all)", f"{parameters:,}", format_number(macs), share, format_number(kept, "B"))
        )
    return align_columns(rows)


def format_number(value: float, unit: str = "") -> str:
    """With three decimals and a prefix, as "4.540 G"."""
    from matplotlib.ticker import EngFormatter

    return EngFormatter(unit, places=3)(value)


def _attention_flops(query, key, value, *args, **kwargs) -> int:
    """Of the shapes (B, heads, N, d): q k^T and its product with v."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


def peak_memory(call: Callable, device: str, gradients: bool = False) -> int:
    """The most bytes that a call's tensors hold at once, besides those that were there before.

    On the CPU that is what PyTorch's operators return; what one needs within itself is not seen.
    """
    with torch.set_grad_enabled(gradients):
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            return torch.cuda.max_memory_allocated() - before
        with _LiveTensors() as live:
            call()
        return live.peak


class _LiveTensors(TorchDispatchMode):
    """Adds up the memory of tensors from when an operator returns them to when they are freed."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            self._note(tensor, new=False)
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            self._note(tensor, new=True)
        self.peak = max(self.peak, self.now)
        return result

    def _note(self, tensor, new: bool) -> None:
        if not isinstance(tensor, torch.Tensor):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.known:
            self.known.add(key)
            size = storage.nbytes() if new else 0  # an argument that is not known was there before
            self.now += size
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


# --------------------------------------------------------------------------------------------- inputs


def example_inputs(model: nn.Module, batch: int, size: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """What a model of images takes: what its class says, else random images (batch, 3, height, width)."""
    if not hasattr(model, "example_inputs"):
        return (torch.randn(batch, 3, *size),)
    inputs = model.example_inputs(batch, size)
    return (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)


# -------------------------------------------------------------------------------------------- reports


def add_timing_options(parser: argparse.ArgumentParser, seconds: float, what: str = "row") -> None:
    """The options that all benchmarks share; ``seconds`` is the default for each ``what``."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="PyTorch's choice by default")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"for each {what}, at least 3 rounds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")


def check_timing_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a device that is not there; set the number of threads."""
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda wants an NVIDIA GPU, found none")
    if args.threads:
        torch.set_num_threads(args.threads)


def describe_machine(device: str) -> str:
    """The card, or the processor and PyTorch's number of threads."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


def begin_report(script: str, argv: Sequence[str] | None, device: str) -> dict[str, Any]:
    """When, where, of what versions and by which command something is measured."""
    from pointsuite import __version__

    return {
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(device),
        "versions": f"torch {torch.__version__}, pointsuite {__version__}",
        "command": shlex.join(["python", script, *(sys.argv[1:] if argv is None else argv)]),
    }


def format_head(report: dict[str, Any]) -> str:
    """What :func:`begin_report` noted, as two lines."""
    return f"{report['date']}  {report['machine']}  {report['versions']}\n{report['command']}\n"


def write_report(stem: Path, report: dict[str, Any], text: str) -> None:
    """Write ``report`` to ``stem``.json and ``text`` to ``stem``.txt, and print the latter."""
    for suffix, content in ((".json", json.dumps(report, indent=1) + "\n"), (".txt", text)):
        with atomic_write(stem.with_name(stem.name + suffix)) as file:
            file.write(content.encode())
    print(text, end="")

"""What the tools that measure share: times in turns, operations and memory of a model."""

import pathlib
import platform
import statistics
import time
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def threads() -> int:
    return torch.get_num_threads()


def milliseconds(function: Callable, device: str, calls: int = 1) -> float:
    """Of one call, the mean of `calls` in a row."""
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
    """Median milliseconds of each: 3 rounds, or as many as fit into `seconds` (at most 100).

    A turn repeats a short call for about 5 ms: its neighbours' use of the caches is not its own cost.
    """
    for function in peers.values():  # compile
        function()
    calls = {name: max(1, int(5 / milliseconds(function, device))) for name, function in peers.items()}
    times = {name: [] for name in peers}
    end = time.perf_counter() + seconds
    for done in range(100):
        if done >= 3 and time.perf_counter() > end:
            break
        for name, function in peers.items():
            times[name].append(milliseconds(function, device, calls[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    names = [
        line.split(":")[1].strip()
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.processor()}, {threads()} threads"


class Cost(NamedTuple):
    macs: int  # multiply-adds of matrix products, convolutions and attention
    kept: int  # bytes that a forward pass keeps for the backward pass, besides weights


def count_costs(model: nn.Module, forward: Callable) -> dict[str, Cost]:
    """What one call of `forward` costs in each module of `model`, by name; "" is the whole.

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

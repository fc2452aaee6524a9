"""Where the time of a call goes, by part of a network, backward passes included."""

from collections import defaultdict
from collections.abc import Callable, Mapping

from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

PREFIX = "part: "
BACKWARD = "autograd::engine::evaluate_function: "
OPTIMIZER = "Optimizer."
REST = "rest"


def time_parts(
    call: Callable, modules: Mapping[nn.Module, str], operators: Mapping[str, str]
) -> dict[str, tuple[float, float]]:
    """Milliseconds of one call of ``call`` on the CPU, by part: forwards and backwards.

    A part's time is what its modules and operators take themselves, without parts inside them. A backward
    function counts for the part within which its forward operator ran.

    Args:
        modules: the names of parts; several modules may share one.
        operators: the same for operators, as the profiler names them ("pointsuite::knn").

    Returns:
        (forward, backward) of each part that ran; "optimizer" (forward only), and "rest" for all else that
        the profiler sees: gradients that are added up, operators outside any part.
    """
    hooks = []
    for module, name in modules.items():
        hooks += _mark(module, PREFIX + name)
    try:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            call()
    finally:
        for hook in hooks:
            hook.remove()
    return add_up(profiler.events(), operators)


def _mark(module: nn.Module, name: str) -> list:
    """Hooks that open and close a range of the profiler around each call of ``module``."""
    ranges = []

    def enter(*_):
        ranges.append(record_function(name))
        ranges[-1].__enter__()

    def leave(*_):
        ranges.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]


def add_up(events: list[FunctionEvent], operators: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """:func:`time_parts` of what the profiler recorded."""
    forward, backward, part_of = defaultdict(float), defaultdict(float), {}

    def own_part(event: FunctionEvent) -> str | None:
        if event.name.startswith(PREFIX):
            return event.name.removeprefix(PREFIX)
        return "optimizer" if event.name.startswith(OPTIMIZER) else operators.get(event.name)

    def part(event: FunctionEvent | None) -> str:
        while event is not None:
            if name := own_part(event):
                return name
            event = event.cpu_parent
        return REST

    inside_backward = set()
    for event in events:
        parent = event.cpu_parent
        if event.name.startswith(BACKWARD) or (parent is not None and parent.id in inside_backward):
            inside_backward.add(event.id)
        elif event.sequence_nr >= 0:  # the outermost operator comes first
            part_of.setdefault(event.sequence_nr, part(event))
    for event in events:
        milliseconds = event.cpu_time_total / 1e3
        if event.name.startswith(BACKWARD) and (
            event.cpu_parent is None or event.cpu_parent.id not in inside_backward
        ):
            backward[part_of.get(event.sequence_nr, REST)] += milliseconds
        elif event.id in inside_backward:
            continue
        elif event.cpu_parent is None and own_part(event) is None:
            forward[REST] += milliseconds
        elif own_part(event):
            forward[part(event)] += milliseconds
            forward[part(event.cpu_parent)] -= milliseconds if event.cpu_parent is not None else 0
    return {name: (forward[name], backward[name]) for name in {**forward, **backward}}

"""Find the adapter of a pack, run the case that it makes, and compare."""

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from . import adapters, packs
from .adapt import Case, Output, Pack, Words

TOLERANCE = 1e-4
LONGEST = 400  # characters of an error's line


def find_adapter(path: str | PathLike) -> ModuleType:
    """The module of :mod:`.adapters` that is named as the pack's folder.

    Raises:
        LookupError: there is none.
    """
    folder, known = Path(path).resolve().parent.name, known_systems()
    if folder not in known:
        raise LookupError(f"no adapter for packs of the folder {folder!r}; there are {', '.join(known)}")
    return importlib.import_module(f"{adapters.__name__}.{folder}")


def known_systems() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(adapters.__path__))


def read(path: str | PathLike) -> tuple[Pack, dict]:
    """A pack with its weights and inputs made, and as its file has it."""
    raw = packs.load(path)
    pack = Pack(
        name=raw.get("name", ""),
        notes=raw.get("notes", ""),
        words=Words(raw["build"]),
        shapes={key: tuple(shape) for key, shape, _ in raw["state_dict"]},
        weights={key: torch.from_numpy(value) for key, value in packs.fill_state_dict(raw).items()},
        inputs={key: torch.from_numpy(value) for key, value in packs.make_inputs(raw).items()},
        facts=raw["outputs"],
    )
    return pack, raw


def run_pack(path: str | PathLike) -> tuple[dict[str, float], list[str], dict[str, float]]:
    """Return ({output: error}, outputs that were not computed, {output: tolerance})."""
    pack, raw = read(path)
    torch.manual_seed(0)
    case = find_adapter(path).adapt(pack)
    pack.words.check()
    with threads(case.threads):
        found = run_case(case, pack)
    arrays = {name: value.detach().numpy() for name, value in found.items() if name in pack.facts}
    missing = sorted(set(pack.facts) - set(arrays))
    tolerances = {**dict.fromkeys(pack.facts, raw.get("tolerance", TOLERANCE)), **case.tolerances}
    return packs.compare(raw, arrays), missing, tolerances


def run_case(case: Case, pack: Pack) -> dict[str, Tensor]:
    """The outputs, taps and gradients of a case."""
    once = case.once or case.train
    if case.model is not None:
        load(case.model, case.state, case.constant)
        case.model.train(case.train)
        if not once:
            case.model.requires_grad_(False)
    taps: dict[str, Tensor] = {}
    for name, tap in case.taps.items():
        if f"tap.{name}" in pack.facts:
            watch(f"tap.{name}", tap, taps)

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return by_name(case.run(inputs) if case.run else case.model(*inputs.values()), pack)

    found = {}
    if not once:
        with torch.inference_mode():
            found = run(dict(pack.inputs))
    wanted = [match for name in pack.facts if (match := re.fullmatch(r"grad\.(.+?)\.of\.(.+)", name))]
    if once or any(match[0] not in found for match in wanted):
        if case.double:
            case.model.double()
        inputs = {
            name: x.double() if case.double and x.is_floating_point() else x
            for name, x in pack.inputs.items()
        }
        inputs = {name: x.clone() for name, x in inputs.items()}
        for match in wanted:
            if match[1] not in inputs:
                raise ValueError(f"{match[0]}: there is no input {match[1]!r}; there are {sorted(inputs)}")
            inputs[match[1]].requires_grad_()
        with torch.enable_grad():
            outputs = run(inputs)
        found = {**outputs, **found}
        for match in wanted:
            if match[2] not in outputs:
                raise ValueError(f"{match[0]}: there is no output {match[2]!r}; there are {sorted(outputs)}")
            if match[0] not in found:
                y, x = outputs[match[2]], inputs[match[1]]
                (found[match[0]],) = torch.autograd.grad((y * probe(y.shape)).sum(), x, retain_graph=True)
    for name, y in taps.items():
        arranged = arrange(y, pack.facts[name])
        if arranged is not None:
            found[name] = arranged
    return found


def load(model: nn.Module, state: Mapping[str, Tensor], constant: str | None = None) -> None:
    """Load weights, all of them but counters of batches and what matches `constant`.

    Raises:
        ValueError: keys are missing or unknown.
    """
    missing, unknown = model.load_state_dict(state, strict=False)
    own = re.compile(r"(.*\.)?num_batches_tracked" + (f"|{constant}" if constant else ""))
    missing = [key for key in missing if not own.fullmatch(key)]
    for verb, keys in (("lack", missing), ("have unknown", unknown)):
        if keys:
            raise ValueError(f"the weights {verb} {len(keys)} keys of {type(model).__name__}, as {keys[0]!r}")


def watch(name: str, tap: nn.Module | tuple, taps: dict[str, Tensor]) -> None:
    """Keep the first output of a module."""
    module, change = tap if isinstance(tap, tuple) else (tap, lambda y, *_: y)

    def keep(module: nn.Module, inputs: tuple, y: Tensor) -> None:  # what a hook returns replaces the output
        if name not in taps:
            taps[name] = change(y, *inputs).clone()  # for layers after it may work in place

    module.register_forward_hook(keep)


def by_name(outputs: Output, pack: Pack) -> dict[str, Tensor]:
    """Outputs by the names of the pack, which may leave some out: shapes tell which."""
    if isinstance(outputs, Mapping):
        return dict(outputs)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    names = [name for name in pack.facts if not name.startswith(("tap.", "grad."))]
    if len(names) < len(outputs):
        shapes = {tuple(y.shape): y for y in outputs}
        outputs = [shapes.get(tuple(pack.facts[name]["shape"])) for name in names]
    return {name: y for name, y in zip(names, outputs, strict=False) if y is not None}


def arrange(y: Tensor, fact: Mapping) -> Tensor | None:
    """The output of an inner stage in the published order of axes: of those of its shape the nearest."""
    orders = [y]
    if y.ndim == 3:
        orders.append(y.transpose(1, 2))
    if y.ndim == 4:
        orders += [
            y.permute(0, 3, 1, 2),
            y.permute(0, 2, 3, 1),
            y.flatten(1, 2),
            y.flatten(2).transpose(1, 2),
        ]
    fitting = [order for order in orders if list(order.shape) == fact["shape"]]

    def error(order: Tensor) -> float:
        return packs.compare({"outputs": {"": fact}}, {"": order.detach().numpy()})[""]

    return min(fitting, key=error, default=None)


def probe(shape: Sequence[int]) -> Tensor:
    """The weights of the sum whose gradient a pack pins."""
    return torch.from_numpy(packs.probe(shape))


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main(paths: Sequence[str]) -> int:
    """Print the errors of packs; 0 where all pass, 1 where one does not, 2 where there is none."""
    if not paths:
        print("usage: python -m tests.parity PACK.json ...")
        return 2
    good = True
    for path in paths:
        try:
            errors, missing, tolerances = run_pack(path)
        except Exception as error:  # one broken pack must not hide the others
            print(f"FAIL {path}: {type(error).__name__}: {' '.join(str(error).split())[:LONGEST]}")
            good = False
            continue
        # Inner stages ("tap.") help to find a fault; a pack's other outputs must all be there.
        missing = [name for name in missing if not name.startswith("tap.")]
        large = {name for name, error in errors.items() if error > tolerances[name]}
        passed = not missing and not large
        good &= passed
        print(f"{'ok  ' if passed else 'FAIL'} {path} (tolerance {min(tolerances.values()):g})")
        for name, error in errors.items():
            own = tolerances[name] if tolerances[name] > min(tolerances.values()) else None
            note = "  too large" if name in large else f"  (tolerance {own:g})" if own else ""
            print(f"     {name:<24} {error:.2e}{note}")
        for name in missing:
            print(f"     {name:<24} not computed")
    return 0 if good else 1

"""Tables of the networks of a zoo, written from what their classes say of themselves."""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch

from .network import Network
from .profiling import count_costs, format_number
from .zoo import ModelZoo

VENUE = re.compile(r"((?:[A-Z][\w-]*|of|on|for|and)(?: (?:[A-Z][\w-]*|of|on|for|and))* \d{4}|\b\d{4}\b)")


class System(NamedTuple):
    """A published system and where it lies."""

    name: str  # in the zoo
    network: type[Network]
    package: str  # as "dense.backbones"
    readme: Path | None  # of its configs
    packs: int  # that pin what the published code computes

    @property
    def venue(self) -> str:
        """Where its first paper was published, and when, as "ECCV 2022"."""
        after_title = self.network.paper.rpartition('", ')[2]
        match = VENUE.search(after_title)
        return match[0] if match else after_title


def find_systems(root: Path, *zoos: ModelZoo) -> list[System]:
    """All systems of some zoos, by package and name.

    Args:
        root: of the repository, which has configs and parity packs.
    """
    found = []
    for zoo in zoos:
        for name, network in zoo.systems().items():
            folder = network.folder or name
            readme = root / "configs" / folder / "README.md"
            found.append(
                System(
                    name,
                    network,
                    ".".join(network.__module__.split(".")[:2]),
                    readme if readme.is_file() else None,
                    len(list((root / "tests/parity/packs" / folder).glob("*.json"))),
                )
            )
    return sorted(
        found, key=lambda system: (system.package != "pointsuite.models", system.package, system.name)
    )


def count_macs(network: type[Network], arch: str) -> int | None:
    """Multiply-adds of one input of the default size, counted without computing; None where that fails."""
    try:
        with torch.device("meta"):
            model = network.create(arch).eval()
            inputs = model.example_inputs(1)
            return count_costs(model, lambda: model(*inputs))[""].macs
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return None  # an operator that is not for tensors without data


def format_systems(systems: Iterable[System], root: Path) -> str:
    """The README's table: one row a system."""
    rows = [("system", "published", "package", "variants", "parity packs")]
    for system in systems:
        title = system.network.title or system.network.__name__
        link = f"[{title}]({system.readme.relative_to(root)})" if system.readme else title
        rows.append(
            (
                f"{link} `{system.name}`",
                system.venue,
                f"`{system.package}`",
                str(len(system.network.archs)),
                str(system.packs) if system.packs else "-",
            )
        )
    return _format_rows(rows)


def format_models(systems: Iterable[System], root: Path) -> Iterator[str]:
    """Lines of ``docs/models.md``: of each system its facts, variants, published results and exemptions."""
    yield "# Models"
    yield ""
    yield "Written by `python tools/analysis/list_models.py --write` from what the classes say of themselves;"
    yield "results are those that the authors published. MACs are those of one input of the default size."
    for package, group in groupby(systems, key=lambda system: system.package):
        yield ""
        yield f"## {package}"
        for system in group:
            yield from _format_system(system, root)


def _format_system(system: System, root: Path) -> Iterator[str]:
    network = system.network
    yield ""
    yield f"### {network.title or network.__name__} (`{system.name}`)"
    yield ""
    yield network.paper + "."
    code = f"Code: {network.code}, {network.licence}." if network.code else "No published code."
    readme = f" [Configs and results](../{system.readme.relative_to(root)})." if system.readme else ""
    yield f"{code} Class `{network.__module__}.{network.__name__}`; {system.packs} parity packs.{readme}"
    yield ""
    results = list(dict.fromkeys(name for found in network.published.values() for name in found))
    rows = [("model", "parameters", "MACs", *results)]
    for arch in network.archs:
        macs = count_macs(network, arch)
        own = network.published.get(arch, {})
        rows.append(
            (
                f"`{network.model_name(arch)}`",
                f"{network.num_parameters[arch]:,}" if arch in network.num_parameters else "-",
                format_number(macs) if macs else "-",
                *(f"{own[name]:g}" if name in own else "" for name in results),
            )
        )
    yield _format_rows(rows).rstrip("\n")
    for check, reason in network.exempt.items():
        yield ""
        yield f"Does not pass `{check}`: {reason}."


def _format_rows(rows: list[tuple[str, ...]]) -> str:
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body]) + "\n"


def replace_between(text: str, begin: str, end: str, new: str) -> str:
    """``text`` with what stands between two marks exchanged.

    Raises:
        ValueError: a mark is missing.
    """
    if begin not in text or end not in text:
        raise ValueError(f"found no {begin if begin not in text else end}, wanted it around the table")
    before, rest = text.split(begin, 1)
    return before + begin + "\n" + new + end + rest.split(end, 1)[1]

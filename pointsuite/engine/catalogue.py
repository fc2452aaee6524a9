"""Tables of the networks of a zoo, written from what their classes say of themselves."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch

from .network import Network
from .profiling import count_costs, format_number
from .zoo import ModelZoo


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
        return self.network.paper.partition('", ')[2].partition(", ")[0]


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
                    len(list((root / "tests/parity/packs" / (network.packs or folder)).glob("*.json"))),
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


def read_macs(text: str) -> dict[str, str]:
    """The column of MACs of what :func:`format_models` wrote, by the model's name."""
    return dict(re.findall(r"^\| `(\w+)` \| [\d,]+ \| ([^|]+?) \|", text, re.MULTILINE))


def format_models(
    systems: Iterable[System], root: Path, macs: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Lines of ``docs/models.md``: of each system its facts, variants, published results and exemptions.

    Args:
        systems: see :func:`find_systems`.
        root: of the repository.
        macs: by the model's name, where they are known: counting all takes a minute.
    """
    yield "# Models"
    yield ""
    yield "Written by `python tools/analysis/list_models.py --write` from what the classes say of themselves;"
    yield "results are those that the authors published. MACs are those of one input of the default size."
    for package, group in groupby(systems, key=lambda system: system.package):
        yield ""
        yield f"## {package}"
        for system in group:
            yield from _format_system(system, root, macs)


def _format_system(system: System, root: Path, known: Mapping[str, str] | None) -> Iterator[str]:
    network = system.network
    yield ""
    yield f"### {network.title or network.__name__} (`{system.name}`)"
    yield ""
    yield network.paper + "."
    code = f"Code: {network.code}, {network.licence}." if network.code else "No published code."
    readme = f" [Configs and results](../{system.readme.relative_to(root)})." if system.readme else ""
    yield f"{code} Class `{network.__module__}.{network.__name__}`; {system.packs} parity packs.{readme}"
    yield ""
    results = list(dict.fromkeys(result for found in network.published.values() for result in found))
    rows = [("model", "parameters", "MACs", *results)]
    for arch in network.archs:
        name = network.model_name(arch)
        macs = (known or {}).get(name)
        if macs is None:
            counted = count_macs(network, arch)
            macs = format_number(counted) if counted else "-"
        own = network.published.get(arch, {})
        rows.append(
            (
                f"`{name}`",
                f"{network.num_parameters[arch]:,}" if arch in network.num_parameters else "-",
                macs,
                *(f"{own[result]:g}" if result in own else "" for result in results),
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

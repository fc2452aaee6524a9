"""What every published network says of itself, and how it is found by name."""

from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .checkpoint import CheckpointError


def results(
    measures: Sequence[str], by_arch: Mapping[str, Sequence[float | None]]
) -> dict[str, dict[str, float]]:
    """:attr:`Network.published` of a table: columns are what was measured, None is a gap."""
    return {
        arch: {name: value for name, value in zip(measures, row, strict=True) if value is not None}
        for arch, row in by_arch.items()
    }


class Network:
    """Mixed into the class of a published network: its facts, its variants, its published weights.

    Attributes:
        system: name in the zoo; the class's file and the folder of its configs have it, too.
        folder: of its configs and parity packs, where that is named after a system beside it.
        packs: folder of its parity packs, where that has another name still, as after an operator.
        title: what the README calls it; the class's name by default.
        paper: authors, title, venue, arXiv number.
        code: the published code, as ``owner/repository``; "" where there is none.
        licence: of that code.
        archs: the published variants by name, the smallest first, each a dict of the same keys.
        num_parameters: of the model that :func:`create_model` builds of a variant, by its name.
        twins: variants whose weights have the names and shapes of another's, which they are taken for unless
            their file's name says otherwise: {variant: the other}.
        published: the authors' results: by a variant's name {what was measured: number}.
        example_sizes: two sizes of inputs, small, and not square where the network takes such.
        example_arch: what :meth:`smallest` has otherwise than the first variant, as narrower maps.
        exempt: checks of the contract test that the network cannot pass: {check: reason}; "check:classifier"
            or "check:maps" where it is that of a backbone alone.
    """

    system: ClassVar[str]
    folder: ClassVar[str] = ""
    packs: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str]
    code: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    archs: ClassVar[dict[str, dict[str, Any]]]
    num_parameters: ClassVar[dict[str, int]] = {}
    twins: ClassVar[dict[str, str]] = {}
    published: ClassVar[dict[str, dict[str, float]]] = {}
    example_sizes: ClassVar[tuple[Any, Any]] = ((64, 64), (96, 64))
    example_arch: ClassVar[dict[str, Any]] = {}
    exempt: ClassVar[dict[str, str]] = {}

    @classmethod
    def find_arch(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        """A published variant by its name, or one's own, which must have the same keys."""
        if isinstance(arch, str):
            if arch not in cls.archs:
                raise ValueError(f"{cls.__name__} has no arch {arch!r}; there are {sorted(cls.archs)}")
            return cls.archs[arch]
        wanted = next(iter(cls.archs.values())).keys()
        if set(arch) != set(wanted):
            raise ValueError(f"an arch of {cls.__name__} has keys {sorted(wanted)}, found {sorted(arch)}")
        return dict(arch)

    @classmethod
    def name_arch(cls, arch: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """A variant as :meth:`guess_options` gives it: its name, or of one's own any name and what it is."""
        name = next((name for name, known in cls.archs.items() if known == arch), None)
        return (next(iter(cls.archs)), {"arch": dict(arch)}) if name is None else (name, {})

    @classmethod
    def drop_defaults(cls, **options: Any) -> dict[str, Any]:
        """The options that the constructor does not have by itself."""
        parameters = signature(cls).parameters
        return {name: value for name, value in options.items() if value != parameters[name].default}

    @classmethod
    def model_name(cls, arch: str) -> str:
        """What the zoo calls a variant: "system_arch", or just "arch" where that begins with the system."""
        return arch if f"{arch}_".startswith(f"{cls.system}_") else f"{cls.system}_{arch}".rstrip("_")

    @classmethod
    def create(cls, arch: str | Mapping[str, Any], **options) -> nn.Module:
        """The model that the zoo knows by the name of the system and of a variant."""
        return cls(arch, **options)

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        """The first variant with as few blocks as can be, changed by :attr:`example_arch`: what tests run."""
        arch = dict(next(iter(cls.archs.values())))
        if "depths" in arch:
            arch["depths"] = tuple(min(depth, 1) for depth in arch["depths"])
        if "depth" in arch:
            arch["depth"] = min(arch["depth"], 2)
        return cls.create({**arch, **cls.example_arch}, **options)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' weights, named as in the model that :meth:`create` builds.

        Raises:
            CheckpointError: a key that the published network does not have.
        """
        raise CheckpointError(f"{cls.__name__}: no published weights are known")

    @classmethod
    def guess_options(
        cls, state_dict: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        """What converted weights may be of: a variant, options of :meth:`create`, weights named as its own.

        An option ``arch`` is a variant of one's own, as of other depths. Whether shapes fit is found out by
        whoever asks.
        """
        for arch in cls.archs:
            yield arch, {}, dict(state_dict)

    @classmethod
    def reads_all(cls, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether :meth:`convert_official` takes all that is in a file, not a part of a larger network."""
        return True

    @classmethod
    def names_fit(cls, arch: str, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether published weights, named as their authors did, may be of a variant.

        For variants that only these names tell apart; :meth:`guess_options` looks at all else.
        """
        return True

    def example_inputs(self, batch: int = 2, size: tuple[int, int] = (224, 224)) -> tuple[Tensor, ...]:
        """Random arguments of :meth:`forward`, to test, count and time it; ``size`` is height and width."""
        return (torch.randn(batch, getattr(self, "in_channels", 3), *size),)

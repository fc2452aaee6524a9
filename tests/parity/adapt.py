"""What adapters share: a pack as they see it, and the case that they make of it for the runner."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dense.base import BaseBackbone, ClassificationNetwork
from pointsuite.engine.checkpoint import strip_prefix

Output = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


class Words:
    """The words of a pack's `build`, each of which an adapter must read: :meth:`check` raises else.

    A `build` that is one text has the single word "text".
    """

    def __init__(self, build: Mapping[str, Any] | str):
        self._words = {"text": build} if isinstance(build, str) else dict(build)
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._words

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        if name not in self._words:
            raise ValueError(f"build has no word {name!r}; it has {sorted(self._words)}")
        return self._words[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401  to mark it as read

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the words that there are, by name."""
        return {name: self[name] for name in names if name in self}

    def skip(self, *names: str) -> None:
        """Words that say nothing beyond the weights and inputs, as the name of a variant."""
        self._read.update(names)

    def agree(self, **found: Any) -> None:
        """Words, where given, must say what the weights or inputs show.

        Raises:
            ValueError: a word says something else.
        """
        for name, value in found.items():
            value = list(value) if isinstance(value, tuple) else value
            if name in self and self[name] != value:
                raise ValueError(f"word {name!r} is {self[name]!r}, but the pack shows {value!r}")

    def only(self, name: str, *values: Any) -> None:
        """A word of which the model has no option but these values.

        Raises:
            ValueError: it has another one.
        """
        if self.get(name, values[0]) not in values:
            raise ValueError(f"word {name!r} must be one of {list(values)} here, found {self[name]!r}")

    def check(self) -> None:
        """Raises a ValueError that names the words nobody read."""
        if unread := [name for name in self._words if name not in self._read]:
            raise ValueError(f"the adapter does not know {', '.join(map(repr, unread))} of build")


@dataclass
class Pack:
    """A pack as an adapter sees it.

    Attributes:
        name, notes: of the pack.
        words: of its `build`.
        shapes: of all that the published state dict has, by key.
        weights: its learned tensors, float32, by key.
        inputs: tensors by name.
        facts: the outputs that it pins, by name.
    """

    name: str
    notes: str
    words: Words
    shapes: dict[str, tuple[int, ...]]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    facts: dict[str, dict]

    def has(self, prefix: str) -> bool:
        """Whether any key of the published state dict starts so."""
        return any(key.startswith(prefix) for key in self.shapes)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The weights whose keys start with `prefix`, which is taken off."""
        return {
            key.removeprefix(prefix): value for key, value in self.weights.items() if key.startswith(prefix)
        }

    def count(self, pattern: str) -> int:
        """How many parts there are; the only group of `pattern` is a part's number, counted from 0."""
        found = (re.match(pattern, key) for key in self.shapes)
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    def depths(self, stage: str, first: int = 0, block: str = r"(\d+)\.") -> list[int]:
        """How many blocks each stage has; `stage` is the start of a key, as "stages.{}."."""
        depths = []
        while depth := self.count(re.escape(stage.format(first + len(depths))) + block):
            depths.append(depth)
        return depths


@dataclass
class Case:
    """What the runner is to run.

    Attributes:
        model: is given `state`, and is put in evaluation mode.
        state: its weights by our names; all of them, but for counters of batches.
        taps: modules by the names of outputs "tap.NAME"; or a module and a function of its output and inputs.
            The first output counts. Another order of axes than the published one is found out.
        run: from the inputs by name to the outputs: by name, or in the order of the pack. By default the
            model, called with all inputs in order.
        constant: a pattern of keys that `state` need not have, for the model computes these itself.
        once: run once, with gradients; else first in inference mode, and with gradients only for those.
        train: leave the model in training mode; implies `once`.
        double: take the gradients in float64.
        threads: run by so many threads.
        tolerances: of single outputs, instead of the pack's; an adapter says why.
    """

    model: nn.Module | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    taps: Mapping[str, nn.Module | tuple[nn.Module, Callable[..., Tensor]]] = field(default_factory=dict)
    run: Callable[[dict[str, Tensor]], Output] | None = None
    constant: str | None = None
    once: bool = False
    train: bool = False
    double: bool = False
    threads: int | None = None
    tolerances: Mapping[str, float] = field(default_factory=dict)


def backbone_case(
    cls: type[BaseBackbone],
    pack: Pack,
    arch: Mapping[str, Any],
    taps: Callable[[BaseBackbone], dict],
    options: Mapping[str, Any] | None = None,
    **case: Any,
) -> Case:
    """A classifier where the weights have a head, else the dense backbone.

    Args:
        arch: of the keys of `cls.archs`.
        taps: makes :attr:`Case.taps` of the backbone.
        options: further ones of `cls`.
        **case: further attributes of the case.
    """
    options = options or {}
    state = cls.convert_official(pack.weights)
    classes = next(
        (len(value) for key, value in state.items() if re.fullmatch(r"head\.(.*\.)?fc\.weight", key)), 0
    )
    if classes:
        pack.words.agree(num_classes=classes)
        backbone = cls(arch, **{**cls.classifier_options(arch), **options})
        model = ClassificationNetwork(backbone, classes)
    else:
        pack.words.skip("num_classes")
        model = backbone = cls(arch, **options)
        state = strip_prefix(state, "backbone.")
    return Case(model, state, taps(backbone), **case)


def labels(pack: Pack) -> list[Tensor]:
    """The classes of each image's boxes, which the notes name, as "Labels [0,2,1] and [1]"."""
    noted = re.search(r"Labels ((?:\[[\d, ]*\](?:, | and )?)+)", pack.notes)
    if noted is None:
        raise ValueError("the notes name no labels, wanted as 'Labels [0,2,1] and [1]'")
    return [torch.tensor(json.loads(found), dtype=torch.long) for found in re.findall(r"\[.*?\]", noted[1])]

"""Weights that are shipped: files of trained networks, each with a card that says what it is.

Both lie in one folder, as ``NAME-1a2b3c4d.safetensors`` and ``NAME-1a2b3c4d.json``: the digits begin the
SHA-256 of the former. ``tools/publish.py`` writes both.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from .files import FileError, list_files, read_json

FOLDER = Path(__file__).parents[1] / "weights"
DIGITS = 8  # of the SHA-256, in names


@dataclass(frozen=True)
class Card:
    """What is known of trained weights.

    Attributes:
        name: of the model in its zoo, or of the run.
        file: the weights, beside the card.
        sha256: of that file, 64 hexadecimal digits.
        model: class of the run's model.
        parameters: how many the network has.
        classes: names of what it tells apart; none of a network that does not.
        config: of the run, below ``configs/`` where it is this project's.
        command, test: which train and test it.
        seed: of the run.
        epoch: after which the weights were saved.
        data, data_licence: what they were trained on.
        licence: of the weights.
        results: {metric: number} of the test.
        sampled: ``indices`` of a few test samples, and the ``results`` of these alone; empty where the test
            data cannot be divided.
        versions: {library: version} that the results were computed with.
    """

    name: str
    file: str
    sha256: str
    model: str
    parameters: int
    classes: tuple[str, ...]
    config: str
    command: str
    test: str
    seed: int | None
    epoch: int | None
    data: str
    data_licence: str
    licence: str
    results: dict[str, float]
    sampled: dict[str, Any]
    versions: dict[str, str]
    folder: Path = FOLDER

    @property
    def path(self) -> Path:
        """The weights' file."""
        return self.folder / self.file

    def to_dict(self) -> dict[str, Any]:
        """As it is written."""
        return {key: value for key, value in asdict(self).items() if key != "folder"}


def read_card(path: str | os.PathLike) -> Card:
    """A card from its file.

    Raises:
        FileError: it is no card, or names no file beside it.
    """
    path, found = Path(path), read_json(path)
    wanted = {field.name for field in fields(Card)} - {"folder"}
    if not isinstance(found, Mapping) or set(found) != wanted:
        keys = sorted(wanted ^ set(found)) if isinstance(found, Mapping) else type(found).__name__
        raise FileError(path, f"found {keys} too much or too little, wanted the card of some weights")
    card = Card(**{**found, "classes": tuple(found["classes"]), "folder": path.parent})
    if not isinstance(card.file, str) or Path(card.file).name != card.file or not card.path.is_file():
        raise FileError(path, f"found {str(card.file)[:80]!r}, wanted a file of weights beside the card")
    return card


@cache
def find_cards(folder: Path = FOLDER) -> dict[str, Card]:
    """The cards in a folder by the models' names, sorted; by default of what is shipped.

    Raises:
        FileError: one that is damaged, or two of one model.
    """
    cards: dict[str, Card] = {}
    for path in list_files(folder, f"*-{'[0-9a-f]' * DIGITS}.json"):
        card = read_card(path)
        if card.name in cards:
            raise FileError(path, f"found a second card of {card.name}, wanted one")
        cards[card.name] = card
    return dict(sorted(cards.items()))

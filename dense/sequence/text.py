"""Text as tokens: its bytes, or its characters."""

from collections.abc import Iterable

import torch
from torch import Tensor

UNITS = ("byte", "character")


class Vocabulary:
    """Which token stands for what.

    Args:
        characters: token i is the i-th of them; None for the 256 bytes of UTF-8.
    """

    def __init__(self, characters: Iterable[str] | None = None):
        self.characters = None if characters is None else tuple(characters)
        self._ids = {character: i for i, character in enumerate(self.characters or ())}
        if self.characters is not None and len(self._ids) < len(self.characters):
            raise ValueError("a vocabulary has a character twice, wanted each once")

    def __len__(self) -> int:
        return 256 if self.characters is None else len(self.characters)

    @classmethod
    def of(cls, text: str, unit: str) -> "Vocabulary":
        """That of a text: of "byte"s, or of the "character"s in it, in the order of their code points."""
        if unit not in UNITS:
            raise ValueError(f"unit must be one of {UNITS}, found {unit!r}")
        return cls(None if unit == "byte" else sorted(set(text)))

    def encode(self, text: str) -> Tensor:
        """(n,) int64.

        Raises:
            ValueError: a character that the vocabulary does not have.
        """
        if self.characters is None:
            return torch.tensor(list(text.encode()), dtype=torch.long)
        try:
            return torch.tensor([self._ids[character] for character in text], dtype=torch.long)
        except KeyError as error:
            known = "".join(self.characters)
            raise ValueError(
                f"found the character {error.args[0]!r}, wanted those of the vocabulary: {known!r}"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD."""
        ids = [int(i) for i in ids]
        if self.characters is None:
            return bytes(ids).decode(errors="replace")
        return "".join(self.characters[i] for i in ids)

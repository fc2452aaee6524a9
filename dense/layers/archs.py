"""Published variants of a network by their names."""

from collections.abc import Mapping
from typing import Any, ClassVar


class Archs:
    """Of a network whose published variants are in ``archs``, each a dict of the same keys."""

    archs: ClassVar[dict[str, dict[str, Any]]]

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

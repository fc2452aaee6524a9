"""Change modules of other libraries right after Python has run them, and not before somebody imports them."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

Mends = Mapping[str, Callable[[ModuleType], None]]


class Mender(MetaPathFinder):
    """Finds modules of some packages as Python does, and mends those that need it once they ran.

    Args:
        packages: whose modules may need it.
        find_mends: by the names of modules, what is done to each; asked for when one of them is imported.
    """

    def __init__(self, packages: Sequence[str], find_mends: Callable[[], Mends]):
        self.packages = tuple(packages)
        self.find_mends = find_mends

    def find_spec(self, name, path, target=None) -> ModuleSpec | None:
        top, dot, _ = name.partition(".")
        if not dot or top not in self.packages or (mend := self.find_mends().get(name)) is None:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                mend(module)

            spec.loader.exec_module = exec_module
        return spec


def mend_on_import(packages: Sequence[str], find_mends: Callable[[], Mends]) -> None:
    """Mend the packages' modules when they are imported, and now those that are; once for the packages."""
    packages = tuple(packages)
    if any(isinstance(finder, Mender) and finder.packages == packages for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, Mender(packages, find_mends))
    if any(name in sys.modules for name in packages):
        for name, mend in find_mends().items():
            if name in sys.modules:
                mend(sys.modules[name])

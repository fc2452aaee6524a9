"""How a scope gets its registries, and how a package registers what lies in it."""

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

import mmengine.registry
from mmengine.logging import print_log
from mmengine.registry import Registry

EXTRAS = {"mmcv": "dense", "mmdet": "dense", "mmseg": "dense"}  # packages that an extra brings, and which


def make_registries(scope: str, **packages: str | Sequence[str]) -> dict[str, Registry]:
    """A child in ``scope`` of every registry of MMEngine, by name; it warns of a scope that lacks one.

    Args:
        **packages: by a registry's name, the package or packages whose import registers what belongs there.
    """

    def locations(name: str) -> list[str]:
        found = packages.get(name, scope)  # a registry without any location MMEngine warns of
        return [found] if isinstance(found, str) else list(found)

    return {
        name: Registry(root.name, parent=root, scope=scope, locations=locations(name))
        for name, root in _roots().items()
    }


def _roots() -> dict[str, Registry]:
    return {name: root for name, root in vars(mmengine.registry).items() if isinstance(root, Registry)}


def import_package(name: str) -> None:
    """Import all that lies in a package, and let the package export what has registered itself.

    Called by the package's ``__init__``, so that no list of modules is kept by hand. What needs an extra
    that is not installed is left out, with a warning.
    """
    package = sys.modules[name]
    for module in iter_modules(package.__path__, f"{name}."):
        try:
            import_module(module.name)
        except ImportError as error:
            needed = (error.name or "").partition(".")[0]
            if needed not in EXTRAS:
                raise
            print_log(
                f"{module.name} is left out: it needs {needed} (pip install pointsuite[{EXTRAS[needed]}])",
                "current",
                logging.WARNING,
            )
    scope = name.partition(".")[0]
    registered = {
        thing.__name__: thing
        for root in _roots().values()
        if scope in root.children
        for thing in root.children[scope].module_dict.values()
        if thing.__module__.startswith(f"{name}.")
    }
    vars(package).update(registered)
    package.__all__ = sorted({*vars(package).get("__all__", ()), *registered})

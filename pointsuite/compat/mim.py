"""Lets MMEngine find configs of this package and of mmseg, as ``_base_ = "pointsuite::risurconv/..."``.

MMEngine looks in an installed package's ``.mim/configs``, but in packages that it knows by name only.
"""

from types import ModuleType

from ..engine.mending import mend_on_import


def prepare() -> None:
    """Tell MMEngine of packages when its configs are imported, or now where they are."""
    mend_on_import(("mmengine",), lambda: {"mmengine.config.utils": introduce})


def introduce(utils: ModuleType) -> None:
    # a module, beside which MMEngine looks: of the distribution it would take the first package, dense
    utils.MODULE2PACKAGE["pointsuite"] = "pointsuite.registry"
    # it wants the distribution "mmsegmentation", but mmseg has others, too
    utils.MODULE2PACKAGE["mmseg"] = "mmseg"

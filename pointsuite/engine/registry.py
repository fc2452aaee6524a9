"""MMEngine registries of scope ``pointsuite``: children of MMEngine's own, filled on first use."""

from collections.abc import Sequence

import mmengine.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

# For `_base_ = "mmseg::..."` MMEngine wants the distribution "mmsegmentation", but mmseg has others, too.
MODULE2PACKAGE["mmseg"] = "mmseg"


def make_registries(scope: str, **locations: str | Sequence[str]) -> dict[str, Registry]:
    """A child in ``scope`` of every registry of MMEngine, by name; it warns of a scope that lacks one.

    Args:
        **locations: by a registry's name, the module or modules whose import registers what belongs there.
    """

    def modules(name: str) -> list[str]:
        found = locations.get(name, [])
        return [found] if isinstance(found, str) else list(found)

    roots = {name: root for name, root in vars(mmengine.registry).items() if isinstance(root, Registry)}
    return {
        name: Registry(root.name, parent=root, scope=scope, locations=modules(name))
        for name, root in roots.items()
    }


_registries = make_registries(
    "pointsuite",
    RUNNERS="pointsuite.engine.runner",
    HOOKS="pointsuite.engine.hooks",
    OPTIM_WRAPPERS="pointsuite.engine.optim",
    MODELS="pointsuite.models",
    DATASETS="pointsuite.datasets",
    TRANSFORMS="pointsuite.transforms",
    METRICS="pointsuite.evaluation",
)
RUNNERS = _registries["RUNNERS"]
HOOKS = _registries["HOOKS"]
OPTIM_WRAPPERS = _registries["OPTIM_WRAPPERS"]
MODELS = _registries["MODELS"]
DATASETS = _registries["DATASETS"]
TRANSFORMS = _registries["TRANSFORMS"]
METRICS = _registries["METRICS"]

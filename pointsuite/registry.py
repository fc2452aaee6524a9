"""MMEngine's registries of scope ``pointsuite``: children of its own, filled on first use."""

from .engine.registry import make_registries

_registries = make_registries(
    "pointsuite",
    RUNNERS="pointsuite.engine.runner",
    HOOKS=("pointsuite.engine.runner", "pointsuite.report"),
    OPTIM_WRAPPERS="pointsuite.engine.runner",
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

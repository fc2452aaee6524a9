"""MMEngine's registries of scope ``dense``, children of its own, and the zoo of its models."""

from pointsuite.engine.registry import make_registries
from pointsuite.engine.zoo import ModelZoo

# What needs mmdet or mmseg (dense.detection, dense.segmentation) is imported by the configs that use it, by
# custom_imports: the others need not wait for these libraries.
TASKS = (
    "dense.classification",
    "dense.matching",
    "dense.restoration",
    "dense.video",
    "dense.sequence",
    "dense.gaze",
    "dense.adaptation",
    "dense.explain",
)

_registries = make_registries(
    "dense",
    MODELS=("dense.base", "dense.backbones", *TASKS),
    DATASETS=TASKS,
    TRANSFORMS=("dense.base", *TASKS),
    METRICS=TASKS,
    HOOKS=("dense.base", "dense.classification", "dense.adaptation"),
    OPTIMIZERS="dense.base",
    OPTIM_WRAPPER_CONSTRUCTORS="dense.base",
    PARAM_SCHEDULERS="dense.base",
    VISUALIZERS=TASKS,
)
MODELS = _registries["MODELS"]
DATASETS = _registries["DATASETS"]
TRANSFORMS = _registries["TRANSFORMS"]
METRICS = _registries["METRICS"]
HOOKS = _registries["HOOKS"]
VISUALIZERS = _registries["VISUALIZERS"]
OPTIMIZERS = _registries["OPTIMIZERS"]
OPTIM_WRAPPER_CONSTRUCTORS = _registries["OPTIM_WRAPPER_CONSTRUCTORS"]
PARAM_SCHEDULERS = _registries["PARAM_SCHEDULERS"]

ZOO = ModelZoo("dense", "dense.backbones", *TASKS, "dense.detection", "dense.segmentation")

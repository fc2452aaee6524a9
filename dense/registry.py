"""MMEngine registries of scope ``dense``, children of MMEngine's own, and its model zoo."""

from pointsuite.engine.registry import make_registries
from pointsuite.engine.zoo import ModelZoo

_registries = make_registries(
    "dense",
    # what needs mmdet or mmseg is imported by the configs that use it (custom_imports)
    MODELS=["dense.backbones", "dense.classification.classifier", "dense.classification.augment"],
    DATASETS=["dense.classification.datasets"],
    TRANSFORMS=["dense.classification.transforms"],
    METRICS=["dense.classification.metrics"],
)
MODELS = _registries["MODELS"]
DATASETS = _registries["DATASETS"]
TRANSFORMS = _registries["TRANSFORMS"]
METRICS = _registries["METRICS"]
OPTIM_WRAPPER_CONSTRUCTORS = _registries["OPTIM_WRAPPER_CONSTRUCTORS"]

ZOO = ModelZoo("dense", "dense.backbones")

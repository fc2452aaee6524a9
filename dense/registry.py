"""MMEngine registries of scope ``dense``, children of MMEngine's own, and its model zoo."""

from pointsuite.engine.registry import make_registries
from pointsuite.engine.zoo import ModelZoo

_registries = make_registries("dense", MODELS="dense.backbones")
MODELS = _registries["MODELS"]
DATASETS = _registries["DATASETS"]
TRANSFORMS = _registries["TRANSFORMS"]
METRICS = _registries["METRICS"]

ZOO = ModelZoo("dense", "dense.backbones")

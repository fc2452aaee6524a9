"""MMEngine registries of scope ``dense``, children of MMEngine's own, and its model zoo."""

from pointsuite.engine.registry import make_registries
from pointsuite.engine.zoo import ModelZoo

_registries = make_registries(
    "dense",
    # what needs mmdet or mmseg is imported by the configs that use it (custom_imports)
    MODELS=[
        "dense.backbones",
        "dense.data",
        "dense.classification.classifier",
        "dense.classification.augment",
        "dense.matching.baselines",
        "dense.matching.cats",
        "dense.matching.matcher",
        "dense.matching.ufc",
        "dense.restoration.dncnn",
        "dense.restoration.edsr",
        "dense.restoration.hat",
        "dense.restoration.nafnet",
        "dense.restoration.restorer",
        "dense.video.baselines",
        "dense.video.predictor",
        "dense.video.vad_hybrid",
    ],
    DATASETS=[
        "dense.classification.datasets",
        "dense.classification.cifar",
        "dense.matching.datasets",
        "dense.restoration.datasets",
        "dense.video.datasets",
    ],
    TRANSFORMS=[
        "dense.data",
        "dense.classification.transforms",
        "dense.matching.transforms",
        "dense.matching.warps",
        "dense.restoration.datasets",
        "dense.video.datasets",
    ],
    METRICS=[
        "dense.classification.metrics",
        "dense.matching.metrics",
        "dense.restoration.metrics",
        "dense.video.metrics",
    ],
    HOOKS=["dense.visualization"],
    OPTIM_WRAPPER_CONSTRUCTORS=["dense.optim"],
    PARAM_SCHEDULERS=["dense.optim"],
    VISUALIZERS=[
        "dense.matching.visualization",
        "dense.restoration.visualization",
        "dense.video.visualization",
    ],
)
MODELS = _registries["MODELS"]
DATASETS = _registries["DATASETS"]
TRANSFORMS = _registries["TRANSFORMS"]
METRICS = _registries["METRICS"]
HOOKS = _registries["HOOKS"]
VISUALIZERS = _registries["VISUALIZERS"]
OPTIM_WRAPPER_CONSTRUCTORS = _registries["OPTIM_WRAPPER_CONSTRUCTORS"]
PARAM_SCHEDULERS = _registries["PARAM_SCHEDULERS"]

ZOO = ModelZoo("dense", "dense.backbones")

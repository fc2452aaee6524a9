"""Classifiers of clouds side by side under the protocols of rotation."""

from mmengine.config import Config

from pointsuite.engine.comparison import Comparison
from pointsuite.engine.errors import UsageError
from pointsuite.engine.runner import Runner

from .rotation_protocol import PROTOCOLS, evaluate_protocols


class RotationComparison(Comparison):
    """Trains each config under z and under SO(3) and tests it by the protocols of that training.

    All networks get the same clouds, epochs, batches and optimiser; only the network and the training
    rotation differ. The budget stands for that of the configs, whose schedule, a warm-up and a cosine, is
    shortened with it; the defaults are cut down for two CPU cores.

    Args:
        epochs: of training.
        points: of each cloud, in training and test.
        rotations: of each test shape.
    """

    variants = ("z", "SO3")

    def __init__(self, epochs: int = 8, points: int = 256, rotations: int = 3):
        self.settings = {"epochs": epochs, "points": points, "rotations": rotations}
        if min(self.settings.values()) < 1:
            raise UsageError(f"epochs, points and rotations must be at least 1, found {self.settings}")

    def adapt(self, cfg: Config, variant: str) -> None:
        epochs, points = self.settings["epochs"], self.settings["points"]
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None  # it would be on the test split
        train, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
        steps = {step.type: step for step in train.pipeline}
        for name in ("RandomRotate", "SamplePoints"):
            if name not in steps:
                raise UsageError(f"{cfg.filename}: its training pipeline has no {name}, wanted one to set")
        steps["RandomRotate"].mode = variant.lower()
        steps["SamplePoints"].num = points
        test.pipeline = [{"type": "SamplePoints", "num": points}, *test.pipeline]
        kinds = [scheduler.type for scheduler in cfg.param_scheduler]
        if kinds != ["LinearLR", "CosineAnnealingLR"]:
            raise UsageError(
                f"{cfg.filename}: its schedulers are {kinds}, wanted a LinearLR and a CosineAnnealingLR"
            )
        warmup, cosine = cfg.param_scheduler
        warmup.end = cosine.begin = warmup.end * epochs // cfg.train_cfg.max_epochs
        cosine.end = cfg.train_cfg.max_epochs = epochs
        cosine.T_max = cosine.end - cosine.begin
        cfg.param_scheduler = [warmup, cosine] if warmup.end else [cosine]

    def evaluate(self, runner: Runner, variant: str) -> dict[str, float]:
        results = evaluate_protocols(
            runner.model,
            runner.build_dataloader(runner.cfg.test_dataloader).dataset,
            [protocol for protocol in PROTOCOLS if protocol.startswith(f"{variant}/")],
            num_rotations=self.settings["rotations"],
            device=next(runner.model.parameters()).device,
        )
        names = {"accuracy": "overall_accuracy", "mean_class_accuracy": "mean_class_accuracy"}
        return {
            f"{name}/{protocol}": result.summary()[key]
            for name, key in names.items()
            for protocol, result in results.items()
        }

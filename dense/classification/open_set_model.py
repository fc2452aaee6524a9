"""A classifier that says how likely it knows the class of what it sees, and the hook that fits it to this."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from pointsuite.engine.errors import UsageError

from ..registry import HOOKS, MODELS
from .model import ImageClassifier
from .open_set import UNKNOWN, OpenSetScore, make_score
from .open_set_evaluation import fit_scores, read_batches
from .open_set_features import FeatureReader
from .sample import ImageDataSample


@MODELS.register_module()
class OpenSetClassifier(ImageClassifier):
    """An :class:`ImageClassifier` with a score of :mod:`~dense.classification.open_set`, saved with it.

    Predictions have ``known_score``, larger for known, besides, for which the network runs once more; the
    hook :class:`FitOpenSet` fits the score.

    Args:
        known_score: type, of :data:`~dense.classification.open_set.SCORES`, and options of the score.
        threshold: below it the predicted label is -1, unknown; None leaves labels as they are.
        **kwargs: of :class:`ImageClassifier`.

    Raises:
        ValueError: a network without a linear last layer, or an unknown score.
    """

    def __init__(
        self,
        *args: Any,
        known_score: Mapping[str, Any] | None = None,
        threshold: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        options = {"type": "costarr", **(known_score or {})}
        FeatureReader(self)  # refuses what has no linear last layer
        weight = torch.zeros(self.num_classes, self.head.hidden_size)
        self.known_score: OpenSetScore = make_score(options.pop("type"), weight, **options)
        self.threshold = threshold

    @property
    def fitted(self) -> bool:
        """Whether the score has seen training data, or needs none."""
        return not self.known_score.fits or bool(self.known_score.count.sum() > 0)

    def predict(self, inputs: Tensor, data_samples: Sequence[ImageDataSample]) -> list[ImageDataSample]:
        samples = super().predict(inputs, data_samples)
        features = self.head(self.backbone.forward_features(inputs), True)
        scores, _ = self.known_score(features)
        for sample, score in zip(samples, scores, strict=True):
            sample.set_data({"known_score": score})
            if self.threshold is not None and score < self.threshold:
                sample.set_data({"pred_label": torch.full_like(sample.pred_label, UNKNOWN)})
        return samples


@HOOKS.register_module()
class FitOpenSet(Hook):
    """Fits the score of an :class:`OpenSetClassifier` to its training data, prepared as in the test.

    After the last step of training, before the checkpoint of it is saved; before a test where it has not
    been done.
    """

    priority = "NORMAL"  # before checkpoints

    def before_run(self, runner: Runner) -> None:
        model = _unwrap(runner.model)
        if not isinstance(model, OpenSetClassifier):
            raise ValueError(f"FitOpenSet wants an OpenSetClassifier, found {type(model).__name__}")

    def after_train_epoch(self, runner: Runner) -> None:
        if runner.train_loop.epoch + 1 == runner.max_epochs:
            self.fit(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not hasattr(runner.train_loop, "max_epochs") and self.is_last_train_iter(runner):
            self.fit(runner)

    def before_test(self, runner: Runner) -> None:
        if not _unwrap(runner.model).fitted:
            self.fit(runner)

    def fit(self, runner: Runner) -> None:
        model = _unwrap(runner.model)
        reader, training = FeatureReader(model), model.training
        if not model.known_score.fits:
            model.known_score.rebase(reader.weight, reader.bias)
            return
        loader = runner.build_dataloader(training_as_tested(runner.cfg))
        model.eval()
        try:
            model.known_score.rebase(reader.weight, reader.bias)
            names = loader.dataset.metainfo.get("classes")
            fit_scores({"": model.known_score}, read_batches(model, reader, loader), names)
        finally:
            model.train(training)
        print_log(f"open set: fitted to {int(model.known_score.count.sum())} right samples", "current")


def _unwrap(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def training_as_tested(cfg: Mapping[str, Any]) -> ConfigDict:
    """The config of a loader of the training data, in order, by the test's pipeline."""
    train, test = cfg["train_dataloader"], cfg["test_dataloader"]
    dataset = {**train["dataset"], "pipeline": test["dataset"]["pipeline"], "test_mode": True}
    return ConfigDict({**test, "dataset": dataset, "drop_last": False})


def open_set_loaders(
    runner: Runner, folders: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """Loaders, and the classes' names, as evaluate_open_set of :mod:`.open_set_evaluation` takes them.

    The config's ``open_set`` has ``known``, and ``unknown`` by name, configs of datasets without a pipeline,
    and ``validation`` and ``surrogate``, or neither. Without it the test's data are the known ones.

    Args:
        folders: further sets of unknown images, by name: any image below a folder.

    Raises:
        UsageError: there is no unknown set, or one of ``validation`` and ``surrogate`` alone.
    """
    cfg = runner.cfg
    sets = cfg.get("open_set") or {}
    unknown = {**sets.get("unknown", {})}
    unknown |= {name: {"type": "LooseImages", "folder": path} for name, path in (folders or {}).items()}
    if not unknown:
        raise UsageError(
            "found no set of unknown images, wanted open_set.unknown in the config, or --unknown"
        )
    if ("validation" in sets) != ("surrogate" in sets):
        raise UsageError("found one of open_set.validation and open_set.surrogate, wanted both or neither")
    test = cfg.test_dataloader

    def load(dataset: Mapping[str, Any]) -> Any:
        own = {**dataset, "pipeline": test.dataset.pipeline, "test_mode": True}
        return runner.build_dataloader(ConfigDict({**test, "dataset": own, "drop_last": False}))

    train = runner.build_dataloader(training_as_tested(cfg))
    loaders = {
        "train": train,
        "known": load(sets.get("known", test.dataset)),
        "unknown": {name: load(dataset) for name, dataset in unknown.items()},
    }
    if "validation" in sets:
        loaders["validation"] = (load(sets["validation"]), load(sets["surrogate"]))
    return loaders, train.dataset.metainfo.get("classes")

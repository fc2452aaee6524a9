"""What is looked at before the first iteration: one line each; what cannot be right stops the run."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from torch import nn

from pointsuite.registry import HOOKS

from ..errors import UsageError, nearest, one_line

Check = Callable[[Any, nn.Module, str, Sequence[Any]], Iterable[str] | None]
CHECKS: list[Check] = []
HEAD = re.compile(r"(^|\.)\w*head(\.\d+)*$")
OTHER_HEADS = re.compile(r"(^|\.)(rpn_head|semantic_head)(\.|$)")  # of objects as such, and of other classes
OPEN = ("language_model", "text_encoder", "backbone_text")  # of models that are told their classes as text
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d)


def register_check(check: Check) -> Check:
    """Decorator of a function (data set, model, stage, metrics) of a run; the stage is train, val or test.

    It returns lines to tell, or None, and raises a UsageError where the two misfit or the data mean nothing.
    """
    CHECKS.append(check)
    return check


def iterate_datasets(dataset: Any) -> Iterator[Any]:
    """The data sets in what repeats or joins them."""
    inner = [dataset.dataset] if hasattr(dataset, "dataset") else getattr(dataset, "datasets", None)
    if inner is None:
        yield dataset
    else:
        for part in inner:
            yield from iterate_datasets(part)


def look(
    stage: str, dataset: Any, model: nn.Module, trained: Sequence[str] = (), metrics: Sequence[Any] = ()
) -> list[str]:
    """What there is to say of a run's data before it begins.

    Args:
        stage: "train", "val" or "test".
        trained: names of the classes that the model was, or is going to be, trained with.
        metrics: that score what is found in the data.

    Raises:
        UsageError: see :func:`register_check`.
    """
    lines = []
    for part in iterate_datasets(dataset):
        names = find_classes(part)
        if trained and names:
            lines += compare_classes(stage, names, trained)
        for check in CHECKS:
            lines += check(part, model, stage, metrics) or ()
    return lines


def describe_empty(cfg: Mapping[str, Any]) -> str:
    """What is wrong where the data set of a config has no sample."""
    while isinstance(cfg.get("dataset"), Mapping):
        cfg = cfg["dataset"]
    name, root = getattr(cfg.get("type"), "__name__", cfg.get("type")), cfg.get("data_root") or ""
    prefix = cfg.get("data_prefix") or {}
    place = cfg.get("ann_file") or prefix.get("img_path") or prefix.get("img") or ""
    return (
        f"the data set {name} of {os.path.join(root, place) or 'a config'} is empty, wanted at least one "
        "sample (filter_cfg may leave out those without annotations)"
    )


# ------------------------------------------------------------------------------------------------- classes


def find_classes(dataset: Any, key: str = "classes") -> tuple[str, ...]:
    """Names of a data set's classes; none where it has none.

    Raises:
        UsageError: see :func:`check_names`.
    """
    info = getattr(dataset, "metainfo", None)
    names = info.get(key) if isinstance(info, Mapping) else None
    if names is None:
        return ()
    check_names(names, f"metainfo.{key}")
    return tuple(map(str, names))


def check_names(names: Any, where: str = "metainfo.classes") -> None:
    """Raise a UsageError where names of classes are one text, or a name stands twice."""
    if isinstance(names, str):
        raise UsageError(f"{where}: found the string {names!r}, wanted a tuple, as ({names!r},)")
    if not isinstance(names, Sequence):
        raise UsageError(f"{where}: found {one_line(repr(names))[:80]}, wanted a tuple of names")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise UsageError(f"{where}: found {twice!r} twice, wanted it once")


def compare_classes(stage: str, names: Sequence[str], trained: Sequence[str]) -> list[str]:
    """Labels are places among the classes: those of two data sets of one model must be the same.

    Raises:
        UsageError: they are the same in another order.
    """
    if tuple(names) == tuple(trained):
        return []
    if sorted(names) == sorted(trained):
        raise UsageError(
            f"{stage} data: found the classes {_join(names)}, wanted them in the order of training: "
            f"{_join(trained)}"
        )
    place = next((i for i, pair in enumerate(zip(names, trained, strict=False)) if pair[0] != pair[1]), None)
    if place is None:
        return [f"{stage} data: {len(names)} classes, where training had {len(trained)}"]
    hint = nearest(names[place], trained)
    return [f"{stage} data: class {place} is {names[place]!r}, where training had {trained[place]!r}{hint}"]


def find_heads(model: nn.Module) -> list[tuple[str, int]]:
    """Where a model has a score for each class, as "bbox_head.num_classes", and how many.

    Heads of any object (RPN), of other classes (HTC's semantic head) and of classes as text are left out.
    """
    model = getattr(model, "module", model)  # of several processes
    names = {name for name, _ in model.named_modules()}
    if any(part in OPEN for name in names for part in name.split(".")):
        return []
    found = []
    for name, module in model.named_modules():
        count = getattr(module, "num_classes", None)
        if type(count) is not int or (name and not HEAD.search(name)) or OTHER_HEADS.search(name):
            continue
        if not any(base.__name__ in ("RPNHead", "VPDDepthHead") for base in type(module).__mro__):
            found.append((f"{name}.num_classes".removeprefix("."), count))
    found = [entry for entry in found if entry[0] != "num_classes"] or found  # a head's, which models repeat
    if not found and isinstance(head := getattr(getattr(model, "network", None), "head", None), nn.Module):
        layers = [layer for layer in head.modules() if isinstance(layer, LINEAR)]
        if layers:
            weight = layers[-1].weight
            found.append(("network.head", len(weight)))
    return found


@register_check
def check_classes(dataset: Any, model: nn.Module, stage: str, metrics: Sequence[Any]) -> list[str]:
    """Each class of the data has a score, and the other way round."""
    key = getattr(getattr(model, "module", model), "classes_key", "classes")
    names = find_classes(dataset, key)
    kind = type(dataset).__name__
    count = f"{len(dataset)} samples of {kind}" if hasattr(dataset, "__len__") else kind
    if not names:
        return [f"{stage} data: {count}"]
    heads = [] if "thing_classes" in dataset.metainfo else find_heads(model)  # panoptic: things, or all
    for name, scores in heads:
        if scores != len(names):
            raise UsageError(
                f"model.{name}: found {scores}, wanted {len(names)}, the classes of the {stage} data "
                f"({_where(dataset)}): {_join(names)}"
            )
    categories = getattr(getattr(getattr(model, "module", model), "network", None), "num_categories", None)
    known = find_classes(dataset) if key != "classes" else ()
    if known and type(categories) is int and categories != len(known):
        raise UsageError(
            f"model.network.num_categories: found {categories}, wanted {len(known)}, the classes of the "
            f"{stage} data ({_where(dataset)}): {_join(known)}"
        )
    fit = f", as {heads[0][0].removesuffix('.num_classes')} has" if heads else ""
    return [f"{stage} data: {count}, {len(names)} classes{fit}: {_join(names)}"]


def _where(dataset: Any) -> str:
    """The file or folder of a data set, or its class."""
    places = (getattr(dataset, key, None) for key in ("ann_file", "data_file", "data_root"))
    return str(next((place for place in places if place), type(dataset).__name__))


def _join(names: Sequence[str]) -> str:
    return one_line(", ".join(names))[:200]


# ---------------------------------------------------------------------------------------------------- hook


@HOOKS.register_module()
class PreflightHook(Hook):
    """Looks at all data and the model before the first iteration, and tells what it saw: see :func:`look`."""

    priority = "VERY_HIGH"

    def __init__(self):
        self.trained: tuple[str, ...] = ()
        self.told: set[str] = set()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Whatever is tested must have the classes that its weights were trained with."""
        meta = checkpoint.get("meta")
        info = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
        for key, value in info.items() if isinstance(info, Mapping) else ():
            if str(key).lower() == "classes" and isinstance(value, Sequence) and not isinstance(value, str):
                self.trained = tuple(map(str, value))

    def before_train(self, runner) -> None:
        self.trained = ()
        self._look(runner.model, "train", runner.train_loop)
        parts = iterate_datasets(runner.train_loop.dataloader.dataset)
        self.trained = next((names for part in parts if (names := find_classes(part))), ())
        if getattr(runner, "val_loop", None) is not None:
            self._look(runner.model, "val", runner.val_loop)

    def before_val(self, runner) -> None:
        self._look(runner.model, "val", runner.val_loop)

    def before_test(self, runner) -> None:
        self._look(runner.model, "test", runner.test_loop)

    def _look(self, model: nn.Module, stage: str, loop: Any) -> None:
        if stage in self.told:
            return
        self.told.add(stage)
        metrics = getattr(getattr(loop, "evaluator", None), "metrics", ())
        for line in look(stage, loop.dataloader.dataset, model, self.trained, metrics):
            MMLogger.get_current_instance().info(f"before the run: {line}")

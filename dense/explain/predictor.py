"""A classifier that explains its answers for files and samples."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope
from torch import Tensor, nn

from ..base.drawing import to_picture
from ..classification import Classifier
from .comparison import Game, all_games
from .explain import UnfitNetworkError, class_scores, explain


class Explanation(NamedTuple):
    """Maps of what counts in an image.

    Attributes:
        image: uint8 (H, W, 3), as the network saw it.
        target: the class asked about.
        name: of that class.
        maps: float32 (H, W) by method and layer.
        boxes: (n, 4) of the class, where the data tell them.
    """

    image: np.ndarray
    target: int
    name: str
    maps: dict[Game, np.ndarray]
    boxes: np.ndarray


class Explainer(Classifier):
    """Explains images with the weights of a checkpoint: called with a file, an array, a folder or a list.

    Args:
        config, checkpoint, device: of :class:`~dense.classification.Classifier`.
        methods: of :func:`~dense.explain.explain`; by default all that the network allows, the others are
            named in the log.
        layers: dotted names; each method at each, unless it is meant for its own; by default
            each at its own.
        target: a class by number or name; by default that of the sample, or the one that the network answers.
        options: further ones of :func:`~dense.explain.explain`, of all methods.
        **kwargs: of :class:`~dense.classification.Classifier`.

    Raises:
        ValueError: a method or class that does not exist.

    Example:
        >>> explain = Explainer("work_dirs/mine", methods=("norm_grad", "grad_cam"))
        >>> explain("bird.png").maps["grad_cam", None].shape
        (32, 32)
    """

    def __init__(
        self,
        config: str | os.PathLike | Config | nn.Module,
        checkpoint: str | os.PathLike | None = None,
        device: Any = None,
        *,
        methods: Sequence[str] | None = None,
        layers: Sequence[str] = (),
        target: int | str | None = None,
        options: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(config, checkpoint, device, **kwargs)
        self.games, self.all_methods = all_games(layers, methods), methods is None
        self.options = dict(options or {})
        self.target = self._find_class(target)

    def _find_class(self, target: int | str | None) -> int | None:
        if target is None or isinstance(target, int):
            return target
        if target.isdecimal():
            return int(target)
        if target not in (self.classes or ()):
            raise ValueError(
                f"target: found {target!r}, wanted a number or one of {', '.join(self.classes or ())}"
            )
        return self.classes.index(target)

    def predict(self, inputs: Sequence) -> list[Explanation]:
        return [self._explain(self.prepare(self._read(image))["inputs"], self.target) for image in inputs]

    def explain_sample(self, index: int) -> Explanation:
        """A sample of the config's test data, asked about its own class.

        Raises:
            ValueError: there is none of that number.
        """
        if not hasattr(self, "_dataset"):
            with DefaultScope.overwrite_default_scope(self.registry.scope):
                self._dataset = DATASETS.build(self.cfg.test_dataloader.dataset)
        if not 0 <= index < len(self._dataset):
            raise ValueError(f"sample: found {index}, wanted 0 to {len(self._dataset) - 1}")
        item = self._dataset[index]
        sample = item["data_samples"]
        target = int(sample.gt_label) if self.target is None and "gt_label" in sample else self.target
        boxes = sample.get("gt_boxes")
        return self._explain(item["inputs"], target, () if boxes is None else boxes.numpy())

    def _explain(self, picture: Tensor, target: int | None, boxes: Any = ()) -> Explanation:
        image = self.preprocessor({"inputs": [picture]})["inputs"]
        if target is None:
            target = int(class_scores(self.model(image)).argmax(1))
        maps, refused = {}, {}
        for method, layer in self.games:
            try:
                found = explain(self.model, image, target, method, layer, **self.options)
            except UnfitNetworkError as error:
                if not self.all_methods:
                    raise
                refused[method] = error
                continue
            maps[method, layer] = found[0, 0].float().cpu().numpy()
        if not maps:
            raise next(iter(refused.values()))
        for method, error in refused.items():
            print_log(f"left out {method}: {error}", "current", logging.WARNING)
        name = self.classes[target] if self.classes else str(target)
        return Explanation(to_picture(picture), target, name, maps, np.reshape(boxes, (-1, 4)))


def as_row(title: str, found: Explanation) -> tuple[str, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """What :func:`~dense.explain.visualization.draw_maps` draws of an explanation."""
    maps = {method if layer is None else f"{method}\n{layer}": x for (method, layer), x in found.maps.items()}
    return f"{Path(title).stem}: {found.name}", found.image, maps, found.boxes

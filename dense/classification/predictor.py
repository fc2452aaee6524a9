"""Names for images: a config and its weights in, predictions out."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, DefaultScope
from torch import Tensor, nn

from pointsuite.engine.images import SUFFIXES, to_colour
from pointsuite.engine.predictor import Prediction, resolve_types

from ..base import Predictor
from ..base.images import LoadImage
from ..base.preprocessors import StackImages
from ..base.task import group_by_shape
from ..registry import TRANSFORMS

PIPELINE = (  # as ImageNet is usually tested, for weights that come without a pipeline
    {
        "type": "Resize",
        "scale": (1_000_000, 256),
        "keep_ratio": True,
        "backend": "pillow",
        "interpolation": "bicubic",
    },
    {"type": "CenterCrop", "crop_size": 224},
    {"type": "PackImage"},
)


class Classifier(Predictor):
    """Classifies images with the weights of a checkpoint.

    An image is a file, upright as its EXIF orientation says, or an array of red, green and blue (H, W, 3), or
    grey (H, W), uint8 or uint16; a folder stands for the image files in it, a list for many. It is prepared
    as in the test of the run that the weights are of. Published weights do not say how: their images are
    resized to 256 pixels for the short side, and the 224 x 224 in the middle are taken.

    Args:
        config, checkpoint, device, weights, batch_size, progress: see
            :class:`~pointsuite.engine.predictor.Predictor`; the network is an
            :class:`~dense.classification.model.ImageClassifier` or that of ``dense.create_model``.
        classes: names of the classes, where neither checkpoint nor config has them; numbers by default.

    Example:
        >>> classify = Classifier("work_dirs/shvit-s1_fashion-mnist")
        >>> classify("boot.png").name
        'ankle boot'
        >>> classify("wardrobe")[0].top(3)
    """

    suffixes = SUFFIXES

    def __init__(
        self,
        config: str | os.PathLike | Config | nn.Module,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        weights: str | os.PathLike | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ):
        super().__init__(
            config, checkpoint, device, weights=weights, batch_size=batch_size, progress=progress
        )
        source = str(config if checkpoint is None else checkpoint)
        with DefaultScope.overwrite_default_scope(self.registry.scope):
            self.prepare = Compose([step for step in self._steps(source) if not isinstance(step, LoadImage)])
            names = classes or self._find_names()
        self.classes = None if names is None else tuple(names)
        preprocessor = getattr(self.model, "data_preprocessor", None)
        self.preprocessor = StackImages().to(self.device) if preprocessor is None else preprocessor

    def _steps(self, source: str) -> list:
        if self.cfg is not None:
            return [TRANSFORMS.build(step) for step in self.test_pipeline(source)]
        steps = self.test_pipeline(source) if "pipeline" in self.meta else PIPELINE
        return [TRANSFORMS.build(_resolve(step, source)) for step in steps]

    def _find_names(self) -> Sequence[str] | None:
        names = (self.meta.get("dataset_meta") or {}).get("classes")
        if names or self.cfg is None:
            return names
        return DATASETS.build({**self.cfg.test_dataloader.dataset, "lazy_init": True}).metainfo.get("classes")

    def predict(self, inputs: Sequence) -> list[Prediction]:
        images = [self.prepare(self._read(image))["inputs"] for image in inputs]
        found: dict[int, np.ndarray] = {}
        for group in group_by_shape(images):
            found.update(zip(group, self._run([images[i] for i in group]), strict=True))
        return [self._name(found[i]) for i in range(len(inputs))]

    def _read(self, image: Any) -> dict:
        if not isinstance(image, np.ndarray):
            return LoadImage()({"img_path": os.fspath(image)})
        image = to_colour(image)
        return {"img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}

    @torch.inference_mode()
    def _run(self, images: list[Tensor]) -> np.ndarray:
        """Probabilities (B, classes) of images (3, H, W) of one size."""
        inputs = self.preprocessor({"inputs": images})["inputs"]
        if hasattr(self.model, "probabilities"):
            return self.model.probabilities(inputs).cpu().numpy()
        return self.model(inputs).float().softmax(1).cpu().numpy()

    def _name(self, probabilities: np.ndarray) -> Prediction:
        classes = self.classes or tuple(map(str, range(len(probabilities))))
        if len(classes) != len(probabilities):
            raise ValueError(f"there are {len(classes)} names for the network's {len(probabilities)} classes")
        label = int(probabilities.argmax())
        return Prediction(classes[label], float(probabilities[label]), label, probabilities, classes)


def _resolve(step: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A transform of ours or of mmcv's, by class."""
    TRANSFORMS.import_from_location()
    ours = str(step["type"]).rpartition(".")[2] in TRANSFORMS.module_dict
    return resolve_types(step, TRANSFORMS if ours else TRANSFORMS.parent, source)

"""Detect in image files and arrays from Python: MMDetection's inferencer, safe to point at any file."""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.apis import DetInferencer as StockInferencer
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from torch import nn

from ..base.configured import ConfiguredPredictor
from ..base.images import to_colour


class DetInferencer(ConfiguredPredictor, StockInferencer):
    """Detector of a config with the weights of a checkpoint, called with images.

    A call takes what MMDetection's takes (``out_dir``, ``batch_size``, ``pred_score_thr`` ...) and returns
    the same: ``predictions``, for each image a dict of ``labels``, ``scores`` and ``bboxes``
    (x1, y1, x2, y2) in its pixels, and ``visualization``. An image is a path, a folder (its image files by
    name) or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8 or uint16, with colours in OpenCV's
    order, blue first; a list is many.

    - Grey images get three equal channels, alpha is dropped, of 16 bits the higher 8 count, palettes are
      looked up. Files are turned upright as their EXIF orientation says; boxes are of the upright image.
    - Weights are read without running code from the file, and must fit the model. Nothing is downloaded but
      weights given as ``URL#sha256=DIGEST``.
    - Class names are those that the checkpoint was trained with, else those of the config's test data.

    Args:
        config, checkpoint, device, progress: see :class:`~pointsuite.engine.predictor.Predictor`; a network
            is one of ``dense.create_model``.
        batch_size: images that the network gets at once, unless a call says otherwise.
        palette: colours of the classes, by a name that MMDetection knows; default: those of the data.
        model, weights, show_progress: MMDetection's names of ``config``, ``checkpoint`` and ``progress``.

    Raises:
        CheckpointError: the weights cannot be read or do not fit.
        FileNotFoundError: (of a call) no such file, or no images in a folder.
        ValueError: (of a call) not an image, or one so thin that nothing of it is left when resized; or the
            model's own reasons.
    """

    registry = MODELS
    show_progress = False  # MMDetection's bar; :meth:`preprocess` has one

    def __init__(
        self,
        config: str | os.PathLike | Config | nn.Module | None = None,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        batch_size: int = 1,
        progress: bool | None = None,
        palette: str = "none",
        model: str | os.PathLike | Config | nn.Module | None = None,
        weights: str | os.PathLike | None = None,
        show_progress: bool | None = None,
    ):
        config = model if config is None else config
        if config is None:
            raise ValueError("wanted a config, a work dir or a network, found none")
        super().__init__(
            config,
            weights if checkpoint is None else checkpoint,
            device,
            batch_size=batch_size,
            progress=show_progress if progress is None else progress,
        )
        self._take_config()
        cfg = copy.deepcopy(self.cfg)  # what comes changes some
        self.model = revert_sync_batchnorm(self.model)
        self.model.cfg = cfg
        self.model.dataset_meta = {"palette": "random", **self._find_names()}
        if palette != "none":
            self.model.dataset_meta["palette"] = palette
        self.num_visualized_imgs = self.num_predicted_imgs = 0
        cfg.visualizer = {"type": "DetLocalVisualizer", **cfg.get("visualizer", {})}
        cfg.visualizer.vis_backends = None  # of a run; here out_dir says where pictures go
        with DefaultScope.overwrite_default_scope(self.registry.scope):
            self.pipeline = self._init_pipeline(cfg)
            self.collate_fn = pseudo_collate
            self.visualizer = self._init_visualizer(cfg)

    def _init_pipeline(self, cfg: Config) -> Callable:
        pipeline = super()._init_pipeline(cfg)

        def read(image):
            try:
                return pipeline(image)
            except (AssertionError, cv2.error) as error:
                name = image if isinstance(image, str) else f"an array {image.shape}"
                raise ValueError(f"{name}: not an image, damaged, or too thin to be resized") from error

        return read

    # ------------------------------------------------------------------------------------------------ calls

    def __call__(self, inputs: Any, batch_size: int | None = None, **options: Any) -> dict:
        """MMDetection's call: all predictions of an image, or of many."""
        return StockInferencer.__call__(self, inputs, batch_size or self.batch_size, **options)

    def predict(self, inputs: Sequence, **options: Any) -> list[dict]:
        """Predictions of a few images; :meth:`iterate` keeps those of a batch only."""
        return self(list(inputs), batch_size=len(inputs), **options)["predictions"]

    def preprocess(self, inputs: Sequence, batch_size: int = 1, **options: Any) -> Iterator:
        done = self.start_bar(len(inputs))
        for batch in super().preprocess(inputs, batch_size, **options):
            yield batch
            for _ in batch[0]:
                done()

    def _inputs_to_list(self, inputs: Any) -> list:
        images = self.expand(inputs) if self.is_many(inputs) else [inputs]
        return [to_colour(image) if isinstance(image, np.ndarray) else str(image) for image in images]

    def visualize(self, inputs: Sequence, preds: Sequence[DetDataSample], **kwargs) -> list | None:
        # the stock inferencer reads arrays as blue first, and draws on them as red first
        images = [image[..., ::-1] if isinstance(image, np.ndarray) else image for image in inputs]
        return super().visualize(images, preds, **kwargs)

    def pred2dict(self, data_sample: DetDataSample, pred_out_dir: str = "") -> dict:
        if data_sample.get("img_path", "") is None:  # of an array, whose file has a number for a name
            data_sample.pop("img_path")
        return super().pred2dict(data_sample, pred_out_dir)

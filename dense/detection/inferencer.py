"""Detect in image files and arrays from Python: MMDetection's inferencer, safe to point at any file."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from mmdet.apis import DetInferencer as StockInferencer
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import nn

from pointsuite.engine.checkpoint import find_state_dict, load_checkpoint, load_state_dict
from pointsuite.engine.command import find_checkpoint


class DetInferencer(StockInferencer):
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
        model: config, or its file.
        weights: checkpoint, or a work dir for its last one.
        device: as of ``torch.device``; default: a GPU where there is one.
        palette: colours of the classes, by a name that MMDetection knows; default: those of the data.
        show_progress: draw a progress bar.

    Raises:
        CheckpointError: the weights cannot be read or do not fit.
        FileNotFoundError: (of a call) no such file, or no images in a folder.
        ValueError: (of a call) not an image, or one so thin that nothing of it is left when resized; or the
            model's own reasons.
    """

    def __init__(
        self,
        model: str | Path | Config,
        weights: str | Path,
        device: str | None = None,
        *,
        palette: str = "none",
        show_progress: bool = False,
    ):
        if not isinstance(model, Config):
            model = Config.fromfile(model)
        super().__init__(model, str(weights), device, palette=palette, show_progress=show_progress)

    def _init_model(self, cfg: Config, weights: str, device: str = "cpu") -> nn.Module:
        path = find_checkpoint(weights)
        checkpoint = load_checkpoint(path)
        model = MODELS.build(copy.deepcopy(cfg.model))  # building changes some
        load_state_dict(model, find_state_dict(checkpoint, path), name=path)
        model.cfg = cfg
        known = DATASETS.build({**cfg.test_dataloader.dataset, "lazy_init": True}).metainfo
        trained = checkpoint.get("meta", {}).get("dataset_meta") or {}
        model.dataset_meta = {"palette": "random", **known, **{k.lower(): v for k, v in trained.items()}}
        if self.palette != "none":
            model.dataset_meta["palette"] = self.palette
        return model.to(device).eval()

    def _init_pipeline(self, cfg: Config) -> Callable:
        pipeline = super()._init_pipeline(cfg)

        def read(image):
            try:
                return pipeline(image)
            except (AssertionError, cv2.error) as error:
                name = image if isinstance(image, str) else f"an array {image.shape}"
                raise ValueError(f"{name}: not an image, damaged, or too thin to be resized") from error

        return read

    def _init_collate(self, cfg: Config) -> Callable:
        return pseudo_collate

    def _init_visualizer(self, cfg: Config):
        cfg.visualizer.vis_backends = None  # of a run; here out_dir says where pictures go
        return super()._init_visualizer(cfg)

    def _inputs_to_list(self, inputs) -> list:
        if isinstance(inputs, str | Path) and Path(inputs).is_dir():
            images = sorted(super()._inputs_to_list(str(inputs)))
            if not images:
                raise FileNotFoundError(f"{inputs}: a folder without images")
            return images
        return [_as_input(image) for image in super()._inputs_to_list(inputs)]

    def visualize(self, inputs: Sequence, preds: Sequence[DetDataSample], **kwargs) -> list | None:
        # the stock inferencer reads arrays as blue first, and draws on them as red first
        images = [image[..., ::-1] if isinstance(image, np.ndarray) else image for image in inputs]
        return super().visualize(images, preds, **kwargs)

    def pred2dict(self, data_sample: DetDataSample, pred_out_dir: str = "") -> dict:
        if data_sample.get("img_path", "") is None:  # of an array, whose file has a number for a name
            data_sample.pop("img_path")
        return super().pred2dict(data_sample, pred_out_dir)


def _as_input(image: str | Path | np.ndarray) -> str | np.ndarray:
    """A path as str; an array as an image (H, W, 3) uint8."""
    if not isinstance(image, np.ndarray):
        return str(image)
    shape = image.shape
    if not image.size or image.ndim not in (2, 3) or (image.ndim == 3 and shape[2] not in (1, 3, 4)):
        raise ValueError(f"an image is an array {shape}, wanted (H, W) or (H, W, 1, 3 or 4), not empty")
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"an image is an array of {image.dtype}, wanted uint8 or uint16")
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    image = image.reshape(*shape[:2], -1)[..., :3]
    return np.ascontiguousarray(np.broadcast_to(image, (*shape[:2], 3)))

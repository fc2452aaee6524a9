"""Detect in image files and arrays from Python: MMDetection's inferencer, safe to point at any file."""

import copy
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import mmengine
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

from pointsuite.engine.images import read_rgb, to_colour

from ..base.configured import ConfiguredPredictor
from ..base.task import group_by_shape
from . import visualization  # noqa: F401  registers the visualizer


class DetInferencer(ConfiguredPredictor, StockInferencer):
    """Detector of a config with the weights of a checkpoint, called with images.

    A call takes what MMDetection's takes (``out_dir``, ``batch_size``, ``pred_score_thr`` ...) and returns
    the same: ``predictions``, for each image a dict of ``labels``, ``scores`` and ``bboxes``
    (x1, y1, x2, y2) in its pixels, and ``visualization``. An image is a path, a folder (its image files by
    name) or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8 or uint16, with colours in OpenCV's
    order, blue first; a list is many.

    - Grey images get three equal channels, alpha is dropped, of 16 bits the higher 8 count, palettes are
      looked up. Files are turned upright as their EXIF orientation says; boxes are of the upright image.
    - What is found in an image is the same alone and in any batch: only images of one size, after resizing,
      go through the network together, so that none is padded for another.
    - ``out_dir`` gets ``vis/`` and ``preds/``, in which files keep their paths below the folder that they
      have in common. Where images differ in their endings only, the predictions' names keep these.
    - Weights are read without running code from the file, and must fit the model. Nothing is downloaded but
      weights given as ``URL#sha256=DIGEST``.
    - Class names are those that the checkpoint was trained with, else those of the config's test data.

    Args:
        config, checkpoint, device, weights, progress: see :class:`~pointsuite.engine.predictor.Predictor`; a
            network is one of ``dense.create_model``.
        batch_size: images that the network gets at once, unless a call says otherwise.
        palette: colours of the classes, by a name that MMDetection knows; default: those of the data.
        model, show_progress: MMDetection's names of ``config`` and ``progress``.

    Raises:
        CheckpointError: the weights cannot be read or do not fit.
        FileNotFoundError: (of a call) no such file, or no images in a folder.
        OSError: (of a call) a file that is no image, or damaged.
        ValueError: (of a call) an array that is none, or an image so thin that nothing of it is left when
            resized; or the model's own reasons.
    """

    registry = MODELS
    target = "out_dir"
    show_progress = False  # MMDetection's bar; :meth:`preprocess` has one

    def __init__(
        self,
        config: str | os.PathLike | Config | nn.Module | None = None,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        weights: str | os.PathLike | None = None,
        batch_size: int = 1,
        progress: bool | None = None,
        palette: str = "none",
        model: str | os.PathLike | Config | nn.Module | None = None,
        show_progress: bool | None = None,
    ):
        config = model if config is None else config
        if config is None:
            raise ValueError("wanted a config, a work dir or a network, found none")
        super().__init__(
            config,
            checkpoint,
            device,
            weights=weights,
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
        cfg.visualizer = {**cfg.get("visualizer", {}), "type": "CaptionedDetVisualizer"}
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
            except cv2.error as error:
                name = image if isinstance(image, str) else f"an array {image.shape}"
                raise ValueError(f"{name}: too thin to be resized") from error

        return read

    # ------------------------------------------------------------------------------------------------ calls

    def __call__(self, inputs: Any, batch_size: int | None = None, **options: Any) -> dict:
        """MMDetection's call: all predictions of an image, or of many."""
        return StockInferencer.__call__(self, inputs, batch_size or self.batch_size, **options)

    def predict(self, inputs: Sequence, **options: Any) -> list[dict]:
        """Predictions of a few images; :meth:`iterate` keeps those of a batch only."""
        return self(list(inputs), batch_size=len(inputs), **options)["predictions"]

    def answer_batch(
        self, files: list[str], stems: list[Path | None], pred_score_thr: float = 0.3, **options: Any
    ) -> Iterator[tuple[str, dict[str, Any], list[Path]]]:
        """What is found with a score of at least ``pred_score_thr``; pictures of it."""
        names = self.model.dataset_meta["classes"]
        for source, stem in zip(files, stems, strict=True):
            folder = "" if stem is None else str(stem.parent)
            (found,) = self(source, out_dir=folder, pred_score_thr=pred_score_thr, **options)["predictions"]
            kept = [i for i, score in enumerate(found["scores"]) if score >= pred_score_thr]
            labels = [names[found["labels"][i]] for i in kept]
            record = {"names": labels} | {key: [found[key][i] for i in kept] for key in ("scores", "bboxes")}
            line = ", ".join(f"{count} {name}" for name, count in Counter(labels).most_common())
            written = [] if stem is None else [stem.parent / "vis" / self._names[source][0]]
            yield line or "nothing", record, written

    def preprocess(self, inputs: Sequence, batch_size: int = 1, **options: Any) -> Iterator:
        done = self.start_bar(len(inputs))
        for batch in super().preprocess(inputs, batch_size, **options):
            yield batch
            for _ in batch[0]:
                done()

    def _inputs_to_list(self, inputs: Any) -> list:
        images = self.expand(inputs) if self.is_many(inputs) else [inputs]
        images = [to_colour(image) if isinstance(image, np.ndarray) else str(image) for image in images]
        self._names = _name_files([image for image in images if isinstance(image, str)])
        return images

    @torch.no_grad()
    def forward(self, inputs: dict, **kwargs: Any) -> list[DetDataSample]:
        found = [None] * len(inputs["inputs"])
        for group in group_by_shape(inputs["inputs"]):
            part = {key: [values[i] for i in group] for key, values in inputs.items()}
            for i, prediction in zip(group, super().forward(part, **kwargs), strict=True):
                found[i] = prediction
        return found

    def visualize(
        self,
        inputs: Sequence,
        preds: Sequence[DetDataSample],
        return_vis: bool = False,
        show: bool = False,
        no_save_vis: bool = False,
        img_out_dir: str = "",
        **kwargs: Any,
    ) -> list | None:
        """Pictures of what is found, uint8 (H, W, 3), red first; see MMDetection for the arguments."""
        folder = None if no_save_vis or not img_out_dir else Path(img_out_dir) / "vis"
        if folder is None and not show and not return_vis:
            return None
        pictures = []
        for image, found in zip(inputs, preds, strict=True):
            if isinstance(image, str):
                name, image = self._names[image][0], read_rgb(image)[..., ::-1]
            else:
                name = f"{self.num_visualized_imgs:08d}.jpg"
            self.visualizer.add_datasample(
                name,
                image[..., ::-1],
                found,
                show=show,
                draw_gt=False,
                out_file=folder and str(folder / name),
                **kwargs,
            )
            pictures.append(self.visualizer.get_image())
            self.num_visualized_imgs += 1
        return pictures

    def pred2dict(self, data_sample: DetDataSample, pred_out_dir: str = "") -> dict:
        """What is found in an image as plain numbers, written into ``pred_out_dir`` if it is given."""
        found = super().pred2dict(data_sample)
        if pred_out_dir:
            if path := data_sample.get("img_path"):
                name = self._names[path][1]
            else:  # of an array, whose file has a number for a name
                name = str(self.num_predicted_imgs)
                self.num_predicted_imgs += 1
            out = Path(pred_out_dir) / "preds" / name
            if "panoptic_seg" in found:
                found["panoptic_seg_path"] = f"{out}_panoptic_seg.png"
                mmcv.imwrite(found.pop("panoptic_seg")[..., ::-1], found["panoptic_seg_path"])
            mmengine.dump(found, f"{out}.json")
        return found


def _name_files(paths: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Of each image the name of its picture, and of its predictions, below the folder common to all."""
    files = {path: Path(path).absolute() for path in paths}
    root = os.path.commonpath([file.parent for file in files.values()]) if files else ""
    names = {path: file.relative_to(root) for path, file in files.items()}
    stems = Counter(name.with_suffix("") for name in set(names.values()))
    return {
        path: (str(name), str(name.with_suffix("") if stems[name.with_suffix("")] == 1 else name))
        for path, name in names.items()
    }

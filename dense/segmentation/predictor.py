"""Segment image files and arrays from Python, with any config of MMSegmentation."""

import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import TRANSFORMS, DefaultScope
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from PIL import Image
from torch import nn

from pointsuite.engine.checkpoint import atomic_write
from pointsuite.engine.images import name_targets, to_colour

from ..base.configured import ConfiguredPredictor, innermost
from ..base.task import group_by_shape

WRITTEN = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")  # kinds that pictures are written as


class Segmentation(NamedTuple):
    """What a segmentor says about one image."""

    labels: (
        np.ndarray
    )  # (H, W) of the image's own size, places in ``classes``; uint8, uint16 for many classes
    classes: tuple[str, ...]
    probabilities: np.ndarray | None = None  # float32 (classes, H, W); (1, H, W) of a network with one output


class Segmenter(ConfiguredPredictor):
    """Segments images with the weights of a checkpoint.

    An image is a file, or an array of red, green and blue (H, W, 3), or grey (H, W), uint8 or uint16; a
    folder stands for the image files in it, a list for many. Files are read as the config's test pipeline
    does; the result has the size of the image, upright as its EXIF orientation says.

    Args:
        config, checkpoint, device, weights, batch_size, progress: see
            :class:`~pointsuite.engine.predictor.Predictor`; the config is any of MMSegmentation, a network
            is one of ``dense.create_model``.

    Example:
        >>> segment = Segmenter("configs/davit/davit-t_upernet_camvid.py", "work_dirs/davit-t_upernet_camvid")
        >>> labels, classes, _ = segment("street.png")
        >>> segment("streets", out_dir="found")
    """

    registry = MODELS
    target = "out_dir"

    def __init__(
        self,
        config: str | os.PathLike | Config | nn.Module,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        weights: str | os.PathLike | None = None,
        batch_size: int = 1,
        progress: bool | None = None,
    ):
        super().__init__(
            config, checkpoint, device, weights=weights, batch_size=batch_size, progress=progress
        )
        self._take_config()
        self.model = revert_sync_batchnorm(self.model)
        pipeline = [
            step
            for step in copy.deepcopy(innermost(self.cfg.test_dataloader.dataset).pipeline)
            if not ("Load" in step["type"] and "Annotation" in step["type"])
        ]
        self.color_type = pipeline[0].get("color_type", "color")
        with DefaultScope.overwrite_default_scope(self.registry.scope):
            self.load = TRANSFORMS.build(pipeline[0])
            self.prepare = Compose(pipeline[1:])
        names = self._find_names()
        self.classes = tuple(names.get("classes") or map(str, range(self._count_classes())))
        colors = names.get("palette") or np.random.default_rng(0).integers(256, size=(len(self.classes), 3))
        colors = [[int(channel) for channel in color] for color in colors]
        self.visualizer = SegLocalVisualizer()
        self.visualizer.set_dataset_meta(classes=self.classes, palette=colors)

    def _count_classes(self) -> int:
        heads = self.model.decode_head
        return (heads[-1] if isinstance(heads, nn.ModuleList) else heads).num_classes

    def __call__(
        self,
        inputs: Any,
        out_dir: str | os.PathLike | None = None,
        *,
        probabilities: bool = False,
        opacity: float = 0.5,
    ) -> Segmentation | list[Segmentation]:
        """Segment one image or many.

        Args:
            out_dir: folder for pictures of what was found, under the images' names; arrays are numbered.
            probabilities: return those of all classes, too.
            opacity: of the classes' colours in pictures.
        """
        sources = self.expand(inputs) if self.is_many(inputs) else [inputs]
        targets = [None] * len(sources) if out_dir is None else name_targets(sources, out_dir, WRITTEN)
        self.visualizer.alpha = opacity
        pairs = list(zip(sources, targets, strict=True))
        found = list(self.iterate(pairs, probabilities=probabilities))
        return found if self.is_many(inputs) else found[0]

    @torch.inference_mode()
    def predict(self, inputs: Sequence[tuple[Any, Any]], probabilities: bool = False) -> list[Segmentation]:
        """Segmentations of pairs of an image and the picture to draw, or None."""
        images = [self._load(source) for source, _ in inputs]
        samples = [self._prepare(source, image) for (source, _), image in zip(inputs, images, strict=True)]
        found: dict[int, SegDataSample] = {}
        for group in group_by_shape([sample["inputs"] for sample in samples]):
            batch = {key: [samples[i][key] for i in group] for key in ("inputs", "data_samples")}
            found.update(zip(group, self.model.test_step(batch), strict=True))
        for i, (_, target) in enumerate(inputs):
            if target is not None:
                picture = to_colour(images[i]["img"].astype(np.uint8))[..., ::-1]
                self.visualizer.add_datasample(
                    "", np.ascontiguousarray(picture), found[i].cpu(), draw_gt=False, out_file=str(target)
                )
        return [self._name(found[i], probabilities) for i in range(len(inputs))]

    def answer_batch(
        self, files: list[str], stems: list[Path | None], **options
    ) -> Iterator[tuple[str, dict[str, Any], list[Path]]]:
        """Shares of the classes; pictures, and in ``labels/`` PNG files of the classes' numbers."""
        folder = stems[0] and stems[0].parent
        pictures = [None] * len(files) if folder is None else name_targets(files, folder, WRITTEN)
        for stem, picture, found in zip(stems, pictures, self(files, folder, **options), strict=True):
            share = np.bincount(found.labels.flat, minlength=len(found.classes)) / found.labels.size
            best = np.argsort(-share, kind="stable")
            shares = {found.classes[i]: float(share[i]) for i in best if share[i]}
            line = ", ".join(f"{name} {100 * share:.1f} %" for name, share in list(shares.items())[:5])
            written = []
            if stem is not None:
                labels = stem.parent / "labels" / f"{stem.name}.png"
                with atomic_write(labels) as file:
                    Image.fromarray(found.labels).save(file, "PNG")
                written = [picture, labels]
            yield line, {"shares": shares}, written

    def _load(self, source: Any) -> dict:
        """What the pipeline's first step gives: ``img`` and its sizes."""
        if not isinstance(source, np.ndarray):
            return self.load({"img_path": os.fspath(source)})
        image = to_colour(source)[..., ::-1]  # as files are read: blue first
        if self.color_type.startswith("grayscale"):
            image = mmcv.bgr2gray(image)
        return {"img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}

    def _prepare(self, source: Any, loaded: dict) -> dict:
        try:
            return self.prepare(dict(loaded))
        except cv2.error as error:
            name = f"an array {source.shape}" if isinstance(source, np.ndarray) else source
            raise ValueError(f"{name}: too thin to be resized") from error

    def _name(self, sample: SegDataSample, probabilities: bool) -> Segmentation:
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        labels = labels.astype(np.uint8 if len(self.classes) <= 256 else np.uint16)
        if not probabilities:
            return Segmentation(labels, self.classes)
        scores = (
            sample.seg_logits.data.float()
        )  # MMSegmentation has turned a single output into probabilities
        scores = scores.softmax(0) if len(scores) > 1 else scores
        return Segmentation(labels, self.classes, scores.cpu().numpy())

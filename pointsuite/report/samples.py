"""Tested samples as things to look at: pictures by the visualizer of the config, clouds, texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import Tensor

from pointsuite.engine.images import read_rgb

from .gallery import Item, cloud_item, picture_item, text_item
from .judging import Verdict

READ_ANEW = ("mmdet", "mmseg")  # scopes whose predictions are of the image as its file has it


class Sampler:
    """Shows samples of a run.

    Args:
        cfg: of the run.
        meta: of the data set.
    """

    def __init__(self, cfg: Config, meta: Mapping[str, Any]):
        from pointsuite.visualization.samples import build_visualizer

        self.meta = meta
        self.visualizer = build_visualizer(cfg, meta)
        self.flipped = (cfg.model.get("data_preprocessor") or {}).get("bgr_to_rgb", False)
        self.read_anew = cfg.get("default_scope") in READ_ANEW

    def show(self, inputs: Any, sample: BaseDataElement, verdict: Verdict) -> Item | None:
        """What of a sample is to be seen; None for nothing.

        Args:
            inputs: as the data set gave them, before normalisation: a cloud (N, C), an image (C, H, W),
                several images (T, C, H, W), or tokens (n,).
            sample: tested, on the CPU.
        """
        if not isinstance(inputs, Tensor):
            return None
        title, said = _name(sample), (verdict.note, verdict.right)
        if inputs.ndim == 1:
            text = sample.get("expression") or self._decode(inputs)
            return None if text is None else text_item(text, title, *said)
        if inputs.ndim == 2:
            return self._show_cloud(inputs.numpy(), sample, title, verdict)
        if inputs.ndim not in (3, 4):
            return None
        if hasattr(self.visualizer, "draw_sample"):
            return picture_item(self.visualizer.draw_sample(inputs, sample), title, *said)
        picture = self._image(inputs, sample)
        if type(self.visualizer).add_datasample is not Visualizer.add_datasample:
            boxes = getattr(sample.get("gt_instances"), "bboxes", None)
            if hasattr(boxes, "tensor"):  # mmdet draws plain tensors only
                sample.gt_instances.bboxes = boxes.tensor
            self.visualizer.add_datasample(title, picture, sample)
            picture = self.visualizer.get_image()
        return picture_item(np.ascontiguousarray(picture), title, *said)

    def _image(self, inputs: Tensor, sample: BaseDataElement) -> np.ndarray:
        """uint8 (H, W, 3)."""
        path = sample.get("img_path")
        if self.read_anew and path is not None and Path(path).is_file():
            return read_rgb(path)
        from pointsuite.visualization.samples import to_uint8

        array = inputs.numpy()
        if array.ndim == 4:  # images of a pair: side by side
            array = np.concatenate(array, axis=2)
        return to_uint8(array.transpose(1, 2, 0)[..., :: -1 if self.flipped else 1])

    def _show_cloud(self, cloud: np.ndarray, sample: BaseDataElement, title: str, verdict: Verdict) -> Item:
        from pointsuite.visualization.scene import RIGHT, WRONG, point_colors, upright

        up, note = self.meta.get("up", "z"), verdict.note
        points, normals = upright(cloud[:, :3], up), None
        if cloud.shape[1] >= 6 and np.allclose(np.linalg.norm(cloud[:, 3:6], axis=1), 1, atol=1e-3):
            normals = upright(cloud[:, 3:6], up)
        if "gt_part" in sample and "pred_part" in sample:
            right = (sample.gt_part == sample.pred_part).numpy()
            colors = np.where(right[:, None], 0.35 + 0.65 * RIGHT, WRONG)
            note += "; wrong ones are vermilion"
        else:
            colors = point_colors(None, points, normals)
        return cloud_item(points, colors, title, note, verdict.right)

    def _decode(self, tokens: Tensor) -> str | None:
        if "vocabulary" not in self.meta:
            return None
        known = self.meta["vocabulary"]
        if known is None:
            return bytes(tokens.tolist()).decode("utf-8", "replace")
        return "".join(str(known[token]) for token in tokens.tolist())


def _name(sample: BaseDataElement) -> str:
    paths = [sample.get(key) for key in ("img_path", "source_path", "target_path")]
    if names := [Path(str(path)).name for path in paths if path is not None]:
        return ", ".join(names)
    if sample.get("video") is not None:
        return str(sample.get("video"))
    if sample.get("name") is not None:
        return str(sample.get("name"))
    index = next((sample.get(key) for key in ("index", "sample_idx", "img_id") if key in sample), None)
    return "sample" if index is None else f"sample {index}"

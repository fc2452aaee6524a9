"""Pictures of what a pipeline makes of a sample: a cloud, or an image with its labels."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import VISUALIZERS, DefaultScope
from mmengine.visualization import Visualizer
from torch import Tensor

from pointsuite.engine.errors import UsageError
from pointsuite.visualization.cloud import draw_cloud
from pointsuite.visualization.png import write_png

TILE = 240  # pixels of a cloud's picture
CAPTIONED = {  # visualizers of the libraries, and those, where registered, that say what a picture shows
    "DetLocalVisualizer": "mmdet.CaptionedDetVisualizer",
    "SegLocalVisualizer": "mmseg.CaptionedSegVisualizer",
}
_count = count()


def build_visualizer(cfg: Config, metainfo: Mapping) -> Visualizer:
    """The visualizer of a config, one that writes nothing.

    Args:
        cfg: of a run.
        metainfo: of its dataset.
    """
    options = {"type": "Visualizer", **(cfg.get("visualizer") or {}), "vis_backends": None}
    captioned = CAPTIONED.get(str(options["type"]).rpartition(".")[2])
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmengine")):
        if captioned is not None and VISUALIZERS.get(captioned) is not None:
            options["type"] = captioned
        visualizer = VISUALIZERS.build({**options, "name": f"browse_{next(_count)}"})  # kept by name
    visualizer.dataset_meta = metainfo
    return visualizer


def build_drawer(cfg: Config, metainfo: Mapping) -> Callable[[Mapping], tuple[np.ndarray, str]]:
    """A function from what a pipeline returns to a picture (H, W, 3) uint8 and a title.

    Clouds are drawn by this suite, labels of images by the visualizer of the config's library.

    Args:
        cfg: of a run.
        metainfo: of its dataset.
    """
    classes = metainfo.get("classes") or ()
    flipped = (cfg.model.get("data_preprocessor") or {}).get("bgr_to_rgb", False)
    visualizer = build_visualizer(cfg, metainfo)
    # MMEngine's own draws nothing; mmseg's and mmdet's do
    draws_samples = type(visualizer).add_datasample is not Visualizer.add_datasample

    def draw(item: dict) -> tuple[np.ndarray, str]:
        inputs, sample = item["inputs"], item["data_samples"]
        label = sample.get("gt_label")
        title = str(classes[int(label)]) if label is not None and classes else ""
        array = inputs.numpy() if hasattr(inputs, "numpy") else None
        if array is not None and array.ndim == 4:  # images of a pair or a clip: side by side
            array = np.concatenate(array, axis=2)
        if array is None or array.ndim not in (2, 3):
            found = type(inputs).__name__ if array is None else f"an array {array.shape}"
            raise UsageError(f"a sample's inputs are {found}, wanted a cloud (N, C) or images (C, H, W)")
        if array.ndim == 2:
            return _draw_points(array, sample.get("gt_part"), metainfo.get("up", "z")), title
        image = to_uint8(array.transpose(1, 2, 0)[..., :: -1 if flipped else 1])
        if draws_samples:
            boxes = getattr(sample.get("gt_instances"), "bboxes", None)
            if hasattr(boxes, "tensor"):  # mmdet draws plain tensors only
                sample.gt_instances.bboxes = boxes.tensor
            visualizer.add_datasample("sample", image, sample, draw_gt=True, draw_pred=False)
            image = visualizer.get_image()
        return image, title or Path(sample.get("img_path") or "").name

    return draw


def _draw_points(points: np.ndarray, part: Tensor | None, up: str) -> np.ndarray:
    normals = points[:, 3:6] if points.shape[1] >= 6 else None
    if normals is not None and not np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-3):
        normals = None
    colors = None if part is None else "part"
    part = None if part is None else part.numpy()
    return draw_cloud(points[:, :3], colors, normals=normals, part=part, size=(TILE, TILE), up=up)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 1 or 3), bytes as they are, other numbers stretched to 0..255, with three channels."""
    if image.dtype != np.uint8:
        low, high = image.min(), image.max()
        image = ((image - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def draw_tiles(
    pictures: Sequence[np.ndarray], titles: Sequence[str], columns: int, out: str | Path, heading: str = ""
) -> Path:
    """Draws pictures (H, W, 3), row by row, each below its title.

    Args:
        columns: pictures in a row.
        out: a .png file.
        heading: a line above all.
    """
    rows = -(-len(pictures) // columns)
    aspect = np.median([picture.shape[0] / picture.shape[1] for picture in pictures])
    figure = Figure((2.6 * columns, (2.6 * aspect + 0.35) * rows + 0.4), dpi=110, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, picture, title in zip(panels, pictures, titles, strict=False):
        axes.imshow(picture)
        axes.set_title("\n".join(wrap(title, 40)), fontsize=7)
    for axes in panels:
        axes.set_axis_off()
    figure.suptitle(heading, fontsize=9)
    return write_png(figure, out)

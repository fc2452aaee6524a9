"""What mmcv, mmdet and mmseg would do in their own ways and does not hold: files they open, classes, colours.

Each function here is given a module of theirs when it has just been imported (see
:mod:`~dense.compat.wheels`), whoever imports it, and puts ours in the place of some methods. So it holds for
any config of theirs, too.

- Images and masks come in by the one door, :func:`~pointsuite.engine.images.open_image`:
  ``LoadImageFromFile`` decodes as everywhere in this package (colours blue first), whatever its
  ``imdecode_backend``; only ``tifffile``, for images of more channels, reads as before. An image is upright
  as EXIF says, unless its annotations (width and height in COCO's format, the size of its mask) are of the
  image as it is stored, or ``color_type`` asks for that; where nothing tells, it is refused, as is one of
  another size than its annotations say.
- Files in COCO's format are read by :func:`~.coco.read_coco`. Labels follow the names of
  ``metainfo.classes``, in any order; a name that the file lacks is refused.
- Masks hold one label a pixel, each that of a class or ``ignore_index``.
- Where a palette has too few colours for the classes, one is made.
- Losses of a batch, or an image, of which every label is ignored are 0.
- ``fused_bias_leakyrelu`` runs on CPUs; mmcv asks for an attribute that tensors have with torch_musa alone.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import wraps
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from PIL import Image
from torch import Tensor

from pointsuite.engine.errors import UsageError, nearest, one_line
from pointsuite.engine.images import (
    check_size,
    deep_levels,
    open_image,
    orient,
    read_array,
    read_head,
    read_labels,
    stored_orientation,
    to_rgb,
    upright,
)
from pointsuite.engine.runner.preflight import check_names

from .coco import read_coco

Palette = list[tuple[int, int, int]]


def make_palette(count: int) -> Palette:
    """Colours for so many classes, always the same."""
    return [tuple(color) for color in np.random.default_rng(0).integers(256, size=(count, 3)).tolist()]


# --------------------------------------------------------------------------------------------------- images


def mend_mmcv_loading(module: ModuleType) -> None:
    """``mmcv.transforms.loading``."""
    stock = module.LoadImageFromFile.transform

    @wraps(stock)
    def transform(self, results: dict) -> dict | None:
        if self.imdecode_backend == "tifffile":
            return stock(self, results)
        try:
            image = _load(self, results)
        except (OSError, ValueError):
            if self.ignore_empty:
                return None
            raise
        if self.to_float32:
            image = image.astype(np.float32)
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results

    module.LoadImageFromFile.transform = transform


def _load(transform: Any, results: Mapping[str, Any]) -> np.ndarray:
    """(H, W, 3) blue first, (H, W) grey, or for "unchanged" whatever the file has, blue first."""
    path, kind = str(results["img_path"]), transform.color_type
    whose, size = _annotated_size(results)
    if kind == "unchanged":
        pixels, image = read_array(path)
        if size is not None and orient(image, path, size, whose).size != pixels.shape[1::-1]:
            raise OSError(
                f"{path}: EXIF turns it, and {whose} is of the image as it is stored; wanted it upright"
            )
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.shape[2] > 2 else pixels
        return np.array(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels, order="C")
    image = open_image(path, data=_fetch(transform, path))
    if not kind.endswith("ignore_orientation"):
        image = upright(image) if size is None else orient(image, path, size, whose)
    elif size is not None:
        check_size(image, path, size, whose)
    try:
        return (_to_grey if kind.startswith("grayscale") else _to_blue_first)(image, path)
    except ValueError as error:
        raise OSError(f"{path}: {one_line(error)}") from error


def _annotated_size(results: Mapping[str, Any]) -> tuple[str, tuple[int, int] | None]:
    """Width and height of the image that annotations are of, and what says so; None where nothing does."""
    if results.get("width") and results.get("height"):
        return "its entry in the annotations", (round(results["width"]), round(results["height"]))
    image, mask = str(results["img_path"]), results.get("seg_map_path")
    if mask and "://" not in image and stored_orientation(image) != 1:
        return f"its mask {mask}", read_head(mask).size
    return "", None


def _fetch(transform: Any, path: str) -> bytes | None:
    """The bytes of a file that lies elsewhere than in a local folder, by MMEngine's backends; else None."""
    from mmengine import fileio

    if transform.backend_args is None and getattr(transform, "file_client_args", None) is None:
        return fileio.get(path) if "://" in path else None
    if getattr(transform, "file_client_args", None) is not None:
        return fileio.FileClient.infer_client(transform.file_client_args, path).get(path)
    local = transform.backend_args.get("backend") in ("local", "LocalBackend")
    return None if local else fileio.get(path, backend_args=transform.backend_args)


def _to_blue_first(image: Image.Image, path: str) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(to_rgb(image, path))[..., ::-1])


def _to_grey(image: Image.Image, path: str) -> np.ndarray:
    if (levels := deep_levels(image)) is not None:
        return (levels >> 8).astype(np.uint8)
    if image.mode in ("1", "L", "LA"):
        return np.array(image.convert("L"))
    return cv2.cvtColor(_to_blue_first(image, path), cv2.COLOR_BGR2GRAY)


# ---------------------------------------------------------------------------------------------------- masks


def _load_labels(transform: Any, results: Mapping[str, Any]) -> np.ndarray:
    """A mask, (H, W) uint8, of the size of its image."""
    path = str(results["seg_map_path"])
    labels = read_labels(path, _fetch(transform, path))
    if labels.max() > 255:
        raise OSError(f"{path}: found the label {labels.max()}, wanted at most 255")
    shape = results.get("ori_shape")
    if shape is not None and labels.shape != tuple(shape):
        found, wanted = (f"{width} x {height}" for height, width in (labels.shape, shape))
        raise OSError(f"{path}: is {found} pixels, wanted {wanted} as its image {results.get('img_path')}")
    return labels.astype(np.uint8)


def _map_labels(labels: np.ndarray, reduce_zero: bool, ignored: int, label_map: Mapping[int, int] | None):
    """Labels without 0, which becomes ``ignored`` where ``reduce_zero`` says so, then renamed."""
    table = np.arange(256)
    if reduce_zero:
        table = np.where((table == 0) | (table == ignored), ignored, table - 1)
    if label_map:
        table = np.array([label_map.get(int(label), label) for label in table])
    return table.astype(np.uint8)[labels]


def mend_mmdet_loading(module: ModuleType) -> None:
    """``mmdet.datasets.transforms.loading``."""
    stock = module.LoadPanopticAnnotations.transform

    def load_seg_map(self, results: dict) -> None:
        if results.get("seg_map_path") is not None:
            labels = _load_labels(self, results)
            label_map = results.get("label_map")
            results["gt_seg_map"] = _map_labels(labels, self.reduce_zero_label, self.ignore_index, label_map)
            results["ignore_index"] = self.ignore_index

    @wraps(stock)
    def transform(self, results: dict) -> dict:
        if (path := results.get("seg_map_path")) is not None:
            open_image(path, data=_fetch(self, path))
        return stock(self, results)

    module.LoadAnnotations._load_seg_map = load_seg_map
    module.LoadPanopticAnnotations.transform = transform


def mend_mmseg_loading(module: ModuleType) -> None:
    """``mmseg.datasets.transforms.loading``."""
    stock = module.LoadAnnotations._load_seg_map

    def load_seg_map(self, results: dict) -> None:
        if self.imdecode_backend == "tifffile":
            return stock(self, results)
        labels, wanted = _load_labels(self, results), results["reduce_zero_label"]
        if self.reduce_zero_label not in (None, wanted):
            raise UsageError(
                f"LoadAnnotations.reduce_zero_label: found {self.reduce_zero_label}, wanted {wanted} as the "
                "data set has it"
            )
        results["gt_seg_map"] = _map_labels(labels, wanted, 255, results.get("label_map"))
        results["seg_fields"].append("gt_seg_map")
        return None

    module.LoadAnnotations._load_seg_map = load_seg_map


def mend_mmseg_dataset(module: ModuleType) -> None:
    """``mmseg.datasets.basesegdataset``: samples know their labels' range, see :func:`mend_mmseg_packing`."""
    cls = module.BaseSegDataset
    stock_palette = cls._update_palette

    def get_data_info(self, idx: int) -> dict:
        info = super(cls, self).get_data_info(idx)
        if classes := self._metainfo.get("classes"):
            info["labels"] = len(classes), self.ignore_index
        return info

    @wraps(stock_palette)
    def update_palette(self) -> list:
        try:
            return stock_palette(self)
        except ValueError:  # another number of colours than of classes
            return make_palette(len(self._metainfo["classes"]))

    cls.get_data_info = get_data_info
    cls._update_palette = update_palette


def mend_mmseg_packing(module: ModuleType) -> None:
    """``mmseg.datasets.transforms.formatting``: what is packed has labels of classes."""
    stock = module.PackSegInputs.transform

    @wraps(stock)
    def transform(self, results: dict) -> dict:
        if "gt_seg_map" in results and (known := results.get("labels")):
            check_labels(results["gt_seg_map"], *known, results.get("seg_map_path", "a mask"))
        return stock(self, results)

    module.PackSegInputs.transform = transform


def check_labels(labels: np.ndarray, classes: int, ignored: int, path: str) -> None:
    """Raise an OSError where a label is neither that of a class, from 0, nor ``ignored``."""
    wrong = (labels < 0) | (labels >= classes)
    wrong &= labels != ignored
    if wrong.any():
        raise OSError(
            f"{path}: found the label {labels[wrong][0]}, wanted 0 to {classes - 1}, of its "
            f"{classes} classes, or {ignored} where there is none"
        )


def mend_mmseg_preprocessor(module: ModuleType) -> None:
    """``mmseg.models.data_preprocessor``: images that cannot be stacked are named."""
    stock = module.SegDataPreProcessor.forward

    @wraps(stock)
    def forward(self, data: dict, training: bool = False) -> dict:
        try:
            return stock(self, data, training)
        except (AssertionError, RuntimeError) as error:
            images = data["inputs"]
            if len(shapes := {tuple(image.shape): i for i, image in enumerate(images)}) == 1:
                raise
            samples = data.get("data_samples") or [None] * len(images)
            found = " and ".join(
                f"{getattr(samples[i], 'img_path', f'image {i}')} with {shape[2]} x {shape[1]} pixels"
                for shape, i in list(shapes.items())[:2]
            )
            raise UsageError(
                f"one batch has {found}, wanted one size: add Resize, RandomCrop or Pad to the pipeline, "
                f"make data_preprocessor.size (now {self.size}) at least that, or take batch_size=1"
            ) from error

    module.SegDataPreProcessor.forward = forward


def mend_mmseg_cross_entropy(module: ModuleType) -> None:
    """``mmseg.models.losses.cross_entropy_loss``: the mean goes by the weights of the labels that count."""
    stock = module.cross_entropy

    @wraps(stock)
    def cross_entropy(pred, label, weight=None, class_weight=None, reduction="mean", avg_factor=None,
                      ignore_index=-100, **more):  # fmt: skip
        if class_weight is not None and avg_factor is None and reduction == "mean":
            avg_factor = class_weight[label[label != ignore_index]].sum()
        return stock(pred, label, weight, class_weight, reduction, avg_factor, ignore_index, **more)

    module.cross_entropy = cross_entropy


def mend_mmseg_lovasz(module: ModuleType) -> None:
    """``mmseg.models.losses.lovasz_loss``: an image of which every label is ignored costs 0, not NaN."""
    stock = module.lovasz_softmax_flat

    @wraps(stock)
    def lovasz_softmax_flat(probs, labels, *args, **kwargs):
        return stock(probs, labels, *args, **kwargs) if probs.numel() else probs.sum()

    module.lovasz_softmax_flat = lovasz_softmax_flat


def mend_mmseg_ohem(module: ModuleType) -> None:
    """``mmseg.models.losses.ohem_cross_entropy_loss``: what costs 0 has a gradient, of 0."""
    stock = module.OhemCrossEntropy.forward

    @wraps(stock)
    def forward(self, score, target, *args, **kwargs):
        return stock(self, score, target, *args, **kwargs) + 0 * score.sum()

    module.OhemCrossEntropy.forward = forward


# ---------------------------------------------------------------------------------------------- detection


def mend_mmdet_coco(module: ModuleType) -> None:
    """``mmdet.datasets.api_wrappers.coco_api``."""
    stock = module.COCO.__init__

    @wraps(stock)
    def init(self, annotation_file: str | None = None) -> None:
        stock(self)
        self.file = annotation_file
        if annotation_file is not None:
            self.dataset = read_coco(annotation_file)
            with redirect_stdout(None):  # it prints that it does so
                self.createIndex()
            self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    def get_cat_ids(self, cat_names: Sequence[str] = (), sup_names=(), cat_ids=()) -> list:
        if sup_names or cat_ids or cat_names in ((), []):
            return self.getCatIds(cat_names, sup_names, cat_ids)
        return find_categories(self.dataset["categories"], cat_names, getattr(self, "file", None))

    module.COCO.__init__ = init
    module.COCO.get_cat_ids = get_cat_ids


def find_categories(categories: Sequence[Mapping[str, Any]], classes: Sequence[str], file: Any) -> list:
    """Ids of the categories of those names, in the order of the names.

    Raises:
        UsageError: names that are one text, stand twice, or are no category's.
    """
    check_names(classes)
    known = {category["name"]: category["id"] for category in categories}
    for name in classes:
        if name not in known:
            raise UsageError(
                f"metainfo.classes: {name!r} is no category of {file}, which has "
                f"{one_line(', '.join(known))[:200]}{nearest(name, known)}"
            )
    return [known[name] for name in classes]


def mend_mmdet_palette(module: ModuleType) -> None:
    """``mmdet.visualization.palette``."""
    stock = module.get_palette

    @wraps(stock)
    def get_palette(palette: Any, num_classes: int) -> Palette:
        if isinstance(palette, list) and len(palette) < num_classes:
            return [*palette, *make_palette(num_classes)[len(palette) :]]
        return stock(palette, num_classes)

    module.get_palette = get_palette


# ---------------------------------------------------------------------------------------------- operators


def mend_mmcv_leaky_relu(module: ModuleType) -> None:
    """``mmcv.ops.fused_bias_leakyrelu``."""
    stock = module.fused_bias_leakyrelu

    @wraps(stock)
    def fused_bias_leakyrelu(input: Tensor, *args, **kwargs) -> Tensor:
        function = module.bias_leakyrelu_ref if input.device.type == "cpu" else stock
        return function(input, *args, **kwargs)

    module.fused_bias_leakyrelu = fused_bias_leakyrelu


MENDS: dict[str, Callable[[ModuleType], None]] = {
    "mmcv.ops.fused_bias_leakyrelu": mend_mmcv_leaky_relu,
    "mmcv.transforms.loading": mend_mmcv_loading,
    "mmdet.datasets.api_wrappers.coco_api": mend_mmdet_coco,
    "mmdet.datasets.transforms.loading": mend_mmdet_loading,
    "mmdet.visualization.palette": mend_mmdet_palette,
    "mmseg.datasets.basesegdataset": mend_mmseg_dataset,
    "mmseg.datasets.transforms.formatting": mend_mmseg_packing,
    "mmseg.datasets.transforms.loading": mend_mmseg_loading,
    "mmseg.models.data_preprocessor": mend_mmseg_preprocessor,
    "mmseg.models.losses.cross_entropy_loss": mend_mmseg_cross_entropy,
    "mmseg.models.losses.lovasz_loss": mend_mmseg_lovasz,
    "mmseg.models.losses.ohem_cross_entropy_loss": mend_mmseg_ohem,
}

"""What is looked at before a run of the files and annotations that samples of images are of."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from torch import nn

from pointsuite.engine.errors import UsageError
from pointsuite.engine.images import check_size, open_image, orient, read_head, read_labels
from pointsuite.engine.runner.preflight import find_classes, register_check

from .libraries import check_labels

MOST, OPENED = 5000, 16  # samples that are looked at, and of which files are opened


@register_check
def check_files(dataset: Any, model: nn.Module, stage: str, metrics: Sequence[Any]) -> Iterator[str]:
    """Files that samples are of are there, and have the sizes of each other and of their annotations.

    Of more samples, some from the first to the last are taken; the others are checked when they are read.

    Raises:
        UsageError: one is not; the message names it.
    """
    if getattr(dataset, "backend_args", None):  # files that lie elsewhere
        return
    infos = read_infos(dataset, MOST)
    paths = [path for info in infos for path in _paths(info) if path is not None]
    for path in paths:
        if "://" not in path and not os.path.isfile(path):
            raise UsageError(f"{stage} data: {path}: no such file")
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    loads = any(hasattr(step, "_load_seg_map") and step.imdecode_backend != "tifffile" for step in steps)
    pairs, present = 0, set()
    for info in _spread(infos, OPENED):
        image, mask = _paths(info)
        mask = mask if loads and "segments_info" not in info else None  # else others read it, in their way
        if image is None or any("://" in path for path in (image, mask or "")):
            continue
        try:
            if mask is not None:
                size = read_labels(mask).shape[::-1]
                orient(open_image(image), image, size, f"its mask {mask}")
                present.update(_read_classes(dataset, info, mask))
            elif info.get("width") and info.get("height"):
                size = round(info["width"]), round(info["height"])
                check_size(read_head(image), image, size, "its entry in the annotations")
            else:
                continue
        except OSError as error:
            raise UsageError(f"{stage} data: {error}") from error
        pairs += 1
    if pairs:
        yield f"{stage} data: {pairs} images looked at, and their annotations are of their size"
    if present:
        yield from _describe_labels(dataset, stage, present)


def _read_classes(dataset: Any, info: dict, mask: str) -> set[int]:
    """Labels in a mask, as the pipeline makes them of its levels."""
    sample = {**info, "seg_fields": []}
    for step in dataset.pipeline.transforms:
        if hasattr(step, "_load_seg_map") or getattr(step, "maps_labels", False):
            sample = step(sample)
    labels = sample["gt_seg_map"]
    if classes := find_classes(dataset):
        check_labels(labels, len(classes), dataset.ignore_index, mask)
    return set(np.unique(labels).tolist())


def _describe_labels(dataset: Any, stage: str, present: set[int]) -> Iterator[str]:
    classes = find_classes(dataset)
    ignored, found = dataset.ignore_index, sorted(present - {dataset.ignore_index})
    if len(classes) > 1 and len(found) < 2 and ignored in present:
        raise UsageError(
            f"{stage} data: masks have the labels {', '.join(map(str, [*found, ignored]))} alone, of which "
            f"{ignored} is ignored (ignore_index); wanted 0 to {len(classes) - 1}: {', '.join(classes)[:200]}"
        )
    if missing := [name for i, name in enumerate(classes) if i not in present]:
        yield f"{stage} data: the masks looked at have no {', '.join(missing)[:200]}"


def _paths(info: dict) -> tuple[str | None, str | None]:
    """Of a sample the image and the mask, where each is one file."""
    image, mask = (info.get(key) for key in ("img_path", "seg_map_path"))
    return tuple(str(path) if isinstance(path, str | os.PathLike) else None for path in (image, mask))


@register_check
def check_boxes(dataset: Any, model: nn.Module, stage: str, metrics: Sequence[Any]) -> Iterator[str]:
    """A detector's training data have boxes, and which classes have none; metrics read the same annotations.

    Raises:
        UsageError: training data have none, or a metric's file has other images.
    """
    infos = read_infos(dataset, MOST)
    if not infos or not all("instances" in info for info in infos):
        return
    for metric in metrics:
        truth = getattr(metric, "_coco_api", None)
        for info in infos if truth is not None else ():
            known, path = truth.imgs.get(info.get("img_id")), str(info["img_path"])
            if known is None or os.path.basename(known.get("file_name") or path) != os.path.basename(path):
                raise UsageError(
                    f"{stage}_evaluator.ann_file: {getattr(truth, 'file', 'its file')} lacks the image "
                    f"{info.get('img_id')}, {path}, of the {stage} data, wanted {dataset.ann_file}"
                )
    count = Counter(
        part["bbox_label"]
        for info in infos
        for part in info["instances"]
        if "bbox_label" in part and not part.get("ignore_flag")
    )
    classes = dataset.metainfo.get("classes") or ()
    where = getattr(dataset, "ann_file", "") or type(dataset).__name__
    if not count:
        if stage == "train":
            raise UsageError(f"{where}: found no annotations of {', '.join(classes)[:200]}, wanted some")
        yield f"{stage} data: no boxes, so that there is nothing to score"
    elif len(infos) == len(dataset) and not all(count[i] for i in range(len(classes))):
        missing = (name for i, name in enumerate(classes) if not count[i])
        yield f"{stage} data: no box of {', '.join(missing)[:200]}"


@register_check
def check_ignored(dataset: Any, model: nn.Module, stage: str, metrics: Sequence[Any]) -> None:
    """Raise a UsageError where a segmentor's head ignores another label than its data do."""
    ignored = getattr(dataset, "ignore_index", None)
    for name, module in model.named_modules() if ignored is not None else ():
        found = getattr(module, "ignore_index", None)
        if name.rpartition(".")[2].rstrip("0123456789").endswith("_head") and found not in (None, ignored):
            raise UsageError(
                f"model.{name}.ignore_index: found {found}, wanted {ignored}, as the {stage} data ignore"
            )


def read_infos(dataset: Any, most: int) -> list[dict]:
    """What MMEngine's data sets know of samples before anything is read, of so many from first to last."""
    if not isinstance(dataset, BaseDataset) or not getattr(dataset, "_fully_initialized", False):
        return []
    held = getattr(dataset, "data_address" if dataset.serialize_data else "data_list", ())  # of clouds, none
    count = len(held)
    return [BaseDataset.get_data_info(dataset, int(i)) for i in _spread(range(count), most)]


def _spread(items: Sequence, most: int) -> list:
    """So many of a sequence, evenly."""
    places = np.linspace(0, len(items) - 1, min(len(items), most)).astype(int) if len(items) else ()
    return [items[i] for i in places]

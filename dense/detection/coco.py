"""What is wrong with a data set in COCO's format, found before a run reads it."""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.datasets import CocoDataset, CocoPanopticDataset
from mmengine.dataset import BaseDataset
from torch import nn

from pointsuite.engine.errors import UsageError, nearest
from pointsuite.engine.runner.preflight import register_check

HEADS = ("bbox_head", "mask_head")  # of detectors, which have a score for each class


@register_check
def check_classes(dataset: BaseDataset, model: nn.Module) -> None:
    """Raise a UsageError where classes of config, file and heads differ, or where annotations mean nothing.

    Args:
        dataset: of a run; others than of boxes in COCO's format pass.
        model: the detector that it trains or tests.
    """
    if not isinstance(dataset, CocoDataset) or isinstance(dataset, CocoPanopticDataset):
        return
    classes = dataset.metainfo["classes"]
    file = dataset.ann_file
    if isinstance(classes, str):
        raise UsageError(f"metainfo.classes: found the string {classes!r}, wanted a tuple, as ({classes!r},)")
    with open(file) as stream:
        content = json.load(stream)
    check_annotations(content, file)
    known = [category["name"] for category in content["categories"]]
    for name in classes:
        if name not in known:
            raise UsageError(
                f"metainfo.classes: {name!r} is no category of {file}, which has {', '.join(known)}"
                f"{nearest(name, known)}"
            )
    for name, module in model.named_modules():
        count = getattr(module, "num_classes", None)
        if type(count) is int and any(part in HEADS for part in name.split(".")) and count != len(classes):
            raise UsageError(
                f"model.{name}.num_classes: found {count}, wanted {len(classes)}, the classes of {file}: "
                f"{', '.join(classes)}"
            )


def check_annotations(content: Mapping[str, Any], file: str | os.PathLike) -> None:
    """Raise a UsageError where a file in COCO's format has no annotations, one id twice, or boxes that are no
    boxes: NaN, of negative size, or wholly outside their image.
    """
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list) or not content[key]:
            raise UsageError(f"{file}: has no {key}, wanted a list of at least one")
        ids = Counter(entry.get("id") for entry in content[key])
        twice, count = ids.most_common(1)[0]
        if count > 1:
            raise UsageError(f"{file}: {key}: found the id {twice} {count} times, wanted it once")
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    for entry in content["annotations"]:
        where = f"{file}: annotation {entry.get('id')}"
        for key, known in (("image_id", images), ("category_id", categories)):
            if entry.get(key) not in known:
                raise UsageError(f"{where}: {key}: found {entry.get(key)}, which does not exist")
        box = entry.get("bbox")
        if not isinstance(box, Sequence) or len(box) != 4 or not all(map(_is_finite, box)):
            raise UsageError(f"{where}: bbox: found {box}, wanted finite x, y, width, height")
        x, y, width, height = box
        image = images[entry["image_id"]]
        if width < 0 or height < 0:
            raise UsageError(f"{where}: bbox: found {box}, wanted a width and height that are not negative")
        if x >= image["width"] or y >= image["height"] or x + width < 0 or y + height < 0:
            size = f"{image['width']} x {image['height']}"
            raise UsageError(f"{where}: bbox: found {box}, which is outside its image of {size}")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)

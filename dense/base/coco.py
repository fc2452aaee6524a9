"""Files in COCO's format (Lin et al., "Microsoft COCO", ECCV 2014): the one strict reader.

Mmdet's data sets and metrics read theirs here, too (see :mod:`~dense.base.libraries`).
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pointsuite.engine.errors import one_line
from pointsuite.engine.files import FileError, read_json

UNBOXED = ("segments_info", "caption")  # what annotations of other tasks hold in place of a box


def read_coco(path: str | os.PathLike) -> dict[str, Any]:
    """What a file in COCO's format holds, checked.

    Where annotations of objects lack them, ``iscrowd`` is 0, and ``area`` is that of ``segmentation``, of the
    box where there is none, in pixels.

    Raises:
        FileError: no such file, no JSON; no list of images, of categories or (where there is one) of
            annotations; an id, a category's name or an image's file twice; an id that does not exist; an
            image without size; a box that is none: not four finite numbers, of negative size, or wholly
            outside its image; a wrong ``iscrowd`` or ``area``, or a mask of another size.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise FileError(path, f"found {_show(content)}, wanted a dict with images, annotations, categories")
    for key in ("images", "categories", "annotations"):
        if key == "annotations" and key not in content:  # as of COCO's test-dev
            continue
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise FileError(path, f"{key}: found {_show(entries)}, wanted a list of dicts")
        if not entries and key != "annotations":
            raise FileError(path, f"has no {key}, wanted at least one")
        for entry in entries:
            if not isinstance(entry.get("id"), int | str) and not _is_unboxed(entry):
                raise FileError(path, f"{key}: found the id {_show(entry.get('id'))}, wanted a number")
        if key != "annotations" or not any(map(_is_unboxed, entries)):
            _find_twice(path, key, "id", (entry["id"] for entry in entries))
    _check_images(path, content["images"])
    for entry in content["categories"]:
        if not isinstance(entry.get("name"), str):
            found = _show(entry.get("name"))
            raise FileError(path, f"category {entry['id']}: name: found {found}, wanted a text")
    _find_twice(path, "categories", "name", (entry["name"] for entry in content["categories"]))
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    for entry in content.get("annotations", ()):
        if not _is_unboxed(entry):
            _check_annotation(path, entry, images, categories)
    return content


def _is_unboxed(entry: Mapping[str, Any]) -> bool:
    return any(key in entry for key in UNBOXED)


def _check_images(path: str | os.PathLike, images: Sequence[Mapping[str, Any]]) -> None:
    for image in images:
        where = f"image {image['id']}"
        for key in ("width", "height"):
            if not _is_finite(image.get(key)) or image[key] < 1:
                raise FileError(path, f"{where}: {key}: found {_show(image.get(key))}, wanted pixels, from 1")
        if not isinstance(image.get("file_name"), str):
            found = _show(image.get("file_name"))
            raise FileError(path, f"{where}: file_name: found {found}, wanted a text")
    names = (image["file_name"] for image in images if not _is_unboxed(image))  # one file has many captions
    _find_twice(path, "images", "file_name", (name for name in names if name))


def _check_annotation(
    path: str | os.PathLike, entry: dict[str, Any], images: Mapping[Any, Mapping], categories: set
) -> None:
    """Raise a FileError where an annotation means nothing; add what it lacks."""

    def fail(key: str, wanted: str):
        raise FileError(path, f"annotation {entry['id']}: {key}: found {_show(entry.get(key))}, {wanted}")

    for key, known in (("image_id", images), ("category_id", categories)):
        if not isinstance(entry.get(key), int | str) or entry[key] not in known:
            fail(key, "which does not exist")
    box, image = entry.get("bbox"), images[entry["image_id"]]
    if not isinstance(box, Sequence) or len(box) != 4 or not all(map(_is_finite, box)):
        fail("bbox", "wanted finite x, y, width, height")
    x, y, width, height = box
    if width < 0 or height < 0:
        fail("bbox", "wanted a width and height that are not negative")
    if x >= image["width"] or y >= image["height"] or x + width < 0 or y + height < 0:
        fail("bbox", f"which is outside its image of {image['width']} x {image['height']}")
    if entry.get("iscrowd") is None:
        entry["iscrowd"] = 0
    if entry["iscrowd"] not in (0, 1):
        fail("iscrowd", "wanted 0 or 1")
    mask = entry.get("segmentation")
    if isinstance(mask, Mapping) and mask.get("size") != [image["height"], image["width"]]:
        fail("segmentation", f"wanted a mask of the size [{image['height']}, {image['width']}] of its image")
    if mask not in (None, []) and not _is_mask(mask):
        fail("segmentation", "wanted polygons or runs")
    if entry.get("area") is None:
        try:
            entry["area"] = _area(mask, image) if mask else width * height
        except Exception:  # of many types, from the library's C code
            fail("segmentation", "wanted polygons or runs")
    if not _is_finite(entry["area"]) or entry["area"] < 0:
        fail("area", "wanted pixels, from 0")


def _is_mask(mask: Any) -> bool:
    """Whether it is runs, packed or as numbers, or polygons of finite numbers."""
    if isinstance(mask, Mapping):
        counts = mask.get("counts")
        return isinstance(counts, str) or isinstance(counts, list) and all(map(_is_finite, counts))
    try:
        return all(len(polygon) % 2 == 0 and all(map(math.isfinite, polygon)) for polygon in mask)
    except TypeError:
        return False


def _area(mask: Mapping[str, Any] | list, image: Mapping[str, Any]) -> float:
    """Pixels of polygons or of runs."""
    from pycocotools import mask as masks

    if isinstance(mask, Mapping) and not isinstance(mask["counts"], list):
        return float(masks.area(dict(mask)))
    runs = masks.frPyObjects(mask, image["height"], image["width"])
    return float(masks.area(masks.merge(runs) if isinstance(runs, list) else runs))


def _find_twice(path: str | os.PathLike, key: str, name: str, values: Iterable[Any]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise FileError(path, f"{key}: found the {name} {_show(value)} twice, wanted it once")
        seen.add(value)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _show(value: Any) -> str:
    return one_line(repr(value))[:80]

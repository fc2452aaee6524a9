"""The reader of files in COCO's format: what it refuses, and what it adds."""

import json

import pytest

from dense.base.coco import read_coco
from pointsuite.engine.files import FileError

SIZE = (96, 64)


def content(**annotation):
    box = {"id": 1, "image_id": 0, "category_id": 1, "iscrowd": 0, "bbox": [8, 8, 20, 10], "area": 200}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": SIZE[0], "height": SIZE[1]} for i in range(2)],
        "annotations": [{**box, **annotation}, {**box, "id": 2, "image_id": 1}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 7, "name": "cat"}],
    }


def write(folder, value):
    path = folder / "a.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bbox": [float("nan"), 1, 2, 3]}, "annotation 1: bbox: found .*nan.*, wanted finite"),
        ({"bbox": [1, 1, float("inf"), 3]}, "annotation 1: bbox: found .*inf.*, wanted finite"),
        ({"bbox": [1, 1, -2, 3]}, "annotation 1: bbox: .* not negative"),
        ({"bbox": [500, 1, 2, 3]}, "annotation 1: bbox: .* outside its image of 96 x 64"),
        ({"bbox": [-50, 1, 2, 3]}, "annotation 1: bbox: .* outside its image of 96 x 64"),
        ({"bbox": [1, 1, 2]}, "annotation 1: bbox: found"),
        ({"bbox": "1 2 3 4"}, "annotation 1: bbox: found"),
        ({"bbox": ["1", "2", "3", "4"]}, "annotation 1: bbox: found"),
        ({"bbox": None}, "annotation 1: bbox: found None"),
        ({"image_id": 77}, "annotation 1: image_id: found 77, which does not exist"),
        ({"image_id": None}, "annotation 1: image_id: found None, which does not exist"),
        ({"category_id": 77}, "annotation 1: category_id: found 77, which does not exist"),
        ({"category_id": [1]}, r"annotation 1: category_id: found \[1\], which does not exist"),
        ({"id": 2}, "annotations: found the id 2 twice, wanted it once"),
        ({"id": None}, "annotations: found the id None"),
        ({"iscrowd": 3}, "annotation 1: iscrowd: found 3, wanted 0 or 1"),
        ({"area": -3}, "annotation 1: area: found -3, wanted pixels"),
        ({"area": "many"}, "annotation 1: area: found 'many', wanted pixels"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, r"segmentation: .* size \[64, 96\]"),
        ({"segmentation": "x"}, "segmentation: found 'x', wanted polygons or runs"),
        ({"segmentation": [["x"]], "area": None}, "segmentation: .*wanted polygons or runs"),
    ],
)
def test_annotations_that_mean_nothing(tmp_path, change, said):
    with pytest.raises(FileError, match=rf"a\.json: .*{said}"):
        read_coco(write(tmp_path, content(**change)))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("images",), [], "has no images"),
        (("images",), None, "images: found None, wanted a list of dicts"),
        (("categories",), [], "has no categories"),
        (("annotations",), {"1": {}}, "annotations: found .*, wanted a list of dicts"),
        (("annotations",), [3], "annotations: found .*, wanted a list of dicts"),
        (("images", 1, "id"), 0, "images: found the id 0 twice"),
        (("images", 1, "file_name"), "0.png", "images: found the file_name '0.png' twice"),
        (("images", 1, "file_name"), None, "image 1: file_name: found None"),
        (("images", 1, "width"), 0, "image 1: width: found 0, wanted pixels, from 1"),
        (("images", 1, "height"), "64", "image 1: height: found '64', wanted pixels"),
        (("images", 1, "height"), None, "image 1: height: found None, wanted pixels"),
        (("categories", 1, "id"), 1, "categories: found the id 1 twice"),
        (("categories", 1, "name"), "dog", "categories: found the name 'dog' twice"),
        (("categories", 1, "name"), 3, "category 7: name: found 3, wanted a text"),
    ],
)
def test_files_that_mean_nothing(tmp_path, path, value, said):
    whole = content()
    *way, last = path
    place = whole
    for key in way:
        place = place[key]
    place[last] = value
    with pytest.raises(FileError, match=rf"a\.json: {said}"):
        read_coco(write(tmp_path, whole))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "nul", '{"images": [], "images": []}', "[" * 100000])
def test_no_json_and_no_dict(tmp_path, text):
    with pytest.raises(FileError, match=r"a\.json: found"):
        read_coco(write(tmp_path, text))


def test_images_alone(tmp_path):
    """As of a test whose annotations nobody gives away; a list without any is one, too."""
    whole = content()
    assert read_coco(write(tmp_path, {**whole, "annotations": []}))["annotations"] == []
    del whole["annotations"]
    assert "annotations" not in read_coco(write(tmp_path, whole))


SQUARE = [[10, 10, 30, 10, 30, 20, 10, 20]]  # 20 x 10 pixels
RUNS = {"size": [64, 96], "counts": [10 * 64, 50, 64 * 96 - 10 * 64 - 50]}


@pytest.mark.parametrize(
    ("mask", "area"),
    [
        (None, 200),
        ([], 200),
        ([[10, 10, 30, 10, 30, 20]], 100),
        (SQUARE, 200),
        ([*SQUARE, [50, 10, 60, 10, 60, 20, 50, 20]], 300),
        (RUNS, 50),
    ],
)
@pytest.mark.parametrize("given", ["nothing", "none"])
def test_area_and_crowd_are_added(tmp_path, mask, area, given):
    """The area is that of the mask, else of the box."""
    whole = content(segmentation=mask)
    for key in ("area", "iscrowd"):
        if given == "none":
            whole["annotations"][0][key] = None
        else:
            del whole["annotations"][0][key]
    found = read_coco(write(tmp_path, whole))["annotations"]
    assert found[0]["area"] == pytest.approx(area, abs=12) and found[0]["iscrowd"] == 0
    assert found[1]["area"] == 200  # as it is given


def test_panoptic_and_captions(tmp_path):
    """Annotations without boxes pass, and images with one caption each have one file."""
    whole = content()
    whole["annotations"] = [{"image_id": 0, "file_name": "0.png", "segments_info": []}]
    assert read_coco(write(tmp_path, whole))["annotations"] == whole["annotations"]
    for image in whole["images"]:
        image.update(file_name="0.png", caption="a dog")
    assert len(read_coco(write(tmp_path, whole))["images"]) == 2

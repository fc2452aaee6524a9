"""Readers of scanpaths, and the cells that fixations fall into."""

import json

import numpy as np
import pytest
import torch

from dense.gaze.datasets import OSIE, SearchScanpaths
from dense.gaze.transforms import CutObjects, PackScanpaths, assemble, cell_centres, find_cells
from dense.registry import TRANSFORMS

from .toy import write_osie, write_search

PIPELINE = [
    TRANSFORMS.build(step)
    for step in ({"type": "LoadImage"}, {"type": "CutObjects", "grid": (3, 4), "size": (16, 16)})
] + [PackScanpaths()]


def test_osie(tmp_path):
    write_osie(tmp_path)
    parts = {split: OSIE(tmp_path, split, pipeline=PIPELINE) for split in ("train", "val", "test", "all")}
    names = {
        split: {data.get_data_info(i)["img_path"] for i in range(len(data))} for split, data in parts.items()
    }
    assert [len(names[split]) for split in parts] == [8, 1, 1, 10]
    assert names["train"] | names["val"] | names["test"] == names["all"]
    again = OSIE(tmp_path, "test")
    assert {again.get_data_info(0)["img_path"]} == names["test"]
    found = parts["test"][0]
    sample = found["data_samples"]
    assert found["inputs"].shape == (12, 3, 16, 16) and found["inputs"].dtype == torch.uint8
    assert [len(path) for path in sample.gt_paths] == [3, 4, 5]
    assert sample.gt_paths[0][0] == 6  # the middle, of row 1 and column 2
    assert sample.gt_durations[0][0] == 200 and sample.size == (64, 48) and sample.target is None


def test_search(tmp_path):
    write_search(tmp_path, objects=12)
    found = SearchScanpaths(tmp_path, "train", pipeline=PIPELINE)
    trials = json.loads((tmp_path / "scanpaths.json").read_text())["trials"]
    sample = found[0]["data_samples"]
    number = int(sample.img_path.rpartition("/")[2].removesuffix(".jpg"))
    assert sample.target == trials[number]["target"]
    assert sample.gt_paths[0].tolist() == trials[number]["path"]
    order = [*range(9, -1, -1)]
    (tmp_path / "scanpaths.json").write_text(json.dumps({"trials": trials, "order": order}))
    stored = SearchScanpaths(tmp_path, "test").get_data_info(0)
    assert stored["img_path"].endswith("images/0.jpg")


def test_cells():
    points = np.array([[0, 0], [39.9, 0], [40, 0], [399, 299], [400, 300], [-5, 500]])
    assert find_cells(points, (3, 10), (400, 300)).tolist() == [0, 0, 1, 29, 29, 20]
    path = torch.arange(30)
    centres = cell_centres(path, (3, 10), (400, 300))
    assert centres[11].tolist() == [60, 150]
    assert find_cells(centres.numpy(), (3, 10), (400, 300)).tolist() == path.tolist()


def test_cutting_and_assembling():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    found = CutObjects((2, 4), (3, 2))({"img": image})
    assert found["objects"].shape == (8, 3, 3, 2) and found["size"] == (8, 6)
    assert (found["objects"][5] == image[3:, 2:4].transpose(2, 0, 1)).all()
    whole = assemble(torch.from_numpy(found["objects"]), (2, 4))
    assert (whole.permute(1, 2, 0).numpy() == image).all()


def test_bad_cells():
    with pytest.raises(ValueError, match="a grid of 9 x 4 cells does not fit 6 x 8 pixels"):
        CutObjects((9, 4), (3, 2))({"img": np.zeros((6, 8, 3), np.uint8)})
    with pytest.raises(ValueError, match="a path has the object 8, wanted 0 to 7"):
        CutObjects((2, 4), (3, 2))({"img": np.zeros((6, 8, 3), np.uint8), "paths": [np.array([0, 8])]})


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (OSIE, [], "found no paths, wanted"),
        (OSIE, {"scanpaths": {}}, "found no paths, wanted some"),
        (OSIE, {"scanpaths": {"a.jpg": [[[1, 2]]]}}, r"a.jpg: found other entries, wanted lists of \[x, y"),
        (OSIE, {"scanpaths": {"a.jpg": [[[1, 2, -3]]]}}, "a.jpg: found no path or no number"),
        (OSIE, {"scanpaths": {"a.jpg": 3}}, "a.jpg: found other entries"),
        (SearchScanpaths, {}, "found no list of trials"),
        (SearchScanpaths, {"trials": [{"image": "a"}]}, "trial 0: found no 'target', wanted a int"),
        (SearchScanpaths, {"trials": [{"image": "a", "target": 1, "path": []}]}, "trial 0: found other numb"),
        (
            SearchScanpaths,
            {"trials": [{"image": "a", "target": 1, "path": [1]}], "order": [1]},
            "its order is of 1 items, wanted each of 1 once",
        ),
    ],
)
def test_bad_files(tmp_path, kind, content, message):
    (tmp_path / "scanpaths.json").write_text(json.dumps(content))
    with pytest.raises(OSError, match=message):
        kind(tmp_path)


def test_missing_files_and_splits(tmp_path):
    with pytest.raises(OSError, match=r"scanpaths.json: found no such file"):
        OSIE(tmp_path / "none")
    with pytest.raises(ValueError, match="split must be one of .*found 'trn'"):
        OSIE(tmp_path, "trn")

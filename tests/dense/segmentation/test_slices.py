import numpy as np
import pytest

from dense.registry import DATASETS, TRANSFORMS
from dense.segmentation.slices import parse_name

from .data import write_slices


def build(root, **kwargs):
    prefix = {"img_path": "train/Img", "seg_map_path": "train/GT"}
    return DATASETS.build({"type": "SliceDataset", "data_root": str(root), "data_prefix": prefix, **kwargs})


def test_slices_are_in_the_order_of_their_numbers(tmp_path):
    dataset = build(write_slices(tmp_path))
    found = [parse_name(dataset.get_data_info(i)["img_path"]) for i in range(len(dataset))]
    assert found == [(scan, position) for scan in (9, 10) for position in (9, 10, 11)]
    assert dataset.get_data_info(0)["seg_map_path"].endswith("train/GT/Subj_9slice_9.png")
    assert dataset.metainfo["classes"][1:] == ("liver", "right kidney", "left kidney", "spleen")


def test_errors_name_the_file(tmp_path):
    write_slices(tmp_path)
    (tmp_path / "train" / "Img" / "0001.png").touch()
    with pytest.raises(OSError, match=r"0001\.png: wanted a slice's name, as Subj_3slice_12\.png"):
        build(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train/Img: found no slices, wanted \*\.bmp"):
        build(tmp_path, img_suffix=".bmp")


def test_round_labels():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    results = TRANSFORMS.build({"type": "RoundLabels"})({"gt_seg_map": levels})
    labels = results["gt_seg_map"].ravel()
    assert labels.dtype == np.uint8 and labels[[0, 63, 126, 189, 252]].tolist() == [0, 1, 2, 3, 4]
    # as published: to the nearest multiple of 0.24705882 of the level in [0, 1]
    assert (labels == np.round(np.arange(256) / 255 / 0.24705882)).all()

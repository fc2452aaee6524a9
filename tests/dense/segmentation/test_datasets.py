import shutil
from argparse import Namespace

import numpy as np
import pytest
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from dense.registry import DATASETS
from dense.segmentation.datasets import CLASSES, COUNTS, VOID, CamVidDataset, find_pairs, parse_name, prepare
from tests.tools.load import load_tool

from .data import write_camvid, write_slices


@pytest.fixture
def root(tmp_path):
    return write_camvid(tmp_path / "camvid")


def labels_of(dataset, i):
    return LoadAnnotations()(dataset.get_data_info(i))["gt_seg_map"]


def test_split(root):
    dataset = DATASETS.build({"type": "CamVidDataset", "data_root": str(root), "split": "train"})
    assert isinstance(dataset, CamVidDataset) and len(dataset) == 4
    names = [dataset.get_data_info(i)["img_path"].rpartition("/")[2] for i in range(4)]
    assert names == ["0001TP_000000.jpg", "0001TP_000001.png", "0001TP_000002.jpg", "0001TP_000003.png"]
    assert dataset.metainfo["classes"] == tuple(CLASSES) and len(dataset.metainfo["palette"]) == 11
    labels = labels_of(dataset, 1)
    stored = np.asarray(Image.open(root / "trainannot" / "0001TP_000001.png"))
    assert (labels[stored == VOID] == 255).all() and (stored == VOID).any()
    assert (labels[stored != VOID] == stored[stored != VOID]).all()


def test_some_classes(root):
    dataset = CamVidDataset(data_root=str(root), metainfo={"classes": ("road", "sky")}, ignore_index=200)
    stored = np.asarray(Image.open(root / "trainannot" / "0001TP_000000.png"))
    wanted = np.full_like(stored, 200)
    wanted[stored == 3], wanted[stored == 0] = 0, 1
    assert (labels_of(dataset, 0) == wanted).all()
    assert dataset.metainfo["palette"] == [[128, 64, 128], [128, 128, 128]]


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("valannot", r"valannot: no such folder\. CamVid is offered at https://github"),
        ("val/*", r"val: found no image, wanted some of the kinds \.png"),
        (
            "valannot/0001TP_000001.png",
            r"000001\.png: no such file \(1 of 2 images of val lack labels",
        ),
    ],
)
def test_what_is_missing_is_named(root, remove, message):
    for path in root.glob(remove):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=message):
        CamVidDataset(data_root=str(root), split="val")


def test_prepare_tool(root, capsys):
    main = load_tool("prepare_dataset").main
    assert main(["camvid", "--root", str(root)]) == 1
    error = capsys.readouterr().err
    assert "train: 4 images, published are 367 (--allow-partial" in error and error.count("\n") == 1
    assert main(["camvid", "--root", str(root), "--allow-partial"]) == 0
    said = capsys.readouterr().out
    assert said.count("warning: ") == 3 and f"--cfg-options data_root={root}" in said
    shares = {line[:15].strip(): line[15:].split() for line in said.splitlines() if len(line) == 36}
    assert shares["void"] == ["4.17"] * 3  # 2 of 48 rows
    assert sum(float(row[0]) for row in shares.values() if row[0] != "train") == pytest.approx(100, abs=0.1)


def test_prepare_without_warnings(root, monkeypatch):
    for split in list(COUNTS):
        monkeypatch.setitem(COUNTS, split, len(find_pairs(root, split)))
    assert "warning: " not in prepare(Namespace(root=root, allow_partial=False, workers=1))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((48, 60), np.uint8), r"is \(60, 48\) pixels, wanted \(64, 48\) as its image"),
        (np.full((48, 64), 12, np.uint8), "values up to 12, wanted up to 11"),
        (np.zeros((48, 64, 3), np.uint8), "found a mask of RGB, wanted one label a pixel"),
    ],
)
def test_prepare_refuses_other_labels(root, labels, message):
    Image.fromarray(labels).save(root / "valannot" / "0001TP_000000.png")
    with pytest.raises((ValueError, OSError), match=rf"0001TP_000000\.png: {message}"):
        prepare(Namespace(root=root, allow_partial=True, workers=1))


# ------------------------------------------------------------------------------------------------ slices


def build_slices(root, **kwargs):
    prefix = {"img_path": "train/Img", "seg_map_path": "train/GT"}
    return DATASETS.build({"type": "SliceDataset", "data_root": str(root), "data_prefix": prefix, **kwargs})


def test_slices_are_in_the_order_of_their_numbers(tmp_path):
    dataset = build_slices(write_slices(tmp_path))
    found = [parse_name(dataset.get_data_info(i)["img_path"]) for i in range(len(dataset))]
    assert found == [(scan, position) for scan in (9, 10) for position in (9, 10, 11)]
    assert dataset.get_data_info(0)["seg_map_path"].endswith("train/GT/Subj_9slice_9.png")
    assert dataset.metainfo["classes"][1:] == ("liver", "right kidney", "left kidney", "spleen")


def test_errors_of_slices_name_the_file(tmp_path):
    write_slices(tmp_path)
    (tmp_path / "train" / "Img" / "0001.png").touch()
    with pytest.raises(OSError, match=r"0001\.png: wanted a slice's name, as Subj_3slice_12\.png"):
        build_slices(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train/Img: found no slices, wanted \*\.bmp"):
        build_slices(tmp_path, img_suffix=".bmp")


LOAD = [{"type": "mmseg.LoadAnnotations"}, {"type": "dense.RoundLabels"}, {"type": "mmseg.PackSegInputs"}]


@pytest.mark.parametrize("classes", [("background", "liver"), ("spleen", "background", "liver")])
def test_slices_of_some_of_the_classes(tmp_path, classes):
    """Pixels of the others are ignored; labels follow the names."""
    data = build_slices(write_slices(tmp_path), metainfo={"classes": classes}, pipeline=LOAD)
    assert len(data.metainfo["palette"]) == len(classes)
    right = {
        name: classes.index(name) if name in classes else 255 for name in ("background", "liver", "spleen")
    }
    labels = data[0]["data_samples"].gt_sem_seg.data[0]
    assert labels[0, 0] == right["background"]
    assert labels[5, 5] == right["liver"] and labels[12, 24] == right["spleen"]


@pytest.mark.parametrize("palette", [False, True])
def test_masks_of_slices_with_other_levels(tmp_path, palette):
    """Numbers of classes, grey or with a palette, need their step; a class too many is named."""
    root = write_slices(tmp_path)
    for path in (root / "train/GT").glob("*.png"):
        mask = Image.fromarray(np.asarray(Image.open(path)) // 63)
        if palette:
            mask.putpalette([0, 0, 0, 255, 0, 0] * 128)
        mask.save(path)
    with pytest.raises(
        OSError, match=r"GT/Subj_9slice_9\.png: found the level 1, wanted multiples of 63; Round"
    ):
        build_slices(root, pipeline=LOAD)[0]
    step = {"type": "dense.RoundLabels", "step": 1}
    labels = build_slices(root, pipeline=[LOAD[0], step, LOAD[2]])[0]["data_samples"].gt_sem_seg.data
    assert labels.unique().tolist() == [0, 1, 4]
    other = np.asarray(Image.open(path)).copy()
    other[0, 0] = 5
    Image.fromarray(other).save(path)
    with pytest.raises(
        OSError, match=rf"{path.name}: found the label 5, wanted 0 to 4, of its 5 classes, or 255"
    ):
        list(build_slices(root, pipeline=[LOAD[0], step, LOAD[2]]))

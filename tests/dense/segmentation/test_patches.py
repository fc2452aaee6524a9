"""Patches of scenes: which are cut, what they are called, what is refused."""

from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from dense.classification.datasets import ImageFolder
from dense.segmentation.datasets import VOID
from dense.segmentation.patches import cut_patches, prepare
from pointsuite.engine.errors import UsageError

from .data import write_camvid


def options(root, out, **changes):
    return Namespace(
        **{"root": root, "out": out, "size": 16, "share": 0.5, "min_train": 1, "workers": 1, **changes}
    )


def test_patches_by_hand():
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    labels = np.array(
        [
            [2, 2, 4, 5, 1, 1, 9],
            [2, 3, 6, 7, 1, 1, 9],
            [VOID, VOID, 8, 8, 0, VOID, 9],
            [VOID, 3, 8, 8, VOID, 0, 9],
            [9, 9, 9, 9, 9, 9, 9],
        ]
    )
    found = list(cut_patches(pixels, labels, 2, 0.5))
    assert [patch[:3] for patch in found] == [(2, 0, 0), (1, 0, 2), (8, 1, 1), (0, 1, 2)]
    assert np.array_equal(found[1][3], pixels[:2, 4:6])
    assert [patch[0] for patch in cut_patches(pixels, labels, 2, 1.0)] == [1, 8]


def test_folders_are_a_data_set(tmp_path):
    out = tmp_path / "patches"
    said = prepare(options(write_camvid(tmp_path / "camvid"), out))
    assert f"--cfg-options data_root={out} model.num_classes=3" in said and "too rare: pole, pavement" in said
    train = ImageFolder(data_root=out, split="train")
    assert train.metainfo["classes"] == ("building", "road", "sky")
    rows = {line[:15].strip(): line[15:].split() for line in said.splitlines()}
    for i, split in enumerate(("train", "val", "test")):
        found = ImageFolder(data_root=out, split=split, class_split="train")
        assert len(found) == sum(int(rows[name][i]) for name in train.metainfo["classes"]) > 0
    with Image.open(next((out / "test/road").iterdir())) as image:
        assert image.size == (16, 16) and image.mode == "RGB"
        assert abs(np.asarray(image).mean((0, 1)) - (128, 64, 128)).max() < 60  # most of it is road


def test_several_processes_write_the_same(tmp_path):
    root = write_camvid(tmp_path / "camvid")
    said = [prepare(options(root, tmp_path / str(n), workers=n)).replace(f"/{n} ", " ") for n in (1, 3)]
    one, three = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*.png")} for f in (tmp_path / "1", tmp_path / "3")
    )
    assert said[0] == said[1] and one and one == three


def test_rare_classes_are_left_out_of_all_splits(tmp_path):
    root = write_camvid(tmp_path / "camvid")
    counts = {path.name: len([*path.iterdir()]) for path in _folders(root, tmp_path / "all")}
    prepare(options(root, tmp_path / "some", min_train=max(counts.values())))
    kept = {name for name, count in counts.items() if count == max(counts.values())}
    assert 0 < len(kept) < len(counts)
    found = [
        path.name for split in ("train", "val", "test") for path in (tmp_path / "some" / split).iterdir()
    ]
    assert set(found) == kept


def _folders(root, out):
    prepare(options(root, out))
    return sorted((out / "train").iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "--size must be at least 1"),
        ({"share": 1.5}, r"--share in \(0, 1\], found 16 and 1.5"),
        ({"min_train": 10_000}, "no class has 10000 patches of 16 pixels"),
    ],
)
def test_refusals(tmp_path, changes, message):
    root = write_camvid(tmp_path / "camvid")
    with pytest.raises(UsageError, match=message):
        prepare(options(root, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_what_is_there_stays(tmp_path):
    root = write_camvid(tmp_path / "camvid")
    with pytest.raises(UsageError, match="exists, wanted a new folder"):
        prepare(options(root, root))
    labels = root / "valannot/0001TP_000000.png"
    Image.fromarray(np.zeros((48, 60), np.uint8)).save(labels)
    with pytest.raises(ValueError, match=r"is \(60, 48\) pixels, wanted \(64, 48\) as its image"):
        prepare(options(root, tmp_path / "out"))

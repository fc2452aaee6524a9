import h5py
import numpy as np
import pytest

from pointsuite.datasets.layout import decode_normals
from pointsuite.datasets.scanobjectnn import CLASSES, COUNTS, SPLITS, VARIANTS, files_of

from .prepare import failure, prepare

SMALL = ("--num-points", "40", "--allow-partial")


def write_file(path, count, seed=0):
    rng = np.random.default_rng(seed)
    ball = rng.normal(size=(count, 60, 3))
    ball /= np.linalg.norm(ball, axis=2, keepdims=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["data"] = (ball + [0.5, 0, 0]).astype(np.float32)
        file["label"] = (np.arange(count) * 7 % 15).astype(np.int32)
        file["mask"] = np.full((count, 60), -1, np.int32)
    return (ball + [0.5, 0, 0]).astype(np.float32)


@pytest.fixture
def release(tmp_path):
    """h5_files with each variant of each split; each file its own number of shapes."""
    root, count = tmp_path / "h5_files", 1
    for split in SPLITS:
        for folder in (split, f"{split}_nobg"):
            for suffix in set(VARIANTS.values()):
                for prefix in ("training", "test"):
                    path = root / folder / f"{prefix}_objectdataset{suffix}.h5"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                    count += 1
    return root


def test_names():
    assert len(CLASSES) == len(set(CLASSES)) == 15
    assert (CLASSES[0], CLASSES[4], CLASSES[10], CLASSES[14]) == ("bag", "chair", "bed", "toilet")
    assert COUNTS["PB_T50_RS"] == {"train": 11416, "test": 2882}
    assert COUNTS["OBJ_ONLY"] == COUNTS["OBJ_BG"] == {"train": 2309, "test": 581}


@pytest.mark.parametrize(
    ("arguments", "train"),
    [
        (("PB_T50_RS",), "main_split/training_objectdataset_augmentedrot_scale75.h5"),
        (("PB_T50_R", "split1"), "split1/training_objectdataset_augmentedrot.h5"),
        (("PB_T25_R", "split4", False), "split4_nobg/training_objectdataset_augmented25rot.h5"),
        (("PB_T25", "split2"), "split2/training_objectdataset_augmented25_norot.h5"),
        (("OBJ_BG", "split3"), "split3/training_objectdataset.h5"),
        (("OBJ_ONLY",), "main_split_nobg/training_objectdataset.h5"),
        (("OBJ_ONLY", "main_split", False), "main_split_nobg/training_objectdataset.h5"),
    ],
)
def test_files_of_each_variant(release, arguments, train):
    for root in (release, release.parent):
        files = files_of(root, *arguments)
        assert files["train"] == release / train
        assert files["test"] == release / train.replace("training", "test")


def test_a_typo_lists_what_is_valid(release, capsys):
    error = failure(capsys, "scanobjectnn", release, "--variant", "PB_T50_SR", *SMALL)
    assert (
        "no variant 'PB_T50_SR', wanted one of PB_T50_RS, PB_T50_R, PB_T25_R, PB_T25, OBJ_BG, OBJ_ONLY"
        in error
    )
    error = failure(capsys, "scanobjectnn", release, "--split", "mainsplit", *SMALL)
    assert "no split 'mainsplit', wanted one of main_split, split1, split2, split3, split4" in error
    error = failure(capsys, "scanobjectnn", release, "--variant", "OBJ_BG", "--no-background", *SMALL)
    assert "wanted OBJ_ONLY" in error


def test_what_is_missing(release, capsys):
    (release / "main_split" / "test_objectdataset_augmentedrot_scale75.h5").unlink()
    error = failure(capsys, "scanobjectnn", release, *SMALL)
    assert (
        "test_objectdataset_augmentedrot_scale75.h5: no such file. ScanObjectNN is offered at https" in error
    )


def test_conversion(tmp_path, capsys):
    root = tmp_path / "h5_files"
    data = write_file(root / "main_split" / "training_objectdataset_augmentedrot_scale75.h5", 3)
    write_file(root / "main_split" / "test_objectdataset_augmentedrot_scale75.h5", 2)
    clouds, info = prepare("scanobjectnn", root, *SMALL, split="train")
    assert info.classes == CLASSES and clouds.label.tolist() == [0, 7, 14]
    assert info.up == "y"
    assert "split 'train': 3 shapes, published are 11416" in capsys.readouterr().out
    # coordinates as they were, 40 of them, from the first on
    assert clouds.points.dtype == np.float32 and clouds.points.shape == (3, 40, 3)
    np.testing.assert_array_equal(clouds.points[:, 0], data[:, 0])
    assert {tuple(p) for p in clouds.points[1]} <= {tuple(p) for p in data[1]}
    outward = clouds.points - clouds.points.mean(1, keepdims=True)
    along = np.sum(outward * decode_normals(clouds.normals), axis=2)
    assert along.min() > -0.02
    unoriented, _ = prepare("scanobjectnn", root, "--orient", "none", *SMALL, split="train")
    normals = decode_normals(unoriented.normals)
    assert np.sum(outward * normals, axis=2).min() < -0.3
    np.testing.assert_array_equal(np.abs(unoriented.normals), np.abs(clouds.normals))


def test_bad_label_is_named_by_row(tmp_path, capsys):
    for prefix in ("training", "test"):
        write_file(path := tmp_path / "h5" / "main_split" / f"{prefix}_objectdataset.h5", 3)
    with h5py.File(path, "a") as file:
        file["label"][2] = 15
    error = failure(capsys, "scanobjectnn", tmp_path / "h5", "--variant", "OBJ_BG", *SMALL)
    assert "test_objectdataset.h5, key 'label', row 2: [15], wanted one of 0 to 14" in error
    with h5py.File(path, "a") as file:
        del file["label"]
    error = failure(capsys, "scanobjectnn", tmp_path / "h5", "--variant", "OBJ_BG", *SMALL)
    assert "test_objectdataset.h5: key 'label' is missing, found ['data', 'mask']" in error

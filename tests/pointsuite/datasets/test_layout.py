import os
import re
from dataclasses import replace

import h5py
import numpy as np
import pytest

from pointsuite.datasets import Clouds, DatasetError, FileInfo, read_clouds, read_info, write_clouds
from pointsuite.datasets.layout import decode_normals, decode_points, encode_normals, encode_points

INFO = FileInfo(("box", "ball"), ("metal", "body"), "CC0-1.0", "nobody, “quoted”")


def make_clouds(count=5, points=7, seed=0, stored=True):
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(-1, 1, (count, points, 3)).astype(np.float32)
    normals = rng.standard_normal((count, points, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return Clouds(
        points=encode_points(xyz) if stored else xyz,
        normals=encode_normals(normals) if stored else normals,
        label=(np.arange(count) % 2).astype(np.uint8),
        part=rng.integers(0, 2, (count, points), np.uint8),
        family=np.array([f"family {i % 3}" for i in range(count)]),
        name=np.array([f"naïve/{i}" for i in range(count)]),
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "clouds.h5"
    write_clouds(path, {"train": make_clouds(), "test": make_clouds(2, seed=1)}, INFO)
    return path


@pytest.mark.parametrize("stored", [True, False])
def test_what_is_written_is_read(tmp_path, stored):
    path = tmp_path / "new" / "clouds.h5"
    clouds = make_clouds(stored=stored)
    write_clouds(path, {"odd name": clouds}, INFO)
    found, info = read_clouds(path, "odd name")
    assert info == read_info(path) == INFO
    for key, value in vars(clouds).items():
        got = getattr(found, key)
        assert got.dtype.kind == value.dtype.kind
        np.testing.assert_array_equal(got, value)
    assert os.listdir(path.parent) == ["clouds.h5"]


def test_optional_keys_may_be_missing_and_families_may_be_integers(tmp_path):
    clouds = replace(make_clouds(), part=None, name=None, family=np.arange(5))
    write_clouds(tmp_path / "a.h5", {"train": clouds}, FileInfo(("box", "ball")))
    found, info = read_clouds(tmp_path / "a.h5", "train")
    assert found.part is None and found.name is None and found.family.tolist() == [0, 1, 2, 3, 4]
    assert info == FileInfo(("box", "ball"))


def test_decoding():
    points = decode_points(np.array([[-32767, 0, 32767]], np.int16))
    assert points.dtype == np.float32 and points.tolist() == [[-1, 0, 1]]
    normals = decode_normals(np.array([[0, 0, -126], [90, 90, 0]], np.int8))
    assert normals.dtype == np.float32
    np.testing.assert_allclose(normals, [[0, 0, -1], [0.5**0.5, 0.5**0.5, 0]], atol=1e-6)
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-1, 1, (100, 3))
    np.testing.assert_allclose(decode_points(encode_points(xyz)), xyz, atol=0.51 / 32767)
    with pytest.raises(ValueError, match=r"coordinates must lie in \[-1, 1\], found 1.5"):
        encode_points(np.array([[1.5, 0, 0]]))
    with pytest.raises(ValueError, match="coordinates"):
        encode_points(np.array([[np.nan, 0, 0]]))


def test_select_keeps_the_keys_together():
    clouds = make_clouds()
    some = clouds.select([3, 0])
    assert len(some) == 2
    for key, value in vars(clouds).items():
        np.testing.assert_array_equal(getattr(some, key), value[[3, 0]])


def one_bad(key, row, value):
    def damage(clouds):
        values = getattr(clouds, key).copy()
        values[row] = value
        return replace(clouds, **{key: values})

    return damage


BAD = {
    "points: shape of two axes": (
        lambda c: replace(c, points=c.points[0]),
        r"key 'points': shape \(7, 3\), wanted \(M, N, 3\)",
    ),
    "points: no cloud": (lambda c: c.select([]), r"key 'points': shape \(0, 7, 3\)"),
    "points: dtype": (
        lambda c: replace(c, points=c.points.astype(float)),
        "key 'points': dtype float64, wanted int16 or float32",
    ),
    "points: NaN": (one_bad("points", (3, 1, 2), np.nan), "key 'points', row 3: holds NaN or infinity"),
    "normals: infinity": (one_bad("normals", (4, 0, 0), np.inf), "key 'normals', row 4: holds NaN"),
    "normals: zero": (one_bad("normals", (2, 6), 0), "key 'normals', row 2: a normal has no length"),
    "normals: shape": (
        lambda c: replace(c, normals=c.normals[:, :5]),
        r"key 'normals': shape \(5, 5, 3\), wanted \(5, 7, 3\)",
    ),
    "normals: dtype": (
        lambda c: replace(c, normals=c.normals.astype(np.int16)),
        "key 'normals': dtype int16, wanted int8 or float32",
    ),
    "label: too large": (one_bad("label", 1, 2), "key 'label', row 1: 2 is out of range, wanted 0 to 1"),
    "label: negative": (
        lambda c: replace(c, label=np.array([0, 1, 0, -1, 1])),
        "key 'label', row 3: -1 is out of range",
    ),
    "label: length": (
        lambda c: replace(c, label=c.label[:4]),
        r"key 'label': shape \(4,\), wanted \(5,\) to match points \(5, 7, 3\)",
    ),
    "label: dtype": (
        lambda c: replace(c, label=c.label.astype(float)),
        "key 'label': dtype float64, wanted integers",
    ),
    "part: too large": (one_bad("part", (4, 2), 9), "key 'part', row 4: 9 is out of range, wanted 0 to 1"),
    "family: dtype": (
        lambda c: replace(c, family=np.zeros(5)),
        "key 'family': dtype float64, wanted integers or strings",
    ),
    "name: dtype": (lambda c: replace(c, name=np.arange(5)), "key 'name': dtype int64, wanted strings"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused_when_written(tmp_path, case):
    damage, message = BAD[case]
    path = tmp_path / "a.h5"
    path.write_text("precious")
    with pytest.raises(DatasetError, match=message) as error:
        write_clouds(path, {"good": make_clouds(), "bad": damage(make_clouds(stored=False))}, INFO)
    assert f"{path}: split 'bad', key '" in str(error.value) and "\n" not in str(error.value)
    assert path.read_text() == "precious" and os.listdir(tmp_path) == ["a.h5"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("label", np.array([0, 1, 7, 0, 1], np.uint8), "key 'label', row 2: 7 is out of range"),
        ("points", np.zeros((5, 7), np.int16), "key 'points': shape"),
        ("points", np.full((5, 7, 3), np.nan, np.float32), "key 'points', row 0: holds NaN"),
        ("normals", np.zeros((5, 7, 3), np.int8), "key 'normals', row 0: a normal has no length"),
        ("part", np.zeros((5, 6), np.uint8), "key 'part': shape"),
        ("label", None, "key 'label' is missing, the split has"),
        ("points", "group", "key 'points': cannot be read"),
    ],
)
def test_bad_data_is_refused_when_read(file, key, value, message):
    with h5py.File(file, "a") as opened:
        del opened["train"][key]
        if isinstance(value, str):
            opened["train"].create_group(key)
        elif value is not None:
            opened["train"][key] = value
    with pytest.raises(DatasetError, match=re.escape(f"{file}: split 'train'") + ".*" + message) as error:
        read_clouds(file, "train")
    assert str(error.value).startswith(f"{file}: split") and "\n" not in str(error.value)
    read_clouds(file, "test")


def test_files_that_are_none(tmp_path, file):
    with pytest.raises(FileNotFoundError, match=r"nowhere.h5: no such file; `python tools/prepare_dataset"):
        read_clouds(tmp_path / "nowhere.h5", "train")
    data = file.read_bytes()
    for content in (b"", b"some text", data[:100], data[: len(data) // 2], data[:-1]):
        file.write_bytes(content)
        with pytest.raises(DatasetError, match=r"clouds.h5: truncated, damaged or not an HDF5") as error:
            read_clouds(file, "train")
        assert "\n" not in str(error.value)
    with h5py.File(file, "w") as opened:
        opened["x"] = 1
    with pytest.raises(DatasetError, match="format and version are .*wanted .*pointsuite.clouds"):
        read_clouds(file, "train")


def test_missing_split_and_attribute(file):
    with pytest.raises(DatasetError, match=r"clouds.h5: no split 'val', the file has \['test', 'train'\]"):
        read_clouds(file, "val")
    with h5py.File(file, "a") as opened:
        del opened.attrs["classes"]
    with pytest.raises(DatasetError, match="clouds.h5: root attribute 'classes' is missing, found"):
        read_info(file)


def test_damaged_chunk_is_named(file):
    with h5py.File(file) as opened:
        chunk = opened["train"]["points"].id.get_chunk_info(0)
    data = bytearray(file.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(DatasetError, match="split 'train', key 'points': cannot be read"):
        read_clouds(file, "train")


def test_damaged_bytes_raise_the_one_error_or_none(file):
    """Whatever byte is hit, no other exception comes out."""
    data = file.read_bytes()
    refused = 0
    for position in np.random.default_rng(0).integers(8, len(data), 100):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        file.write_bytes(damaged)
        try:
            read_clouds(file, "train")
        except DatasetError:
            refused += 1
    assert refused  # most bytes of so small a file are unused


def test_file_that_would_be_too_large_is_not_left(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(DatasetError, match=r"a.h5: the file would have 0.0\d MB, wanted at most 0.001 MB"):
        write_clouds(path, {"train": make_clouds()}, INFO, max_bytes=1000)
    assert os.listdir(tmp_path) == []


def test_interrupted_write_leaves_the_old_file(file, monkeypatch):
    before = file.read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_clouds(file, {"train": make_clouds(3)}, INFO)
    assert file.read_bytes() == before and os.listdir(file.parent) == [file.name]
    with pytest.raises(DatasetError, match="nothing to write"):
        write_clouds(file, {}, INFO)


def test_the_axis_that_points_up(file, tmp_path):
    """Stored with the data; files from before it was have z."""
    assert read_info(file).up == "z"
    write_clouds(tmp_path / "y.h5", {"train": make_clouds()}, replace(INFO, up="y"))
    assert read_info(tmp_path / "y.h5").up == "y"
    with h5py.File(file, "a") as opened:
        del opened.attrs["up"]
    assert read_info(file).up == "z"
    with pytest.raises(DatasetError, match="attribute 'up' is 'w', wanted one of x, y, z"):
        write_clouds(tmp_path / "w.h5", {"train": make_clouds()}, replace(INFO, up="w"))

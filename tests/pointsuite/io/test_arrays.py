import io

import h5py
import numpy as np
import pytest

from pointsuite.io import PointFileError
from pointsuite.io.arrays import read_npy, read_npz
from pointsuite.io.hdf5 import read_h5
from pointsuite.io.text import read_text

XYZ = np.arange(12.0).reshape(4, 3)


def saved(save, *args, **kwargs) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *args, **kwargs)
    return buffer.getvalue()


@pytest.fixture
def dataset(tmp_path):
    def write(**arrays):
        with h5py.File(tmp_path / "set.h5", "w") as file:
            for name, array in arrays.items():
                file[f"test/{name}"] = array
        return tmp_path / "set.h5"

    return write


def test_h5_of_whole_numbers_is_scaled(dataset):
    path = dataset(
        points=np.array([[[0, 0, 0]], [[32767, -32767, 0]]], np.int16),
        normals=np.array([[[0, 0, 127]], [[127, 0, 0]]], np.int8),
        part=np.array([[3], [2]], np.uint8),
    )
    arrays = read_h5(path, "test", 1)
    np.testing.assert_array_equal(arrays["points"], [[1, -1, 0]])
    np.testing.assert_array_equal(arrays["normals"], [[1, 0, 0]])
    np.testing.assert_array_equal(arrays["part"], [2])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"xyz": np.zeros((2, 5, 3))}, r"found \['xyz'\] in 'test', wanted points"),
        ({"points": np.zeros((5, 3))}, "wanted points of shape"),
        ({"points": np.zeros((2, 5, 3), np.uint8)}, "found points of type uint8, wanted int16 or float"),
        (
            {"points": np.zeros((2, 5, 3)), "normals": np.zeros((2, 5, 3), int)},
            "found normals of type int64, wanted int8",
        ),
        (
            {"points": np.zeros((2, 5, 3)), "normals": np.zeros((1, 5, 3))},
            "1 rows in test/normals, wanted a row 1",
        ),
    ],
)
def test_h5_refusals(dataset, arrays, message):
    with pytest.raises(PointFileError, match=message):
        read_h5(dataset(**arrays), "test", 1)


@pytest.mark.parametrize("key", ["points", "xyz", "pos"])
def test_npz(key):
    arrays = read_npz(
        saved(np.savez, **{key: XYZ, "normal": XYZ + 1, "color": XYZ + 2, "part": [1, 2, 3, 4], "label": 5})
    )
    assert arrays.keys() == {"points", "normals", "colors", "part"}
    np.testing.assert_array_equal(arrays["points"], XYZ)
    np.testing.assert_array_equal(arrays["normals"], XYZ + 1)


def test_npz_refusals():
    with pytest.raises(PointFileError, match=r"found the keys \['cloud'\], wanted one of points, xyz, pos"):
        read_npz(saved(np.savez, cloud=XYZ))
    with pytest.raises(PointFileError, match="no readable npz arrays .*allow_pickle"):
        read_npz(saved(np.savez, points=np.array([None])))
    with pytest.raises(PointFileError, match="no readable npz"):
        read_npz(saved(np.save, XYZ))


@pytest.mark.parametrize("shape", [(3,), (4, 4), (2, 4, 3), (0, 2)])
def test_npy_of_a_wrong_shape_is_refused(shape):
    with pytest.raises(PointFileError, match=r"wanted numbers \(N, 3\), \(N, 6\) or \(N, 9\)"):
        read_npy(saved(np.save, np.zeros(shape)))


def test_npy_of_a_wrong_type_is_refused():
    with pytest.raises(PointFileError, match="found an array complex128|found complex128"):
        read_npy(saved(np.save, XYZ.astype(complex)))
    with pytest.raises(PointFileError, match="no readable npy array .*allow_pickle"):
        read_npy(saved(np.save, np.array([None, {}])))


def test_columns_are_told_apart_by_their_values():
    normals = np.tile([0, 0.6, -0.8], (4, 1))
    arrays = read_npy(saved(np.save, np.hstack([XYZ, normals])))
    assert arrays.keys() == {"points", "normals"}
    arrays = read_npy(saved(np.save, np.hstack([XYZ, 200 + XYZ])))
    assert arrays.keys() == {"points", "colors"}
    with pytest.raises(PointFileError, match="columns 4-6 that are neither normals of length 1 nor colors"):
        read_npy(saved(np.save, np.hstack([XYZ, 3 * normals])))
    with pytest.raises(PointFileError, match="columns 7-9 .* wanted one of each at most"):
        read_npy(saved(np.save, np.hstack([XYZ, normals, normals])))


@pytest.mark.parametrize(
    "text",
    [
        "0 1 2\n3 4 5\n",
        "0,1,2\n3,4,5",
        "x y z\n0 1 2\n3 4 5",
        "//X,Y,Z\n0, 1, 2\n3, 4, 5\n",
        "# c\n\n0\t1\t2 # d\n3 4 5\n",
    ],
)
def test_text(text):
    np.testing.assert_array_equal(read_text(text.encode())["points"], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n# only a comment\n", "no rows"),
        ("x,y,z\n", "no rows"),
        ("0 1\n", r"\(1, 2\), wanted numbers"),
        ("0 1 2\n0 1\n", "wanted rows of 3, 6 or 9 numbers"),
        ("0,1,2\n0,,2\n", "wanted rows of 3, 6 or 9 numbers"),
        ("0 1 2\n0 1 two\n", "wanted rows of 3, 6 or 9 numbers"),
        ("0 1 two\n0 1 2\n", "wanted rows of 3, 6 or 9 numbers"),
    ],
)
def test_text_refusals(text, message):
    with pytest.raises(PointFileError, match=message):
        read_text(text.encode())


def test_a_first_row_of_nan_is_no_header():
    assert len(read_text(b"nan nan nan\n0 1 2\n")["points"]) == 2

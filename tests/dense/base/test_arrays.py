"""Files of arrays are read within a limit of memory, and nothing in them runs."""

import io
import zlib

import numpy as np
import pytest
from scipy.io import savemat

from dense.base import arrays
from dense.base.arrays import read_mat, read_npy, read_npz
from pointsuite.engine.files import FileError, MissingFileError


def test_what_was_written_is_read(tmp_path):
    values = np.arange(6).reshape(2, 3)
    np.save(tmp_path / "a.npy", values)
    np.savez_compressed(tmp_path / "a.npz", x=values, y=values[0])
    for packed in (False, True):
        savemat(tmp_path / "a.mat", {"x": values}, do_compression=packed)
        assert np.array_equal(read_mat(tmp_path / "a.mat")["x"], values)
    assert np.array_equal(read_npy(tmp_path / "a.npy"), values)
    found = read_npz(tmp_path / "a.npz")
    assert sorted(found) == ["x", "y"] and np.array_equal(found["x"], values)


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_BYTES", 10_000)
    np.savez_compressed(tmp_path / "a.npz", np.zeros(10_001, np.uint8))
    savemat(tmp_path / "a.mat", {"x": np.zeros(10_001, np.uint8)}, do_compression=True)
    for read, name in ((read_npz, "a.npz"), (read_mat, "a.mat")):
        with pytest.raises(FileError, match=rf"{name}: .*it unpacks to \d+ bytes, more than 10000"):
            read(tmp_path / name)


def test_an_array_that_is_not_there(tmp_path):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (10**8,)})
    (tmp_path / "a.npy").write_bytes(head.getvalue())
    with pytest.raises(FileError, match=r"a\.npy: .*found 0 bytes for \(100000000,\) of float64"):
        read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize(("read", "name"), [(read_npy, "a.npy"), (read_npz, "a.npz"), (read_mat, "a.mat")])
def test_what_is_none_of_them(tmp_path, read, name):
    with pytest.raises(MissingFileError, match=f"{name}: found no such file"):
        read(tmp_path / name)
    for data in (
        b"",
        b"no array",
        bytes(200),
        b"PK\3\4" + bytes(100),
        bytes(124) + b"\0\1IM" + zlib.compress(b"x" * 99),
    ):
        (tmp_path / name).write_bytes(data)
        if read is read_mat and data == bytes(200):
            continue  # an empty one, as far as it tells
        with pytest.raises(FileError, match=f"{name}: not .* that can be read"):
            read(tmp_path / name)
    np.save(tmp_path / name, np.array([{}], object), allow_pickle=True)
    with pytest.raises(FileError, match=name):
        read(tmp_path / name if (tmp_path / name).exists() else tmp_path / f"{name}.npy")

"""`read_points` over every format: what is written comes back, what is damaged is refused in one line."""

import io
import re

import h5py
import numpy as np
import pytest

from pointsuite.io import SUFFIXES, PointFileError, read_points


def sphere(count: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    points = (2 * normals + [1, 2, 3]).astype(np.float32)
    return points, normals.astype(np.float32), rng.integers(0, 256, (count, 3)).astype(np.uint8)


POINTS, NORMALS, COLORS = sphere()
VERTEX = np.rec.fromarrays(
    [*POINTS.T, *NORMALS.T, *COLORS.T],
    dtype=[(n, "<f4") for n in ("x", "y", "z", "nx", "ny", "nz")]
    + [(n, "u1") for n in ("red", "green", "blue")],
)
TRIANGLE = b"4 0 0\n0 2 0\n0 0 0\n"


def ply(kind: str) -> bytes:
    header = f"ply\nformat {kind} 1.0\ncomment made by hand\nelement vertex {len(POINTS)}\n"
    header += "".join(f"property float {n}\n" for n in VERTEX.dtype.names[:6])
    header += "".join(f"property uchar {n}\n" for n in VERTEX.dtype.names[6:]) + "end_header\n"
    if kind == "ascii":
        data = "".join(" ".join(f"{x:.9g}" for x in row) + "\n" for row in VERTEX).encode()
    else:
        data = VERTEX.astype(VERTEX.dtype.newbyteorder(">" if "big" in kind else "<")).tobytes()
    return header.encode() + data


def pcd(kind: str) -> bytes:
    names = "x y z normal_x normal_y normal_z rgb"
    packed = (COLORS.astype(np.uint32) << [16, 8, 0]).sum(axis=1).astype(np.uint32)
    floats = np.hstack([POINTS, NORMALS])
    header = (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS {names}\nSIZE 4 4 4 4 4 4 4\nTYPE F F F F F F U\n"
        "COUNT 1 1 1 1 1 1 1\n"
        f"WIDTH {len(POINTS)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(POINTS)}\nDATA {kind}\n"
    )
    if kind == "ascii":
        rows = [[*(f"{x:.9g}" for x in f), str(c)] for f, c in zip(floats, packed, strict=True)]
        data = "".join(" ".join(row) + "\n" for row in rows).encode()
    else:
        data = np.hstack([floats.view(np.uint32), packed[:, None]]).astype("<u4").tobytes()
    return header.encode() + data


def saved(save, *args, **kwargs) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *args, **kwargs)
    return buffer.getvalue()


def h5() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for group in ("train", "test"):
            file[f"{group}/points"] = np.stack([POINTS, POINTS])
            file[f"{group}/normals"] = np.round(127 * np.stack([NORMALS, -NORMALS])).astype(np.int8)
    return buffer.getvalue()


FILES = {
    "a.h5": h5(),
    "a.npz": saved(np.savez, points=POINTS, normals=NORMALS, colors=COLORS),
    "packed.npz": saved(np.savez_compressed, xyz=POINTS, normals=NORMALS, rgb=COLORS / 255),
    "a.npy": saved(np.save, np.hstack([POINTS, NORMALS, COLORS])),
    "a.ply": ply("ascii"),
    "little.ply": ply("binary_little_endian"),
    "big.PLY": ply("binary_big_endian"),
    "a.pcd": pcd("ascii"),
    "binary.pcd": pcd("binary"),
    "a.txt": saved(np.savetxt, np.hstack([POINTS, NORMALS, COLORS]), fmt="%.9g"),
    "rgb_first.xyz": saved(np.savetxt, np.hstack([POINTS, COLORS, NORMALS]), fmt="%.9g"),
    "a.csv": saved(
        np.savetxt,
        np.hstack([POINTS, NORMALS, COLORS]),
        fmt="%.9g",
        delimiter=", ",
        header="x,y,z,nx,ny,nz,r,g,b",
        comments="",
    ),
    "points.obj": b"".join(b"v %.9g %.9g %.9g\n" % tuple(p) for p in POINTS),
    "points.off": b"OFF\n12 0 0\n" + b"".join(b"%.9g %.9g %.9g\n" % tuple(p) for p in POINTS),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_back_what_was_written(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    cloud = read_points(tmp_path / name)
    np.testing.assert_allclose(cloud.points, POINTS, atol=1e-6)
    assert cloud.points.dtype == np.float32
    if not name.startswith("points"):
        np.testing.assert_allclose(cloud.normals, NORMALS, atol=1e-2 if name == "a.h5" else 1e-6)
        np.testing.assert_allclose(np.linalg.norm(cloud.normals, axis=1), 1, atol=1e-6)
        assert cloud.normals.dtype == np.float32
    if not name.startswith(("points", "a.h5")):
        np.testing.assert_allclose(cloud.colors, COLORS / 255, atol=1e-6)
        assert cloud.colors.dtype == np.float32


def test_every_suffix_is_tried():
    assert {"." + name.rpartition(".")[2].lower() for name in FILES} == set(SUFFIXES) - {".hdf5"}


def refusal(path, **kwargs) -> str:
    with pytest.raises(PointFileError) as info:
        read_points(path, **kwargs)
    message = str(info.value)
    assert message.startswith(f"{path}: found ") and "wanted" in message and "\n" not in message, message
    return message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "data",
    [b"", b"\n \n", b"hello\nworld\n", bytes(range(256)) * 4, b"\x00" * 100],
    ids=["empty", "blank", "words", "all bytes", "zeros"],
)
def test_empty_and_garbage_files_are_refused(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    message = refusal(tmp_path / name)
    assert len(message) < len(str(tmp_path)) + 300
    if not data:
        assert "HDF5" in message if name == "a.h5" else "an empty file" in message


@pytest.mark.parametrize(
    "name", [n for n in FILES if n not in ("points.obj", "a.txt", "a.csv", "rgb_first.xyz")]
)
def test_a_file_cut_anywhere_is_refused(tmp_path, name):
    path, whole = tmp_path / name, FILES[name].rstrip(b"\n")
    text = name in ("a.ply", "a.pcd", "points.off")
    last_number = (
        len(whole) - re.search(rb"\S+$", whole).start() if text else 0
    )  # "12" cut to "1" shows in no format
    for cut in {*np.linspace(0, len(whole) - 1 - last_number, 40).astype(int), len(whole) - 1 - last_number}:
        path.write_bytes(whole[:cut])
        refusal(path)


@pytest.mark.parametrize("name", ["a.ply", "little.ply", "a.pcd", "binary.pcd", "points.off", "a.npy"])
def test_more_data_than_announced_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name] + b"1 2 3\n")
    refusal(tmp_path / name)


@pytest.mark.parametrize("name", FILES)
def test_random_damage_never_gets_past_the_checks(tmp_path, name):
    path, rng = tmp_path / name, np.random.default_rng(0)
    for _ in range(40):
        data = bytearray(FILES[name])
        for _ in range(rng.integers(1, 5)):
            data[rng.integers(min(len(data), 600))] = rng.integers(256)
        path.write_bytes(data)
        try:
            cloud = read_points(path)
        except PointFileError as error:
            assert "\n" not in str(error)
        else:
            assert all(np.isfinite(array).all() for array in cloud if array is not None)


@pytest.mark.parametrize("value", [b"nan", b"inf", b"-inf", b"1e300"])
@pytest.mark.parametrize("name", ["a.ply", "a.pcd", "a.txt", "a.csv", "points.obj", "points.off"])
def test_coordinates_that_are_not_finite_are_refused(tmp_path, name, value):
    first = b"%.9g" % POINTS[0, 0]
    assert FILES[name].count(first) == 1
    (tmp_path / name).write_bytes(FILES[name].replace(first, value))
    assert "1 of 12 points that are NaN or infinite (the first in row 0)" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["little.ply", "binary.pcd", "a.npy", "a.npz"])
def test_nan_in_binary_files_is_refused(tmp_path, name):
    bad = POINTS.copy()
    bad[5, 1] = np.nan
    data = FILES[name].replace(POINTS[5, 1].tobytes(), bad[5, 1].tobytes())
    if name == "a.npy":
        data = saved(np.save, bad)
    if name == "a.npz":
        data = saved(np.savez, pos=bad)
    (tmp_path / name).write_bytes(data)
    assert "1 of 12 points that are NaN or infinite (the first in row 5)" in refusal(tmp_path / name)


def test_paths_that_are_no_point_files_are_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "missing.ply")
    (tmp_path / "folder.ply").mkdir()
    assert "no regular file" in refusal(tmp_path / "folder.ply")
    (tmp_path / "image.png").write_bytes(b"x")
    message = refusal(tmp_path / "image.png")
    assert "'.png'" in message and all(suffix in message for suffix in SUFFIXES)


def test_a_shape_of_a_data_set_is_addressed_in_two_ways(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(FILES["a.h5"])
    by_name = read_points(f"{path}:train:1")
    by_arguments = read_points(path, split="train", index=1)
    np.testing.assert_array_equal(by_name.normals, by_arguments.normals)
    np.testing.assert_allclose(by_name.normals, -NORMALS, atol=1e-2)
    assert "2 rows in test/points, wanted a row 2" in refusal(f"{path}:test:2")
    assert "wanted a row -1" in refusal(f"{path}:test:-1")
    assert "['test', 'train'], wanted 'val'" in refusal(path, split="val")


MESHES = {
    "m.off": b"OFF\n3 1 0\n" + TRIANGLE + b"3 0 1 2\n",
    "glued.off": b"OFF3 1 0\n" + TRIANGLE + b"3 0 1 2\n",
    "m.obj": b"v 4 0 0\nv 0 2 0\nv 0 0 0\nf 1 2 3\n",
    "m.ply": b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
    b"property float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
    + TRIANGLE
    + b"3 0 1 2\n",
}


@pytest.mark.parametrize("name", MESHES)
def test_meshes_are_sampled(tmp_path, name):
    (tmp_path / name).write_bytes(MESHES[name])
    cloud = read_points(tmp_path / name, 50, seed=3)
    assert cloud.points.shape == (50, 3)
    x, y, z = cloud.points.T
    assert (z == 0).all() and (x >= 0).all() and (y >= 0).all() and (x / 4 + y / 2 <= 1 + 1e-6).all()
    np.testing.assert_array_equal(cloud.normals, np.tile(np.float32([0, 0, 1]), (50, 1)))
    np.testing.assert_array_equal(cloud.points, read_points(tmp_path / name, 50, seed=3).points)
    assert (cloud.points != read_points(tmp_path / name, 50, seed=4).points).any()
    assert len(read_points(tmp_path / name).points) == 1024
    with pytest.raises(ValueError, match="num_points is 0, wanted 1 or more"):
        read_points(tmp_path / name, 0)

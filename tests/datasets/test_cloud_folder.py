import numpy as np
import pytest

from pointsuite.datasets.layout import decode_normals, decode_points

from .prepare import failure, prepare


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(60, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    for name in ("train/ball", "test/ball", "test/stone"):
        (tmp_path / "clouds" / name).mkdir(parents=True)
    root = tmp_path / "clouds"
    np.savetxt(root / "train" / "ball" / "a.xyz", 3 * ball)
    np.save(root / "test" / "ball" / "b.npy", np.hstack([3 * ball, -ball]))
    np.savez(root / "test" / "stone" / "c.npz", points=ball + 1, normals=ball)
    return root


def test_files_of_several_formats(folder):
    clouds, info = prepare("clouds", folder, "--num-points", "40")
    assert info.classes == ("ball", "stone") and clouds.label.tolist() == [0, 1]
    points, normals = decode_points(clouds.points), decode_normals(clouds.normals)
    along = np.sum(points * normals, axis=2)
    assert (along[0] < -0.6).all() and (along[1] > 0.6).all()  # the files' own normals
    estimated, _ = prepare("clouds", folder, "--num-points", "60", "--sampling", "first", split="train")
    along = np.sum(decode_points(estimated.points) * decode_normals(estimated.normals), axis=2)
    assert (along > -0.02).all()


def test_coordinates_as_they_are(folder):
    clouds, _ = prepare("clouds", folder, "--num-points", "60", "--sampling", "first", "--no-normalize")
    assert clouds.points.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(clouds.points[0], axis=1), 3, rtol=1e-5)


def test_bad_files_are_named(folder, capsys):
    error = failure(capsys, "clouds", folder, "--num-points", "61")
    assert "a.xyz: 60 points, wanted at least 61" in error and "of split 'train'" in error
    bad = np.ones((50, 3))
    bad[9, 1] = np.inf
    np.save(folder / "test" / "stone" / "d.npy", bad)
    error = failure(capsys, "clouds", folder, "--num-points", "20")
    assert "d.npy: found 1 of 50 points that are NaN or infinite (the first in row 9)" in error

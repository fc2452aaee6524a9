import numpy as np
import pytest

from pointsuite.datasets.layout import decode_normals, decode_points

from .prepare import OFF_BOX, failure, prepare


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


def test_a_part_of_a_fraction_of_a_millimetre_keeps_its_points(tmp_path):
    """0.2 mm in metres, with its coordinates as they are: int16 would merge most of its points."""
    (tmp_path / "clouds" / "part").mkdir(parents=True)
    points = np.random.default_rng(0).uniform(0, 2e-4, (1024, 3))
    np.save(tmp_path / "clouds" / "part" / "a.npy", points)
    clouds, _ = prepare("clouds", tmp_path / "clouds", "--no-normalize", split="all")
    stored = decode_points(clouds.points[0]).astype(np.float64)
    assert len(np.unique(stored, axis=0)) == 1024
    nearest = np.linalg.norm(stored[:, None] - points, axis=2).min(axis=1)
    assert nearest.max() <= 1e-4 * np.ptp(points, axis=0).max()
    prepare("clouds", tmp_path / "clouds", split="all")  # normalised, int16 will do


def test_how_points_are_stored_is_said(tmp_path, capsys):
    (tmp_path / "clouds" / "part").mkdir(parents=True)
    np.save(tmp_path / "clouds" / "part" / "a.npy", np.random.default_rng(0).uniform(0, 2e-4, (64, 3)))
    for options, stored in ((("--no-normalize",), "float32"), ((), "int16")):
        prepare("clouds", tmp_path / "clouds", "--num-points", "64", *options, split="all")
        assert f"z is up, points as {stored}" in capsys.readouterr().out


def test_columns_nan_and_normals_of_a_folder(tmp_path, capsys):
    """What read_points has for one file, the converter has for a folder, and says what it left out."""
    (tmp_path / "clouds" / "splat").mkdir(parents=True)
    table = np.hstack([np.random.default_rng(0).normal(size=(50, 3)), np.zeros((50, 3))])
    table[3, 0] = np.nan
    np.savetxt(tmp_path / "clouds" / "splat" / "a.txt", table)
    small = ("--num-points", "40", "--columns", "x y z nx ny nz")
    error = failure(capsys, "clouds", tmp_path / "clouds", *small)
    assert "a.txt: found 1 of 50 points that are NaN" in error and "drop_nan" in error
    error = failure(capsys, "clouds", tmp_path / "clouds", *small, "--drop-nan")
    assert "the normal has no length, wanted 1 (clouds: --estimate-normals)" in error
    prepare("clouds", tmp_path / "clouds", *small, "--drop-nan", "--estimate-normals", split="all")
    said = capsys.readouterr().out
    assert "note: splat/a.txt: left out 1 of 50 points that are NaN or infinite" in said
    assert "note: splat/a.txt: estimated normals in place of those of the file" in said


def test_meshes_among_clouds_are_sampled_to_the_number_asked_for(tmp_path):
    (tmp_path / "clouds" / "box").mkdir(parents=True)
    (tmp_path / "clouds" / "box" / "a.off").write_text(OFF_BOX)
    clouds, _ = prepare("clouds", tmp_path / "clouds", "--num-points", "1500", split="all")
    assert clouds.points.shape == (1, 1500, 3)

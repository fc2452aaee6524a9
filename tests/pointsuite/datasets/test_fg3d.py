import pytest

from pointsuite.datasets.fg3d import NUM_CLASSES

from .prepare import OFF_BOX, failure, prepare

SMALL = ("--num-points", "16", "--sampling", "uniform")


@pytest.fixture
def release(tmp_path):
    for i in range(13):
        for split in ("train", "test"):
            path = tmp_path / "FG3D" / "Airplane" / f"class{i:02}" / split / f"{i}.off"
            path.parent.mkdir(parents=True)
            path.write_text(OFF_BOX)
    return tmp_path / "FG3D"


def test_one_category(release):
    assert NUM_CLASSES == {"airplane": 13, "car": 20, "chair": 33}
    clouds, info = prepare("fg3d", release, "--category", "airplane", *SMALL)
    assert len(info.classes) == len(clouds) == 13 and clouds.label.tolist() == list(range(13))


def test_errors(release, capsys):
    error = failure(capsys, "fg3d", release, "--category", "plane", *SMALL)
    assert "--category is 'plane', wanted one of airplane, car, chair" in error
    error = failure(capsys, "fg3d", release, "--category", "car", *SMALL)
    assert "no folder of the category 'car'. FG3D is offered at https://github.com/liuxinhai" in error
    for split in ("train", "test"):
        (release / "Airplane" / "class00" / split / "0.off").unlink()
    error = failure(capsys, "fg3d", release, "--category", "airplane", *SMALL)
    assert "12 classes, published are 13" in error
    clouds, _ = prepare("fg3d", release, "--category", "airplane", "--allow-partial", *SMALL)
    assert len(clouds) == 12

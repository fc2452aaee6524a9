import logging
import os

import matplotlib.image
import numpy as np
import pytest

from pointsuite.visualization import PALETTE, cloud, draw_cloud, open3d_backend, scene, show_cloud

SIZE = (203, 151)  # odd, and no whole number of inches


def box(count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points on a box of 3 x 2 x 1, their normals and the face that each lies on."""
    rng = np.random.default_rng(0)
    face = rng.integers(0, 6, count)
    points = rng.uniform(-1, 1, (count, 3))
    points[np.arange(count), face // 2] = 2 * (face % 2) - 1
    normals = np.eye(3)[face // 2] * (2 * (face % 2) - 1)[:, None]
    return points * [1.5, 1, 0.5], normals, face


POINTS, NORMALS, FACE = box()


@pytest.fixture(params=["matplotlib", "open3d"])
def backend(request, monkeypatch):
    if request.param == "matplotlib":
        monkeypatch.setattr(open3d_backend, "why_not", lambda: "the test says so")
    elif reason := open3d_backend.why_not():
        pytest.skip(f"Open3D cannot draw here: {reason}")
    return request.param


def drawn(image: np.ndarray, background=255) -> np.ndarray:
    return (image != background).any(axis=-1)


def test_picture_has_the_size_and_many_colours(backend, tmp_path):
    out = tmp_path / "new" / "folders" / "box.png"
    image = draw_cloud(POINTS, out=out, normals=NORMALS, size=SIZE)
    assert image.shape == (151, 203, 3) and image.dtype == np.uint8
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10
    np.testing.assert_allclose(matplotlib.image.imread(out)[..., :3], image / 255, atol=1e-6)
    assert os.listdir(out.parent) == ["box.png"]
    assert out.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("depth", [1, 1000])
def test_the_cloud_fills_the_picture_and_leaves_a_margin(backend, depth):
    sight = scene._view()[2]
    deep = POINTS + np.outer(POINTS @ sight * (depth - 1), sight)
    shown = drawn(draw_cloud(deep, normals=NORMALS, size=SIZE))
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    assert rows[0] > 0 and rows[-1] < 150 and columns[0] > 0 and columns[-1] < 202
    assert np.ptp(rows) > 130 or np.ptp(columns) > 180
    assert 0.25 < shown.mean() < 0.8 or depth > 1


def test_both_ways_of_drawing_give_the_same_picture(monkeypatch):
    if reason := open3d_backend.why_not():
        pytest.skip(f"Open3D cannot draw here: {reason}")
    by_open3d = draw_cloud(POINTS, "part", normals=NORMALS, part=FACE, size=SIZE)
    monkeypatch.setattr(open3d_backend, "why_not", lambda: "the test says so")
    by_matplotlib = draw_cloud(POINTS, "part", normals=NORMALS, part=FACE, size=SIZE)
    assert (drawn(by_open3d) == drawn(by_matplotlib)).mean() > 0.95
    assert abs(by_open3d.astype(int) - by_matplotlib).mean() < 12
    assert abs(by_open3d.astype(int)[::-1] - by_matplotlib).mean() > 24  # the same way up, too


def test_point_size_and_background(backend):
    small = draw_cloud(POINTS, size=SIZE, point_size=2, background=(0, 0, 0))
    large = draw_cloud(POINTS, size=SIZE, point_size=8, background=(0, 0, 0))
    assert (small[0, 0] == 0).all() and 2 * drawn(small, 0).sum() < drawn(large, 0).sum()


@pytest.mark.parametrize(
    "points",
    [
        [[1, 2, 3]],
        [[1, 2, 3]] * 5,
        [[0, 0, 0], [0, 0, 1]],
        np.arange(6)[:, None] * np.ones(3),
        np.linspace(0, 5, 50)[:, None] * scene._view()[2],
        1e-20 * POINTS,
        1e20 * POINTS,
    ],
    ids=["one", "duplicates", "two", "line", "line of sight", "tiny", "huge"],
)
def test_degenerate_clouds_are_drawn(backend, points):
    assert drawn(draw_cloud(np.asarray(points, float), size=SIZE)).any()


def test_points_of_one_height_and_normals_of_length_zero_are_drawn(backend):
    flat = POINTS * [1, 1, 0]
    assert drawn(draw_cloud(flat, "height", normals=np.zeros_like(flat), size=SIZE)).mean() > 0.2


def test_parts_have_the_colours_of_the_palette(monkeypatch):
    monkeypatch.setattr(open3d_backend, "why_not", lambda: "the test says so")
    image = draw_cloud(POINTS, "part", normals=NORMALS, part=np.full(len(POINTS), 9), size=SIZE) / 255
    hue = image[drawn(255 * image)].mean(axis=0)
    hue, wanted = hue / np.linalg.norm(hue), PALETTE[1] / np.linalg.norm(PALETTE[1])
    assert hue @ wanted > 0.99 and max(hue @ c / np.linalg.norm(c) for c in PALETTE[[0, 2]]) < 0.9


def test_fallback_says_once_why_and_what_to_install(monkeypatch, caplog):
    cloud._say_once.cache_clear()
    monkeypatch.setattr(open3d_backend.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(open3d_backend, "_LIBRARIES", ("libnothing.so.7",))
    monkeypatch.setattr(open3d_backend, "why_not", open3d_backend.why_not.__wrapped__)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert drawn(draw_cloud(POINTS, size=SIZE)).any()
    (message,) = [record.getMessage() for record in caplog.records]
    assert "libnothing.so.7 is missing" in message and "\n" not in message
    assert "apt-get install libegl1 libgl1 libusb-1.0-0" in message


def test_a_window_that_shows_nothing_falls_back(monkeypatch, caplog):
    cloud._say_once.cache_clear()

    def picture(*args):
        raise RuntimeError("nothing to see")

    monkeypatch.setattr(open3d_backend, "why_not", lambda: None)
    monkeypatch.setattr(open3d_backend, "picture", picture)
    assert drawn(draw_cloud(POINTS, size=SIZE)).any()
    assert "nothing to see" in caplog.text


def test_missing_open3d_and_a_crashing_driver_are_found_out(monkeypatch):
    monkeypatch.setattr(open3d_backend.importlib.util, "find_spec", lambda name: None)
    assert "pip install open3d" in open3d_backend.why_not.__wrapped__()
    monkeypatch.setattr(open3d_backend.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(open3d_backend, "_LIBRARIES", ())
    monkeypatch.setattr(open3d_backend, "_PROBE", "import os; os.abort()")
    assert "its process ended with -6: apt-get install" in open3d_backend.why_not.__wrapped__()
    monkeypatch.setattr(open3d_backend, "_PROBE", "raise SystemExit('no window')")
    assert open3d_backend.why_not.__wrapped__().startswith("no window: apt-get install")
    monkeypatch.setattr(open3d_backend, "_PROBE", "pass")
    assert open3d_backend.why_not.__wrapped__() is None


def test_no_screen_no_window(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(RuntimeError, match="no screen"):
        show_cloud(POINTS)
    monkeypatch.setenv("DISPLAY", ":98765")
    assert not open3d_backend.has_screen()  # nobody answers there
    monkeypatch.setattr(open3d_backend, "has_screen", lambda: True)
    monkeypatch.setattr(open3d_backend, "why_not", lambda: "the test says so")
    with pytest.raises(RuntimeError, match="cannot open a window: the test says so"):
        show_cloud(POINTS)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"points": POINTS[:0]}, r"points are float64 \(0, 3\), wanted finite numbers"),
        ({"points": POINTS[:, :2]}, r"\(400, 2\)"),
        ({"points": POINTS * np.nan}, "wanted finite numbers"),
        ({"colors": "part"}, "colors by part, but the cloud has no part"),
        ({"colors": "normals"}, "but the cloud has no normals"),
        ({"colors": "rainbow"}, "'rainbow', wanted one of normals, height, part or an array"),
        ({"colors": POINTS[:5]}, r"colors are \(5, 3\), wanted \(400, 3\)"),
        ({"colors": 2 + 0 * POINTS}, "numbers in 0..1"),
        ({"size": (0, 5)}, "0 x 5 pixels, wanted at least 1 x 1"),
        ({"out": "picture.gif", "size": SIZE}, "'.gif' of a picture to write, wanted .png"),
    ],
)
def test_refusals(kwargs, message):
    with pytest.raises(ValueError, match=message):
        draw_cloud(**{"points": POINTS, **kwargs})


def test_a_picture_that_cannot_be_written_whole_leaves_the_old_one(tmp_path, monkeypatch):
    out = tmp_path / "box.png"
    out.write_bytes(b"old")

    def broken(file, *args, **kwargs):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(matplotlib.image, "imsave", broken)
    with pytest.raises(OSError, match="disk full"):
        draw_cloud(POINTS, out=out, size=SIZE)
    assert out.read_bytes() == b"old" and os.listdir(tmp_path) == ["box.png"]


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_the_axis_that_points_up_turns_the_picture(up):
    """Furniture with y up stands on its feet: as if it had been turned to z before."""
    turned = np.roll(POINTS, "xyz".index(up) - 2, axis=1)
    normals = np.roll(NORMALS, "xyz".index(up) - 2, axis=1)
    wanted = draw_cloud(POINTS, "height", normals=NORMALS, size=SIZE)
    np.testing.assert_array_equal(draw_cloud(turned, "height", normals=normals, size=SIZE, up=up), wanted)
    assert np.linalg.det(scene.upright(np.eye(3), up)) == pytest.approx(1)
    with pytest.raises(ValueError, match="up is 'w', wanted x, y or z"):
        draw_cloud(POINTS, up="w")

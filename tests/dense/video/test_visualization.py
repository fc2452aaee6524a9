import cv2
import numpy as np
import pytest
from PIL import Image

from dense.video.visualization import ABNORMAL as ORANGE
from dense.video.visualization import draw_clip, draw_timelines, find_spans, write_video

from .toy import ABNORMAL, LENGTH, make_frames, write_folder

LABEL = [int(i in ABNORMAL) for i in range(LENGTH)]


def test_spans():
    assert find_spans([0, 1, 1, 0, 1]) == [(1, 2), (4, 4)]
    assert find_spans([1, 1]) == [(0, 1)] and find_spans([0]) == find_spans([]) == []


def read_clip(path):
    if path.suffix == ".gif":
        with Image.open(path) as file:
            pictures = []
            for i in range(file.n_frames):
                file.seek(i)
                pictures.append(np.asarray(file.convert("RGB")))
            return pictures
    video, pictures = cv2.VideoCapture(str(path)), []
    while (frame := video.read())[0]:
        pictures.append(frame[1][..., ::-1])
    return pictures


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_annotated_clip(tmp_path, suffix):
    write_folder(tmp_path / "a", make_frames())
    maps = {i: np.zeros((16, 16), np.float16) for i in range(4, LENGTH - 4)}
    maps[10][:8, :8] = 0.5
    out = tmp_path / f"clip{suffix}"
    draw_clip(tmp_path / "a", np.linspace(0, 1, LENGTH), out, labels=LABEL, maps=maps, size=64)
    pictures = read_clip(out)
    assert len(pictures) == LENGTH and pictures[0].shape == (64 + 56, 128, 3)
    heat = pictures[10][:64, 64:].astype(int)
    assert heat[20:28, 4:28].mean() > heat[36:60, 36:60].mean() + 50  # bright where the error is
    border = [np.abs(p[30, 1] - np.array(ORANGE)).max() < 60 for p in pictures]
    assert border == [bool(label) for label in LABEL]
    cursors = [int(p[70:115].sum((0, 2)).argmin()) for p in pictures]  # the black line
    assert cursors == sorted(cursors) and cursors[0] <= 1 and cursors[-1] >= 126
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("size", "wanted"), [((96, 48), (32, 64)), ((48, 96), (64, 32)), ((50, 34), (44, 64))]
)
def test_a_clip_keeps_shape_and_speed_of_the_video(tmp_path, size, wanted):
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 20, size)
    for i in range(12):
        writer.write(np.full((size[1], size[0], 3), 20 * i, np.uint8))
    writer.release()
    for fps, found in ((None, 20.0), (5.0, 5.0)):
        draw_clip(tmp_path / "a.mp4", np.linspace(0, 1, 12), tmp_path / "b.mp4", fps=fps, size=64)
        video = cv2.VideoCapture(str(tmp_path / "b.mp4"))
        assert video.get(cv2.CAP_PROP_FPS) == found
        height, width = wanted
        assert (video.get(cv2.CAP_PROP_FRAME_HEIGHT), video.get(cv2.CAP_PROP_FRAME_WIDTH)) == (
            height + 56,
            2 * width,
        )
    write_folder(tmp_path / "images", make_frames(5))
    draw_clip(tmp_path / "images", np.zeros(5), tmp_path / "c.mp4", size=64)
    assert cv2.VideoCapture(str(tmp_path / "c.mp4")).get(cv2.CAP_PROP_FPS) == 10.0


def test_clip_refuses(tmp_path):
    write_folder(tmp_path / "a", make_frames(5))
    with pytest.raises(ValueError, match="has 5 frames, found 4 scores"):
        draw_clip(tmp_path / "a", np.zeros(4), tmp_path / "a.gif")
    with pytest.raises(ValueError, match="written to .mp4 or .gif, found '.mov'"):
        draw_clip(tmp_path / "a", np.zeros(5), tmp_path / "a.mov")


def test_nothing_half_written(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"old")

    def pictures():
        yield np.zeros((32, 32, 3), np.uint8)
        raise OSError("damaged")

    with pytest.raises(OSError, match="damaged"):
        write_video(pictures(), tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_timelines(tmp_path):
    out = tmp_path / "scores.png"
    draw_timelines({"01": {"score": np.linspace(0, 1, 9)}}, out, "scores")
    one = np.asarray(Image.open(out).convert("RGB")).astype(int)
    draw_timelines({"01": {"score": np.linspace(0, 1, 9), "label": [0] * 4 + [1] * 5}}, out, "scores")
    labelled = np.asarray(Image.open(out).convert("RGB")).astype(int)
    shaded = np.abs(one - labelled).sum(2) > 20
    assert one.shape == labelled.shape and 0.1 < shaded.mean() < 0.6
    middle = one.shape[1] // 2
    assert shaded[:, middle + 100 :].sum() > 5 * shaded[:, : middle - 100].sum()
    draw_timelines({str(i): {"score": [0.0, 1.0]} for i in range(3)}, tmp_path / "three.pdf")
    assert (tmp_path / "three.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ValueError, match="found no video to draw"):
        draw_timelines({}, out)

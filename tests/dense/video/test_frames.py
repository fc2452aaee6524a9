import pickle

import cv2
import numpy as np
import pytest

from dense.video.frames import FrameCache, Video, find_videos

from .toy import make_frames, write_file, write_folder


def test_a_folder(tmp_path):
    frames = make_frames(12, color=True)
    write_folder(tmp_path / "a", frames)
    (tmp_path / "a/._000.png").write_bytes(b"of another system")
    video = Video(tmp_path / "a", size=16, color="bgr")
    assert (len(video), video.name) == (12, "a")
    assert np.array_equal(video.clip(range(12)), frames.transpose(0, 3, 1, 2))
    rgb = Video(tmp_path / "a", size=16, color="rgb")
    assert np.array_equal(rgb[5], video[5][::-1])
    grey = Video(tmp_path / "a", size=16)
    assert np.array_equal(grey[5][0], cv2.cvtColor(frames[5], cv2.COLOR_BGR2GRAY))
    small = Video(tmp_path / "a", size=(8, 12))
    wanted = cv2.resize(frames[5], (12, 8), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(small[5][0], cv2.cvtColor(wanted, cv2.COLOR_BGR2GRAY))


@pytest.mark.parametrize(("suffix", "code"), [(".avi", "MJPG"), (".mp4", "mp4v")])
def test_a_file_by_index(tmp_path, suffix, code):
    """Whatever the order of reading, a frame is the one that reading from the start has at its place."""
    path = tmp_path / f"a{suffix}"
    frames = make_frames(200, side=64)
    frames[:, :8, :8] = np.arange(200, dtype=np.uint8)[:, None, None, None]
    write_file(path, frames, code)
    whole = cv2.VideoCapture(str(path))
    wanted = [whole.read()[1] for _ in range(200)]
    video = Video(path, size=64, color="bgr", cache=FrameCache(0))
    assert (len(video), video.name) == (200, "a")
    for index in (0, 3, 6, 1, 190, 199, 100, 99, 5):
        assert np.array_equal(video[index], wanted[index].transpose(2, 0, 1)), index
    again = pickle.loads(pickle.dumps(video))
    assert np.array_equal(again[7], wanted[7].transpose(2, 0, 1))


def test_sliding_clips_decode_each_frame_once(tmp_path):
    write_file(tmp_path / "a.avi", make_frames(40))
    video = Video(tmp_path / "a.avi", size=16)
    decode, decoded = video._reader.decode, []
    video._reader.decode = lambda i: (decoded.append(frame[0]) or frame for frame in decode(i))
    for start in range(40 - 24):
        video.clip(range(start, start + 25, 3))
    assert decoded == list(range(40))


def test_cache_is_bounded():
    cache = FrameCache(1000)
    for i in range(10):
        cache.put((i,), np.zeros(300, np.uint8))
        cache.get((0,))
    assert cache.size == 900 and len(cache) == 3
    assert [i for i in range(10) if cache.get((i,)) is not None] == [0, 8, 9]
    cache.put((9,), np.zeros(100, np.uint8))
    assert cache.size == 700
    assert len(pickle.loads(pickle.dumps(cache))) == 0
    cache.put((11,), np.zeros(5000, np.uint8))  # what was just read can be used, however large
    assert len(cache) == 1 and cache.size == 5000


def test_find_videos(tmp_path):
    for name in ("10", "9", "01_gt", ".hidden"):
        write_folder(tmp_path / name, make_frames(2))
    write_file(tmp_path / "8.avi", make_frames(2))
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    assert [path.name for path in find_videos(tmp_path)] == ["8.avi", "9", "10"]
    assert find_videos(tmp_path / "9") == [tmp_path / "9"]
    assert find_videos(tmp_path / "8.avi") == [tmp_path / "8.avi"]
    with pytest.raises(FileNotFoundError, match="empty: found no video, wanted folders of images, or files"):
        find_videos(tmp_path / "empty")


def test_what_cannot_be_read(tmp_path):
    write_folder(tmp_path / "mixed", make_frames(3))
    write_folder(tmp_path / "mixed", make_frames(1, side=20), start=3)
    video = Video(tmp_path / "mixed", size=16)
    video[0]
    with pytest.raises(OSError, match="mixed: frame 3 is of 20 x 20 pixels, wanted .* 16 x 16"):
        video[3]
    (tmp_path / "mixed/001.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"001\.png: not an image that can be read"):
        video[1]
    with pytest.raises(IndexError, match="has no frame 4, wanted 0 to 3"):
        video[4]
    (tmp_path / "a.avi").write_bytes(b"no video")
    with pytest.raises(OSError, match=r"a\.avi: not a video that can be read"):
        Video(tmp_path / "a.avi")
    with pytest.raises(FileNotFoundError, match="none: no such video"):
        Video(tmp_path / "none")
    with pytest.raises(ValueError, match="color must be one of grey, rgb, bgr, found 'gray'"):
        Video(tmp_path / "mixed", color="gray")


def test_a_damaged_file_names_the_frame(tmp_path):
    path = tmp_path / "a.avi"
    write_file(path, make_frames(50, side=64))
    content = path.read_bytes()
    index = content.rindex(b"idx1")  # the table of frames stays, so that the head still tells 50
    path.write_bytes(content[: index // 2] + bytes(index - index // 2) + content[index:])
    video = Video(path, size=16)
    with pytest.raises(OSError, match=rf"a\.avi: frame \d+ of {len(video)} cannot be read"):
        for i in range(len(video)):
            video[i]

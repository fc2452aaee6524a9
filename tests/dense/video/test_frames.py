import pickle
import struct

import cv2
import numpy as np
import pytest

from dense.video.frames import FrameCache, Video, find_videos, list_frames

from .toy import encode_file, make_frames, write_file, write_folder


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


KINDS = [
    ("a.mkv", "libx264", True, None),
    ("a.mkv", "libvpx-vp9", True, None),
    ("a.webm", "libvpx-vp9", True, None),
    ("a.webm", "libvpx", True, None),
    ("a.mp4", "libx264", True, None),
    ("a.mov", "libx265", False, None),
    ("a.mpg", "mpeg2video", False, None),
    ("a.mpeg", "mpeg1video", False, None),
    ("a.mpg", "libx264", False, "mpegts"),
    ("a.avi", "libx264", False, None),
    ("a.avi", "mpeg4", False, None),
    ("a.avi", "mjpeg", False, None),
    ("A.M4V", "libx264", False, "mp4"),
]


def numbered(count=100):
    """Frames that all differ, with their numbers as bars."""
    frames = make_frames(count, side=64)
    for i in range(count):
        for bit in range(8):
            frames[i, :8, 8 * bit : 8 * bit + 8] = 255 * (i >> bit & 1)
    return frames


def read_number(image):
    """Of a frame (1, 64, 64)."""
    return sum(1 << bit for bit in range(8) if image[0, 2:6, 8 * bit + 2 : 8 * bit + 6].mean() > 128)


@pytest.mark.parametrize(("name", "codec", "irregular", "form"), KINDS)
def test_frames_are_counted_and_found_whatever_the_head_says(tmp_path, name, codec, irregular, form):
    """A phone's recording has from 10 to 60 frames a second, of which the head tells a mean, or nothing."""
    steps = np.random.default_rng(0).choice([17, 33, 50, 100], 100)
    path = tmp_path / name
    encode_file(path, numbered(), codec, np.cumsum(steps) if irregular else None, form=form)
    video = Video(path, size=64, cache=FrameCache(0))
    assert len(video) == 100 and [read_number(video[i]) for i in range(100)] == list(range(100))
    whole = [video[i] for i in range(100)]
    for i in (99, 3, 71, 70, 13, 12, 11, 98, 0, 84, 1):
        assert np.array_equal(video[i], whole[i]), i
    fresh = Video(path, size=64, cache=FrameCache(0))
    assert np.array_equal(fresh[86], whole[86]) and np.array_equal(fresh[24], whole[24])
    again = pickle.loads(pickle.dumps(video))
    assert np.array_equal(again[77], whole[77])


def test_frames_are_those_of_opencv(tmp_path):
    """In colour, to the level."""
    path = tmp_path / "a.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (9, 16, 24, 3)).astype(np.uint8)
    encode_file(path, frames, "libx264")
    capture = cv2.VideoCapture(str(path))
    video = Video(path, size=(16, 24), color="bgr")
    for i in range(9):
        assert np.array_equal(video[i].transpose(1, 2, 0), capture.read()[1])


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_phone_that_was_held_upright(tmp_path, turns):
    """The head says how to turn the frames."""
    path = tmp_path / "a.mp4"
    frames = np.zeros((5, 32, 64, 3), np.uint8)
    frames[:, :16, :32] = 255  # the top left
    encode_file(path, frames, "libx264")
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44  # the matrix of the track
    a, b = [(0, 1), (-1, 0), (0, -1)][turns - 1]
    data[place : place + 36] = struct.pack(">9i", a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    wanted = np.rot90(frames[0, ..., 0], -turns)
    video = Video(path, size=wanted.shape)
    assert (abs(video[0][0].astype(int) - wanted) < 40).mean() > 0.95


@pytest.mark.parametrize(("name", "codec"), [(name, codec) for name, codec, *_ in KINDS if name != "A.M4V"])
def test_a_file_that_was_cut_is_refused(tmp_path, name, codec):
    """But MPEG streams, which may end anywhere: theirs is at most shorter."""
    path = tmp_path / name
    encode_file(path, numbered(), codec)
    data = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        try:
            video = Video(path, size=16)
        except OSError as error:
            assert str(error).startswith(f"{path}: not a video that can be read (")
        else:
            assert path.suffix in (".mpg", ".mpeg") and len(video) <= 100  # of padding, too
            assert all(read is not None for read in video.clip(range(len(video))))


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.mp4"])
def test_damage_within_a_file_is_refused(tmp_path, name):
    path = tmp_path / name
    encode_file(path, numbered(), "mjpeg" if name == "a.avi" else "libx264")
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(len(data) // 8) + data[half + len(data) // 8 :])
    with pytest.raises(OSError, match=rf"{name}: (frame \d+ of 100 cannot|not a video that can) be read"):
        Video(path, size=16).clip(range(100))


def test_lists_of_other_files_are_no_videos(tmp_path):
    encode_file(tmp_path / "a.mp4", numbered(5), "libx264")
    lists = {"b.mp4": "ffconcat version 1.0\nfile a.mp4\n", "c.avi": "#EXTM3U\n#EXTINF:1,\na.mp4\n"}
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(OSError, match=f"{name}: not a video that can be read"):
            Video(tmp_path / name)


def test_frames_of_too_many_pixels(tmp_path, monkeypatch):
    encode_file(tmp_path / "a.mkv", numbered(5), "libx264")
    monkeypatch.setenv("DENSE_MAX_PIXELS", "4000")
    with pytest.raises(OSError, match=r"a\.mkv: .*found frames of 64 x 64 pixels, wanted at most 4000"):
        Video(tmp_path / "a.mkv")
    monkeypatch.setenv("DENSE_MAX_PIXELS", "4096")
    assert len(Video(tmp_path / "a.mkv")) == 5


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.png", "2.png", "10.PNG"], r"v: found 10\.PNG after 2\.png, wanted frames without a gap"),
        (["f1_l.jpg", "f2_l.jpg", "f4_l.jpg"], r"found f4_l\.jpg after f2_l\.jpg"),
        (["030.jpg", "030.png"], r"030\.jpg and .*030\.png are both frame 30, wanted one"),
        (["30.png", "030.png", "031.png"], "are both frame 30, wanted one"),
        (["left.jpg", "left.png"], "are both frame left, wanted one"),
        ([f"{i}.PNG" for i in range(1, 13)], None),
        (["000.png", "005.JPG", "010.Tif"], None),
        (["a.png", "b.png"], None),
        (["cam1_1.png", "cam2_1.png", "cam2_5.png"], None),
        (["1.png"], None),
    ],
)
def test_numbers_of_frames(tmp_path, names, message):
    (tmp_path / "v").mkdir()
    for name in names:
        (tmp_path / "v" / name).touch()
    (tmp_path / "v/._1.png").touch()
    if message is None:
        assert [path.name for path in list_frames(tmp_path / "v")] == names
    else:
        with pytest.raises(OSError, match=message):
            list_frames(tmp_path / "v")

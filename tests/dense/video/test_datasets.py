import json
import pickle

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from dense.video.datasets import OFFSETS, Avenue, ShanghaiTech, UCSDPed, VideoClips, read_labels

from .toy import ABNORMAL, LENGTH, make_frames, write_file, write_folder

LABEL = np.array([int(i in ABNORMAL) for i in range(LENGTH)])
SMALL = {"size": 16, "offsets": range(0, 9)}


def labels_of(dataset):
    return {name: video["label"] for name, video in dataset.metainfo["videos"].items()}


# ------------------------------------------------------------------------------------------------- clips


def test_published_clips(tmp_path):
    """25 consecutive frames, every third: 0, 3, ..., 24; starts slide by one."""
    assert OFFSETS == (0, 3, 6, 9, 12, 15, 18, 21, 24)
    frames = make_frames(27, side=20)
    frames[:, 0] = np.arange(27)[:, None, None]
    write_folder(tmp_path / "a", frames)
    write_folder(tmp_path / "b", frames[:25])
    dataset = VideoClips(tmp_path, size=20)
    assert len(dataset) == 3 + 1
    item = dataset[1]
    assert item["inputs"].shape == (9, 1, 20, 20) and item["inputs"].dtype == torch.uint8
    assert item["inputs"][:, 0, 0, 0].tolist() == [1 + offset for offset in OFFSETS]
    sample = item["data_samples"]
    assert sample.frames == tuple(1 + offset for offset in OFFSETS)
    assert (sample.video, sample.num_frames, sample.num_windows, sample.index) == ("a", 27, 3, 1)
    assert dataset[3]["data_samples"].video == "b"
    assert dataset.metainfo["videos"]["b"] == {"num_frames": 25, "label": None}


def test_a_stride_ends_with_the_last_start(tmp_path):
    write_folder(tmp_path / "a", make_frames(16))
    dataset = VideoClips(tmp_path, stride=3, **SMALL)
    assert [dataset[i]["data_samples"].frames[0] for i in range(len(dataset))] == [0, 3, 6, 7]


def test_held_out_videos_share_no_frame(tmp_path):
    for i in range(7):
        write_folder(tmp_path / f"{i}", make_frames(10))
    parts = {part: VideoClips(tmp_path, hold_out=0.3, part=part, **SMALL) for part in ("train", "held_out")}
    names = {part: set(dataset.metainfo["videos"]) for part, dataset in parts.items()}
    assert len(names["held_out"]) == 2 and not names["train"] & names["held_out"]
    assert len(names["train"] | names["held_out"]) == 7
    with pytest.raises(OSError, match="found 1 videos, too few to hold out 1"):
        VideoClips(tmp_path / "0", hold_out=0.3, **SMALL)


def test_workers_and_copies_read_the_same(tmp_path):
    write_file(tmp_path / "a.avi", make_frames(30))
    dataset = VideoClips(tmp_path, color="rgb", **SMALL)
    alone = torch.stack([dataset[i]["inputs"] for i in range(len(dataset))])
    loader = DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=pseudo_collate)
    assert torch.equal(torch.cat([torch.stack(batch["inputs"]) for batch in loader]), alone)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[5]["inputs"], alone[5])


def test_memory_is_bounded(tmp_path):
    write_folder(tmp_path / "a", make_frames(30, side=300))
    dataset = VideoClips(tmp_path, size=512, color="rgb", offsets=range(9), cache_mb=4)
    for i in range(len(dataset)):
        dataset[i]
    assert dataset._cache.size <= 4 << 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offsets": (0, 3, 3)}, r"offsets must ascend from 0, found \(0, 3, 3\)"),
        ({"offsets": (1, 2)}, "offsets must ascend from 0"),
        ({"stride": 0}, "stride must be at least 1, found 0"),
        ({"hold_out": 1.0}, "hold_out must be at least 0 and below 1, found 1.0"),
        ({"part": "test"}, "part must be 'train' or 'held_out', found 'test'"),
        ({"color": "gray"}, "color must be one of grey, rgb, bgr, found 'gray'"),
    ],
)
def test_wrong_arguments(tmp_path, options, message):
    write_folder(tmp_path / "a", make_frames(30))
    with pytest.raises(ValueError, match=message):
        VideoClips(tmp_path, **options)


def test_what_is_missing(tmp_path):
    write_folder(tmp_path / "short", make_frames(24))
    with pytest.raises(OSError, match="short: has 24 frames, wanted at least 25 for one clip"):
        VideoClips(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"found no videos, wanted .*/x or .*/y"):
        VideoClips(tmp_path, ["x", "y"])
    with pytest.raises(FileNotFoundError, match=r"found no labels of the frames, wanted .*/labels\.json"):
        VideoClips(tmp_path, labels="labels.json", **SMALL)
    with pytest.raises(ValueError, match="split must be one of train, test, found 'val'"):
        UCSDPed(tmp_path, "val")
    write_file(tmp_path / "short.avi", make_frames(24))
    with pytest.raises(OSError, match="two videos of one name"):
        VideoClips(tmp_path, **SMALL)


# --------------------------------------------------------------------------------------------- data sets


def test_ucsd_archive(tmp_path):
    """Train, Test, masks in *_gt; Ped1, which has ten of these only, has ranges in a file."""
    write_folder(tmp_path / "Train/Train001", make_frames(), start=1, suffix=".tif")
    (tmp_path / "Train/.DS_Store").touch()
    for name in ("Test001", "Test002"):
        write_folder(tmp_path / "Test" / name, make_frames(), start=1, suffix=".tif")
    masks = np.zeros((LENGTH, 16, 16, 3), np.uint8)
    masks[list(ABNORMAL), 3, 4] = 255
    write_folder(tmp_path / "Test/Test001_gt", masks, start=1, suffix=".bmp")
    assert labels_of(UCSDPed(tmp_path, "train", **SMALL)) == {"Train001": None}
    with pytest.raises(
        FileNotFoundError, match=r"Test: has no labels of the video 'Test002', wanted Test002\.npy"
    ):
        UCSDPed(tmp_path, "test", **SMALL)
    write_folder(tmp_path / "Test/Test002_gt", 0 * masks, start=1, suffix=".bmp")
    wanted = {"Test001": LABEL.tolist(), "Test002": [0] * LENGTH}
    assert labels_of(UCSDPed(tmp_path, "test", **SMALL)) == wanted

    (tmp_path / "Test/Test001_gt/013.bmp").write_bytes(b"")
    with pytest.raises(OSError, match=r"013\.bmp: not an image that can be read"):
        UCSDPed(tmp_path, "test", **SMALL)
    lines = ["% TestVideoFile{end+1}.gt_frame = [1:9];", "TestVideoFile = {};"]
    lines += [
        f"TestVideoFile{{end+1}}.gt_frame = [{ABNORMAL[0] + 1}:{ABNORMAL[-1] + 1}];",
        "TestVideoFile{end+1}.gt_frame = [1:2, 24:24];",
    ]
    (tmp_path / "Test/UCSDped1.m").write_text("\n".join(lines))
    wanted["Test002"] = [int(i in (0, 1, 23)) for i in range(LENGTH)]
    assert labels_of(UCSDPed(tmp_path, "test", **SMALL)) == wanted
    (tmp_path / "Test/UCSDped1.m").write_text("\n".join(lines).replace("24:24", "24:25"))
    with pytest.raises(OSError, match=r"has 24:25 for the video 'Test002' of 24 frames"):
        UCSDPed(tmp_path, "test", **SMALL)
    (tmp_path / "Test/UCSDped1.m").write_text("\n".join(lines[:3]))
    with pytest.raises(OSError, match="has ranges of 1 videos, wanted 2"):
        UCSDPed(tmp_path, "test", **SMALL)


def test_ucsd_copy(tmp_path):
    write_folder(tmp_path / "training/frames/01", make_frames(), suffix=".jpg")
    write_folder(tmp_path / "testing/frames/01", make_frames(), suffix=".jpg")
    (tmp_path / "testing/frame_labels.json").write_text(json.dumps({"01": LABEL.tolist()}))
    assert labels_of(UCSDPed(tmp_path, "test", **SMALL)) == {"01": LABEL.tolist()}
    assert len(UCSDPed(tmp_path, "train", **SMALL)) == LENGTH - 8


def test_avenue_archive(tmp_path):
    for folder in ("training_videos", "testing_videos"):
        write_file(tmp_path / folder / "01.avi", make_frames(color=True))
    masks = np.empty((1, LENGTH), object)
    for i in range(LENGTH):
        masks[0, i] = np.zeros((16, 16), np.uint8)
        masks[0, i][2, 2] = LABEL[i]
    (tmp_path / "testing_label_mask").mkdir()
    scipy.io.savemat(tmp_path / "testing_label_mask/1_label.mat", {"volLabel": masks})
    dataset = Avenue(tmp_path, "test", color="rgb", **SMALL)
    assert labels_of(dataset) == {"01": LABEL.tolist()}
    clip = dataset[0]["inputs"]
    assert clip.shape == (9, 3, 16, 16) and clip[0, 2].max() > clip[0, 0].max()  # the square is blue
    assert len(Avenue(tmp_path, "train", **SMALL)) == LENGTH - 8
    (tmp_path / "testing_label_mask/1_label.mat").write_bytes(b"damaged")
    with pytest.raises(OSError, match=r"1_label\.mat: not a file of MATLAB that can be read"):
        Avenue(tmp_path, "test", **SMALL)


def test_shanghaitech_archive(tmp_path):
    write_file(tmp_path / "training/videos/01_001.avi", make_frames(color=True))
    write_folder(tmp_path / "testing/frames/01_0014", make_frames(), suffix=".jpg")
    (tmp_path / "testing/test_frame_mask").mkdir()
    np.save(tmp_path / "testing/test_frame_mask/01_0014.npy", LABEL.astype(np.int8))
    assert labels_of(ShanghaiTech(tmp_path, "test", **SMALL)) == {"01_0014": LABEL.tolist()}
    assert list(ShanghaiTech(tmp_path, "train", **SMALL).metainfo["videos"]) == ["01_001"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1", "found Expecting .* wanted JSON"),
        ('{"b": [0]}', "has no labels of the video 'a'"),
        ('{"a": [0, 1]}', "has 2 labels of the video 'a', wanted one for each of its 3 frames"),
        ('{"a": [0, 1, 2]}', "the labels of the video 'a' are not all 0 or 1"),
    ],
)
def test_wrong_labels(tmp_path, content, message):
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(OSError, match=rf"labels\.json: {message}"):
        read_labels(tmp_path / "labels.json", {"a": 3})


def test_no_code_in_labels(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}, 1], object), allow_pickle=True)
    with pytest.raises(OSError, match=r"a\.npy: not an array of NumPy that can be read"):
        read_labels(tmp_path, {"a": 2})


def test_the_published_conversion(tmp_path):
    """OpenCV's bilinear resize, then its grey, then 0..255 to [-1, 1]."""
    from dense.video.model import ScaleClips

    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (25, 37, 53, 3)).astype(np.uint8)
    write_folder(tmp_path / "a", frames)
    item = VideoClips(tmp_path, size=32)[0]
    clip = ScaleClips()(pseudo_collate([item]))["inputs"][0]
    for i, offset in enumerate(OFFSETS):
        image = cv2.resize(frames[offset], (32, 32), interpolation=cv2.INTER_LINEAR)
        wanted = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32) / 127.5 - 1
        assert np.allclose(clip[i, 0].numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("7, 9:10", [7, 9, 10]),
        ("2 3 4", [2, 3, 4]),
        ("2,3,4", [2, 3, 4]),
        ("2:2:6", [2, 4, 6]),
        ("1 : 3 5", [1, 2, 3, 5]),
        ("2:3; 7\n 9", [2, 3, 7, 9]),
        ("(2:3), 8:-2:4", [2, 3, 4, 6, 8]),
        ("2 3 ... and so on\n 5 % not 7\n", [2, 3, 5]),
        ("", []),
    ],
)
def test_ranges_of_matlab(tmp_path, form, wanted):
    (tmp_path / "a.m").write_text(f"TestVideoFile{{end+1}}.gt_frame = [{form}];")
    label = read_labels(tmp_path / "a.m", {"a": 12})["a"]
    assert [i + 1 for i, value in enumerate(label) if value] == wanted


@pytest.mark.parametrize(
    "form", ["x", "3:1", "0:2", "9:13", "1:0:3", "1.5", "-1:2", "1:999999999", "2:-1:-1", "1:2:3:4", "[1"]
)
def test_other_ranges_are_refused(tmp_path, form):
    (tmp_path / "a.m").write_text(f"TestVideoFile{{end+1}}.gt_frame = [{form}];")
    with pytest.raises(OSError, match=r"a\.m: has "):
        read_labels(tmp_path / "a.m", {"a": 12})


def test_one_range_without_brackets(tmp_path):
    (tmp_path / "a.m").write_text("% TestVideoFile{1}.gt_frame = [9];\nTestVideoFile{1}.gt_frame = 3:5;\n")
    assert read_labels(tmp_path / "a.m", {"a": 6})["a"] == [0, 0, 1, 1, 1, 0]


def test_masks_go_by_their_numbers(tmp_path):
    masks = np.zeros((12, 8, 8, 3), np.uint8)
    masks[[1, 9]] = 255
    (tmp_path / "a_gt").mkdir()
    for i, mask in enumerate(masks, 1):
        cv2.imwrite(str(tmp_path / f"a_gt/{i}.bmp"), mask)
    assert read_labels(tmp_path, {"a": 12})["a"] == [0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    (tmp_path / "a_gt/5.bmp").unlink()
    with pytest.raises(OSError, match=r"found 6\.bmp after 4\.bmp, wanted frames without a gap"):
        read_labels(tmp_path, {"a": 11})


def test_a_key_twice_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [0], "a": [1]}')
    with pytest.raises(OSError, match="found the key 'a' twice"):
        read_labels(tmp_path / "a.json", {"a": 1})

import json

import numpy as np
import pytest
import torch

from dense.video.scoring import (
    copy_nearest,
    frame_auc,
    fuse_scores,
    load_scores,
    macro_auc,
    max_patch_error,
    micro_auc,
    psnr,
    save_scores,
    score_video,
    stretch,
)


def test_psnr_by_hand():
    assert psnr([1.0, 0.1, 0.001]).tolist() == pytest.approx([0, 10, 30])
    assert psnr(0.0) == 100


def test_nearest_known_value():
    known = [False, True, False, False, False, True, False]
    assert copy_nearest([0, 1, 0, 0, 0, 5, 0], known).tolist() == [1, 1, 1, 1, 5, 5, 5]  # frame 3: a tie
    rng = np.random.default_rng(0)
    for _ in range(20):
        known = rng.random(30) < 0.2
        known[rng.integers(30)] = True
        values, places = rng.random(30), np.flatnonzero(known)
        wanted = [values[min(places, key=lambda p, i=i: (abs(p - i), p))] for i in range(30)]
        assert copy_nearest(values, known).tolist() == wanted


def test_score_of_a_video():
    scores = score_video(6, [1, 3, 3, 4], [0.1, 0.05, 0.15, 0.001])
    assert scores.psnr.tolist() == pytest.approx([10, 10, 10, 10, 30, 30])  # frame 3: the mean of two errors
    assert scores.score.tolist() == pytest.approx([1, 1, 1, 1, 0, 0])
    assert scores.predicted.tolist() == [False, True, False, True, True, False]
    assert score_video(3, [1], [0.1]).score.tolist() == [0, 0, 0]


def test_smoothing_spreads_a_peak():
    mse = np.full(21, 1e-3)
    mse[10] = 1e-1
    sharp, smooth = (score_video(21, range(21), mse, sigma).score for sigma in (0, 2))
    assert (sharp > 0.01).sum() == 1 and (smooth > 0.01).sum() > 5
    assert smooth.argmax() == 10 and np.allclose(smooth, smooth[::-1])


@pytest.mark.parametrize(
    ("index", "mse", "message"),
    [
        ([], [], "v: none of its 4 frames was predicted"),
        ([0, 4], [1, 1], "v: found frames 0 to 4, wanted 0 to 3"),
        ([0], [float("nan")], "v: found an error that is not a finite number"),
        ([0], [-1.0], "v: found an error"),
    ],
)
def test_score_refuses(index, mse, message):
    with pytest.raises(ValueError, match=message):
        score_video(4, index, mse, name="v")


def test_greatest_patch():
    squared = torch.zeros(2, 3, 20, 24)
    squared[1, 2, 16:, 20:] = 1.0  # 4 x 4 pixels in the corner
    found = max_patch_error(squared, 4)
    assert found.shape == (2, 3) and found[1, 2] == pytest.approx(1) and found[0].max() == 0
    x = torch.rand(20, 24, dtype=torch.float64)
    wanted = x.unfold(0, 8, 1).unfold(1, 8, 1).mean((2, 3)).max()
    assert max_patch_error(x, 8) == pytest.approx(wanted.item())
    with pytest.raises(ValueError, match="16 x 16 pixels at least"):
        max_patch_error(torch.zeros(15, 30))


def test_auc_counts_pairs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, labels = rng.integers(0, 5, 30).astype(float), np.arange(30) % 3 == 0
        pairs = scores[labels][:, None] - scores[~labels]
        wanted = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
        assert frame_auc(scores, labels) == pytest.approx(wanted)
        assert frame_auc(np.exp(scores), labels) == pytest.approx(wanted)
    assert frame_auc([0, 0, 1, 1], [0, 0, 1, 1]) == 1
    assert frame_auc([2, 2, 2], [0, 1, 0]) == 0.5


def test_micro_and_macro():
    scores = [[0.0, 1.0], [5.0, 6.0, 5.5], [9.0, 9.0]]
    labels = [[0, 1], [0, 1, 1], [1, 1]]
    assert macro_auc(scores, labels) == 1  # the third video has one kind only
    assert micro_auc(scores, labels) == pytest.approx((4 + 5) / 10)  # 1.0 of the first is below 5.0
    with pytest.raises(ValueError, match="no video has both"):
        macro_auc(scores[2:], labels[2:])


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1, 2], [0], r"one label for each score, found \(2,\) and \(1,\)"),
        ([1, float("inf")], [0, 1], "finite"),
        ([1, 2], [1, 1], r"both occur, found \[1\]"),
        ([1, 2, 3], [0, 1, 2], r"0 and 1, and both occur, found \[0, 1, 2\]"),
    ],
)
def test_auc_refuses(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        frame_auc(scores, labels)


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_score_files(tmp_path, suffix):
    scores = {"01": {"score": np.array([0.25, 1.0]), "label": np.array([0, 1])}, "02": {"score": [0.5]}}
    path = tmp_path / f"deep/scores{suffix}"
    save_scores(scores, path)
    found = load_scores(path)
    assert {video: set(values) for video, values in found.items()} == {
        "01": {"score", "label"},
        "02": {"score"},
    }
    assert found["01"]["score"].tolist() == [0.25, 1.0] and found["01"]["label"].tolist() == [0, 1]


def test_score_files_refuse(tmp_path):
    with pytest.raises(ValueError, match="written to .json or .npz, found '.csv'"):
        save_scores({}, tmp_path / "scores.csv")
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text(json.dumps({"01": {"psnr": [1]}}))
    with pytest.raises(OSError, match=r"a\.json: found Expecting .* wanted JSON"):
        load_scores(tmp_path / "a.json")
    with pytest.raises(OSError, match=r"b\.json: has no 'score' of the video '01'"):
        load_scores(tmp_path / "b.json")


def test_fusion():
    first = {"01": {"score": [0.0, 5.0, 10.0]}}
    second = {"01": {"score": [1.0, 0.0, 0.5]}}
    assert fuse_scores([first, second], [1, 3])["01"].tolist() == pytest.approx([3, 0.5, 2.5])
    assert fuse_scores([first], [1])["01"].tolist() == stretch(first["01"]["score"]).tolist()
    with pytest.raises(ValueError, match="one weight for each of the systems, found 1 for 2"):
        fuse_scores([first, second], [1])
    for parts in ([first, {}], [{}, first]):
        with pytest.raises(ValueError, match=r"system \d has no scores of the video '01'"):
            fuse_scores(parts, [1, 1])
    with pytest.raises(ValueError, match=r"'01' have lengths \[3, 1\]"):
        fuse_scores([first, {"01": {"score": [1]}}], [1, 1])

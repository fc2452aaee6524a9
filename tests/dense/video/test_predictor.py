import numpy as np
import pytest
import torch
from mmengine.config import Config

from dense.registry import MODELS
from dense.video import AnomalyScorer, MeanOfNeighbours, VADHybrid, predictor
from dense.video.datasets import VideoClips
from dense.video.scoring import score_video
from pointsuite.engine.checkpoint import CheckpointError

from .toy import ABNORMAL, LENGTH, REPOSITORY, ToyPredictor, make_frames, write_file, write_folder

SMALL = {"size": 16, "offsets": list(range(9))}


def make_config(network, **test):
    path = REPOSITORY / "configs/vad_hybrid" / "copy-previous_ped2.py"
    cfg = Config.fromfile(path)
    cfg.model.network = network
    cfg.test_dataloader.dataset.update(SMALL)
    cfg.test_evaluator.update(test)
    return cfg


def test_scorer_of_folders_and_files(tmp_path):
    frames = make_frames(abnormal=ABNORMAL)
    write_folder(tmp_path / "a", frames)
    write_file(tmp_path / "b.avi", frames)
    score = AnomalyScorer(make_config({"type": "MeanOfNeighbours"}))
    found = score(tmp_path / "a")
    assert found.score.shape == (LENGTH,) and found.score.min() == 0 and found.score.max() == 1
    assert np.flatnonzero(found.predicted).tolist() == list(range(4, LENGTH - 4))
    grey = make_frames(abnormal=ABNORMAL)[..., 0] / 255
    mse = [((grey[i - 1] + grey[i + 1]) / 2 - grey[i]).__pow__(2).mean() for i in range(4, LENGTH - 4)]
    wanted = score_video(LENGTH, range(4, LENGTH - 4), mse)
    assert np.allclose(found.psnr, wanted.psnr, atol=1e-3)
    assert np.corrcoef(found.score, score(tmp_path / "b.avi").score)[0, 1] > 0.9  # the file is lossy
    abnormal = [i in ABNORMAL for i in range(LENGTH)]
    assert found.score[abnormal].mean() > 3 * found.score[np.logical_not(abnormal)].mean()


def test_scorer_follows_the_config(tmp_path):
    write_folder(tmp_path / "a", make_frames(abnormal=ABNORMAL))
    network = {"type": "MeanOfNeighbours"}
    every = AnomalyScorer(make_config(network, targets="all"))(tmp_path / "a")
    assert np.flatnonzero(every.predicted).tolist() == list(range(3, LENGTH - 3))
    strided = AnomalyScorer(make_config(network), stride=5)(tmp_path / "a")
    assert np.flatnonzero(strided.predicted).tolist() == [4, 9, 14, 19]
    assert strided.psnr[6] == strided.psnr[4] and strided.psnr[7] == strided.psnr[9]
    smooth = AnomalyScorer(make_config(network, smoothing=2.0))(tmp_path / "a")
    assert np.abs(np.diff(smooth.psnr)).max() < np.abs(np.diff(every.psnr)).max()


def test_scorer_keeps_few_frames(tmp_path, monkeypatch):
    write_folder(tmp_path / "a", make_frames(40))
    made = []
    monkeypatch.setattr(predictor, "VideoClips", lambda *a, **k: made.append(VideoClips(*a, **k)) or made[-1])
    score = AnomalyScorer(make_config({"type": "CopyPrevious"}))
    assert sum(1 for _ in score.predict_clips(tmp_path / "a")) == 40 - 8
    (dataset,) = made
    assert dataset._cache.limit == 64 << 20
    assert len(dataset._cache) == 40 and dataset._cache.size == 40 * 16 * 16  # bytes, not numbers of 32 bits


def test_scorer_wants_weights(tmp_path):
    cfg = make_config({"type": "ToyPredictor"})
    with pytest.raises(CheckpointError, match="found no weights for 19 parameters of its FramePredictor"):
        AnomalyScorer(cfg)
    model = MODELS.build(cfg.model)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    scorer = AnomalyScorer(cfg, tmp_path / "weights.pth")
    assert isinstance(scorer.model.network, ToyPredictor)
    assert torch.equal(scorer.model.network.conv.weight, model.network.conv.weight)
    with pytest.raises(CheckpointError, match="does not fit FramePredictor"):
        AnomalyScorer(make_config({"type": "VADHybrid", "arch": "small"}), tmp_path / "weights.pth")


def test_many_videos(tmp_path):
    for name in ("v2", "v10"):
        write_folder(tmp_path / "videos" / name, make_frames(abnormal=ABNORMAL if name == "v2" else ()))
    write_file(tmp_path / "videos" / "v3.avi", make_frames())
    score = AnomalyScorer(make_config({"type": "CopyPrevious"}), batch_size=3, progress=False)
    found = score(tmp_path / "videos", out=tmp_path / "clips")
    assert [scores.name for scores in found] == ["v2", "v3", "v10"]
    names = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert names == ["v10.mp4", "v2.mp4", "v3.mp4"]
    alone = AnomalyScorer(make_config({"type": "CopyPrevious"}))(tmp_path / "videos" / "v2")
    np.testing.assert_allclose(found[0].score, alone.score, atol=1e-6)
    (first,) = score([tmp_path / "videos" / "v2"])
    np.testing.assert_array_equal(first.score, found[0].score)
    with pytest.raises(ValueError, match=r"would both become .*v2.mp4"):
        score([tmp_path / "videos" / "v2", "elsewhere/v2.avi"], out=tmp_path)


def test_scorer_wants_videos(tmp_path):
    score = AnomalyScorer(make_config({"type": "CopyPrevious"}))
    with pytest.raises(OSError, match="found no video"):
        score(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="empty: found no video"):
        score(tmp_path / "empty")
    for name in "ab":
        write_folder(tmp_path / "nested" / name, make_frames())
    with pytest.raises(OSError, match="holds 2 videos, wanted one"):
        score([tmp_path / "nested"])


def test_bare_networks(tmp_path):
    write_folder(tmp_path / "a", make_frames(abnormal=ABNORMAL))
    found = AnomalyScorer(MeanOfNeighbours(), size=16, offsets=range(9))(tmp_path / "a")
    wanted = AnomalyScorer(make_config({"type": "MeanOfNeighbours"}))(tmp_path / "a")
    np.testing.assert_array_equal(found.score, wanted.score)
    assert AnomalyScorer(VADHybrid("small", 3)).clips == {"color": "rgb"}

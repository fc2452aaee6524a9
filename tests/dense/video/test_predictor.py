import numpy as np
import pytest
import torch
from mmengine.config import Config

from dense.registry import METRICS, MODELS
from dense.video import predictor
from dense.video.baselines import CopyPrevious, MeanOfNeighbours
from dense.video.datasets import VideoClips
from dense.video.losses import MiddleFrameLoss
from dense.video.predictor import AnomalyScorer, FramePredictor
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


def test_baselines_by_hand():
    clip = torch.arange(9.0).square().reshape(1, 9, 1, 1, 1).expand(2, 9, 1, 16, 16)
    assert CopyPrevious()(clip)[0, :, 0, 0, 0].tolist() == [4, 9, 16]
    assert MeanOfNeighbours()(clip)[0, :, 0, 0, 0].tolist() == [10, 17, 26]
    assert MeanOfNeighbours(5, 2)(clip[:, :5])[1, :, 0, 0, 0].tolist() == [5]
    with pytest.raises(ValueError, match=r"\(B, 9, C, H, W\), found \(2, 8, 1, 16, 16\)"):
        CopyPrevious()(clip[:, :8])
    with pytest.raises(ValueError, match="found 2 a side in a clip of 4"):
        CopyPrevious(4, 2)


def test_modes():
    model = FramePredictor(MeanOfNeighbours(), patch=4)
    clips = torch.randint(0, 256, (2, 9, 1, 16, 16), dtype=torch.uint8)
    inputs = model.data_preprocessor({"inputs": list(clips)})["inputs"]
    assert torch.allclose(inputs, clips / 127.5 - 1)
    prediction = model(inputs)
    assert prediction.shape == (2, 3, 1, 16, 16)
    loss = model(inputs, mode="loss")["loss"]
    assert torch.allclose(loss, MiddleFrameLoss()(prediction, inputs[:, 3:6]))
    samples = model(inputs, mode="predict")
    squared = ((prediction - inputs[:, 3:6]) / 2).square()[:, :, 0]
    for i, sample in enumerate(samples):
        assert sample.target_index.tolist() == [3, 4, 5]
        assert torch.allclose(sample.error_map, squared[i])
        assert torch.allclose(sample.mse, squared[i].mean((1, 2)))
        patches = squared[i].unfold(1, 4, 1).unfold(2, 4, 1).mean((3, 4))
        assert torch.allclose(sample.patch_mse, patches.amax((1, 2)))
    assert torch.allclose(sum(sample.loss for sample in samples) / 2, loss)
    with pytest.raises(ValueError, match="found 'train'"):
        model(inputs, mode="train")


def test_a_prediction_depends_on_its_own_clip():
    torch.manual_seed(0)
    network = {"type": "VADHybrid", "arch": "small"}
    model = FramePredictor(network).eval()
    clips = torch.rand(3, 9, 1, 16, 16) * 2 - 1
    with torch.no_grad():
        together = model(clips, mode="predict")
        for i, sample in enumerate(together):
            alone = model(clips[i : i + 1], mode="predict")[0]
            assert torch.allclose(sample.mse, alone.mse, rtol=1e-4)
            assert torch.allclose(sample.error_map, alone.error_map, atol=1e-5)


def test_published_weights_get_their_place():
    from dense.video.vad_hybrid import VADHybrid

    model = FramePredictor({"type": "VADHybrid"})
    official = {"conv_4.weight": torch.zeros(1, 16, 3, 3), "conv_4.bias": torch.zeros(1)}
    wanted = {f"network.{key}" for key in VADHybrid.convert_official(official)}
    converted = model.convert_official(official)
    assert set(converted) == wanted and wanted < set(model.state_dict())


def test_clips_of_one_batch_have_one_size():
    model = FramePredictor(CopyPrevious())
    clips = [torch.zeros(9, 1, 16, side, dtype=torch.uint8) for side in (16, 20)]
    with pytest.raises(ValueError, match="clips of one batch must have one size, found"):
        model.test_step({"inputs": clips})


# ------------------------------------------------------------------------------------------------ scorer


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
    assert sum(1 for _ in score.predict(tmp_path / "a")) == 40 - 8
    (dataset,) = made
    assert dataset._cache.limit == 64 << 20
    assert len(dataset._cache) == 40 and dataset._cache.size == 40 * 16 * 16  # bytes, not numbers of 32 bits


def test_scorer_wants_weights(tmp_path):
    cfg = make_config({"type": "ToyPredictor"})
    with pytest.raises(CheckpointError, match="its network has weights, wanted a checkpoint"):
        AnomalyScorer(cfg)
    model = MODELS.build(cfg.model)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    scorer = AnomalyScorer(cfg, tmp_path / "weights.pth")
    assert isinstance(scorer.model.network, ToyPredictor)
    assert torch.equal(scorer.model.network.conv.weight, model.network.conv.weight)
    with pytest.raises(CheckpointError, match="does not fit FramePredictor"):
        AnomalyScorer(make_config({"type": "VADHybrid", "arch": "small"}), tmp_path / "weights.pth")


def test_scorer_wants_one_video(tmp_path):
    for name in "ab":
        write_folder(tmp_path / name, make_frames())
    score = AnomalyScorer(make_config({"type": "CopyPrevious"}))
    with pytest.raises(OSError, match="holds 2 videos, wanted one"):
        score(tmp_path)
    with pytest.raises(OSError, match="found no video"):
        score(tmp_path / "none")


# ------------------------------------------------------------------------------------------------ metric


def evaluate(samples, videos, **kwargs):
    metric = METRICS.build({"type": "FrameAUC", **kwargs})
    metric.dataset_meta = {"videos": videos}
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def make_sample(video, frames, errors, length=6):
    errors = torch.tensor(errors)
    values = {"mse": errors, "patch_mse": 1 - errors, "loss": errors.sum()}
    return {"video": video, "num_frames": length, "target_index": torch.tensor(frames), **values}


def test_metric_by_hand():
    samples = [make_sample("a", [i, i + 1, i + 2], [0.5, 0.01 if i < 2 else 0.1, 0.5]) for i in range(4)]
    samples += [make_sample("b", [0, 1, 2], [0.1, 0.1, 0.1])]
    videos = {"a": {"label": [0, 0, 0, 1, 1, 1]}, "b": {"label": [0] * 6}}
    found = evaluate(samples, videos)
    assert found["frame/psnr"] == pytest.approx((20 + 20 + 10 + 10 + 10) / 5)
    assert found["frame/loss"] == pytest.approx((1.01 * 2 + 1.1 * 2 + 0.3) / 5)
    assert found["frame/auc_micro"] == found["frame/auc_macro"] == 100
    assert found["frame/auc_micro_raw"] == pytest.approx(100 * (3 + 6 * 0.5) / 9)  # b's frames tie with a's
    assert evaluate(samples, videos, error="patch")["frame/auc_macro"] == 0
    every = evaluate(samples, videos, targets="all")
    assert every["frame/psnr"] != found["frame/psnr"]


def test_metric_without_labels():
    samples = [make_sample("a", [1], [0.1])]
    assert set(evaluate(samples, {"a": {"label": None}})) == {"frame/psnr", "frame/loss"}
    normal = evaluate(samples, {"a": {"label": [0] * 6}})
    assert set(normal) == {"frame/psnr", "frame/loss"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "first"}, "targets must be one of middle, all, found 'first'"),
        ({"error": "ssim"}, "error must be one of frame, patch, found 'ssim'"),
        ({"smoothing": -1}, "smoothing must not be negative, found -1"),
    ],
)
def test_metric_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        METRICS.build({"type": "FrameAUC", **options})

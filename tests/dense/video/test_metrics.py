import pytest
import torch

from dense.registry import METRICS


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

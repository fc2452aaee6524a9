"""How well frames are predicted, and how well the errors tell abnormal frames from normal ones."""

import os
from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric

from ..registry import METRICS
from .scoring import VideoScores, macro_auc, micro_auc, save_scores, score_video

ERRORS = {"frame": "mse", "patch": "patch_mse"}
TARGETS = ("middle", "all")


def pick_errors(sample: dict, error: str, targets: str) -> tuple[list[int], list[float]]:
    """Frames, and their errors, that a predicted sample adds to its video (see :class:`FrameAUC`)."""
    index, values = sample["target_index"], sample[ERRORS[error]]
    if targets == "middle":
        middle = slice(len(index) // 2, len(index) // 2 + 1)
        index, values = index[middle], values[middle]
    return index.tolist(), values.tolist()


@METRICS.register_module()
class FrameAUC(BaseMetric):
    """``frame/auc_micro``, ``auc_macro`` and ``auc_micro_raw`` in percent, ``frame/psnr`` and ``frame/loss``.

    The AUC of scores within videos (see :mod:`~dense.video.scoring`): of all frames together, the mean over
    videos with both kinds of frames, and of all frames by their PSNR itself. Those for which labels are
    missing are left out. ``psnr`` (dB) is the mean over the predicted frames, ``loss`` the mean over clips:
    what can be known of normal videos that were held out.

    Args:
        targets: "middle", so that a frame counts as the middle of one clip, or "all": the mean over the clips
            that have it as a target.
        error: "frame", the mean over the frame, or "patch", the greatest over patches.
        smoothing: of the PSNR in time, in frames; 0 is none.
        dump: file to write scores, PSNR and labels to, ``.json`` or ``.npz``.
        **kwargs: of MMEngine's ``BaseMetric``.
    """

    default_prefix = "frame"

    def __init__(
        self,
        targets: str = "middle",
        error: str = "frame",
        smoothing: float = 0.0,
        dump: str | os.PathLike | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choices(targets, error, smoothing)
        self.targets, self.error, self.smoothing, self.dump = targets, error, smoothing, dump

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            frames = pick_errors(sample, self.error, self.targets)
            loss = sample.get("loss")
            self.results.append(
                (sample["video"], sample["num_frames"], *frames, None if loss is None else float(loss))
            )

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        scores = self.score(results)
        known = (self.dataset_meta or {}).get("videos", {})
        labels = {video: known.get(video, {}).get("label") for video in scores}
        labels = {video: label for video, label in labels.items() if label is not None}
        if self.dump is not None:
            content = {
                video: {**vars(found), **({"label": labels[video]} if video in labels else {})}
                for video, found in scores.items()
            }
            save_scores(content, self.dump)
        metrics = {"psnr": float(np.mean(np.concatenate([s.psnr[s.predicted] for s in scores.values()])))}
        losses = [loss for *_, loss in results if loss is not None]
        if losses:
            metrics["loss"] = float(np.mean(losses))
        truth = list(labels.values())
        if {label for video in truth for label in video} == {0, 1}:
            metrics["auc_micro"] = 100 * micro_auc([scores[v].score for v in labels], truth)
            metrics["auc_micro_raw"] = 100 * micro_auc([-scores[v].psnr for v in labels], truth)
        if any({*video} == {0, 1} for video in truth):
            metrics["auc_macro"] = 100 * macro_auc([scores[v].score for v in labels], truth)
        return metrics

    def score(self, results: Sequence[tuple]) -> dict[str, VideoScores]:
        """Scores of each video from what :meth:`process` kept."""
        lengths = {video: length for video, length, *_ in results}
        index: dict[str, list[int]] = {video: [] for video in lengths}
        errors: dict[str, list[float]] = {video: [] for video in lengths}
        for video, _, frames, values, _ in results:
            index[video] += frames
            errors[video] += values
        return {
            video: score_video(length, index[video], errors[video], self.smoothing, video)
            for video, length in lengths.items()
        }


def check_choices(targets: str, error: str, smoothing: float) -> None:
    if targets not in TARGETS:
        raise ValueError(f"targets must be one of {', '.join(TARGETS)}, found {targets!r}")
    if error not in ERRORS:
        raise ValueError(f"error must be one of {', '.join(ERRORS)}, found {error!r}")
    if not smoothing >= 0:
        raise ValueError(f"smoothing must not be negative, found {smoothing}")

"""From prediction errors of frames to anomaly scores, and what these scores are worth.

The published predictor comes without a scoring. This is the protocol that is common in the field: the PSNR of
each predicted frame, frames without a prediction copy the nearest one, and within a video the score is one
minus the PSNR stretched to 0..1 (Liu et al., "Future Frame Prediction for Anomaly Detection", CVPR 2018).
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter1d
from scipy.stats import rankdata
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pointsuite.engine.checkpoint import atomic_write
from pointsuite.engine.files import read_json

from ..base.arrays import read_npz

LEAST_MSE = 1e-10  # of equal frames: 100 dB


@dataclass(frozen=True)
class VideoScores:
    """Scores of one video of n frames.

    Attributes:
        score: float64 (n,), 0 for the frame predicted best, 1 for the one predicted worst.
        psnr: float64 (n,), in dB; of frames without a prediction, the nearest frame's. Smoothed if asked for.
        predicted: bool (n,), whether the frame has a prediction of its own.
        name: of the video.
    """

    score: np.ndarray
    psnr: np.ndarray
    predicted: np.ndarray
    name: str = ""


def score_video(
    num_frames: int, index: ArrayLike, mse: ArrayLike, smoothing: float = 0.0, name: str = "video"
) -> VideoScores:
    """Scores of a video from errors of some of its frames.

    Args:
        num_frames: of the video.
        index: int (m,), frames that were predicted; of one that occurs several times the mean error counts.
        mse: (m,), mean squared errors of these on [0, 1].
        smoothing: standard deviation, in frames, of a Gaussian over the PSNR in time; 0 is none.
        name: of the video.

    Raises:
        ValueError: nothing was predicted, an index outside the video, an error that is no number from 0.
    """
    index, mse = np.asarray(index, int), np.asarray(mse, float)
    if not len(index):
        raise ValueError(f"{name}: none of its {num_frames} frames was predicted")
    if index.min() < 0 or index.max() >= num_frames:
        raise ValueError(f"{name}: found frames {index.min()} to {index.max()}, wanted 0 to {num_frames - 1}")
    if not (np.isfinite(mse).all() and mse.min() >= 0):
        raise ValueError(f"{name}: found an error that is not a finite number from 0")
    count = np.bincount(index, minlength=num_frames)
    predicted = count > 0
    mean = np.bincount(index, mse, num_frames) / np.maximum(count, 1)
    values = copy_nearest(psnr(mean), predicted)
    if smoothing:
        values = gaussian_filter1d(values, smoothing, mode="nearest")
    return VideoScores(stretch(-values), values, predicted, name)


def psnr(mse: ArrayLike) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of mean squared errors on [0, 1]; at most 100."""
    return -10 * np.log10(np.maximum(mse, LEAST_MSE))


def copy_nearest(values: ArrayLike, known: ArrayLike) -> np.ndarray:
    """``values`` (n,), but the nearest known one where not ``known``; of two as near, the earlier."""
    values, places = np.asarray(values), np.flatnonzero(known)
    middles = (places[:-1] + places[1:]) // 2  # the last place that is nearer, or as near, to the earlier
    return values[places[np.searchsorted(middles, np.arange(len(values)))]]


def stretch(values: ArrayLike) -> np.ndarray:
    """Values stretched linearly to 0..1; equal ones become 0."""
    values = np.asarray(values, float)
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def max_patch_error(squared: Tensor, size: int = 16) -> Tensor:
    """Squared errors (..., H, W) to the greatest mean over a square of ``size`` pixels in the frame: (...).

    An anomaly that is small in the frame stands out so.
    """
    if min(squared.shape[-2:]) < size:
        raise ValueError(f"frames must be of {size} x {size} pixels at least, found {tuple(squared.shape)}")
    maps = squared.reshape(-1, 1, *squared.shape[-2:])
    maps = avg_pool2d(avg_pool2d(maps, (size, 1), 1), (1, size), 1)
    return maps.amax((1, 2, 3)).reshape(squared.shape[:-2])


# -------------------------------------------------------------------------------------------- evaluation


def frame_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve, 0..1: how often an abnormal frame scores above a normal one; ties count half.

    Raises:
        ValueError: lengths differ, scores are not finite, or not both labels 0 and 1 occur.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"wanted one label for each score, found {scores.shape} and {labels.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    abnormal = labels == 1
    positives = int(abnormal.sum())
    negatives = int((labels == 0).sum())
    if positives + negatives != len(labels) or not (positives and negatives):
        raise ValueError(f"labels must be 0 and 1, and both occur, found {np.unique(labels).tolist()}")
    ranks = rankdata(scores)[abnormal].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def micro_auc(scores: Sequence[ArrayLike], labels: Sequence[ArrayLike]) -> float:
    """:func:`frame_auc` of the frames of all videos together."""
    return frame_auc(np.concatenate(scores), np.concatenate(labels))


def macro_auc(scores: Sequence[ArrayLike], labels: Sequence[ArrayLike]) -> float:
    """Mean :func:`frame_auc` of the videos in which both labels occur.

    Raises:
        ValueError: there is no such video.
    """
    values = [
        frame_auc(score, label)
        for score, label in zip(scores, labels, strict=True)
        if 0 < np.sum(label) < len(label)
    ]
    if not values:
        raise ValueError("no video has both normal and abnormal frames")
    return float(np.mean(values))


# ------------------------------------------------------------------------------------------- score files


def save_scores(scores: Mapping[str, Mapping[str, ArrayLike]], path: str | os.PathLike) -> None:
    """Write {video: {"score": (n,), ...}} to ``.json``, or to ``.npz`` under the keys ``VIDEO/score``."""
    path = Path(path)
    arrays = {v: {k: np.asarray(x) for k, x in values.items()} for v, values in scores.items()}
    if path.suffix == ".json":
        plain = {v: {k: x.tolist() for k, x in values.items()} for v, values in arrays.items()}
        content = json.dumps(plain).encode()
    elif path.suffix == ".npz":
        buffer = io.BytesIO()
        flat = {f"{v}/{k}": x for v, values in arrays.items() for k, x in values.items()}
        np.savez_compressed(buffer, **flat)
        content = buffer.getvalue()
    else:
        raise ValueError(f"{path}: scores are written to .json or .npz, found {path.suffix!r}")
    with atomic_write(path) as file:
        file.write(content)


def load_scores(path: str | os.PathLike) -> dict[str, dict[str, np.ndarray]]:
    """What :func:`save_scores` wrote.

    Raises:
        OSError: the file is missing, damaged, or has no ``score`` of a video.
    """
    path = Path(path)
    scores: dict[str, dict[str, np.ndarray]] = {}
    if path.suffix == ".npz":
        for key, array in read_npz(path).items():
            video, _, name = key.rpartition("/")
            scores.setdefault(video, {})[name] = array
    else:
        content = read_json(path)
        try:
            for video, values in content.items():
                scores[video] = {key: np.asarray(value) for key, value in values.items()}
        except (AttributeError, ValueError) as error:
            raise OSError(f"{path}: not a file of scores that can be read ({error})") from error
    if lacking := [video for video, values in scores.items() if "score" not in values]:
        raise OSError(f"{path}: has no 'score' of the video {lacking[0]!r}")
    for video, values in scores.items():
        if values["score"].ndim != 1 or values["score"].dtype.kind not in "biuf":
            raise OSError(f"{path}: the 'score' of the video {video!r} is not one number a frame")
    return scores


def fuse_scores(
    parts: Sequence[Mapping[str, Mapping[str, ArrayLike]]], weights: Sequence[float]
) -> dict[str, np.ndarray]:
    """Weighted sum of several systems' scores, stretched to 0..1 within each video first: {video: (n,)}.

    How the published multi-task systems fuse is not known; this is our choice.

    Args:
        parts: of each system, {video: {"score": (n,)}}, as :func:`load_scores` returns it.
        weights: one for each.

    Raises:
        ValueError: no parts, other than one weight for each, or videos or lengths that differ.
    """
    if not parts or len(parts) != len(weights):
        raise ValueError(f"wanted one weight for each of the systems, found {len(weights)} for {len(parts)}")
    fused = {}
    for video in parts[0]:
        if missing := [i for i, part in enumerate(parts) if video not in part]:
            raise ValueError(f"system {missing[0]} has no scores of the video {video!r}")
        arrays = [stretch(part[video]["score"]) for part in parts]
        if len({len(array) for array in arrays}) > 1:
            raise ValueError(f"scores of the video {video!r} have lengths {[len(a) for a in arrays]}")
        fused[video] = sum(weight * array for weight, array in zip(weights, arrays, strict=True))
    if extra := [video for part in parts[1:] for video in part if video not in fused]:
        raise ValueError(f"system 0 has no scores of the video {extra[0]!r}")
    return fused

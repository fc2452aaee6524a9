"""How well a tested sample was predicted, whatever its task: what a report counts, and shows first."""

from collections.abc import Mapping, Sequence
from math import log, log10
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

MIN_SCORE, MIN_IOU = 0.3, 0.5  # of boxes that count as found
CLOSE = 0.1  # of a pair's `pck_base`: how far a match may be off
FINEST = 100.0  # dB: of images that differ in nothing


class Verdict(NamedTuple):
    """What is to be said of one sample."""

    badness: float  # the higher, the worse; of one test alone
    note: str  # what is wrong, for people
    right: bool | None = None  # None where there is more or less, and no right or wrong
    pairs: Mapping[tuple[int, int], int] = {}  # counts by true and predicted class
    kind: str = "samples"  # what `pairs` counts
    key: tuple | None = None  # of several verdicts on one thing, as a frame of two clips, the worst counts


def judge(sample: Mapping[str, Any], meta: Mapping[str, Any]) -> Verdict | None:
    """A tested sample's verdict by the fields that it has; None where it has no truth and prediction.

    Args:
        sample: what MMEngine's ``to_dict`` makes of a data sample.
        meta: of the data set: ``classes`` or ``part_classes``, where it has classes.
    """
    for keys, function in _JUDGES:
        if all(sample.get(key) is not None for key in keys):
            return function(sample, meta)
    return None


def _labels(sample: Mapping, meta: Mapping) -> Verdict:
    true, found = int(sample["gt_label"]), int(sample["pred_label"])
    scores = sample.get("pred_scores")
    sure = float(scores[found]) if isinstance(scores, Tensor) and _are_probabilities(scores) else 0.0
    classes = meta.get("classes") or ()
    note = f"{_name(classes, true)} → {_name(classes, found)}" + (f" ({100 * sure:.1f} %)" if sure else "")
    known = min(true, found) >= 0 and max(true, found) < len(classes)
    right = true == found
    return Verdict(-1.0 - sure if right else 1.0 + sure, note, right, {(true, found): 1} if known else {})


def _regions(truth: str, prediction: str, kind: str, names: str) -> Any:
    def judge_regions(sample: Mapping, meta: Mapping) -> Verdict | None:
        true, found = _as_labels(sample[truth]), _as_labels(sample[prediction])
        classes = meta.get(names) or ()
        if true.shape != found.shape or not classes:
            return None
        counted = (true >= 0) & (true < len(classes))  # 255 is not to be counted
        if not counted.any():
            return None
        codes, counts = np.unique(len(classes) * true[counted] + found[counted], return_counts=True)
        pairs = {
            divmod(code, len(classes)): n for code, n in zip(codes.tolist(), counts.tolist(), strict=True)
        }
        wrong = {pair: n for pair, n in pairs.items() if pair[0] != pair[1]}
        share = sum(wrong.values()) / int(counted.sum())
        note = f"{100 * (1 - share):.1f} % of {kind} right"
        if wrong:
            row, column = max(wrong, key=wrong.get)
            note += f"; most wrong ones: {classes[row]} → {classes[column]}"
        return Verdict(share, note, None, pairs, kind)

    return judge_regions


def _boxes(sample: Mapping, meta: Mapping) -> Verdict | None:
    given, found = sample["gt_instances"], sample["pred_instances"]
    if any(part.get("bboxes") is None or part.get("labels") is None for part in (given, found)):
        return None
    scores = _array(found["scores"])
    order = np.flatnonzero(scores > MIN_SCORE)
    order = order[np.argsort(-scores[order], kind="stable")]
    (true, kinds), (boxes, labels) = _boxes_of(given), _boxes_of(found)
    boxes, labels = boxes[order], labels[order]
    crowds = sample.get("ignored_instances")
    crowds = np.empty((0, 4)) if crowds is None or "bboxes" not in crowds else _boxes_of(crowds)[0]
    left, false = np.ones(len(true), bool), 0
    for box, label in zip(boxes, labels, strict=True):
        overlap = np.where(left & (kinds == label), _iou(box, true), 0)
        if len(overlap) and overlap.max() >= MIN_IOU:
            left[overlap.argmax()] = False
        elif not (_shared(box, crowds) >= MIN_IOU * max(_area(box), 1e-12)).any():
            false += 1  # what lies in a crowd counts neither way
    hits = int((~left).sum())
    missed = len(true) - hits
    note = f"{hits} of {len(true)} found, {false} found where none is"
    return Verdict((missed + false) / max(hits + missed + false, 1), note, missed + false == 0)


def _images(sample: Mapping, meta: Mapping) -> Verdict | None:
    good, found = _in_unit(sample["gt"]), _in_unit(sample["pred"])
    if good.shape != found.shape:
        return None
    error = float(((good - found.clip(0, 1)) ** 2).mean())
    psnr = min(-10 * log10(max(error, 1e-30)), FINEST)
    return Verdict(-psnr, f"PSNR {psnr:.2f} dB on all pixels and channels")


def _matches(sample: Mapping, meta: Mapping) -> Verdict | None:
    off = np.linalg.norm(_array(sample["pred_points"]) - _array(sample["source_points"]), axis=-1)
    if not len(off):
        return None
    near = int((off <= CLOSE * float(sample["pck_base"])).sum())
    mean = float(off.mean())
    note = (
        f"{near} of {len(off)} points within {CLOSE:g} of the object's size; {mean:.1f} pixels off on average"
    )
    return Verdict(1 - near / len(off), note, near == len(off))


def _paths(sample: Mapping, meta: Mapping) -> Verdict:
    similarity = float(sample["sim"])
    return Verdict(-similarity, f"similarity to people's paths {similarity:.3f}")


def _tokens(sample: Mapping, meta: Mapping) -> Verdict | None:
    tokens = int(sample["tokens"])
    if not tokens:
        return None
    bits, hits = float(sample["nats"]) / tokens / log(2), int(sample["hits"])
    note = f"{hits} of {tokens} tokens right, {bits:.3f} bits a token"
    return Verdict(bits, note, hits == tokens if tokens == 1 else None)


def _clips(sample: Mapping, meta: Mapping) -> Verdict:
    errors = _array(sample["mse"])
    worst = int(errors.argmax())
    frame = int(sample["target_index"][worst])
    note = f"frame {frame}: squared error {errors.max():.3g}"
    return Verdict(float(errors.max()), note, key=(sample.get("video"), frame))


_JUDGES = (
    (("gt_sem_seg", "pred_sem_seg"), _regions("gt_sem_seg", "pred_sem_seg", "pixels", "classes")),
    (("gt_part", "pred_part"), _regions("gt_part", "pred_part", "points", "part_classes")),
    (("gt_instances", "pred_instances"), _boxes),
    (("gt_label", "pred_label"), _labels),
    (("source_points", "pred_points", "pck_base"), _matches),
    (("gt", "pred"), _images),
    (("sim", "pred_paths"), _paths),
    (("nats", "tokens", "hits"), _tokens),
    (("mse", "target_index"), _clips),
)


def _are_probabilities(scores: Tensor) -> bool:
    return scores.ndim == 1 and bool((scores >= 0).all()) and abs(float(scores.sum()) - 1) < 1e-3


def _name(classes: Sequence[str], label: int) -> str:
    return str(classes[label]) if 0 <= label < len(classes) else str(label)


def _as_labels(value: Any) -> np.ndarray:
    """A flat array of the labels in a tensor, or in mmseg's container of one."""
    return np.asarray((value["data"] if isinstance(value, Mapping) else value).cpu(), np.int64).reshape(-1)


def _array(tensor: Tensor) -> np.ndarray:
    """float64, of any dtype."""
    return tensor.detach().double().cpu().numpy()


def _in_unit(image: Tensor) -> np.ndarray:
    return _array(image) / (255.0 if image.dtype == torch.uint8 else 1.0)


def _boxes_of(part: Mapping) -> tuple[np.ndarray, np.ndarray]:
    boxes = getattr(part["bboxes"], "tensor", part["bboxes"])
    return _array(boxes).reshape(-1, 4), _array(part["labels"])


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of one box (4,) with others (n, 4): left, top, right, bottom."""
    shared = _shared(box, others)
    return shared / np.maximum(_area(others) + _area(box) - shared, 1e-12)


def _shared(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area of the intersections."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return (high - low).clip(0).prod(1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)

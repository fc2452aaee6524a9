"""Non-maximum suppression, on the CPU by numba: each step depends on the ones before. No gradient."""

import numba
import numpy as np
import torch
from torch import Tensor

jit = numba.njit(nogil=True, cache=True, error_model="numpy")


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A contiguous array on the CPU, float32 or float64 if floating."""
    tensor = tensor.detach().cpu()
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return (tensor.float() if half else tensor).contiguous().numpy()


def sort_scores(scores: Tensor) -> Tensor:
    """Indices by falling score; of equal ones, the first first."""
    return scores.sort(descending=True, stable=True).indices


def nms(bboxes, scores, iou_threshold, offset):
    """Indices of the boxes (N, 4) that are kept, by falling score: those that overlap none before by more."""
    order = sort_scores(scores)
    boxes = to_numpy(bboxes[order])
    keep = _suppress(boxes, boxes.dtype.type(iou_threshold), boxes.dtype.type(offset))
    return order[torch.from_numpy(keep).to(order.device)]


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Lower the scores of boxes that overlap better ones: Bodla et al., "Soft-NMS", ICCV 2017.

    Fills the first rows of ``dets`` (N, 5) with boxes and their scores, and returns their indices. Methods:
    0 drops boxes that overlap by ``iou_threshold``, 1 multiplies scores by 1 - overlap, 2 all scores by
    exp(-overlap ** 2 / sigma).
    """
    scored = np.concatenate((to_numpy(boxes), to_numpy(scores)[:, None]), 1)
    threshold, pixel = scored.dtype.type(iou_threshold), scored.dtype.type(offset)
    found, index = _soften(scored, threshold, sigma, min_score, method, pixel)
    dets[: len(index)] = torch.from_numpy(found)
    return torch.from_numpy(index)


def nms_match(dets, iou_threshold):
    """Groups of (N, 5) boxes with scores: one that NMS keeps, then those which it suppresses, by score."""
    order = sort_scores(dets[:, 4])
    boxes = to_numpy(dets[order, :4])
    leader = _lead(boxes, boxes.dtype.type(iou_threshold))
    groups = {i: [] for i in np.unique(leader)}
    for index, first in zip(order.tolist(), leader, strict=True):
        groups[first].append(index)
    return list(groups.values())


def line_nms_forward(boxes, scores, overlap, top_k):
    """NMS of lanes: two are one if they are nearer than ``overlap`` on average, over the rows they share.

    Args:
        boxes: (N, 5 + n): (two unused), the first row in 0 to 1, (unused), the number of rows, and x at
            each of n rows.

    Returns:
        keep (N,) int64, whose first entries are the indices kept; how many these are; and for each lane
        the number, from 1, of the one that stands for it, 0 where ``top_k`` ended the search.
    """
    order = sort_scores(scores)
    keep, count, parent = _suppress_lines(to_numpy(boxes[order]), overlap, top_k)
    kept = torch.zeros_like(order)
    kept[:count] = order[torch.from_numpy(keep[:count]).to(order.device)]
    parents = torch.zeros_like(order)
    parents[order] = torch.from_numpy(parent).to(order.device)
    return kept, torch.tensor(count, device=order.device), parents


@jit
def _overlap(a, b, offset):
    """Intersection over union of two boxes; NaN, which is less than nothing, for two empty ones."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + offset, offset * 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + offset, offset * 0)
    shared = width * height
    area_a = (a[2] - a[0] + offset) * (a[3] - a[1] + offset)
    area_b = (b[2] - b[0] + offset) * (b[3] - b[1] + offset)
    return shared / (area_a + area_b - shared)


@jit
def _suppress(boxes, threshold, offset):
    keep = np.ones(len(boxes), np.bool_)
    for i in range(len(boxes)):
        if keep[i]:
            for j in range(i + 1, len(boxes)):
                if keep[j] and _overlap(boxes[i], boxes[j], offset) > threshold:
                    keep[j] = False
    return keep


@jit
def _lead(boxes, threshold):
    leader = np.full(len(boxes), -1)
    for i in range(len(boxes)):
        if leader[i] < 0:
            leader[i] = i
            for j in range(i + 1, len(boxes)):
                if leader[j] < 0 and _overlap(boxes[i], boxes[j], threshold * 0) >= threshold:
                    leader[j] = i
    return leader


@jit
def _soften(dets, threshold, sigma, min_score, method, offset):
    left = len(dets)
    index = np.arange(left)
    i = 0
    while i < left:
        best = i
        for j in range(i + 1, left):
            if dets[j, 4] > dets[best, 4]:
                best = j
        if best != i:
            for k in range(5):
                dets[i, k], dets[best, k] = dets[best, k], dets[i, k]
            index[i], index[best] = index[best], index[i]
        j = i + 1
        while j < left:
            overlap = _overlap(dets[i], dets[j], offset)
            if method == 2:
                dets[j, 4] *= np.exp(-overlap * overlap / sigma)
            elif overlap >= threshold:
                dets[j, 4] *= 0 if method == 0 else 1 - overlap
            if dets[j, 4] < min_score:  # the last one takes its place
                left -= 1
                dets[j] = dets[left]
                index[j] = index[left]
            else:
                j += 1
        i += 1
    return dets[:left], index[:left]


@jit
def _suppress_lines(lanes, overlap, top_k):
    rows = lanes.shape[1] - 5
    first = np.floor(lanes[:, 2] * (rows - 1) + 0.5).astype(np.int64)
    last = first + np.floor(lanes[:, 4] - 0.5).astype(np.int64)
    keep, parent = np.zeros(len(lanes), np.int64), np.zeros(len(lanes), np.int64)
    count = 0
    for i in range(len(lanes)):
        if parent[i] or count == top_k:
            continue
        keep[count] = i
        count += 1
        parent[i] = count
        for j in range(i + 1, len(lanes)):
            start = max(first[i], first[j], 0)
            stop = min(last[i], last[j], rows - 1) + 1
            if parent[j] or stop <= start:
                continue
            distance = 0.0
            for k in range(5 + start, 5 + stop):
                distance += abs(lanes[i, k] - lanes[j, k])
            if distance < overlap * (stop - start):
                parent[j] = count
    return keep, count, parent

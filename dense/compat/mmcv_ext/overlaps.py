"""Overlaps of upright boxes."""

import torch


def bbox_overlaps(bboxes1, bboxes2, ious, mode, aligned, offset):
    """Intersection over union (mode 0) or over the first box (1) of (m, 4) and (n, 4), x1, y1, x2, y2.

    Fills ``ious`` (m, n), or (m,) of pairs if aligned. A box ends ``offset`` pixels after its second corner.
    Boxes without any area overlap nothing.
    """
    first, second = (bboxes1, bboxes2) if aligned else (bboxes1[:, None], bboxes2)
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low + offset).clamp(min=0).prod(-1)
    area1, area2 = ((boxes[..., 2:] - boxes[..., :2] + offset).prod(-1) for boxes in (first, second))
    base = area1.expand_as(shared) if mode == 1 else area1 + area2 - shared
    ious.copy_(torch.where(base > 0, shared / base, 0))

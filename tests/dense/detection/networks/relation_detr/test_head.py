"""The head of Relation-DETR: its losses, written out, and who gets their gradients."""

import pytest
import torch
from torch.nn import functional as F

import dense  # noqa: F401  before mmcv

pytest.importorskip("mmdet")

from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh
from mmengine.structures import InstanceData

from dense.detection import DetachedVarifocalLoss
from dense.detection.networks.relation_detr import head as module

from ...tiny import build, make_batch, read_model

CONFIG = "relation-detr_r50_8xb2-12e_coco.py"
SIZE = 64


@pytest.fixture
def head():
    return build(read_model(CONFIG)).bbox_head


def predictions(queries, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, queries, 5, generator=generator, dtype=torch.float64)
    boxes = torch.rand(2, queries, 4, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    return logits.requires_grad_(), boxes.requires_grad_()


def targets(counts=(3, 1), seed=1):
    generator = torch.Generator().manual_seed(seed)
    instances = []
    for count in counts:
        boxes = torch.rand(count, 4, generator=generator, dtype=torch.float64) * 0.5 + 0.2
        labels = torch.randint(0, 5, (count,), generator=generator)
        instances.append(InstanceData(bboxes=bbox_cxcywh_to_xyxy(boxes) * SIZE, labels=labels))
    return instances, [{"img_shape": (SIZE, SIZE)}] * len(counts)


def overlaps(a, b):
    """IoU and generalised IoU of boxes (N, 4), corners."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return shared / union, shared / union - (hull - union) / hull


def naive_losses(logits, boxes, labels, wanted, count):
    """Losses of queries (N, ...) whose label is 5 for background, by the published formulas."""
    matched = labels < 5
    iou, giou = overlaps(bbox_cxcywh_to_xyxy(boxes[matched]), bbox_cxcywh_to_xyxy(wanted[matched]))
    p = logits.detach().sigmoid()
    target, weight = torch.zeros_like(p), 0.75 * p**2
    rows = matched.nonzero()[:, 0]
    target[rows, labels[matched]] = iou.detach()
    weight[rows, labels[matched]] = iou.detach()
    terms = -target * F.logsigmoid(logits) - (1 - target) * F.logsigmoid(-logits)
    distance = (boxes[matched] - wanted[matched]).abs().sum()
    return (weight * terms).sum() / count, 5 * distance / count, 2 * (1 - giou).sum() / count


def match(head, logits, boxes, instances, metas):
    """Labels (B * N,) and boxes (B * N, 4) that the head assigns."""
    labels, _, wanted, *_ = head.get_targets(list(logits), list(boxes), instances, metas)
    return torch.cat(labels), torch.cat(wanted)


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0), (9, 1)])
def test_losses(head, counts):
    logits, boxes = predictions(7)
    instances, metas = targets(counts)
    labels, wanted = match(head, logits, boxes, instances, metas)
    found = head.loss_by_feat_single(logits, boxes, instances, metas)
    expected = naive_losses(logits.flatten(0, 1), boxes.flatten(0, 1), labels, wanted, max(1, sum(counts)))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    for ours, theirs in zip(found, expected, strict=True):
        grads = [gradients(loss, logits, boxes) for loss in (ours, theirs)]
        torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-9)


def gradients(loss, *inputs):
    if not loss.requires_grad:  # an overlap of no boxes
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
    return list(found)


def test_class_loss_leaves_boxes_alone(head):
    logits, boxes = predictions(7)
    loss, *_ = head.loss_by_feat_single(logits, boxes, *targets())
    loss.backward()
    assert logits.grad.any() and boxes.grad is None


def test_overlaps_of_tiny_boxes(head):
    """Of a hundred-thousandth of an image's area."""
    boxes = torch.tensor([[[0.5, 0.5, 1e-3, 1e-2]]], dtype=torch.float64)
    wanted = torch.tensor([[0.5, 0.5, 2e-3, 1e-2]], dtype=torch.float64)
    instances = [InstanceData(bboxes=bbox_cxcywh_to_xyxy(wanted) * 64, labels=torch.tensor([0]))]
    _, _, loss = head.loss_by_feat_single(torch.zeros(1, 1, 5), boxes, instances, [{"img_shape": (64, 64)}])
    torch.testing.assert_close(loss.item(), 2 * 0.5)


def test_matching_minimises_the_published_cost(head):
    logits, boxes = predictions(4)
    instances, metas = targets((2, 1))
    labels, wanted = match(head, logits, boxes, instances, metas)
    p = logits[0].sigmoid()
    positive, negative = 0.25 * (1 - p) ** 2 * -(p + 1e-6).log(), 0.75 * p**2 * -(1 - p + 1e-6).log()
    truth = bbox_xyxy_to_cxcywh(instances[0].bboxes) / SIZE
    cost = torch.empty(4, 2)
    for query in range(4):
        for j, label in enumerate(instances[0].labels):
            pair = boxes[0, query : query + 1], truth[j : j + 1]
            _, giou = overlaps(*(bbox_cxcywh_to_xyxy(x) for x in pair))
            distance = (pair[0] - pair[1]).abs().sum()
            cost[query, j] = 2 * (positive - negative)[query, label] + 5 * distance - 2 * giou[0]
    best = min(
        ((a, b) for a in range(4) for b in range(4) if a != b), key=lambda ab: cost[ab[0], 0] + cost[ab[1], 1]
    )
    for j, query in enumerate(best):
        torch.testing.assert_close(wanted[query], truth[j])
        assert labels[query] == instances[0].labels[j]


def test_denoising_is_divided_by_boxes_and_groups(head, monkeypatch):
    """By the mean of boxes over all processes, and by the groups of this one."""
    logits, boxes = (x.float() for x in predictions(2 * 3 * 4))  # 4 groups of 3 positives and 3 negatives
    instances, metas = targets((3, 1))
    for boxes_of_image in instances:
        boxes_of_image.bboxes = boxes_of_image.bboxes.float()
    meta = {"num_denoising_queries": 24, "num_denoising_groups": 4}
    labels, _, wanted, *_ = head.get_dn_targets(instances, metas, meta)
    labels, wanted = torch.cat(labels), torch.cat(wanted)
    assert (labels < 5).sum() == 4 * (3 + 1)
    monkeypatch.setattr(module, "reduce_mean", lambda count: count + 6)
    found = head._loss_dn_single(logits, boxes, instances, metas, meta)
    expected = naive_losses(logits.flatten(0, 1), boxes.flatten(0, 1), labels, wanted, (4 + 6) * 4)
    torch.testing.assert_close(found, expected)


def test_hybrid_queries_learn_every_box_six_times(head):
    detector = build(read_model(CONFIG))
    samples = make_batch(detector, (2, 0))["data_samples"]
    logits, boxes = predictions(20)
    states = {"hidden_states": torch.randn(3, 2, 20, 32), "references": torch.rand(3, 2, 20, 4)}
    losses = head._loss_hybrid(samples, logits.float(), boxes.float(), **states)
    assert len(losses) == 4 * 3
    repeated = [InstanceData.cat([sample.gt_instances] * 6) for sample in samples]
    assert [len(instances) for instances in repeated] == [12, 0]
    metas = [sample.metainfo for sample in samples]
    wanted = head.loss_by_feat_single(logits.float(), boxes.float(), repeated, metas)
    found = [losses[f"enc_loss_{name}"] for name in ("cls", "bbox", "iou")]
    torch.testing.assert_close(found, list(wanted))


def test_loss_in_half_precision_counts_in_single():
    loss, logits = DetachedVarifocalLoss(), torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 6, (9,), generator=torch.Generator().manual_seed(1)), torch.linspace(0, 1, 9)
    found = loss(logits.bfloat16(), target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(logits.bfloat16().float(), target))


def test_parameters_of_the_class_loss():
    logits = torch.zeros(1, 2)
    loss = DetachedVarifocalLoss(alpha=0.4, gamma=3.0, loss_weight=7.0)
    found = loss(logits, (torch.tensor([1]), torch.tensor([0.8])), avg_factor=2.0)
    log2 = torch.tensor(2.0).log()
    torch.testing.assert_close(found, 7 * (0.6 / 8 + 0.8) * log2 / 2)

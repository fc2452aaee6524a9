"""Key points of RelationNet++: targets, choice and head against naive references."""

import numpy as np
import pytest
import torch

import dense  # noqa: F401  before mmcv

pytest.importorskip("mmdet")

from dense.detection.networks.relationnet2.points import (
    CornerPooling,
    KeyPointHead,
    gaussian_radius,
    keypoint_targets,
    sample_keys,
)

SIZES, STRIDES = [(12, 16), (6, 8), (3, 4)], [8, 16, 32]
BOXES = torch.tensor([[10.0, 12.0, 90.0, 70.0], [30.0, 5.0, 60.0, 40.0], [-9.0, 50.0, 150.0, 92.0]])
LABELS = torch.tensor([0, 2, 1])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make_levels(channels, batch=2, sizes=SIZES, **kwargs):
    return [torch.randn(batch, channels, *size, **kwargs) for size in sizes]


def naive_targets(boxes, labels, num_classes):
    """Score (classes), offset (2) and whether positive, of every type, level, row and column in turn."""
    found = []
    for t in range(3):
        for (height, width), s in zip(SIZES, STRIDES, strict=True):
            cells = [(i, j) for i in range(height) for j in range(width)]
            centres = {(i, j): np.array([j * s + s // 2, i * s + s // 2], float) for i, j in cells}
            owners = []
            for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
                point = np.array([(x1, y1), (x2, y2), ((x1 + x2) / 2, (y1 + y2) / 2)][t])
                nearest = min(cells, key=lambda cell: ((point - centres[cell]) ** 2).sum())
                h, w = y2 - y1, x2 - x1
                radius = min(
                    np.roots([1, -(h + w), w * h * 0.3 / 1.7]).min(),
                    np.roots([4, -2 * (h + w), 0.3 * w * h]).min(),
                    np.roots([4 * 0.7, 2 * 0.7 * (h + w), -0.3 * w * h]).max(),
                )
                owners.append((point, nearest, (2 * radius + 1) / 6, label))
            for cell in cells:
                scores = [
                    np.exp(-((centres[cell] - centres[near]) ** 2).sum() / (2 * sigma**2))
                    for _, near, sigma, _ in owners
                ]
                point, _, _, label = owners[np.argmax(scores)]
                positive = np.array(any(near == cell for _, near, _, _ in owners))
                offset = positive * (point - centres[cell]) / s
                found.append((np.eye(num_classes)[label] * max(scores), offset, positive))
    return [torch.from_numpy(np.stack(part)).unflatten(0, (3, -1)) for part in zip(*found, strict=True)]


def test_targets_against_naive():
    scores, offsets, positive = keypoint_targets(BOXES, LABELS, SIZES, STRIDES, 4)
    wanted_scores, wanted_offsets, wanted_positive = naive_targets(BOXES, LABELS, 4)
    assert torch.equal(positive, wanted_positive)
    torch.testing.assert_close(scores.double(), wanted_scores, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(offsets.double(), wanted_offsets, atol=1e-6, rtol=1e-5)
    # exactly 1 at every box's nearest cell on every level, and there only
    assert torch.equal((scores == 1).any(2), positive)
    assert positive.sum() <= 3 * 3 * 3 and positive.split([192, 48, 12], 1)[2].any()


def test_targets_of_boxes_twice_and_hidden():
    once = keypoint_targets(BOXES, LABELS, SIZES, STRIDES, 4)
    twice = keypoint_targets(BOXES.repeat(2, 1), LABELS.repeat(2), SIZES, STRIDES, 4)
    assert all(map(torch.equal, once, twice))
    # at the same place, the first box has the class
    scores = keypoint_targets(BOXES[:1].repeat(2, 1), torch.tensor([3, 1]), SIZES, STRIDES, 4).scores
    assert scores[..., 3].max() == 1 and not scores[..., 1].any()
    # half-way between two cells is of the first
    square = torch.tensor([[8.0, 8.0, 24.0, 24.0]])
    positive = keypoint_targets(square, LABELS[:1], SIZES[:1], STRIDES[:1], 4).positive.view(3, 12, 16)
    assert positive.nonzero().tolist() == [[0, 0, 0], [1, 2, 2], [2, 1, 1]]


def test_targets_without_boxes():
    scores, offsets, positive = keypoint_targets(BOXES[:0], LABELS[:0], SIZES, STRIDES, 4)
    assert scores.shape == (3, 252, 4) and offsets.shape == (3, 252, 2) and positive.shape == (3, 252)
    assert not (scores.any() or offsets.any() or positive.any())


def test_boxes_moved_by_the_radius_overlap_enough():
    height, width = torch.tensor([40.0, 7.0, 0.0]), torch.tensor([25.0, 90.0, 3.0])
    r = gaussian_radius(height, width, 0.7)
    area = height * width
    shifted = (height - r) * (width - r)
    overlaps = torch.stack(
        (
            shifted / (2 * area - shifted),
            (height - 2 * r) * (width - 2 * r) / area,
            area / ((height + 2 * r) * (width + 2 * r)),
        )
    )[:, :2]
    assert (overlaps > 0.7 - 1e-5).all()
    torch.testing.assert_close(overlaps.amin(0), torch.full((2,), 0.7))
    assert r[2] == 0


def test_keys_against_naive():
    logits, offsets, maps = make_levels(4), make_levels(2), make_levels(5)
    keys = sample_keys(logits, offsets, maps, STRIDES, level_keys=20, num_keys=30)
    assert keys.xy.shape == (2, 30, 2) and keys.features.shape == (2, 30, 5)
    for b in range(2):
        found = []
        for logit, offset, x, s in zip(logits, offsets, maps, STRIDES, strict=True):
            candidates = []
            for c, i, j in np.ndindex(*logit.shape[1:]):
                score = logit[b, c, i, j]
                if score == logit[b, c, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].max():
                    xy = torch.tensor([j * s + s // 2, i * s + s // 2]) + offset[b, :, i, j] * s
                    candidates.append((score.item(), xy, x[b, :, i, j]))
            candidates.sort(key=lambda candidate: -candidate[0])
            found += candidates[: min(20, x[0, 0].numel())]
        found.sort(key=lambda candidate: -candidate[0])
        torch.testing.assert_close(keys.xy[b], torch.stack([xy for _, xy, _ in found[:30]]))
        torch.testing.assert_close(keys.features[b], torch.stack([x for *_, x in found[:30]]))


def test_keys_of_plateaus_classes_and_tiny_levels():
    logits = torch.full((1, 2, 5, 5), -9.0)
    logits[0, 0, 1, 1:3] = 3.0  # both cells of a plateau are found
    logits[0, 1, 1, 1] = 2.0  # and one of them for another class, too
    logits[0, 0, 1, 3] = 2.9  # a neighbour is higher
    offsets = torch.zeros(1, 2, 5, 5)
    keys = sample_keys([logits], [offsets], [offsets], [8], num_keys=3)
    assert sorted(keys.xy[0].tolist()) == [[12, 12], [12, 12], [20, 12]]
    # a level gives no more keys than it has cells, and all levels together fewer than wanted
    logits, offsets = (make_levels(c, sizes=[(2, 3), (1, 1)]) for c in (3, 2))
    keys = sample_keys(logits, offsets, offsets, [8, 16])
    assert keys.xy.shape == (2, 7, 2)


def test_gradient_of_keys():
    levels = [[x.requires_grad_() for x in make_levels(c)] for c in (3, 2, 5)]
    keys = sample_keys(*levels, STRIDES)
    (keys.xy.square().sum() + keys.features.square().sum()).backward()
    assert all(x.grad is None for x in levels[0])
    assert all(x.grad.any() for x in levels[1] + levels[2])
    assert sum(x.grad.count_nonzero() for x in levels[1]) == 2 * sum(len(b.unique(dim=0)) for b in keys.xy)


def test_corner_pooling():
    x = torch.randn(1, 4, 5, 6)
    for corner, rows, columns in (
        ("top_left_corner", slice(2, None), slice(3, None)),
        ("bottom_right_corner", slice(None, 3), slice(None, 4)),
    ):
        module = CornerPooling(4, corner, norm_cfg={"type": "GN", "num_groups": 2})
        assert torch.equal(module._pool(x, 2)[..., 2, 3], x[..., rows, 3].amax(-1))
        assert torch.equal(module._pool(x, 3)[..., 2, 3], x[..., 2, columns].amax(-1))
        assert module(x).shape == x.shape


@pytest.mark.parametrize("norm_cfg", [None, {"type": "GN", "num_groups": 2}])
@pytest.mark.parametrize("shared, stacked, logits", [(0, 2, 1), (1, 1, 0)])
def test_key_point_head(norm_cfg, shared, stacked, logits):
    convs = {"shared_stacked_convs": shared, "stacked_convs": stacked, "logits_convs": logits}
    head = KeyPointHead(3, 6, 8, **convs, norm_cfg=norm_cfg, corner_pooling=True)
    points = head(make_levels(6))
    assert [x.shape for x in points.logits] == [(2, 3, 3, *size) for size in SIZES]
    assert [x.shape for x in points.offsets] == [(2, 3, 2, *size) for size in SIZES]
    for predictor in head.keypoint_cls_heads.values():
        torch.testing.assert_close(predictor[-1].bias.sigmoid(), torch.full((3,), 0.01))
    sum(x.square().sum() for levels in points for x in levels).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    with pytest.raises(ValueError, match="stacked_convs must be at least 1, found 0"):
        KeyPointHead(3, 6, stacked_convs=0)

"""RelationNet++: the bridge, and its losses against naive references."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dense  # noqa: F401  before mmcv

pytest.importorskip("mmdet")

from mmengine.structures import InstanceData

from dense.detection.networks.relationnet2 import bvr as bvr_module
from dense.detection.networks.relationnet2.bvr import BVR
from dense.detection.networks.relationnet2.points import Keys, Points, keypoint_targets
from dense.detection.networks.relationnet2.transformer import LocationEmbedding

SIZES, STRIDES = [(12, 16), (6, 8), (3, 4)], [8, 16, 32]
BOXES = torch.tensor([[10.0, 12.0, 90.0, 70.0], [30.0, 5.0, 60.0, 40.0], [-9.0, 50.0, 150.0, 92.0]])
LABELS = torch.tensor([0, 2, 1])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make_levels(channels, batch=2, sizes=SIZES, **kwargs):
    return [torch.randn(batch, channels, *size, **kwargs) for size in sizes]


def test_bias_and_positions_stay_float32():
    bvr = make_bvr()
    seen = []
    to_bias = LocationEmbedding.to_bias
    bvr.cls_transformer.embedding.to_bias = lambda a, b: (
        seen.append((a.dtype, b.dtype)) or to_bias(bvr.cls_transformer.embedding, a, b)
    )
    maps, cls_maps, reg_maps = make_levels(8), make_levels(16), make_levels(16)
    wanted, _, _ = bvr(maps, cls_maps, reg_maps)
    with torch.autocast("cpu", torch.bfloat16):
        found, _, points = bvr(maps, cls_maps, reg_maps)
        _, (keys,), _ = bvr.find_keys(maps, cls_maps, reg_maps)
    assert points.logits[0].dtype == torch.bfloat16 and keys.xy.dtype == torch.float32
    halves = [[x.bfloat16() for x in levels] for levels in (maps, cls_maps, reg_maps)]
    half, _, points = bvr.bfloat16()(*halves)
    assert half[0].dtype == torch.bfloat16
    assert set(seen) == {(torch.float32, torch.float32)}
    for y in (found[0], half[0].float()):  # other keys may be chosen
        assert y.isfinite().all() and F.cosine_similarity(y.flatten(), wanted[0].flatten(), 0) > 0.95
    losses = bvr.loss(points, make_instances())
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def make_bvr(**kwargs):
    options = {"num_heads": 4, "base_size": (40, 40), "keypoint_head": {"norm_cfg": None}}
    return BVR(3, 8, 16, STRIDES, **{**options, **kwargs})


def make_instances():
    return [InstanceData(bboxes=BOXES, labels=LABELS), InstanceData(bboxes=BOXES[:0], labels=LABELS[:0])]


@pytest.mark.parametrize("scale_position", [False, True])
def test_bridge_sees_the_same_keys_on_all_levels(scale_position):
    bvr = make_bvr(scale_position=scale_position).double()
    for transformer in (bvr.cls_transformer, bvr.reg_transformer):
        nn.init.normal_(transformer.embedding.proj.weight)
    maps, cls_maps, reg_maps = (make_levels(c, dtype=torch.float64) for c in (8, 16, 16))
    cls_found, reg_found, _ = bvr(maps, cls_maps, reg_maps)
    _, cls_keys, reg_keys = bvr.find_keys(maps, cls_maps, reg_maps)
    assert [len(groups) for groups in (cls_keys, reg_keys)] == [1, 2]
    for found, transformer, features, groups in (
        (cls_found, bvr.cls_transformer, cls_maps, cls_keys),
        (reg_found, bvr.reg_transformer, reg_maps, reg_keys),
    ):
        for level, x, s in zip(found, features, STRIDES, strict=True):
            unit = s if scale_position else 8
            height, width = x.shape[2:]
            columns = (torch.arange(width, dtype=torch.float64) * s + s // 2) / unit
            rows = (torch.arange(height, dtype=torch.float64)[:, None] * s + s // 2) / unit
            keys = [Keys(group.xy / unit, group.features) for group in groups]
            wanted = transformer(x.permute(0, 2, 3, 1), columns, rows, keys)
            torch.testing.assert_close(level, wanted.permute(0, 3, 1, 2))
    with pytest.raises(ValueError, match="wanted maps of 3 levels, found 2"):
        bvr(maps[:2], cls_maps[:2], reg_maps[:2])


def test_sample_of_a_batch_equals_it_alone():
    bvr = make_bvr().double()
    for parameter in bvr.keypoint_head.parameters():
        nn.init.normal_(parameter, std=0.1)  # at first all scores are nearly equal
    levels = [make_levels(c, batch=3, dtype=torch.float64) for c in (8, 16, 16)]
    together = bvr(*levels)[:2]
    alone = bvr(*[[x[1:2] for x in maps] for maps in levels])[:2]
    for branch, branch_alone in zip(together, alone, strict=True):
        for y, y_alone in zip(branch, branch_alone, strict=True):
            torch.testing.assert_close(y[1:2], y_alone)


def test_shared_embedding():
    bvr = make_bvr(shared_embedding=True)
    assert bvr.reg_transformer.embedding is bvr.cls_transformer.embedding
    own = make_bvr()
    assert own.reg_transformer.embedding is not own.cls_transformer.embedding
    assert own.state_dict().keys() == bvr.state_dict().keys()
    bvr.load_state_dict(own.state_dict())


def naive_losses(points, instances):
    """Sums over all by the formulas, and the number of positive cells."""
    cls, offset, count = 0.0, 0.0, 0
    for b, instance in enumerate(instances):
        targets = keypoint_targets(instance.bboxes, instance.labels, SIZES, STRIDES, 3)
        for t in range(3):
            p = torch.cat([x[b, t].flatten(1).T for x in points.logits]).double().sigmoid()
            o = torch.cat([x[b, t].flatten(1).T for x in points.offsets]).double()
            score = targets.scores[t].double()
            hit = score == 1
            cls -= (hit * (p + 1e-12).log() * (1 - p) ** 2).sum()
            cls -= ((1 - p + 1e-12).log() * p**2 * (1 - score) ** 4).sum()
            away = (o - targets.offsets[t])[targets.positive[t]].abs()
            offset += torch.where(away < 1, away**2 / 2, away - 0.5).sum()
            count += targets.positive[t].sum()
    return 0.25 * cls, offset, count


def make_points():
    return Points(*([torch.randn(2, 3, c, *size).requires_grad_() for size in SIZES] for c in (3, 2)))


def test_losses_against_naive(monkeypatch):
    bvr, points, instances = make_bvr(), make_points(), make_instances()
    losses = bvr.loss(points, instances)
    cls, offset, count = naive_losses(points, instances)
    torch.testing.assert_close(losses["kpt_loss_point_cls"].double(), cls / count)
    torch.testing.assert_close(losses["kpt_loss_point_offset"].double(), offset / count)
    monkeypatch.setattr(bvr_module, "reduce_mean", lambda count: count / 64)  # the other processes have none
    few = bvr.loss(points, instances)
    torch.testing.assert_close(few["kpt_loss_point_cls"].double(), 64 * cls / count)  # not clamped at 1


def test_no_boxes_no_losses():
    bvr, points = make_bvr(), make_points()
    losses = bvr.loss(points, make_instances()[1:] * 2)
    assert [loss.item() for loss in losses.values()] == [0, 0]
    sum(losses.values()).backward()
    assert all(not x.grad.any() for levels in points for x in levels)

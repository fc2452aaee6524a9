"""The key points of RelationNet++: their head, targets, and choice."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from mmcv.cnn import ConvModule, build_norm_layer
from torch import Tensor, nn
from torch.nn import functional as F

POINT_TYPES = ("top_left_corner", "bottom_right_corner", "center")

# ------------------------------------------------------------------------------------- key points


class Points(NamedTuple):
    """What the head predicts, by level: logits (B, 3, classes, H, W) and offsets (B, 3, 2, H, W).

    The second axis is :data:`POINT_TYPES`. Offsets, x first, lead from the centre of a cell to the point, in
    strides of the level.
    """

    logits: list[Tensor]
    offsets: list[Tensor]


class KeyPointHead(nn.Module):
    """Where corners and centres of boxes are: maps (B, in_channels, H_l, W_l) to :class:`Points`.

    Args:
        shared_stacked_convs, stacked_convs, logits_convs: convolutions 3x3 for all types of points together,
            then for each type, then for each of its two outputs, before the one that predicts.
        corner_pooling: end the convolutions of the corners with :class:`CornerPooling`.
        norm_cfg: MMCV's, of every convolution but the predicting ones; None for none.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        *,
        shared_stacked_convs: int = 0,
        stacked_convs: int = 2,
        logits_convs: int = 1,
        corner_pooling: bool = False,
        norm_cfg: dict | None = {"type": "GN", "num_groups": 32},  # noqa: B006  nothing changes it
    ):
        super().__init__()

        if stacked_convs < 1:
            raise ValueError(f"stacked_convs must be at least 1, found {stacked_convs}")

        def convs(count: int, channels: int) -> nn.Sequential:
            widths = [channels, *[feat_channels] * count]
            pairs = zip(widths[:-1], widths[1:], strict=True)
            return nn.Sequential(*[ConvModule(*pair, 3, padding=1, norm_cfg=norm_cfg) for pair in pairs])

        def of_each_type(make: Callable[[], nn.Sequential]) -> nn.ModuleDict:
            return nn.ModuleDict({name: make() for name in POINT_TYPES})

        def predictor(channels: int) -> nn.Sequential:
            return convs(logits_convs, feat_channels).append(nn.Conv2d(feat_channels, channels, 3, padding=1))

        first = feat_channels if shared_stacked_convs else in_channels
        self.shared_layers = convs(shared_stacked_convs, in_channels)
        self.keypoint_layers = of_each_type(lambda: convs(stacked_convs, first))
        if corner_pooling:
            for corner in POINT_TYPES[:2]:
                self.keypoint_layers[corner].append(CornerPooling(feat_channels, corner, norm_cfg=norm_cfg))
        self.keypoint_cls_heads = of_each_type(lambda: predictor(num_classes))
        self.keypoint_offset_heads = of_each_type(lambda: predictor(2))
        self.init_weights()

    def init_weights(self) -> None:
        """Normal weights; a point of a class is at first found with probability 0.01."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for head in self.keypoint_cls_heads.values():
            nn.init.constant_(head[-1].bias, -math.log(99))

    def forward(self, maps: Sequence[Tensor]) -> Points:
        points = Points([], [])
        for x in map(self.shared_layers, maps):
            features = {t: layers(x) for t, layers in self.keypoint_layers.items()}
            for found, heads in zip(
                points, (self.keypoint_cls_heads, self.keypoint_offset_heads), strict=True
            ):
                found.append(torch.stack([heads[t](features[t]) for t in POINT_TYPES], 1))
        return points


class CornerPooling(nn.Module):
    """CornerNet's: a corner sees along both edges of its box, inwards. (B, C, H, W) to the same.

    Args:
        corner: one of the first two of :data:`POINT_TYPES`.
    """

    def __init__(self, channels: int, corner: str, pool_channels: int = 64, norm_cfg: dict | None = None):
        super().__init__()
        self.inwards = corner == "top_left_corner"  # its box lies in the direction of growing indices

        def norm() -> nn.Module:
            return build_norm_layer(norm_cfg, channels)[1] if norm_cfg else nn.Identity()

        self.p1_conv1 = ConvModule(channels, pool_channels, 3, padding=1, norm_cfg=norm_cfg)
        self.p2_conv1 = ConvModule(channels, pool_channels, 3, padding=1, norm_cfg=norm_cfg)
        self.p_conv1 = nn.Conv2d(pool_channels, channels, 3, padding=1, bias=False)
        self.p_gn1 = norm()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.gn1 = norm()
        self.conv2 = ConvModule(channels, channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self._pool(self.p1_conv1(x), 2) + self._pool(self.p2_conv1(x), 3)
        return self.conv2(F.relu(self.p_gn1(self.p_conv1(pooled)) + self.gn1(self.conv1(x))))

    def _pool(self, x: Tensor, axis: int) -> Tensor:
        """The maximum of each pixel and of those of its line that lie in the box."""
        if self.inwards:
            return x.flip(axis).cummax(axis).values.flip(axis)
        return x.cummax(axis).values


# ---------------------------------------------------------------------------------------- targets


class Targets(NamedTuple):
    """Of one image's N cells: scores (3, N, classes), offsets (3, N, 2) in strides, positive (3, N) bool."""

    scores: Tensor
    offsets: Tensor
    positive: Tensor


def keypoint_targets(
    boxes: Tensor,
    labels: Tensor,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    num_classes: int,
    min_overlap: float = 0.7,
) -> Targets:
    """What :class:`KeyPointHead` should predict of one image.

    Every point of every box counts on every level. The cell nearest to it is positive, with score 1; around
    that cell the score falls as a Gaussian, as wide as the box allows (:func:`gaussian_radius`). A cell
    belongs to the box that gives it the highest score, at a tie to the first, and only the class of that box
    gets the score. A box whose nearest cell belongs to another one has no target there.

    Args:
        boxes: (G, 4), corners x1, y1, x2, y2 in pixels; G may be 0.
        labels: (G), int64.
        sizes: height and width of each level.
        strides: pixels from cell to cell of each level.
        min_overlap: see :func:`gaussian_radius`.

    Source: targets of CornerNet, as RelationNet++ extends them to levels and centres.
    """
    types, cells = len(POINT_TYPES), [h * w for h, w in sizes]
    boxes = boxes.detach().float()
    scores = boxes.new_zeros(types, sum(cells), num_classes)
    offsets = boxes.new_zeros(types, sum(cells), 2)
    positive = torch.zeros(types, sum(cells), dtype=torch.bool, device=boxes.device)
    if not len(boxes):
        return Targets(scores, offsets, positive)
    corners = boxes.view(-1, 2, 2)
    points = torch.stack((corners[:, 0], corners[:, 1], corners.mean(1)))  # (3, G, 2)
    sigma = (2 * gaussian_radius(boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0], min_overlap) + 1) / 6
    precision = (0.5 / sigma**2)[:, None, None]
    levels = zip(
        sizes, strides, scores.split(cells, 1), offsets.split(cells, 1), positive.split(cells, 1), strict=True
    )
    for (height, width), stride, score, offset, is_positive in levels:
        last = points.new_tensor([width - 1, height - 1])
        # rounded, but a point half-way between two cells is of the first
        nearest = ((points - stride // 2) / stride - 0.5).ceil().clamp(min=0).minimum(last)
        x, y = cell_centres(height, width, stride, boxes)
        square_x, square_y = (
            (centre.flatten() - nearest[..., i : i + 1] * stride - stride // 2) ** 2
            for i, centre in enumerate((x, y))
        )
        exponent = (square_y[..., None] + square_x[..., None, :]) * precision  # (3, G, H, W)
        exponent, owner = exponent.flatten(2).min(1)  # (3, H * W)
        score.scatter_(2, labels[owner][..., None], exponent.neg().exp()[..., None])
        is_positive.copy_(exponent == 0)
        centre = torch.stack(torch.broadcast_tensors(x, y), -1).view(-1, 2)
        wanted = points.gather(1, owner[..., None].expand(-1, -1, 2)) - centre
        offset.copy_(torch.where(is_positive[..., None], wanted / stride, 0))
    return Targets(scores, offsets, positive)


def gaussian_radius(height: Tensor, width: Tensor, min_overlap: float) -> Tensor:
    """How far both corners of a box may be displaced while its overlap stays at least ``min_overlap``.

    The least of CornerNet's three cases: the box shifts; it shrinks; it grows.
    """
    area, total = height * width, height + width
    shift = (total - (total**2 - 4 * area * (1 - min_overlap) / (1 + min_overlap)).sqrt()) / 2
    shrink = (2 * total - (4 * total**2 - 16 * (1 - min_overlap) * area).sqrt()) / 8
    linear = 2 * min_overlap * total
    grow = ((linear**2 + 16 * min_overlap * (1 - min_overlap) * area).sqrt() - linear) / (8 * min_overlap)
    return torch.stack((shift, shrink, grow)).amin(0)


def cell_centres(height: int, width: int, stride: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """x (W) and y (H, 1) of the centres of a level's cells, in pixels, on the device of ``like``."""
    dtype = wide(like.dtype)
    x = torch.arange(width, device=like.device, dtype=dtype) * stride + stride // 2
    y = torch.arange(height, device=like.device, dtype=dtype) * stride + stride // 2
    return x, y[:, None]


def wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


# ------------------------------------------------------------------------------------------- keys


class Keys(NamedTuple):
    """Points that queries attend to: xy (B, K, 2) in pixels, float32, and features (B, K, C)."""

    xy: Tensor
    features: Tensor


def sample_keys(
    logits: Sequence[Tensor],
    offsets: Sequence[Tensor],
    maps: Sequence[Tensor],
    strides: Sequence[int],
    level_keys: int = 20,
    num_keys: int = 50,
) -> Keys:
    """The points of one type with the highest scores.

    A cell competes in each class in which no neighbour's score is higher (so a plateau does), first on its
    level, then over all levels. Scores have no gradient; positions (by the offsets) and features have.

    Args:
        logits: by level, (B, classes, H, W).
        offsets: by level, (B, 2, H, W).
        maps: by level, (B, C, H, W); what features are taken from.
        level_keys: points of a level, at most; nor more than it has cells.
        num_keys: points, at most; fewer where the levels have fewer.
    """
    found = []
    for logit, offset, features, stride in zip(logits, offsets, maps, strides, strict=True):
        height, width = logit.shape[2:]
        score = logit.detach().to(wide(logit.dtype)).sigmoid()
        score = torch.where(score == F.max_pool2d(score, 3, 1, 1), score, 0)
        score, index = score.flatten(1).topk(min(level_keys, height * width))
        cell = index % (height * width)
        centre = torch.stack((cell % width, cell // width), -1) * stride + stride // 2
        shift = _take(offset, cell).to(wide(offset.dtype)) * stride
        found.append((score, centre + shift, _take(features, cell)))
    score, xy, features = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    best = score.topk(min(num_keys, score.shape[1])).indices[..., None]
    return Keys(
        xy.gather(1, best.expand(-1, -1, 2)), features.gather(1, best.expand(-1, -1, features.shape[2]))
    )


def _take(x: Tensor, cell: Tensor) -> Tensor:
    """The cells (B, K) of a map (B, C, H, W): (B, K, C)."""
    return x.flatten(2).gather(2, cell[:, None].expand(-1, x.shape[1], -1)).transpose(1, 2)

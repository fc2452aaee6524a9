"""The bridge of RelationNet++: bridging visual representations (BVR) of an object in a dense detector.

The features of the grid that a detector predicts from are queries; a few key points, found by a small head of
their own, are keys: centres for classification, corners for boxes. One layer of attention, whose weights also
depend on where a key lies from a query, adds the keys to the grid: :class:`BVR`.
"""

from collections.abc import Mapping, Sequence

import torch
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import reduce_mean
from torch import Tensor, nn

from .points import KeyPointHead, Keys, Points, cell_centres, keypoint_targets, sample_keys, wide
from .transformer import BVRTransformer, KeyAttention, LocationEmbedding

UNIT = 8  # pixels; what offsets between queries and keys are counted in


class BVR(nn.Module):
    """The bridge of a detector: its key points, the two transformers, and the losses of the points.

    Args:
        num_classes: of the points, as of the detector.
        in_channels: of the maps that points are predicted from.
        feat_channels: of the maps that keys are taken from.
        strides: of all these maps.
        query_channels: of what is bridged; by default it is those maps.
        num_heads: of the attention.
        base_size: width and height within which offsets differ, in units of 8 pixels.
        level_keys, num_keys: of :func:`sample_keys`.
        shared_embedding: one location embedding for both branches.
        scale_position: count offsets in strides of the query's level, not in 8 pixels.
        log_scale, concat_position, reference_quirks: of :class:`BVRTransformer`; ``concat_position`` is
            for the branch of boxes.
        min_overlap: of :func:`gaussian_radius`.
        keypoint_head: further arguments of :class:`KeyPointHead`.
        loss_cls, loss_offset: of the points' scores and offsets, MMDetection's.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int,
        strides: Sequence[int],
        *,
        query_channels: int | None = None,
        num_heads: int = 8,
        base_size: tuple[int, int] = (400, 400),
        level_keys: int = 20,
        num_keys: int = 50,
        shared_embedding: bool = False,
        scale_position: bool = False,
        log_scale: bool = True,
        concat_position: bool = False,
        reference_quirks: bool = False,
        min_overlap: float = 0.7,
        keypoint_head: Mapping | None = None,
        loss_cls: Mapping | None = None,
        loss_offset: Mapping | None = None,
    ):
        super().__init__()
        if min(level_keys, num_keys) < 1:
            raise ValueError(f"level_keys and num_keys must be positive, found {level_keys} and {num_keys}")
        self.num_classes = num_classes
        self.strides = tuple(strides)
        self.level_keys, self.num_keys = level_keys, num_keys
        self.scale_position = scale_position
        self.min_overlap = min_overlap
        self.keypoint_head = KeyPointHead(
            num_classes, in_channels, **{"feat_channels": in_channels, **(keypoint_head or {})}
        )
        options = {
            "num_heads": num_heads,
            "key_channels": feat_channels,
            "embed_dims": feat_channels,
            "base_size": base_size,
            "log_scale": log_scale,
            "reference_quirks": reference_quirks,
        }
        channels = query_channels or feat_channels
        self.cls_transformer = BVRTransformer(channels, 1, **options)
        if shared_embedding:
            options["embedding"] = self.cls_transformer.embedding
        self.reg_transformer = BVRTransformer(channels, 2, concat_position=concat_position, **options)
        self.loss_cls = MODELS.build(loss_cls or {"type": "GaussianFocalLoss", "loss_weight": 0.25})
        self.loss_offset = MODELS.build(loss_offset or {"type": "SmoothL1Loss", "beta": 1.0})

    def init_weights(self) -> None:
        """The initial weights again, after an ``init_cfg`` of the detector's head changed some."""
        for module in self.modules():
            if isinstance(module, (KeyPointHead, LocationEmbedding, KeyAttention)):
                module.init_weights()

    def forward(
        self, maps: Sequence[Tensor], cls_maps: Sequence[Tensor], reg_maps: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], Points]:
        """The bridged maps of both branches, and the points, for :meth:`loss`.

        Args:
            maps: (B, in_channels, H_l, W_l) of every level.
            cls_maps, reg_maps: (B, feat_channels, H_l, W_l), what classes and boxes are predicted from.
        """
        points, cls_keys, reg_keys = self.find_keys(maps, cls_maps, reg_maps)
        cls_maps = self._bridge(self.cls_transformer, cls_maps, cls_keys)
        reg_maps = self._bridge(self.reg_transformer, reg_maps, reg_keys)
        return cls_maps, reg_maps, points

    def find_keys(
        self, maps: Sequence[Tensor], cls_maps: Sequence[Tensor], reg_maps: Sequence[Tensor]
    ) -> tuple[Points, list[Keys], list[Keys]]:
        """The points, and the groups of keys for classes (centres) and for boxes (both corners)."""
        if not len(maps) == len(cls_maps) == len(reg_maps) == len(self.strides):
            raise ValueError(f"wanted maps of {len(self.strides)} levels, found {len(maps)}")
        points = self.keypoint_head(maps)

        def keys(i: int, features: Sequence[Tensor]) -> Keys:
            logits, offsets = ([level[:, i] for level in levels] for levels in points)
            return sample_keys(logits, offsets, features, self.strides, self.level_keys, self.num_keys)

        return points, [keys(2, cls_maps)], [keys(0, reg_maps), keys(1, reg_maps)]

    def _bridge(
        self, transformer: BVRTransformer, maps: Sequence[Tensor], groups: list[Keys]
    ) -> list[Tensor]:
        bridged = []
        for level, stride in zip(maps, self.strides, strict=True):
            unit = stride if self.scale_position else UNIT
            x, y = cell_centres(*level.shape[2:], stride, level)
            scaled = [Keys(keys.xy / unit, keys.features) for keys in groups]
            queries = transformer(level.permute(0, 2, 3, 1), x / unit, y / unit, scaled)
            bridged.append(queries.permute(0, 3, 1, 2))
        return bridged

    def loss(self, points: Points, gt_instances: Sequence) -> dict[str, Tensor]:
        """Losses of the points' scores and offsets, per positive cell of the mean process.

        Images without boxes are background. Where no process has a box, both are 0.

        Args:
            gt_instances: one for each image, with ``bboxes`` (G, 4) and ``labels`` (G).
        """
        sizes = [tuple(level.shape[-2:]) for level in points.logits]
        targets = [
            keypoint_targets(
                get_box_tensor(gt.bboxes), gt.labels, sizes, self.strides, self.num_classes, self.min_overlap
            )
            for gt in gt_instances
        ]
        scores, offsets, positive = (torch.stack(parts) for parts in zip(*targets, strict=True))
        # (B, 3, N, classes) and (B, 3, N, 2)
        logits, found = (torch.cat([x.flatten(3) for x in levels], 3).mT for levels in points)
        count = reduce_mean(positive.sum().to(scores.dtype))
        share = torch.where(count > 0, 1 / count.clamp(min=torch.finfo(count.dtype).tiny), 0)
        probabilities = logits.to(wide(logits.dtype)).sigmoid()
        found = found.to(wide(found.dtype))[positive]
        with torch.autocast(logits.device.type, enabled=False):
            loss_cls = self.loss_cls(probabilities, scores, reduction_override="sum")
            loss_offset = self.loss_offset(found, offsets[positive], reduction_override="sum")
        return {"kpt_loss_point_cls": loss_cls * share, "kpt_loss_point_offset": loss_offset * share}

"""Heads of MMDetection with the bridge of RelationNet++, :class:`~.bvr.BVR`.

Each is MMDetection's head of that name, with its arguments and weights' names, and what is in ``bvr``::

    bbox_head=dict(type="dense.BVRRetinaHead", bvr=dict(base_size=(400, 400)), num_classes=80, ...)
"""

from collections.abc import Mapping, Sequence

import torch
from mmcv.cnn import ConvModule
from mmdet.models.dense_heads import ATSSHead, FCOSHead, RetinaHead
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.models.utils import multi_apply
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from torch import Tensor, nn

from ....registry import MODELS
from .bvr import BVR, UNIT
from .points import Keys, Points
from .weights import convert


class BVRMixin:
    """Bridges a dense head between its towers, ``cls_convs`` and ``reg_convs``, and what predicts from them.

    ``forward`` returns what the head's returns, and :class:`~.points.Points`.

    Args:
        bvr: arguments of :class:`~.bvr.BVR` but for numbers of classes and channels, and strides, which are
            the head's.
    """

    def __init__(self, *args, bvr: Mapping | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        strides = [_side(stride) for stride in self.prior_generator.strides]
        channels = self.feat_channels if self.stacked_convs else self.in_channels
        self.bvr = BVR(self.num_classes, self.in_channels, channels, strides, **(bvr or {}))

    def forward(self, x: Sequence[Tensor]) -> tuple:
        cls_maps = [_run(self.cls_convs, level) for level in x]
        reg_maps = [_run(self.reg_convs, level) for level in x]
        cls_maps, reg_maps, points = self.bvr(x, cls_maps, reg_maps)
        return (*multi_apply(self.predict_level, cls_maps, reg_maps, *self.level_arguments()), points)

    def level_arguments(self) -> tuple[Sequence, ...]:
        """What :meth:`predict_level` takes of every level, besides its maps."""
        return ()

    def predict_level(self, cls_map: Tensor, reg_map: Tensor, *args) -> tuple[Tensor, ...]:
        """One level's outputs of the head, from the bridged maps (B, C, H, W)."""
        raise NotImplementedError

    def loss_by_feat(self, *args) -> dict[str, Tensor]:
        """The head's losses, and ``kpt_loss_point_cls`` and ``kpt_loss_point_offset``."""
        *outputs, points, gt_instances, metas, ignored = args
        losses = super().loss_by_feat(*outputs, gt_instances, metas, ignored)
        return {**losses, **self.bvr.loss(points, gt_instances)}

    def predict_by_feat(self, *outputs, **kwargs) -> InstanceList:
        *outputs, _ = outputs
        return super().predict_by_feat(*outputs, **kwargs)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :func:`~.weights.convert`."""
        return convert(state_dict)


@MODELS.register_module()
class BVRRetinaHead(BVRMixin, RetinaHead):
    """MMDetection's ``RetinaHead`` with :class:`BVRMixin`."""

    def predict_level(self, cls_map: Tensor, reg_map: Tensor) -> tuple[Tensor, Tensor]:
        return self.retina_cls(cls_map), self.retina_reg(reg_map)


@MODELS.register_module()
class BVRFCOSHead(BVRMixin, FCOSHead):
    """MMDetection's ``FCOSHead`` with :class:`BVRMixin`."""

    def level_arguments(self) -> tuple[Sequence, ...]:
        return self.scales, self.bvr.strides

    def predict_level(
        self, cls_map: Tensor, reg_map: Tensor, scale: nn.Module, stride: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        distances = scale(self.conv_reg(reg_map)).float()
        if not self.norm_on_bbox:
            distances = distances.exp()
        else:
            distances = distances.clamp(min=0) * (1 if self.training else stride)
        centreness = self.conv_centerness(reg_map if self.centerness_on_reg else cls_map)
        return self.conv_cls(cls_map), distances, centreness


@MODELS.register_module()
class BVRATSSHead(BVRMixin, ATSSHead):
    """MMDetection's ``ATSSHead`` with :class:`BVRMixin`.

    Args:
        dcn_on_last_conv: end the towers with deformable convolutions, as ``FCOSHead`` can.
    """

    def __init__(self, *args, dcn_on_last_conv: bool = False, **kwargs):
        self.dcn_on_last_conv = dcn_on_last_conv
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.dcn_on_last_conv:
            for tower in (self.cls_convs, self.reg_convs):
                widths = tower[-1].in_channels, self.feat_channels
                options = {"conv_cfg": {"type": "DCNv2"}, "norm_cfg": self.norm_cfg}
                tower[-1] = ConvModule(*widths, 3, padding=1, **options)

    def level_arguments(self) -> tuple[Sequence, ...]:
        return (self.scales,)

    def predict_level(
        self, cls_map: Tensor, reg_map: Tensor, scale: nn.Module
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.atss_cls(cls_map), scale(self.atss_reg(reg_map)).float(), self.atss_centerness(reg_map)


class KeyedMaps(tuple):
    """Maps of all levels that come with their key points and keys, as of :meth:`BVR.find_keys`."""

    keys: tuple[Points, list[Keys], list[Keys]]


@MODELS.register_module()
class BVRRoIHead(StandardRoIHead):
    """MMDetection's ``StandardRoIHead``, of Faster R-CNN, whose proposals are bridged.

    The paper reports such a detector, but no code of it was published; what follows is our choice. Queries
    are the proposals' features of the shared layers, at the proposals' centres. Keys are found on the
    pyramid, and their features are those of its maps; the attention is as wide as these.

    Args:
        bvr: arguments of :class:`~.bvr.BVR` but for numbers of classes and channels, and strides.
        point_strides: of the levels that have key points, in pixels.
        start_level: the first of these among the maps that the head is given.
        bbox_head: a ``Shared2FCBBoxHead``, or one derived from it.
    """

    def __init__(
        self,
        *args,
        bvr: Mapping | None = None,
        point_strides: Sequence[int] = (8, 16, 32, 64),
        start_level: int = 1,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        head = self.bbox_head
        if not isinstance(head, Shared2FCBBoxHead):
            raise ValueError(f"bbox_head must be a Shared2FCBBoxHead, found {type(head).__name__}")
        self.point_levels = slice(start_level, start_level + len(point_strides))
        self.bvr = BVR(
            head.num_classes,
            head.in_channels,
            head.in_channels,
            point_strides,
            query_channels=head.fc_out_channels,
            **(bvr or {}),
        )

    def loss(
        self, x: Sequence[Tensor], rpn_results_list: InstanceList, batch_data_samples: SampleList
    ) -> dict[str, Tensor]:
        maps = self._find_keys(x)
        losses = super().loss(maps, rpn_results_list, batch_data_samples)
        gt_instances = [sample.gt_instances for sample in batch_data_samples]
        return {**losses, **self.bvr.loss(maps.keys[0], gt_instances)}

    def _find_keys(self, x: Sequence[Tensor]) -> KeyedMaps:
        maps = KeyedMaps(x)
        chosen = x[self.point_levels]
        maps.keys = self.bvr.find_keys(chosen, chosen, chosen)
        return maps

    def _bbox_forward(self, x: Sequence[Tensor], rois: Tensor) -> dict[str, Tensor]:
        """As MMDetection's; ``rois`` (n, 5) come image by image."""
        _, cls_keys, reg_keys = (x if isinstance(x, KeyedMaps) else self._find_keys(x)).keys
        head = self.bbox_head
        regions = self.bbox_roi_extractor(x[: self.bbox_roi_extractor.num_inputs], rois)
        if self.with_shared_head:
            regions = self.shared_head(regions)
        hidden = (head.avg_pool(regions) if head.with_avg_pool else regions).flatten(1)
        for layer in head.shared_fcs:
            hidden = layer(hidden).relu()
        cls_hidden = self._bridge(self.bvr.cls_transformer, hidden, rois, cls_keys)
        reg_hidden = self._bridge(self.bvr.reg_transformer, hidden, rois, reg_keys)
        return {
            "cls_score": head.fc_cls(cls_hidden) if head.with_cls else None,
            "bbox_pred": head.fc_reg(reg_hidden) if head.with_reg else None,
            "bbox_feats": regions,
        }

    @staticmethod
    def _bridge(transformer: nn.Module, hidden: Tensor, rois: Tensor, groups: Sequence[Keys]) -> Tensor:
        """``hidden`` (n, C), each proposal bridged to the keys of its own image."""
        images = len(groups[0].xy)
        counts = rois[:, 0].long().bincount(minlength=images).tolist()
        centres = (rois[:, 1:3] + rois[:, 3:5]) / (2 * UNIT)
        bridged = []
        for i, (features, xy) in enumerate(zip(hidden.split(counts), centres.split(counts), strict=True)):
            keys = [Keys(group.xy[i : i + 1] / UNIT, group.features[i : i + 1]) for group in groups]
            bridged.append(transformer(features[None], *xy.unbind(-1), keys)[0])
        return torch.cat(bridged)


def _run(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _side(stride: int | Sequence[int]) -> int:
    """The stride in both directions, of MMDetection's pairs."""
    sides = {stride} if isinstance(stride, int) else set(stride)
    if len(sides) != 1:
        raise ValueError(f"key points want cells as wide as high, found strides {stride}")
    return sides.pop()

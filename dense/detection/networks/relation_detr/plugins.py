"""The position relation as a plug-in: MMDetection's DINO, Deformable DETR and DAB-DETR with it.

The first layer of a decoder knows of no relation. The second gets that of the first references to the boxes
of the first layer; layer l that of the boxes of layer l - 2 (the rows) to those of layer l - 1 (the columns).
"""

from collections.abc import Mapping

import torch
from mmdet.models.detectors import DABDETR, DINO, DeformableDETR
from mmdet.models.layers import (
    DABDetrTransformerDecoder,
    DeformableDetrTransformerDecoder,
    DinoTransformerDecoder,
    coordinate_to_encoding,
    inverse_sigmoid,
)
from mmdet.registry import MODELS as DETECTORS
from torch import Tensor, nn
from torch.nn import functional as F

from ....base.configured import build_configured
from ....layers import PositionRelation
from ....registry import MODELS, ZOO

EPS = 1e-3  # of the inverse sigmoid, everywhere in Relation-DETR


class _RelationDecoder:
    """What the decoders share.

    Args:
        *args, **kwargs: of MMDetection's decoder.
        relation_encoder: of :class:`~dense.layers.PositionRelation`, but ``num_heads``; None: no relation.
    """

    def __init__(self, *args, relation_encoder: Mapping | None, **kwargs):
        super().__init__(*args, **kwargs)
        self.relation = None
        if relation_encoder is not None:
            self.relation = PositionRelation(self.layers[0].self_attn.num_heads, **relation_encoder)


class RelationDinoDecoder(_RelationDecoder, DinoTransformerDecoder):
    """The decoder of DINO with the position relation."""

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        self_attn_mask: Tensor | None,
        reference_points: Tensor,
        spatial_shapes: Tensor,
        level_start_index: Tensor,
        valid_ratios: Tensor,
        reg_branches: nn.ModuleList,
        with_relation: bool = True,
        **kwargs,
    ) -> tuple[Tensor, Tensor]:
        """Queries and boxes after each layer; arguments as in MMDetection, boxes (B, N, 4) in 0 to 1.

        Returns:
            States (L, B, N, d), normed, and references (L, B, N, 4): those with which each layer began.
        """
        relation = self.relation if with_relation else None
        ratios = torch.cat([valid_ratios, valid_ratios], -1)[:, None]  # (B, 1, levels, 4)
        states, references = [], [reference_points]
        boxes, mask = reference_points, self_attn_mask
        for i, layer in enumerate(self.layers):
            scaled = references[-1].detach()[:, :, None] * ratios  # (B, N, levels, 4)
            query = layer(
                query,
                query_pos=self.encode_position(scaled[:, :, 0], query, i),
                value=value,
                key_padding_mask=key_padding_mask,
                self_attn_mask=mask,
                spatial_shapes=spatial_shapes,
                level_start_index=level_start_index,
                valid_ratios=valid_ratios,
                reference_points=scaled,
                **kwargs,
            )
            states.append(self.norm(query))
            if i + 1 == len(self.layers):
                break
            if relation is not None:
                older, boxes = boxes, _predict_boxes(reg_branches[i], states[-1], references[-1])
                mask = relation(older, boxes, self_attn_mask)
            offsets = inverse_sigmoid(references[-1].detach(), eps=EPS)
            references.append((reg_branches[i](query) + offsets).sigmoid())
        return torch.stack(states), torch.stack(references)

    def encode_position(self, boxes: Tensor, query: Tensor, layer: int) -> Tensor:
        """Position of a layer's queries, (B, N, d)."""
        features = self.ref_point_head.layers[0].in_features // 4  # releases of MMDetection differ
        return self.ref_point_head(coordinate_to_encoding(boxes, num_feats=features))


class RelationDeformableDecoder(_RelationDecoder, DeformableDetrTransformerDecoder):
    """The decoder of Deformable DETR with the position relation."""

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        reference_points: Tensor,
        spatial_shapes: Tensor,
        level_start_index: Tensor,
        valid_ratios: Tensor,
        reg_branches: nn.ModuleList | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor]:
        """As MMDetection's: states and, detached, the boxes after each layer.

        The first references may be points (B, N, 2); then the first relation is that of the boxes to
        themselves.

        Raises:
            ValueError: the references are not refined.
        """
        if reg_branches is None:
            raise ValueError("the position relation needs boxes after each layer: set with_box_refine=True")
        states, references, mask = [], [], None
        for i, layer in enumerate(self.layers):
            dims = reference_points.shape[-1]
            ratios = valid_ratios.repeat(1, 1, dims // 2)[:, None]  # (B, 1, levels, dims)
            query = layer(
                query,
                query_pos=query_pos,
                value=value,
                key_padding_mask=key_padding_mask,
                self_attn_mask=mask,
                spatial_shapes=spatial_shapes,
                level_start_index=level_start_index,
                valid_ratios=valid_ratios,
                reference_points=reference_points[:, :, None] * ratios,
                **kwargs,
            )
            offsets = F.pad(inverse_sigmoid(reference_points), (0, 4 - dims))
            boxes = (reg_branches[i](query) + offsets).sigmoid().detach()
            if self.relation is not None and i + 1 < len(self.layers):
                mask = self.relation(reference_points if dims == 4 else boxes, boxes)
            reference_points = boxes
            states.append(query)
            references.append(boxes)
        return torch.stack(states), torch.stack(references)


class RelationDABDecoder(_RelationDecoder, DABDetrTransformerDecoder):
    """The decoder of DAB-DETR with the position relation; ``query_dim`` must be 4."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_pos: Tensor,
        key_pos: Tensor,
        reg_branches: nn.Module,
        key_padding_mask: Tensor | None = None,
        **kwargs,
    ) -> list[Tensor]:
        """As MMDetection's: states, normed, and the references with which each layer began.

        Raises:
            ValueError: the queries are points.
        """
        if self.query_dim != 4:
            raise ValueError(f"the position relation needs boxes: query_dim=4, found {self.query_dim}")
        states, references = [], [query_pos.sigmoid()]
        boxes, mask = references[0], None
        for i, layer in enumerate(self.layers):
            reference = references[-1].detach() if i else references[0]
            code = coordinate_to_encoding(reference, num_feats=self.embed_dims // 2)
            query = layer(
                query,
                key,
                query_pos=self.ref_point_head(code),
                ref_sine_embed=self._scale_code(code[..., : self.embed_dims], query, reference, i),
                key_pos=key_pos,
                self_attn_masks=mask,
                key_padding_mask=key_padding_mask,
                is_first=i == 0,
                **kwargs,
            )
            states.append(self.post_norm(query))
            if i + 1 == len(self.layers):
                break
            if self.relation is not None:
                older, boxes = boxes, _predict_boxes(reg_branches, states[-1], references[-1])
                mask = self.relation(older, boxes)
            references.append((reg_branches(query) + inverse_sigmoid(reference)).sigmoid())
        return [torch.stack(states), torch.stack(references)]

    def _scale_code(self, code: Tensor, query: Tensor, boxes: Tensor, layer: int) -> Tensor:
        """The code of the centres for cross-attention, scaled by the query and by the sides of its box."""
        if self.query_scale_type == "fix_elewise":
            code = code * self.query_scale.weight[layer]
        elif layer:
            code = code * self.query_scale(query)
        if self.with_modulated_hw_attn:
            sides = self.ref_anchor_head(query).sigmoid() / boxes[..., 2:]  # (B, N, 2): of x, y
            code = (code.unflatten(-1, (2, -1)) * sides.flip(-1)[..., None]).flatten(-2)  # of y, then x
        return code


@torch.no_grad()
def _predict_boxes(branch: nn.Module, states: Tensor, references: Tensor) -> Tensor:
    return (branch(states) + inverse_sigmoid(references, eps=EPS)).sigmoid()


class _RelationPlugin:
    """MMDetection's detector, whose decoder takes ``relation_encoder``."""

    decoder_class: type[nn.Module]

    def _init_layers(self) -> None:
        config = dict(self.decoder)
        own = {key: config.pop(key) for key in ("relation_encoder",) if key in config}
        self.decoder = config
        super()._init_layers()  # builds the plain decoder
        self.decoder = self.decoder_class(**config, **own)

    def init_weights(self) -> None:
        super().init_weights()
        if self.decoder.relation is not None:
            self.decoder.relation.proj.reset_parameters()  # not as the layers of the decoder


@MODELS.register_module()
class RelationDINO(_RelationPlugin, DINO):
    """DINO with the position relation: ``decoder=dict(relation_encoder=dict(...))``."""

    decoder_class = RelationDinoDecoder


@MODELS.register_module()
class RelationDeformableDETR(_RelationPlugin, DeformableDETR):
    """Deformable DETR, ``with_box_refine=True``, with the position relation."""

    decoder_class = RelationDeformableDecoder


@MODELS.register_module()
class RelationDABDETR(_RelationPlugin, DABDETR):
    """DAB-DETR with the position relation."""

    decoder_class = RelationDABDecoder


@ZOO.register_model
def relation_dino_r50(**options) -> RelationDINO:
    """DINO with the position relation on a ResNet-50; options as of any detector of the zoo."""
    return build_configured("relation_detr/relation-dino_r50_8xb2-12e_coco.py", DETECTORS, **options)


@ZOO.register_model
def relation_deformable_detr_r50(**options) -> RelationDeformableDETR:
    """Deformable DETR with the position relation on a ResNet-50; options as of any detector of the zoo."""
    return build_configured(
        "relation_detr/relation-deformable-detr_r50_16xb2-50e_coco.py", DETECTORS, **options
    )


@ZOO.register_model
def relation_dab_detr_r50(**options) -> RelationDABDETR:
    """DAB-DETR with the position relation on a ResNet-50; options as of any detector of the zoo."""
    return build_configured("relation_detr/relation-dab-detr_r50_8xb2-50e_coco.py", DETECTORS, **options)

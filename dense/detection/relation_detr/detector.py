"""Relation-DETR, the detector."""

from collections.abc import Mapping, Sequence

import torch
from mmcv.cnn.bricks.transformer import MultiScaleDeformableAttention
from mmdet.models.detectors import DINO, DeformableDETR
from mmdet.models.layers import MLP, DeformableDetrTransformerEncoder, SinePositionalEncoding
from torch import Tensor, nn
from torch.nn import functional as F

from ...registry import MODELS
from .head import init_perceptron
from .plugins import RelationDinoDecoder
from .weights import convert


class MemoryFusionEncoder(DeformableDetrTransformerEncoder):
    """The encoder of Deformable DETR, whose output is a perceptron of its input and all layers' outputs."""

    def _init_layers(self) -> None:
        super()._init_layers()
        dims = self.embed_dims
        first = nn.Linear((self.num_layers + 1) * dims, dims)
        self.memory_fusion = nn.Sequential(first, nn.ReLU(), nn.Linear(dims, dims), nn.LayerNorm(dims))

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        key_padding_mask: Tensor | None,
        spatial_shapes: Tensor,
        level_start_index: Tensor,
        valid_ratios: Tensor,
        **kwargs,
    ) -> Tensor:
        """(B, S, d) to (B, S, d); arguments as in MMDetection."""
        points = self.get_encoder_reference_points(spatial_shapes, valid_ratios, device=query.device)
        first, *others = self.memory_fusion
        # a part of the product after each layer, so that the outputs need not be kept side by side
        weights = first.weight.split(self.embed_dims, dim=1)
        total = F.linear(query, weights[0], first.bias)
        for layer, weight in zip(self.layers, weights[1:], strict=True):
            query = layer(
                query=query,
                query_pos=query_pos,
                key_padding_mask=key_padding_mask,
                spatial_shapes=spatial_shapes,
                level_start_index=level_start_index,
                valid_ratios=valid_ratios,
                reference_points=points,
                **kwargs,
            )
            total += F.linear(query, weight)
        for module in others:
            total = module(total)
        return total


class RelationDETRDecoder(RelationDinoDecoder):
    """The decoder of Relation-DETR: from the second layer on, the query scales its position."""

    def _init_layers(self) -> None:
        super()._init_layers()
        dims = self.embed_dims
        self.ref_point_head = MLP(2 * dims, dims, dims, 2)
        self.query_scale = MLP(dims, dims, dims, 2)

    def encode_position(self, boxes: Tensor, query: Tensor, layer: int) -> Tensor:
        position = super().encode_position(boxes, query, layer)
        return position * self.query_scale(query) if layer else position


@MODELS.register_module()
class RelationDETR(DINO):
    """Relation-DETR.

    Args:
        *args, **kwargs: of MMDetection's ``DINO``; ``decoder`` has ``relation_encoder``, too.
        bbox_head: a :class:`RelationDETRHead`.
        hybrid_queries: of the branch that in training learns from ``HYBRID_REPEATS`` queries a box, without
            relation; 0: no such branch.
    """

    def __init__(self, *args, bbox_head: Mapping, hybrid_queries: int = 1500, **kwargs):
        self.hybrid_queries = hybrid_queries
        super().__init__(*args, bbox_head=dict(bbox_head, with_hybrid=hybrid_queries > 0), **kwargs)
        self.reset_parameters()

    def _init_layers(self) -> None:
        self.positional_encoding = SinePositionalEncoding(**self.positional_encoding)
        self.encoder = MemoryFusionEncoder(**self.encoder)
        self.decoder = RelationDETRDecoder(**self.decoder)
        self.embed_dims = self.encoder.embed_dims
        self.query_embedding = nn.Embedding(self.num_queries, self.embed_dims)
        if self.hybrid_queries:
            self.hybrid_embedding = nn.Embedding(self.hybrid_queries, self.embed_dims)
        self.level_embed = nn.Parameter(torch.empty(self.num_feature_levels, self.embed_dims))
        self.memory_trans_fc = nn.Linear(self.embed_dims, self.embed_dims)
        self.memory_trans_norm = nn.LayerNorm(self.embed_dims)

    def reset_parameters(self) -> None:
        """The published initial weights of all but backbone and neck."""
        nn.init.normal_(self.level_embed)
        for module in self.children():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
        for layer in [*self.encoder.layers, *self.decoder.layers]:
            for parameter in layer.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.init_weights()
        init_perceptron(self.decoder.ref_point_head)
        init_perceptron(self.decoder.query_scale)
        self.bbox_head.init_weights()

    def init_weights(self) -> None:
        """MMEngine's: pretrained weights, where a config names them, have the last word."""
        self.reset_parameters()
        super(DeformableDETR, self).init_weights()

    def pre_decoder(
        self,
        memory: Tensor,
        memory_mask: Tensor | None,
        spatial_shapes: Tensor,
        batch_data_samples: Sequence | None = None,
    ) -> tuple[dict, dict]:
        """Choose proposals as the first references, in training with denoising and hybrid queries.

        Args:
            memory: (B, S, d) of the encoder.
            memory_mask: (B, S) bool, True for padding; or None.
            spatial_shapes: (levels, 2), height and width.
            batch_data_samples: of training.

        Returns:
            Arguments of :meth:`forward_decoder`, and, in training, of the head's loss.

        Raises:
            ValueError: there are fewer positions than queries.
        """
        if memory.shape[1] < self.num_queries:
            raise ValueError(
                f"the maps have {memory.shape[1]} positions, wanted at least num_queries={self.num_queries}"
            )
        features, proposals = self.gen_encoder_output_proposals(memory, memory_mask, spatial_shapes)
        head, last = self.bbox_head, self.decoder.num_layers
        branches = head.cls_branches[last], head.reg_branches[last]
        logits, boxes = self.choose_proposals(features, proposals, *branches, self.num_queries)
        queries = self.query_embedding.weight.expand(len(memory), -1, -1)
        inputs = {"memory": memory}
        if not self.training:
            return {**inputs, "query": queries, "reference_points": boxes.detach(), "dn_mask": None}, {}

        dn_queries, dn_boxes, dn_mask, dn_meta = self.dn_query_generator(batch_data_samples)
        inputs["query"] = torch.cat([dn_queries, queries], 1)
        inputs["reference_points"] = torch.cat([dn_boxes.sigmoid(), boxes.detach()], 1)
        inputs["dn_mask"] = dn_mask
        outputs = {"enc_outputs_class": logits, "enc_outputs_coord": boxes, "dn_meta": dn_meta}
        if self.hybrid_queries:
            branches = head.hybrid_cls_branch, head.hybrid_reg_branch
            count = min(self.hybrid_queries, memory.shape[1])
            logits, boxes = self.choose_proposals(features, proposals, *branches, count)
            queries = self.hybrid_embedding.weight[:count].expand(len(memory), -1, -1)
            inputs["hybrid"] = {"query": queries, "reference_points": boxes.detach()}
            outputs["hybrid"] = {"enc_outputs_class": logits, "enc_outputs_coord": boxes}
        return inputs, outputs

    @staticmethod
    def choose_proposals(
        features: Tensor, proposals: Tensor, cls_branch: nn.Module, reg_branch: nn.Module, count: int
    ) -> tuple[Tensor, Tensor]:
        """The ``count`` positions of the highest logits: these (B, count, classes), and boxes in 0 to 1."""
        logits = cls_branch(features)
        index = logits.amax(-1).topk(count, dim=1).indices[..., None]
        logits, features, proposals = (x.take_along_dim(index, 1) for x in (logits, features, proposals))
        return logits, (reg_branch(features) + proposals).sigmoid()

    def forward_decoder(self, hybrid: dict | None = None, **inputs) -> dict:
        outputs = super().forward_decoder(**inputs)
        if hybrid is not None:
            inputs.update(hybrid, dn_mask=None, with_relation=False)
            outputs["hybrid_outputs"] = super().forward_decoder(**inputs)
        return outputs

    def convert_official(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' weights by our names; of a backbone those of a ResNet.

        Of weights for the 91 ids of COCO a network of 80 classes takes the rows of its classes.
        """
        return convert(
            state_dict,
            layers=self.decoder.num_layers,
            maps=len(self.neck.convs),
            levels=self.num_feature_levels,
            classes=self.bbox_head.num_classes,
        )

"""Relation-DETR, the detector."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmcv.cnn.bricks.transformer import MultiScaleDeformableAttention
from mmdet.models.detectors import DINO, DeformableDETR
from mmdet.models.layers import MLP, DeformableDetrTransformerEncoder, SinePositionalEncoding
from mmdet.registry import MODELS as DETECTORS
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.network import results

from ....base.configured import ConfiguredNetwork
from ....registry import MODELS, ZOO
from ...samples import make_samples
from .head import init_mlp
from .plugins import RelationDinoDecoder
from .weights import COCO_IDS, convert


class MemoryFusionEncoder(DeformableDetrTransformerEncoder):
    """The encoder of Deformable DETR, whose output is an MLP of its input and all layers' outputs."""

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


@ZOO.register_network("relation_detr", MODELS)
class RelationDETR(ConfiguredNetwork, DINO):
    """Relation-DETR.

    Weights for the 91 ids of COCO can be loaded into a network of 80 classes, which takes their rows.

    Args:
        *args, **kwargs: of MMDetection's ``DINO``; ``decoder`` has ``relation_encoder``, too.
        bbox_head: a :class:`RelationDETRHead`.
        hybrid_queries: of the branch that in training learns from ``HYBRID_REPEATS`` queries a box, without
            relation; 0: no such branch.
    """

    title = "Relation-DETR"
    paper = (
        'Hou, Liu, Zhang, Wei, Chen, Lan, "Relation DETR: Exploring Explicit Position Relation Prior for '
        'Object Detection", ECCV 2024, arXiv 2407.11699'
    )
    code = "xiuqhou/Relation-DETR"
    licence = "Apache-2.0"
    library = DETECTORS
    exempt = {
        "gradients": "heads of proposals and of the hybrid branch learn from losses, not from the output",
        "bfloat16": "queries are at the positions of the highest logits, and rounding chooses others",
    }
    archs = {
        "r50": {"config": "relation_detr/relation-detr_r50_8xb2-12e_coco.py"},
        "swin_l": {"config": "relation_detr/relation-detr_swin-l_8xb2-12e_coco.py"},
    }
    num_parameters = {"r50": 48_897_000, "swin_l": 219_180_764}
    published = results(
        (
            "COCO val AP, 12 epochs",
            "COCO val AP50, 12 epochs",
            "COCO val AP, 24 epochs",
            "COCO val AP50, 24 epochs",
        ),
        {"r50": (51.7, 69.1, 52.1, 69.7), "swin_l": (57.8, 76.1, 58.1, 76.4)},
    )

    def __init__(self, *args, bbox_head: Mapping, hybrid_queries: int = 1500, **kwargs):
        self.hybrid_queries = hybrid_queries
        super().__init__(*args, bbox_head=dict(bbox_head, with_hybrid=hybrid_queries > 0), **kwargs)
        self.reset_parameters()
        self.register_load_state_dict_pre_hook(_choose_classes)

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
        init_mlp(self.decoder.ref_point_head)
        init_mlp(self.decoder.query_scale)
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

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: Sequence | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits and boxes of all layers; in training of the denoising queries, too, without hybrid ones."""
        found = self.forward_transformer(self.extract_feat(batch_inputs), batch_data_samples)
        return self.bbox_head(found["hidden_states"], found["references"])

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        """On a ResNet-18 of an eighth of the width, two layers and few queries."""
        small = {
            "backbone.depth": 18,
            "backbone.stem_channels": 8,
            "backbone.base_channels": 8,
            "neck.in_channels": [16, 32, 64],
            "encoder.num_layers": 1,
            "decoder.num_layers": 2,
            "num_queries": 20,
            "hybrid_queries": 30,
            "test_cfg.max_per_img": 20,
            "num_classes": 5,
        }
        return cls.create("r50", **{**small, **options})

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' weights by our names; of a backbone those of a ResNet."""
        return convert(state_dict)

    @classmethod
    def guess_options(
        cls, state_dict: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        """Weights of the ResNet, of any numbers of classes, queries and layers."""
        hybrid = state_dict.get("hybrid_embedding.weight", ())
        found = {
            "num_classes": len(state_dict["bbox_head.cls_branches.0.weight"]),
            "num_queries": len(state_dict["query_embedding.weight"]),
            "hybrid_queries": len(hybrid),
            "encoder.num_layers": _count(state_dict, "encoder.layers."),
            "decoder.num_layers": _count(state_dict, "decoder.layers."),
        }
        usual = {"num_queries": 900, "hybrid_queries": 1500, "encoder.num_layers": 6, "decoder.num_layers": 6}
        yield "r50", {key: value for key, value in found.items() if usual.get(key) != value}, dict(state_dict)

    def example_inputs(self, batch: int = 2, size: tuple[int, int] = (224, 224)) -> tuple[Tensor, list]:
        """Random images, and samples with a box each."""
        return torch.randn(batch, 3, *size), make_samples(batch, size)


def _count(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in state_dict if key.startswith(prefix)})


def _choose_classes(detector: RelationDETR, state_dict: dict, prefix: str, *_) -> None:
    """Before weights for 91 ids are loaded into a network of COCO's 80 classes: take their rows."""
    if detector.bbox_head.num_classes != len(COCO_IDS):
        return
    for key, value in state_dict.items():
        if key.startswith(prefix) and ("cls_branch" in key or "label_embedding" in key) and len(value) == 91:
            state_dict[key] = value[COCO_IDS]

"""The head of Relation-DETR and its loss of classes."""

from collections.abc import Sequence

import torch
from mmdet.models.dense_heads import DETRHead, DINOHead
from mmdet.models.layers import inverse_sigmoid
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from mmdet.utils import reduce_mean
from mmengine.model import bias_init_with_prob
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from ....registry import MODELS
from .plugins import EPS

HYBRID_REPEATS = 6  # of every box, as targets of the hybrid branch


@MODELS.register_module()
class DetachedVarifocalLoss(nn.Module):
    """Cross-entropy whose target for a matched class is the IoU, with weights that get no gradient.

    With p the sigmoid of a logit and t the IoU, the weight of the binary cross-entropy is t where matched,
    and (1 - alpha) * p ** gamma elsewhere.

    Args:
        alpha, gamma: as above.
        loss_weight: a factor.
    """

    use_sigmoid = True  # MMDetection's heads ask

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, loss_weight: float = 1.0):
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.loss_weight = loss_weight

    def forward(
        self, logits: Tensor, target: tuple[Tensor, Tensor], avg_factor: float | Tensor = 1.0
    ) -> Tensor:
        """Sum over all, divided by ``avg_factor``.

        Args:
            logits: (N, classes).
            target: labels (N,), ``classes`` where nothing is matched, and IoU (N,).
        """
        labels, quality = target
        logits = logits.to(quality.dtype)  # single precision under autocast, too
        matched = F.one_hot(labels, logits.shape[1] + 1)[:, :-1].bool()
        quality = quality[:, None].expand_as(logits)
        weight = torch.where(matched, quality, (1 - self.alpha) * logits.detach().sigmoid() ** self.gamma)
        target = quality.where(matched, 0)
        loss = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
        return self.loss_weight * loss / avg_factor


@MODELS.register_module()
class RelationDETRHead(DINOHead):
    """The head of Relation-DETR: that of DINO with IoU-aware classes and the heads of the hybrid branch.

    All losses are sums divided by the mean number of boxes a process has, that of denoising also by its
    groups. ``loss_cls`` is called as ``loss(logits, (labels, iou), avg_factor=...)``.

    Args:
        *args, **kwargs: of MMDetection's ``DINOHead``.
        with_hybrid: set by the detector.
    """

    def __init__(self, *args, with_hybrid: bool = True, **kwargs):
        self.with_hybrid = with_hybrid
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.with_hybrid:
            self.hybrid_cls_branch = nn.Linear(self.embed_dims, self.cls_out_channels)
            self.hybrid_reg_branch = _box_branch(self.embed_dims, self.num_reg_fcs)

    def init_weights(self) -> None:
        classifiers, regressors = [*self.cls_branches], [*self.reg_branches]
        if self.with_hybrid:
            classifiers.append(self.hybrid_cls_branch)
            regressors.append(self.hybrid_reg_branch)
        for branch in classifiers:
            nn.init.constant_(branch.bias, bias_init_with_prob(0.01))
        for branch in regressors:
            init_mlp(branch)
            nn.init.zeros_(branch[-1].weight)

    def forward(self, hidden_states: Tensor, references: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (L, B, N, classes) and boxes (L, B, N, 4) of states and references of the decoder."""
        logits, boxes = [], []
        for i, (state, reference) in enumerate(zip(hidden_states, references, strict=True)):
            logits.append(self.cls_branches[i](state))
            boxes.append((self.reg_branches[i](state) + inverse_sigmoid(reference, eps=EPS)).sigmoid())
        return torch.stack(logits), torch.stack(boxes)

    def loss(
        self,
        *args,
        batch_data_samples: Sequence,
        hybrid: dict | None = None,
        hybrid_outputs: dict | None = None,
        **kwargs,
    ) -> dict[str, Tensor]:
        losses = super().loss(*args, batch_data_samples=batch_data_samples, **kwargs)
        if hybrid is not None:
            found = self._loss_hybrid(batch_data_samples, **hybrid, **hybrid_outputs)
            losses.update({f"hybrid_{name}": loss for name, loss in found.items()})
        return losses

    def _loss_hybrid(
        self,
        samples: Sequence,
        enc_outputs_class: Tensor,
        enc_outputs_coord: Tensor,
        hidden_states: Tensor,
        references: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        metas = [sample.metainfo for sample in samples]
        targets = [InstanceData.cat([sample.gt_instances] * HYBRID_REPEATS) for sample in samples]
        losses = DETRHead.loss_by_feat(self, *self(hidden_states, references), targets, metas)
        encoder = self.loss_by_feat_single(enc_outputs_class, enc_outputs_coord, targets, metas)
        losses.update(zip(("enc_loss_cls", "enc_loss_bbox", "enc_loss_iou"), encoder, strict=True))
        return losses

    def loss_by_feat_single(
        self,
        cls_scores: Tensor,
        bbox_preds: Tensor,
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of class, box and overlap of one layer, whose queries are matched to the boxes."""
        targets = self.get_targets(
            list(cls_scores), list(bbox_preds), list(batch_gt_instances), list(batch_img_metas)
        )
        return self._losses(cls_scores, bbox_preds, targets, _count(batch_gt_instances, cls_scores.device))

    def _loss_dn_single(
        self,
        dn_cls_scores: Tensor,
        dn_bbox_preds: Tensor,
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
        dn_meta: dict[str, int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        targets = self.get_dn_targets(batch_gt_instances, batch_img_metas, dn_meta)
        count = _count(batch_gt_instances, dn_cls_scores.device) * dn_meta["num_denoising_groups"]
        return self._losses(dn_cls_scores, dn_bbox_preds, targets, count)

    def _losses(self, logits: Tensor, boxes: Tensor, targets: tuple, count: float) -> tuple[Tensor, ...]:
        labels, _, wanted, weights = (torch.cat(parts) for parts in targets[:4])
        matched = weights[:, 0].nonzero().squeeze(1)
        found, wanted = boxes.flatten(0, 1)[matched], wanted[matched]
        # in thousandths of the image: MMDetection's overlaps take areas to be at least 1e-6
        corners, truth = (1000 * bbox_cxcywh_to_xyxy(x) for x in (found, wanted))
        quality = boxes.new_zeros(len(labels))
        quality[matched] = bbox_overlaps(corners.detach(), truth, is_aligned=True)
        return (
            self.loss_cls(logits.flatten(0, 1), (labels, quality), avg_factor=count),
            self.loss_bbox(found, wanted, avg_factor=count),
            self.loss_iou(corners, truth, avg_factor=count),
        )


def _count(instances: Sequence[InstanceData], device: torch.device) -> float:
    """Boxes of a batch, as a mean over the processes, at least 1."""
    count = torch.tensor([float(sum(len(boxes) for boxes in instances))], device=device)
    return max(reduce_mean(count).item(), 1.0)


def _box_branch(dims: int, layers: int) -> nn.Sequential:
    hidden = [module for _ in range(layers) for module in (nn.Linear(dims, dims), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(dims, 4))


def init_mlp(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

"""Losses of classifiers beside that of their logits."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import MODELS


@MODELS.register_module()
class AttentionDiversificationLoss(nn.Module):
    """How alike tokens attend: the mean cosine between what each token attends to and their mean.

    Of each layer: weights are averaged over heads, and those of at most ``threshold / N`` of a row and of the
    mean row count as 0; rows of which nothing is left give 0, so that attention near the uniform costs
    nothing. The loss is the mean over rows, images and layers, of each image by itself.

    Source: Guo et al., "Robustifying Token Attention for Vision Transformers", ICCV 2023, arXiv 2303.11126.

    Args:
        threshold: in units of a uniform weight, 1 / N.
        loss_weight: factor of the loss.
    """

    def __init__(self, threshold: float = 2.0, loss_weight: float = 1.0):
        super().__init__()
        if threshold < 0:
            raise ValueError(f"threshold must not be negative, found {threshold}")
        self.threshold, self.loss_weight = threshold, loss_weight

    def forward(self, attention: Sequence[Tensor]) -> Tensor:
        """Of each layer (B, heads, N, N), of which N may differ, to a scalar.

        Raises:
            ValueError: no layer.
        """
        if not attention:
            raise ValueError("found no attention of any layer, wanted a network with dense's SelfAttention")
        total = sum(map(self.one_layer, attention))
        return self.loss_weight * total / (len(attention) + 1e-6)

    def one_layer(self, attention: Tensor) -> Tensor:
        """(B, heads, N, N) to a scalar."""
        rows = attention.mean(1)
        mean = rows.mean(1, keepdim=True)
        threshold = self.threshold / rows.shape[-1]
        kept, common = (x * (x > threshold) for x in (rows, mean))
        return F.cosine_similarity(kept, common, dim=-1, eps=1e-8).mean()

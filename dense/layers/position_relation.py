"""The relation encoder of Relation-DETR: a bias of attention from where boxes lie to each other."""

from torch import Tensor, nn

from ..ops import position_relation


class PositionRelation(nn.Module):
    """One number a head for each pair of boxes; see :func:`dense.ops.position_relation`.

    Args:
        num_heads: of the attention.
        embed_dims: sines and cosines of each of the four coordinates; even.
        temperature: how far their frequencies spread.
        scale: of the angles.
    """

    def __init__(
        self, num_heads: int = 8, embed_dims: int = 16, temperature: float = 10000.0, scale: float = 100.0
    ):
        super().__init__()
        if embed_dims < 2 or embed_dims % 2:
            raise ValueError(f"embed_dims must be even and positive, found {embed_dims}")
        self.temperature = temperature
        self.scale = scale
        self.proj = nn.Linear(4 * embed_dims, num_heads)

    def forward(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Bias of attention from ``source`` to ``target`` boxes.

        Args:
            source: (B, N1, 4), centre and size; no gradient goes to boxes.
            target: (B, N2, 4).
            mask: (N1, N2) bool, True where there is to be no attention.

        Returns:
            (B * heads, N1, N2) float32, as PyTorch's attention takes it: 0 or more; -inf where masked.
        """
        relation = position_relation(
            source,
            target,
            self.proj.weight,
            self.proj.bias,
            temperature=self.temperature,
            scale=self.scale,
        )
        if mask is not None:
            relation.masked_fill_(mask, -float("inf"))
        return relation.flatten(0, 1)

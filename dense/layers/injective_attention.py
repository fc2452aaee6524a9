"""Injective linear attention (InLine)."""

import torch
from torch import Tensor, nn

from ..ops import dynamic_depthwise_conv, linear_attention
from ..ops.linear_attention import FEATURES
from .attention import SelfAttention


class InjectiveAttention(SelfAttention):
    r"""Linear attention that subtracts where others divide, and a convolution whose kernels the input sets.

    With queries and keys after the feature map, and their means over all N tokens,

    .. math:: y_i = \sum_j \left( \frac{1}{N \sqrt d} \, q_i \cdot (k_j - \bar k) + \frac{1}{N} \right) v_j,

    which takes time and memory linear in N. An MLP of the mean token makes a 3x3 kernel for each channel; the
    values of the patches, convolved with these, join y before the last layer.

    Maps (B, H, W, C) to the same; or tokens (B, P + h * w, C) with the grid (h, w), of which the first P are
    not convolved. Source: Han et al., "Bridging the Divide: Reconsidering Softmax and Linear Attention",
    NeurIPS 2024, arXiv 2412.06590.

    Args:
        embed_dims: C.
        num_heads: divides C.
        qkv_bias: bias of queries, keys and values.
        feature: map of queries and keys, see :func:`~dense.ops.linear_attention`.
        lepe: add a depthwise 3x3 convolution of the values with learned kernels (LePE).
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        feature: str = "identity",
        lepe: bool = False,
    ):
        super().__init__(embed_dims, num_heads, qkv_bias=qkv_bias)
        if feature not in FEATURES:
            raise ValueError(f"feature must be one of {list(FEATURES)}, found {feature!r}")
        self.feature = feature
        self.residual = nn.Sequential(
            nn.Conv1d(embed_dims, embed_dims, 1, groups=num_heads),
            nn.GELU(),
            nn.Conv1d(embed_dims, 9 * embed_dims, 1, groups=num_heads),
        )
        self.lepe = nn.Conv2d(embed_dims, embed_dims, 3, padding=1, groups=embed_dims) if lepe else None

    def weigh(self, q: Tensor, k: Tensor) -> Tensor:
        q, k = (FEATURES[self.feature](x) for x in (q, k))
        k = k - k.mean(-2, keepdim=True)
        return (self.scale * q @ k.transpose(-2, -1) + 1) / k.shape[-2]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        how = {"feature": self.feature, "normalization": "difference", "scale": self.scale}
        return linear_attention(q, k, v, **how)

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None, pooled: Tensor | None = None) -> Tensor:
        """``pooled`` (B, C) is what makes the kernels, the mean token by default."""
        tokens = x.flatten(1, -2)
        grid = tuple(x.shape[1:3]) if grid is None else grid
        qkv = self.qkv(tokens)
        y = self.mix(qkv)
        values = qkv[:, -grid[0] * grid[1] :, 2 * self.qkv.in_features :].unflatten(1, grid)
        local = self.convolve(values, tokens.mean(1) if pooled is None else pooled).flatten(1, 2)
        prefix = y.shape[1] - local.shape[1]
        y = torch.cat((y[:, :prefix], y[:, prefix:] + local), 1) if prefix else y + local
        return self.proj(y).view(x.shape)

    def convolve(self, values: Tensor, pooled: Tensor) -> Tensor:
        """(B, H, W, C) with the kernels that (B, C) makes, and those of all samples."""
        kernels = self.residual(pooled[..., None]).view(len(pooled), -1, 3, 3)
        if self.lepe is None:
            return dynamic_depthwise_conv(values, kernels)
        return dynamic_depthwise_conv(values, kernels + self.lepe.weight[:, 0], self.lepe.bias)

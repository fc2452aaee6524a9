"""A vision Transformer of kernelised attention with relative positions in two dimensions, in n log n.

Luo et al., "Stable, Fast and Accurate: Kernelized Attention with Relative Positional Encoding", NeurIPS 2021,
arXiv 2106.12566. No published code; the network is ours, the operator the paper's.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..base import TokenBackbone, register_backbone
from ..base.token_backbone import Grid
from ..layers import MLP, drop_path_rates, init_normal, kernelized_stack, redraw_features
from .vit import Block


@register_backbone("kernelized_vit")
class KernelizedViT(TokenBackbone):
    """Pre-norm blocks of kernelised attention and MLP; no class token, and the mean of all is classified.

    Places are known by the tables of offsets, which are as large as ``img_size`` wants. Images of other sizes
    have other grids: what lies farther apart than the table reaches counts as its outermost offset.

    Args:
        arch: a variant, or a dict as those in ``archs``.
        drop_path_rate: of the last block; it grows linearly from 0.
        shared_table: one table for all blocks.
        num_features, normalize, orthogonal, bias_bound, qkv_bias, method: see
            :class:`~dense.layers.KernelizedAttention`.
        seed: of the features; each block has its own.
        positions: add a learned table to the patches, too.
        **kwargs: see :class:`~dense.base.token_backbone.TokenBackbone`.
    """

    folder = "kernelized_rpe"
    title = "KernelizedViT"
    paper = (
        'Luo et al., "Stable, Fast and Accurate: Kernelized Attention with Relative Positional Encoding", '
        "NeurIPS 2021, arXiv 2106.12566"
    )
    archs = {"tiny": {"embed_dims": 192, "depth": 12, "num_heads": 3, "patch_size": 16, "img_size": 224}}
    num_parameters = {"tiny": 5_705_644}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        drop_path_rate: float = 0.0,
        shared_table: bool = False,
        num_features: int = 64,
        normalize: bool = True,
        orthogonal: bool = True,
        bias_bound: float | None = None,
        qkv_bias: bool = True,
        method: str | None = None,
        seed: int = 0,
        positions: bool = False,
        **kwargs,
    ):
        super().__init__(arch, class_token=False, positions=positions, **kwargs)
        dims, heads = self.spec["embed_dims"], self.spec["num_heads"]
        stack = kernelized_stack(
            self.spec["depth"],
            dims,
            heads,
            grid=self.grid,
            num_features=num_features,
            normalize=normalize,
            orthogonal=orthogonal,
            bias_bound=bias_bound,
            qkv_bias=qkv_bias,
            method=method,
            shared_table=shared_table,
            seed=seed,
        )
        for attn, rate in zip(stack, drop_path_rates(drop_path_rate, [len(stack)])[0], strict=True):
            self.blocks.append(Block(dims, attn, MLP(dims, 4 * dims), rate))
        init_normal(self, nn.Linear)
        self.set_outputs()

    def run_block(self, index: int, tokens: Tensor, grid: Grid) -> Tensor:
        return self._run(self.blocks[index], tokens, grid)

    def redraw_features(self, seed: int) -> None:
        """Other random features in every block, see :class:`~dense.layers.KernelizedAttention`."""
        redraw_features(self, seed)

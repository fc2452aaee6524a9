"""A causal language model of kernelised attention with relative positions, in n log n.

Luo et al., "Stable, Fast and Accurate: Kernelized Attention with Relative Positional Encoding", NeurIPS 2021,
arXiv 2106.12566. No published code; the network is ours, the operator the paper's.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...layers import (
    MLP,
    KernelizedAttention,
    LayerNorm,
    init_normal,
    kernelized_stack,
    redraw_features,
)
from ...registry import MODELS, ZOO
from ..language_model import LanguageModel, Layer


class Cache(NamedTuple):
    """Keys and values (B, heads, m, d) of the tokens so far, and which of these are real, (B, m)."""

    k: Tensor
    v: Tensor
    real: Tensor


class KernelizedLayer(Layer):
    """x + attention(norm(x)), then x + MLP(norm(x)): (B, n, D) to the same.

    What a token sees of others depends on offsets, so a state keeps their keys and values.
    """

    def __init__(self, attn: KernelizedAttention, hidden_dims: int):
        super().__init__()
        dims = attn.proj.in_features
        self.norm1 = LayerNorm(dims, 1e-6)
        self.attn = attn
        self.norm2 = LayerNorm(dims, 1e-6)
        self.mlp = MLP(dims, hidden_dims)

    def forward(
        self, x: Tensor, start: int = 0, state: Cache | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Cache | None]:
        attn = self.attn
        q, k, v = attn.qkv(self.norm1(x)).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        real = mask
        if state is not None:
            real = mask if mask is not None else x.new_ones(x.shape[:2], dtype=torch.bool)
            real = torch.cat((state.real, real), 1)
            k, v = (torch.cat((old.to(new.dtype), new), 2) for old, new in ((state.k, k), (state.v, v)))
            state = Cache(k, v, real)
        y = attn.attend(q, k, v, None, real)
        x = x + attn.proj(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x)), state

    def new_state(self, batch: int, like: Tensor) -> Cache:
        attn = self.attn
        empty = like.new_empty(batch, attn.num_heads, 0, attn.features.shape[1])
        return Cache(empty, empty, like.new_empty(batch, 0, dtype=torch.bool))


@ZOO.register_network("kernelized_rpe", MODELS)
class KernelizedRPE(LanguageModel):
    """Causal language model: see :class:`~dense.sequence.language_model.LanguageModel`.

    Places are known by the offsets' tables alone. All tokens at once take n log n; each of those that follow
    a state takes time and memory that grow with the tokens before it.

    Args:
        arch: a variant, or a mapping with their keys.
        vocab_size: V.
        max_length: tokens that the tables reach.
        clip: offsets beyond it count as it; then any number of tokens fits.
        shared_table: one table for all layers.
        num_features, normalize, orthogonal, bias_bound, qkv_bias, method: see
            :class:`~dense.layers.KernelizedAttention`.
        seed: of the features; each layer has its own.
        tied, with_cp: see :class:`~dense.sequence.language_model.LanguageModel`.
    """

    title = "Kernelised attention with RPE"
    paper = (
        'Luo et al., "Stable, Fast and Accurate: Kernelized Attention with Relative Positional Encoding", '
        "NeurIPS 2021, arXiv 2106.12566"
    )
    archs = {
        "tiny": {"embed_dims": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 4.0},
        "small": {"embed_dims": 256, "depth": 4, "num_heads": 4, "mlp_ratio": 4.0},
    }
    num_parameters = {"tiny": 842_480, "small": 3_241_456}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        vocab_size: int = 256,
        *,
        max_length: int = 512,
        clip: int | None = None,
        shared_table: bool = False,
        num_features: int = 64,
        normalize: bool = True,
        orthogonal: bool = True,
        bias_bound: float | None = None,
        qkv_bias: bool = True,
        method: str | None = None,
        seed: int = 0,
        tied: bool = True,
        with_cp: bool = False,
    ):
        spec = self.find_arch(arch)
        dims, heads = spec["embed_dims"], spec["num_heads"]
        length = max_length if clip is None else None
        super().__init__(vocab_size, dims, tied=tied, max_length=length, with_cp=with_cp)
        stack = kernelized_stack(
            spec["depth"],
            dims,
            heads,
            length=length,
            clip=clip,
            causal=True,
            num_features=num_features,
            normalize=normalize,
            orthogonal=orthogonal,
            bias_bound=bias_bound,
            qkv_bias=qkv_bias,
            method=method,
            shared_table=shared_table,
            seed=seed,
        )
        self.layers.extend(KernelizedLayer(attn, int(spec["mlp_ratio"] * dims)) for attn in stack)
        self.norm = LayerNorm(dims, 1e-6)
        init_normal(self, nn.Linear)

    def redraw_features(self, seed: int) -> None:
        """Other random features in every layer, see :class:`~dense.layers.KernelizedAttention`."""
        redraw_features(self, seed)

"""The plain causal Transformer: softmax attention between all tokens. What others are measured against.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv 1706.03762. Norms come first (Radford et
al., "Language Models are Unsupervised Multitask Learners", 2019); rotary positions are those of Su et al.,
"RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv 2104.09864.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import LayerNorm, Linear
from ...registry import MODELS, ZOO
from ..language_model import LanguageModel, Layer

POSITIONS = ("learned", "rotary", "none")


class Cache(NamedTuple):
    """Keys and values (B, heads, m, d) of the tokens so far, and which of these are real, (B, m)."""

    k: Tensor
    v: Tensor
    real: Tensor


def rotate(x: Tensor, start: int, base: float = 10_000.0) -> Tensor:
    """Turn pairs of channels, c and c + d/2, by position * base^(-2c/d): (..., n, d) to the same."""
    half = x.shape[-1] // 2
    place = torch.arange(start, start + x.shape[-2], device=x.device, dtype=torch.float32)
    rate = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = place[:, None] * rate  # (n, d/2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class CausalAttention(nn.Module):
    """Softmax attention of each token to itself and those before: as a :class:`Layer`, without residual.

    Args:
        embed_dims: D.
        num_heads: divides D.
        bias: of the linear layers.
        rotary: turn queries and keys by their positions.
        dropout: of attention weights.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        bias: bool = True,
        rotary: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        if num_heads < 1 or embed_dims % num_heads:
            raise ValueError(f"num_heads must divide embed_dims {embed_dims}, found {num_heads}")
        if rotary and embed_dims // num_heads % 2:
            raise ValueError(f"rotary positions want heads of an even width, found {embed_dims // num_heads}")
        self.num_heads, self.rotary, self.dropout = num_heads, rotary, dropout
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=bias)
        self.proj = Linear(embed_dims, embed_dims, bias=bias)

    def forward(
        self, x: Tensor, start: int = 0, state: Cache | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Cache | None]:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, n, d)
        if self.rotary:
            q, k = rotate(q, start), rotate(k, start)
        real = mask
        if state is not None:
            real = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
            k, v = (torch.cat((old.to(new.dtype), new), 2) for old, new in ((state.k, k), (state.v, v)))
            real = torch.cat((state.real, real), 1)
            state = Cache(k, v, real)
        before = k.shape[2] - q.shape[2]
        dropout = self.dropout if self.training else 0.0
        if real is None or (not before and mask is None):
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        else:
            row = torch.arange(before, k.shape[2], device=x.device)[:, None]
            column = torch.arange(k.shape[2], device=x.device)
            # padding sees itself, so that its softmax is of something
            seen = ((column < row) & real[:, None, None]) | (column == row)  # (B, 1, n, m)
            y = F.scaled_dot_product_attention(q, k, v, seen, dropout)
        return self.proj(y.transpose(1, 2).flatten(2)), state

    def new_state(self, batch: int, like: Tensor) -> Cache:
        width = self.proj.in_features // self.num_heads
        empty = like.new_empty(batch, self.num_heads, 0, width)
        return Cache(empty, empty, like.new_empty(batch, 0, dtype=torch.bool))


class TransformerLayer(Layer):
    """x + attention(norm(x)), then x + MLP(norm(x)), with an exact GELU."""

    def __init__(
        self, embed_dims: int, num_heads: int, mlp_ratio: float, *, bias: bool, rotary: bool, dropout: float
    ):
        super().__init__()
        hidden = int(mlp_ratio * embed_dims)
        self.norm1 = LayerNorm(embed_dims, 1e-5, bias=bias)
        self.attn = CausalAttention(embed_dims, num_heads, bias=bias, rotary=rotary, dropout=dropout)
        self.norm2 = LayerNorm(embed_dims, 1e-5, bias=bias)
        self.fc1 = Linear(embed_dims, hidden, bias=bias)
        self.fc2 = Linear(hidden, embed_dims, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, start: int = 0, state: Any = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        y, state = self.attn(self.norm1(x), start, state, mask)
        x = x + self.dropout(y)
        return x + self.dropout(self.fc2(self.fc1(self.norm2(x), activation="gelu"))), state

    def new_state(self, batch: int, like: Tensor) -> Cache:
        return self.attn.new_state(batch, like)


@ZOO.register_network("transformer", MODELS)
class Transformer(LanguageModel):
    """Causal language model of softmax attention: see :class:`~dense.sequence.language_model.LanguageModel`.

    Decoding keeps keys and values: time and memory of a token grow with those before it. Weights start
    normal, with a standard deviation of 0.02, those that end a residual branch by 1 / sqrt(2 depth) less.

    Args:
        arch: a variant, or a mapping with their keys.
        vocab_size: V.
        positions: "learned" (a table of ``max_length`` rows), "rotary" or "none".
        max_length: tokens that a table of positions reaches; no bound where there is none.
        bias: of linear layers and norms.
        dropout: of embeddings, attention weights and residual branches.
        tied, with_cp: see :class:`~dense.sequence.language_model.LanguageModel`.
    """

    paper = 'Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv 1706.03762'
    archs = {
        "tiny": {"embed_dims": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 4.0},
        "small": {"embed_dims": 384, "depth": 6, "num_heads": 6, "mlp_ratio": 4.0},
    }
    num_parameters = {"tiny": 853_120, "small": 10_818_432}
    exempt = {"packs": "no published weights are read"}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        vocab_size: int = 256,
        *,
        positions: str = "learned",
        max_length: int = 256,
        bias: bool = False,
        dropout: float = 0.0,
        tied: bool = True,
        with_cp: bool = False,
    ):
        if positions not in POSITIONS:
            raise ValueError(f"positions must be one of {POSITIONS}, found {positions!r}")
        spec = self.find_arch(arch)
        dims, depth = spec["embed_dims"], spec["depth"]
        learned = positions == "learned"
        super().__init__(
            vocab_size, dims, tied=tied, max_length=max_length if learned else None, with_cp=with_cp
        )
        self.embed_positions = nn.Embedding(max_length, dims) if learned else None
        self.dropout = nn.Dropout(dropout)
        options = {"bias": bias, "rotary": positions == "rotary", "dropout": dropout}
        self.layers.extend(
            TransformerLayer(dims, spec["num_heads"], spec["mlp_ratio"], **options) for _ in range(depth)
        )
        self.norm = LayerNorm(dims, 1e-5, bias=bias)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                ends_branch = name.endswith(("attn.proj", "fc2"))
                nn.init.normal_(module.weight, std=0.02 * ((2 * depth) ** -0.5 if ends_branch else 1))
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(module.bias)

    def add_positions(self, x: Tensor, start: int) -> Tensor:
        if self.embed_positions is not None:
            x = x + self.embed_positions.weight[start : start + x.shape[1]]
        return self.dropout(x)

"""Self-attention of tokens, whose weights can be asked for."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import CheckpointError

from .linear import Linear


class SelfAttention(nn.Module):
    """Multi-head attention between all tokens: (B, N, C), or the pixels of (B, H, W, C), to the same.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017. A subclass that changes the weights
    overrides :meth:`weigh` and :meth:`attend`, so that both ways of computing them agree; what else they need
    (as the grid of the tokens) is handed on by :meth:`forward`.

    Args:
        embed_dims: C.
        num_heads: divides C.
        qkv_bias: bias of queries, keys and values.
        scale: of the products of queries and keys; by default the width of a head to the power -0.5.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, qkv_bias: bool = True, scale: float | None = None):
        super().__init__()
        if num_heads < 1 or embed_dims % num_heads:
            raise ValueError(f"num_heads must divide embed_dims {embed_dims}, found {num_heads}")
        self.num_heads = num_heads
        self.scale = (embed_dims // num_heads) ** -0.5 if scale is None else scale
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = Linear(embed_dims, embed_dims)
        self.recorded: list[Tensor] | None = None  # see record_attention
        # what attends in place of weigh and attend, as (attention, q, k, v) -> (B, heads, N, d)
        self.attends: Callable[[SelfAttention, Tensor, Tensor, Tensor], Tensor] | None = None

    def weigh(self, q: Tensor, k: Tensor, *context: Any) -> Tensor:
        """Attention weights (B, heads, N, M) of queries (B, heads, N, d) and keys (B, heads, M, d)."""
        return (self.scale * q @ k.transpose(-2, -1)).softmax(-1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *context: Any) -> Tensor:
        """What the weights make of values (B, heads, M, d), without holding the weights where possible."""
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        return self.proj(self.mix(self.qkv(x.flatten(1, -2)), *context)).view(x.shape)

    def mix(self, qkv: Tensor, *context: Any) -> Tensor:
        """Queries, keys and values (B, N, 3 C), in this order, to (B, N, C)."""
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if self.attends is not None:
            y = self.attends(self, q, k, v)
        elif self.recorded is None:
            y = self.attend(q, k, v, *context)
        else:
            weights = self.weigh(q, k, *context)
            self.recorded.append(weights)
            y = weights @ v
        return y.transpose(1, 2).flatten(2)


class ClassAttention(SelfAttention):
    """Multi-head attention of the first token to all: (B, N, C) to (B, 1, C).

    For one query, keys and values need not be computed: the query of each head goes through the weights of
    its keys (their biases add the same to all logits of a head), and the weighted mean of tokens through
    those of its values. That takes about N * C * heads products, not N * C * C.

    Source: Touvron et al., "Going Deeper with Image Transformers", ICCV 2021, arXiv 2103.17239.
    """

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv.weight.unflatten(0, (3, self.num_heads, -1))  # (heads, d, C) each
        biases = (None, None, None) if self.qkv.bias is None else self.qkv.bias.chunk(3)
        q = F.linear(x[:, 0], query.flatten(0, 1), biases[0]).unflatten(1, (self.num_heads, -1))
        q = torch.einsum("bhd,hdc->bhc", self.scale * q, key)
        weights = (q @ x.mT).softmax(-1)  # (B, heads, N)
        if self.recorded is not None:
            self.recorded.append(weights[:, :, None])
        y = torch.einsum("bhc,hdc->bhd", weights @ x, value).flatten(1)
        if biases[2] is not None:
            y = y + biases[2]
        return self.proj(y[:, None])


@contextmanager
def record_attention(module: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Within it, every :class:`SelfAttention` in ``module`` keeps the weights that it computes.

    Yields:
        By the attention's name, a list of (B, heads, N, M), one for each call, with their gradient's graph.
    """
    found = {name: part for name, part in module.named_modules() if isinstance(part, SelfAttention)}
    for part in found.values():
        part.recorded = []
    try:
        yield {name: part.recorded for name, part in found.items()}
    finally:
        for part in found.values():
            part.recorded = None


def join_qkv(
    state_dict: Mapping[str, Tensor], names: Sequence[str], attention: str = ".*"
) -> dict[str, Tensor]:
    """Weights with each attention's queries, keys and values as one layer ``qkv``.

    Args:
        state_dict: of published weights.
        names: of the layers, as ("query", "key", "value") or ("q", "kv").
        attention: pattern of the names of the attentions that have them.

    Raises:
        CheckpointError: an attention has some of the layers, but lacks others.
    """
    joined = dict(state_dict)
    for key in state_dict:
        start, _, kind = key.rpartition(".")
        start, _, name = start.rpartition(".")
        if name not in names or key not in joined or not re.fullmatch(attention, start):
            continue
        parts = [f"{start}.{name}.{kind}" for name in names]
        if missing := [part for part in parts if part not in joined]:
            raise CheckpointError(f"the attention of {key} lacks {', '.join(missing)}")
        joined[f"{start}.qkv.{kind}"] = torch.cat([joined.pop(part) for part in parts])
    return joined

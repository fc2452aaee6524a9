"""The base of causal language models: tokens in, logits of the next ones out, at once or one by one."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.backends import is_traced
from pointsuite.engine.network import Network

from ..layers import run_block


class State(NamedTuple):
    """What a language model keeps of the tokens it has seen.

    Attributes:
        length: how many these are.
        layers: what each layer keeps, as the layer likes.
    """

    length: int
    layers: tuple[Any, ...]


class Layer(nn.Module):
    """A layer of a :class:`LanguageModel`: hidden states (B, n, D) to the same, and its state.

    A token's output depends on itself and on tokens before it. Whatever depends on places counts from
    ``start``. Given a state, the n tokens follow those that the state is of, and the second result is the
    state after them; without one the tokens are the first, and the second result is None.
    """

    @abstractmethod
    def forward(
        self, x: Tensor, start: int = 0, state: Any = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Args:
        x: (B, n, D).
        start: tokens before the first of them.
        state: of :meth:`new_state` or of the call before; None for all tokens in one call.
        mask: (B, n), bool, False where a token is padding, which no other token sees.
        """

    @abstractmethod
    def new_state(self, batch: int, like: Tensor) -> Any:
        """The state of no token; ``like`` is a tensor of the dtype and device that hidden states have."""


class LanguageModel(Network, nn.Module):
    """Logits of the next token from tokens, or from their embeddings, of any length up to ``max_length``.

        logits = model(ids)                                   # (B, n) -> (B, n, vocab_size)
        logits, state = model(ids, state=model.new_state(B))  # the same; state is of n tokens
        logits, state = model(next_ids, state=state)          # (B, m) -> (B, m, vocab_size), after them

        x = torch.cat((picture, model.embed(ids)), 1)         # what no token stands for: (B, k + n, D)
        logits = model(embeddings=x)
        logits = model(embeddings=x, after_layer=lambda i, x: x + remembered(x) if i in chosen else x)

    A state is not changed by a call: a prompt can be continued in several ways. A subclass fills ``layers``
    with a :class:`Layer` each, sets ``norm``, and, where it has them, adds positions in
    :meth:`add_positions`. Wrong inputs raise a ValueError that says what was found and wanted.

    Args:
        vocab_size: V; ids are 0..V - 1.
        embed_dims: D.
        tied: logits are products with the embeddings; else of a layer ``lm_head`` of its own, without bias.
        max_length: tokens that positions reach; None for any number.
        embed_scale: factor of the embeddings.
        with_cp: save memory in training: keep only the inputs of layers and compute the rest anew.

    Attributes:
        embed_tokens: the embedding, (V, D).
        layers: a ``nn.ModuleList`` of :class:`Layer`.
        norm: of hidden states before the head.
    """

    example_sizes = (24, 37)  # tokens

    def __init__(
        self,
        vocab_size: int,
        embed_dims: int,
        *,
        tied: bool = True,
        max_length: int | None = None,
        embed_scale: float = 1.0,
        with_cp: bool = False,
    ):
        super().__init__()
        if vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, found {vocab_size}")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be at least 1, found {max_length}")
        self.vocab_size, self.embed_dims = vocab_size, embed_dims
        self.max_length, self.embed_scale, self.with_cp = max_length, embed_scale, with_cp
        self.embed_tokens = nn.Embedding(vocab_size, embed_dims)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList()
        self.norm: nn.Module = nn.Identity()
        self.lm_head = None if tied else nn.Linear(embed_dims, vocab_size, bias=False)
        if not tied:
            nn.init.normal_(self.lm_head.weight, std=0.02)

    # --------------------------------------------------------------------------------------------- parts

    def embed(self, ids: Tensor) -> Tensor:
        """(B, n) integers to (B, n, D), without positions: what ``embeddings`` of :meth:`forward` takes.

        Raises:
            ValueError: another shape or dtype, or ids outside the vocabulary.
        """
        if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(f"ids must be integers (B, n), found {ids.dtype} {tuple(ids.shape)}")
        if ids.numel() and not is_traced():
            low, high = (int(bound) for bound in ids.aminmax())
            if low < 0 or high >= self.vocab_size:
                wrong = low if low < 0 else high
                raise ValueError(f"ids must be 0..{self.vocab_size - 1}, the vocabulary, found {wrong}")
        x = self.embed_tokens(ids)
        return x if self.embed_scale == 1 else x * self.embed_scale

    def add_positions(self, x: Tensor, start: int) -> Tensor:
        """(B, n, D) with what says that its tokens are ``start``, ``start + 1``, ...; here as it is."""
        return x

    def forward_features(
        self,
        x: Tensor,
        state: State | None = None,
        mask: Tensor | None = None,
        after_layer: Callable[[int, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, State | None]:
        """Embeddings (B, n, D) to normed hidden states (B, n, D), and the new state; for arguments see
        :meth:`forward`.
        """
        self._check(x, state, mask)
        start, before = (0, (None,) * len(self.layers)) if state is None else state
        x, kept = self.add_positions(x, start), []
        for i, (layer, own) in enumerate(zip(self.layers, before, strict=True)):
            x, own = run_block(layer, x, start, own, mask, with_cp=self.with_cp)
            x = x if after_layer is None else after_layer(i, x)
            kept.append(own)
        return self.norm(x), None if state is None else State(start + x.shape[1], tuple(kept))

    def forward_head(self, x: Tensor) -> Tensor:
        """Normed hidden states (..., D) to logits (..., V)."""
        return F.linear(x, self.embed_tokens.weight) if self.lm_head is None else self.lm_head(x)

    # --------------------------------------------------------------------------------------------- calls

    def forward(
        self,
        ids: Tensor | None = None,
        *,
        embeddings: Tensor | None = None,
        state: State | None = None,
        mask: Tensor | None = None,
        after_layer: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, State]:
        """Logits (B, n, V) of the tokens after each; with ``state``, also the state after all of them.

        Args:
            ids: (B, n), integers below V.
            embeddings: (B, n, D) in their place, as :meth:`embed` makes them.
            state: of :meth:`new_state`, or of the call before.
            mask: (B, n), bool, False where a token is padding.
            after_layer: is given the number of each layer and its hidden states (B, n, D), and returns those
                that go on.

        Raises:
            ValueError: shapes that do not fit, ids outside the vocabulary, more tokens than positions reach.
        """
        if (ids is None) == (embeddings is None):
            found = "neither" if ids is None else "both"
            raise ValueError(f"found {found} of ids and embeddings, wanted one of them")
        x = self.embed(ids) if embeddings is None else embeddings
        x, after = self.forward_features(x, state, mask, after_layer)
        logits = self.forward_head(x)
        return logits if state is None else (logits, after)

    def new_state(self, batch: int = 1) -> State:
        """The state of ``batch`` sequences without any token."""
        like = self.embed_tokens.weight
        return State(0, tuple(layer.new_state(batch, like) for layer in self.layers))

    def _check(self, x: Tensor, state: State | None, mask: Tensor | None) -> None:
        if x.ndim != 3 or x.shape[2] != self.embed_dims or not x.shape[1]:
            raise ValueError(
                f"embeddings must be (B, n, {self.embed_dims}) with n from 1, found {tuple(x.shape)}"
            )
        if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[:2]):
            raise ValueError(
                f"mask must be bool {tuple(x.shape[:2])}, found {mask.dtype} {tuple(mask.shape)}"
            )
        length = x.shape[1] + (0 if state is None else state.length)
        if self.max_length is not None and length > self.max_length:
            raise ValueError(f"found {length} tokens, but positions reach only {self.max_length}")

    def example_inputs(self, batch: int = 2, size: int | Sequence[int] = 24) -> tuple[Tensor, ...]:
        """Random ids (batch, n); ``size`` is n, or has it first."""
        length = size if isinstance(size, int) else size[0]
        return (torch.randint(self.vocab_size, (batch, min(length, self.max_length or length))),)

"""DependencyViT: tokens send their message to their parents, and those that send little can go.

Ding et al., "Visual Dependency Transformers: Dependency Tree Emerges from Reversed Attention", CVPR 2023,
arXiv 2304.03282. Its authors published no code: what the paper leaves open is our choice, said where it is
made.
"""

from collections.abc import Iterator, Mapping
from math import floor
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import TokenBackbone, register_backbone
from ..base.token_backbone import Grid
from ..layers import MLP, Linear, SelfAttention, drop_path_rates, init_normal
from ..ops import maximum_spanning_tree, reversed_attention
from .vit import Block


class MessageController(nn.Module):
    """How much of its message a token sends on: (B, N, C) to (B, N), 0..1.

    Linear, GELU, Linear, sigmoid. Our choice: as wide as the tokens within, and nearly all sent at the start.
    """

    def __init__(self, embed_dims: int):
        super().__init__()
        self.fc1 = Linear(embed_dims, embed_dims)
        self.fc2 = nn.Linear(embed_dims, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x, activation="gelu")).squeeze(-1).sigmoid()


class ReversedAttention(SelfAttention):
    r"""Tokens send along their attention: (B, N, C) and messages (B, N) to the same.

    With the forward attention :math:`F_{a,ji} = \mathrm{softmax}_i(q_j k_i / \sqrt d)` of head a, token i
    gets :math:`\sum_j F_{a,ji}\, p_{ja}\, m_j\, v_j`. The head selector p is a softmax over heads, m the
    product of what the controllers of all blocks so far let through. Our choice: neither queries, keys and
    values nor the selector have biases, and m is carried on from block to block.

    Args:
        embed_dims: C.
        num_heads: divides C.
        temperature: of the selector's softmax; a low one picks nearly one head.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, temperature: float = 0.1):
        super().__init__(embed_dims, num_heads, qkv_bias=False)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, found {temperature}")
        self.temperature = temperature
        self.head_selector = nn.Linear(embed_dims, num_heads, bias=False)
        self.message_controller = MessageController(embed_dims)

    def select_heads(self, x: Tensor) -> Tensor:
        """p: (B, N, heads), in float32 at least: the low temperature would enlarge rounding."""
        exact = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.to(exact), self.head_selector.weight.to(exact))
            return (logits / self.temperature).softmax(-1)

    def weigh(self, q: Tensor, k: Tensor, sent: Tensor) -> Tensor:
        """Reversed attention (B, heads, N, N), receivers by senders; its columns sum to ``sent``."""
        return (super().weigh(q, k) * sent[..., None].to(q.dtype)).mT

    def attend(self, q: Tensor, k: Tensor, v: Tensor, sent: Tensor) -> Tensor:
        return reversed_attention(q, k, v, sent, self.scale)

    def forward(self, x: Tensor, message: Tensor) -> tuple[Tensor, Tensor]:
        message = message * self.message_controller(x)
        sent = (self.select_heads(x) * message[..., None]).mT  # (B, heads, N)
        return super().forward(x, sent), message


class DependencyBlock(Block):
    """A pre-norm block whose attention passes messages, and between it and the MLP tokens can go.

    (B, N, C) and messages (B, N) to those of the tokens that are kept, in their order; further the places of
    these, (B, keep), and all tokens as they were before some went; None for both where all are kept.
    """

    def forward(
        self, x: Tensor, message: Tensor, keep: int
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        y, message = self.attn(self.norm1(x), message)
        x = x + self.drop_path1(y)
        places = attended = None
        if keep < x.shape[1]:
            attended = x
            places = message.argsort(dim=1, descending=True, stable=True)[:, :keep].sort(1).values
            message = message.gather(1, places)
            x = x.gather(1, _along_channels(places, x))
        return x + self.drop_path2(self.mlp(self.norm2(x))), message, places, attended


class Messages(NamedTuple):
    """What a block leaves."""

    tokens: Tensor  # (B, K, C), those that are kept
    message: Tensor  # (B, K), what each has sent so far
    places: Tensor  # (B, K) int64, of the kept in the grid, row by row; they ascend
    behind: Tensor  # (B, N, C), where tokens that went are as they were then

    def spread(self) -> Tensor:
        """All tokens: (B, N, C)."""
        if self.tokens.shape[1] == self.behind.shape[1]:
            return self.tokens
        places = _along_channels(self.places, self.tokens)
        return self.behind.to(self.tokens.dtype).scatter(1, places, self.tokens)


class Dependency(NamedTuple):
    """What tokens send each other in a block."""

    weights: Tensor  # (B, K, K): what receiver i gets of sender j, of all heads
    places: Tensor  # (B, K) int64, of these tokens in the grid


def _along_channels(places: Tensor, x: Tensor) -> Tensor:
    return places[..., None].expand(-1, -1, x.shape[-1])


def _published(embed_dims: int, prune_blocks: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "embed_dims": embed_dims,
        "depth": 12,
        "num_heads": 12,
        "patch_size": 16,
        "img_size": 224,
        "prune_blocks": prune_blocks,
        "prune_ratio": 0.16,
    }


LITE = (1, 4, 7, 10)


@register_backbone("dependency_vit")
class DependencyViT(TokenBackbone):
    """DependencyViT: a vision Transformer by reversed attention, without a class token.

    The mean of the tokens that are kept is classified. The Lite forms drop, in each of ``prune_blocks``, the
    tokens that have sent least so far; these are gone from all that follows. In maps they stand as they were
    when they went. Images of any size that patches divide, if their grid is large enough for some to stay.

    Args:
        arch: a published variant, or a dict as those in ``archs``: ``prune_blocks`` count from 0; after the
            k-th of them ``1 - k * prune_ratio`` of the image's tokens are left, rounded down.
        drop_path_rate: of the last block; it grows linearly from 0.
        temperature: of the head selectors.
        **kwargs: see :class:`~dense.base.token_backbone.TokenBackbone`.
    """

    paper = (
        'Ding et al., "Visual Dependency Transformers: Dependency Tree Emerges from Reversed Attention", '
        "CVPR 2023, arXiv 2304.03282"
    )
    archs = {
        "tiny": _published(192),
        "small": _published(384),
        "lite_tiny": _published(192, LITE),
        "lite_small": _published(384, LITE),
    }
    num_parameters = {
        "tiny": 6_184_756,
        "small": 23_870_068,
        "lite_tiny": 6_184_756,
        "lite_small": 23_870_068,
    }
    published = results(
        ("ImageNet-1K top-1, %",),
        {"tiny": (75.4,), "small": (82.1,), "lite_tiny": (73.7,), "lite_small": (80.6,)},
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        drop_path_rate: float = 0.0,
        temperature: float = 0.1,
        **kwargs,
    ):
        super().__init__(arch, class_token=False, **kwargs)
        spec = self.spec
        dims, ratio, places = spec["embed_dims"], spec["prune_ratio"], tuple(spec["prune_blocks"])
        if places != tuple(i for i in range(spec["depth"]) if i in places):
            raise ValueError(f"prune_blocks must ascend within 0..{spec['depth'] - 1}, found {places}")
        if ratio < 0 or len(places) * ratio >= 1:
            raise ValueError(
                f"prune_ratio must leave tokens after {len(places)} prune_blocks: at least 0 and below "
                f"{1 / len(places) if places else 1:.3g}, found {ratio}"
            )
        for rate in drop_path_rates(drop_path_rate, [spec["depth"]])[0]:
            attention = ReversedAttention(dims, spec["num_heads"], temperature=temperature)
            self.blocks.append(DependencyBlock(dims, attention, MLP(dims, 4 * dims), rate))
        init_normal(self, nn.Linear)
        for block in self.blocks:  # else the product of twelve controllers starts at 0.5^12
            nn.init.constant_(block.attn.message_controller.fc2.bias, 2.0)
        self.set_outputs()

    def kept_tokens(self, grid: Grid) -> list[int]:
        """How many tokens each block leaves of an image's.

        Raises:
            ValueError: a block would leave none.
        """
        count, ratio = grid[0] * grid[1], self.spec["prune_ratio"]
        kept, left = [], count
        for i in range(len(self.blocks)):
            if i in self.spec["prune_blocks"]:
                k = self.spec["prune_blocks"].index(i) + 1
                left = floor(count * (1 - k * ratio) + 1e-6)  # 25 * 0.68 is below 17 in float64
            if left < 1:
                raise ValueError(
                    f"block {i} keeps none of {grid[0]} x {grid[1]} tokens; wanted a larger image"
                )
            kept.append(left)
        return kept

    def iterate_messages(self, x: Tensor) -> Iterator[Messages]:
        """What each block that is built leaves."""
        self._check_images(x)
        tokens, grid = self.embed(x)
        exact = torch.promote_types(tokens.dtype, torch.float32)
        message = torch.ones(tokens.shape[:2], dtype=exact, device=x.device)
        places = torch.arange(tokens.shape[1], device=x.device).expand(len(x), -1)
        behind = tokens
        for block, keep in zip(self.blocks, self.kept_tokens(grid), strict=True):
            tokens, message, kept, attended = self._run(block, tokens, message, keep)
            if kept is not None:
                behind = behind.to(attended.dtype).scatter(1, _along_channels(places, attended), attended)
                places = places.gather(1, kept)
            yield Messages(tokens, message, places, behind)

    def iterate_blocks(self, x: Tensor) -> Iterator[tuple[Tensor, Grid]]:
        """All tokens after each block, those that went as they were then, un-normed; and their grid."""
        grid = tuple(side // self.spec["patch_size"] for side in x.shape[2:])
        for left in self.iterate_messages(x):
            yield left.spread(), grid

    def forward_features(self, x: Tensor) -> Tensor:
        """The tokens that the last block keeps, normed: (B, K, C)."""
        *_, left = self.iterate_messages(x)
        return self.norm(left.tokens)

    def dependencies(self, x: Tensor) -> list[Dependency]:
        """What tokens send each other, by block. A column of the weights sums to what its token has sent."""
        with torch.no_grad():
            weights = [each.sum(1) for each in self.attention_weights(x)]
            first = torch.arange(weights[0].shape[1], device=x.device).expand(len(x), -1)
            places = [first, *(left.places for left in self.iterate_messages(x))]
            return [Dependency(*pair) for pair in zip(weights, places, strict=False)]

    def dependency_trees(self, x: Tensor) -> Tensor:
        """Each token's parent in its image's dependency tree: (B, N) int64 in the grid, -1 for the root.

        Of all trees the one whose tokens send most to their parents, over all blocks (our choice, the usual
        one of dependency parsing); see :func:`~dense.ops.maximum_spanning_tree`.
        """
        found = self.dependencies(x)
        total = torch.zeros_like(found[0].weights)
        for weights, places in found:
            batch = torch.arange(len(x), device=x.device)[:, None, None]
            total[batch, places[:, :, None], places[:, None]] += weights
        return torch.stack([maximum_spanning_tree(each) for each in total])

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of networks that name their parts as the paper does; its authors published no weights."""
        block = r"blocks\.(\d+)\."
        part = (
            r"norm[12]|mlp\.fc[12]|attn\.(?:qkv|proj|head_selector|message_controller\.fc[12])"  # of a block
        )
        return rename_keys(
            cls.find_trunk(state_dict),
            [
                (r"(pos_embed|patch_embed\.proj\..*|norm\..*)", r"backbone.\1"),
                (block + rf"((?:{part})\..*)", r"backbone.blocks.\1.\2"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return {} if "backbone.pos_embed" in state_dict else {"positions": False}

    @classmethod
    def names_fit(cls, arch: str, state_dict: Mapping[str, Tensor]) -> bool:
        """Weights do not tell whether tokens go: unless who has them says so, they are of the full form."""
        return not cls.archs[arch]["prune_blocks"]

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        own = super().adapt_arch(cls.adapt_patches(spec, state_dict), state_dict)
        if own["depth"] != spec["depth"]:
            own["prune_blocks"] = ()
        selector = state_dict.get("backbone.blocks.0.attn.head_selector.weight")
        if selector is None:
            return own
        return own | {"num_heads": len(selector), "embed_dims": selector.shape[1]}

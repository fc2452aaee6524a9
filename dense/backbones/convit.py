"""ConViT: heads that start out as a convolution, and learn by a gate how far to attend to content.

d'Ascoli et al., "ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases", ICML 2021,
arXiv 2103.10697. Published code: facebookresearch/convit, whose model files say CC-BY-NC; this is an
independent implementation.
"""

from collections.abc import Iterator, Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from pointsuite.engine.checkpoint import CheckpointError, rename_keys
from pointsuite.engine.network import results

from ..base import TokenBackbone, register_backbone
from ..base.token_backbone import Grid
from ..layers import MLP, SelfAttention, drop_path_rates, init_normal
from .vit import Block

GATE, PROJ = ".attn.gating_param", ".attn.proj.weight"  # ends of weights' names


class GatedPositionalAttention(SelfAttention):
    r"""Gated positional self-attention (GPSA) of the tokens of a grid: (B, h * w, C) to the same.

    Each head has a gate :math:`a = \sigma(\lambda)`; its weights are
    :math:`(1 - a)\,\mathrm{softmax}(q k^T / \sqrt d) + a\,P`, where P is the softmax over keys of
    :math:`w_0 \delta_x + w_1 \delta_y + w_2 (\delta_x^2 + \delta_y^2)`, :math:`\delta` being key minus query,
    in tokens. These logits are a sum over the axes, so P is a product of two small softmaxes, of rows and of
    columns: values are mixed along one axis after the other, and no (N, N) is held.

    Args:
        embed_dims: C.
        num_heads: divides C.
        qkv_bias: bias of queries, keys and values.
    """

    def __init__(self, embed_dims: int, num_heads: int, *, qkv_bias: bool = False):
        super().__init__(embed_dims, num_heads, qkv_bias=qkv_bias)
        self.pos_proj = nn.Linear(3, num_heads)
        self.pos_proj.bias.requires_grad_(False)  # cancels in the softmax; published weights have it
        self.gating_param = nn.Parameter(torch.ones(num_heads))

    @torch.no_grad()
    def init_local(self, strength: float = 1.0) -> None:
        """Start as a convolution: values as they are, each head's attention a bell about its own offset.

        With m the root of ``num_heads``, rounded down, the first m * m heads look at the places of an m x m
        stencil, column by column; for an even m these lie between tokens. Further heads keep their weights.

        Args:
            strength: of the bell: logits are -strength times the squared distance from the offset.
        """
        nn.init.eye_(self.qkv.weight[2 * self.qkv.in_features :])
        side = isqrt(self.num_heads)
        centre = (side - 1) / 2 if side % 2 == 0 else side // 2
        for head in range(side**2):
            across, down = (place - centre for place in divmod(head, side))
            weight = torch.tensor((2 * across, 2 * down, -1.0))
            self.pos_proj.weight[head] = strength * weight

    def gate(self) -> Tensor:
        """The share of position in each head's weights: (heads,), 0..1."""
        return self.gating_param.sigmoid()

    def attend_to_positions(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Both factors of P: weights of rows (heads, h, h) and of columns (heads, w, w), by query and key."""
        to_x, to_y, squared = self.pos_proj.weight.T[..., None, None]  # (heads, 1, 1) each
        factors = []
        for side, slope in zip(grid, (to_y, to_x), strict=True):
            place = torch.arange(side, device=slope.device, dtype=slope.dtype)
            delta = place - place[:, None]
            factors.append((slope * delta + squared * delta.square()).softmax(-1))
        return factors[0], factors[1]

    def positional_weights(self, grid: Grid) -> Tensor:
        """P as a whole: (heads, h * w, h * w)."""
        down, across = self.attend_to_positions(grid)
        return torch.einsum("hyv,hxu->hyxvu", down, across).flatten(3).flatten(1, 2)

    def weigh(self, q: Tensor, k: Tensor, grid: Grid) -> Tensor:
        content = super().weigh(q, k)
        position = self.positional_weights(grid).to(content.dtype)
        return torch.lerp(content, position.expand_as(content), self._gate_of(content))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: Grid) -> Tensor:
        content = super().attend(q, k, v)
        down, across = (factor.to(v.dtype) for factor in self.attend_to_positions(grid))
        y = torch.einsum("hxu,bhyud->bhyxd", across, v.unflatten(2, grid))
        y = torch.einsum("hyv,bhvxd->bhyxd", down, y).flatten(2, 3)  # (B, heads, N, d)
        return torch.lerp(content, y.to(content.dtype), self._gate_of(content))

    def _gate_of(self, like: Tensor) -> Tensor:
        return self.gate().to(like.dtype)[:, None, None]


def _convit(embed_dims: int, num_heads: int) -> dict[str, Any]:
    return {
        "embed_dims": embed_dims,
        "depth": 12,
        "num_heads": num_heads,
        "patch_size": 16,
        "img_size": 224,
        "local_up_to_layer": 10,
    }


@register_backbone("convit")
class ConViT(TokenBackbone):
    """ConViT: blocks of gated positional attention on the patches, then plain ones with the class token.

    The class token joins the patches, without a position, once the gated blocks are through. Images of any
    size that patches divide; the table of positions is resized, and gated attention has none.

    Args:
        arch: a published variant, or a dict as those in ``archs``; ``local_up_to_layer`` is the number of
            gated blocks. If all are, there is no class token and the mean of the patches is classified.
        drop_path_rate: of the last block; it grows linearly from 0.
        qkv_bias: bias of queries, keys and values.
        local_init: gated attention starts as a convolution, see
            :meth:`GatedPositionalAttention.init_local`; else with weights as elsewhere.
        locality_strength: of this start.
        reference_quirks: where all blocks are gated, have a class token that is never used, and classify the
            patch at the upper left instead, as published.
        **kwargs: see :class:`~dense.base.token_backbone.TokenBackbone`.
    """

    paper = (
        'd\'Ascoli et al., "ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases", '
        "ICML 2021, arXiv 2103.10697"
    )
    code = "facebookresearch/convit"
    licence = "CC-BY-NC-4.0"
    archs = {
        "tiny": _convit(192, 4),
        "small": _convit(432, 9),
        "base": _convit(768, 16),
        "tiny_plus": _convit(256, 4),
        "small_plus": _convit(576, 9),
        "base_plus": _convit(1024, 16),
    }
    num_parameters = {
        "tiny": 5_710_512,
        "small": 27_777_322,
        "base": 86_540_040,
        "tiny_plus": 9_972_912,
        "small_plus": 48_979_882,
        "base_plus": 153_134_856,
    }
    published = results(
        ("ImageNet-1K top-1, %", "ImageNet-1K top-5, %"),
        {
            "tiny": (73.1, 91.7),
            "small": (81.3, 95.7),
            "base": (82.4, 95.9),
            "tiny_plus": (76.7, 93.6),
            "small_plus": (82.2, 95.9),
            "base_plus": (82.5, 95.9),
        },
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        drop_path_rate: float = 0.0,
        qkv_bias: bool = False,
        local_init: bool = True,
        locality_strength: float = 1.0,
        reference_quirks: bool = False,
        **kwargs,
    ):
        spec = self.find_arch(arch)
        gated = spec["local_up_to_layer"]
        if gated < 0:
            raise ValueError(f"local_up_to_layer must not be negative, found {gated}")
        super().__init__(arch, class_token_at=gated, **kwargs)
        dims, heads = spec["embed_dims"], spec["num_heads"]
        for i, rate in enumerate(drop_path_rates(drop_path_rate, [spec["depth"]])[0]):
            attention = GatedPositionalAttention if i < gated else SelfAttention
            self.blocks.append(
                Block(dims, attention(dims, heads, qkv_bias=qkv_bias), MLP(dims, 4 * dims), rate)
            )
        init_normal(self, nn.Linear)
        if local_init:
            for block in self.blocks[:gated]:
                block.attn.init_local(locality_strength)
        unused = self.cls_token
        self.set_outputs()
        if reference_quirks and gated >= spec["depth"]:
            self.cls_token = unused

    def run_block(self, index: int, tokens: Tensor, grid: Grid) -> Tensor:
        context = (grid,) if index < self.spec["local_up_to_layer"] else ()
        return self._run(self.blocks[index], tokens, *context)

    @torch.no_grad()
    def gates(self) -> Tensor:
        """The share of position in the weights of each head: (gated blocks, heads), 0..1."""
        gated = self.blocks[: self.spec["local_up_to_layer"]]
        return torch.stack([block.attn.gate() for block in gated])

    @classmethod
    def smallest(cls, **options):
        """One gated block and one with the class token."""
        arch = {**next(iter(cls.archs.values())), "depth": 2, "local_up_to_layer": 1}
        return cls.create(arch, **options)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Queries and keys, which are apart from values, are put together with these."""
        state = cls.find_trunk(state_dict)
        for key in [key for key in state if ".attn.qk." in key]:
            value = key.replace(".attn.qk.", ".attn.v.")
            if value not in state:
                raise CheckpointError(f"a ConViT has {key}, but lacks {value}")
            state[key.replace(".attn.qk.", ".attn.qkv.")] = torch.cat((state.pop(key), state.pop(value)))
        block = r"blocks\.(\d+)\."
        return rename_keys(
            state,
            [
                (r"(cls_token|pos_embed|patch_embed\.proj\..*|norm\..*)", r"backbone.\1"),
                (
                    block + r"((?:norm[12]|attn\.(?:qkv|proj|pos_proj)|mlp\.fc[12])\..*)",
                    r"backbone.blocks.\1.\2",
                ),
                (block + r"attn\.gating_param", r"backbone.blocks.\1.attn.gating_param"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )

    @classmethod
    def guess_options(cls, state_dict: Mapping[str, Tensor]) -> Iterator[tuple]:
        """All of it is read from gated attention; weights without any are not known to be ConViT's."""
        if _ending(GATE, state_dict):
            yield from super().guess_options(state_dict)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        all_gated = len(_ending(GATE, state_dict)) == len(_ending(PROJ, state_dict))
        options = {
            "qkv_bias": "backbone.blocks.0.attn.qkv.bias" in state_dict,
            "reference_quirks": all_gated and "backbone.cls_token" in state_dict,
            "positions": "backbone.pos_embed" in state_dict,
        }
        usual = {"qkv_bias": False, "reference_quirks": False, "positions": True}
        return {name: value for name, value in options.items() if value != usual[name]}

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        gates, widths = (_ending(name, state_dict) for name in (GATE, PROJ))
        return {
            **super().adapt_arch(cls.adapt_patches(spec, state_dict), state_dict),
            "embed_dims": len(widths[0]) if widths else spec["embed_dims"],
            "num_heads": len(gates[0]),
            "local_up_to_layer": len(gates),
        }


def _ending(end: str, state_dict: Mapping[str, Tensor]) -> list[Tensor]:
    return [value for key, value in state_dict.items() if key.endswith(end)]

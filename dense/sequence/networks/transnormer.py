"""TransNormerLLM: a language model of lightning attention, whose tokens all cost the same.

Qin et al., "TransNormerLLM: A Faster and Better Large Language Model with Improved TransNormer", arXiv
2307.14995; the attention in "Various Lengths, Constant Speed: Efficient Language Modeling with Lightning
Attention", ICML 2024, arXiv 2405.17381. Published code: OpenNLPLab/TransnormerLLM (Apache-2.0), which has the
modelling code with its weights; OpenNLPLab/lightning-attention (MIT).
"""

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from pointsuite.engine.checkpoint import count_parts, rename_keys
from pointsuite.engine.network import results

from ...layers import LayerNorm, Linear, RMSNorm
from ...ops import head_slopes, lightning_attention
from ...registry import MODELS, ZOO
from ..language_model import LanguageModel, Layer


def layer_slopes(heads: int, index: int, depth: int) -> Tensor:
    """Slopes (heads,) of layer ``index`` of ``depth``: less from layer to layer, almost none in the last.

    The published rule divides by zero for a single layer, which here has the slopes of a first one.
    """
    if not 0 <= index < depth:
        raise ValueError(f"the index of a layer must be 0..{depth - 1}, found {index}")
    return head_slopes(heads) * (1 - index / max(depth - 1, 1) + 1e-5)


class LRPE(nn.Module):
    """Linearized relative positions: x to [x cos(theta p), x sin(theta p)], (B, heads, n, d) to 2 d.

    Products of queries and keys then go with the cosine of the distance. Angles are made in float64: those
    of far positions would be rounded by more than they differ.

    Args:
        num_heads: of them.
        head_dims: d.
    """

    def __init__(self, num_heads: int, head_dims: int):
        super().__init__()
        width = num_heads * head_dims
        theta = 10_000.0 ** (-2.0 * torch.arange(width) / width)
        self.theta = nn.Parameter(theta.view(num_heads, 1, head_dims))

    def forward(self, start: int, *inputs: Tensor) -> list[Tensor]:
        """Several tensors whose first position is ``start``."""
        length = inputs[0].shape[2]
        place = torch.arange(start, start + length, device=self.theta.device, dtype=torch.float64)
        angle = self.theta.double() * place[:, None]  # (heads, n, d)
        cos, sin = (turn.to(inputs[0].dtype) for turn in (angle.cos(), angle.sin()))
        return [torch.cat((x * cos, x * sin), -1) for x in inputs]


class TokenMixer(nn.Module):
    """Lightning attention, normed, times a gate: as a :class:`~dense.sequence.language_model.Layer`.

    Args:
        embed_dims: D.
        hidden_dims: D', width of queries, keys, values and gate; ``num_heads`` divides it.
        num_heads: heads.
        slopes: of decay, (heads,).
        lrpe: add relative positions.
        bias: of linear layers.
        eps: of the norm.
    """

    def __init__(
        self,
        embed_dims: int,
        hidden_dims: int,
        num_heads: int,
        slopes: Tensor,
        *,
        lrpe: bool = False,
        bias: bool = False,
        eps: float = 1e-6,
    ):
        super().__init__()
        check_heads(hidden_dims, num_heads)
        self.num_heads, self.head_dims = num_heads, hidden_dims // num_heads
        self.qkvu_proj = Linear(embed_dims, 4 * hidden_dims, bias=bias)
        self.out_proj = Linear(hidden_dims, embed_dims, bias=bias)
        self.norm = RMSNorm(hidden_dims, eps, elementwise_affine=False)
        self.lrpe = LRPE(num_heads, self.head_dims) if lrpe else None
        self.register_buffer("slopes", slopes, persistent=False)

    def forward(
        self, x: Tensor, start: int = 0, state: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v, u = self.qkvu_proj(x).chunk(4, -1)  # (B, n, D') each
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        q, k = nn.functional.silu(q), nn.functional.silu(k)  # (B, heads, n, d)
        if mask is not None:
            v = v * mask[:, None, :, None]
        if self.lrpe is not None:
            q, k = self.lrpe(start, q, k)
        y, after = lightning_attention(q, k, v, self.slopes, state)
        y = self.norm(y.transpose(1, 2).flatten(2)) * u
        return self.out_proj(y), None if state is None else after

    def new_state(self, batch: int, like: Tensor) -> Tensor:
        """(B, heads, d or 2 d, d), zeros."""
        keys = self.head_dims * (1 if self.lrpe is None else 2)
        dtype = torch.promote_types(like.dtype, torch.float32)
        return like.new_zeros(batch, self.num_heads, keys, self.head_dims, dtype=dtype)


class ChannelMixer(nn.Module):
    """Gated linear unit without activation: l3(l1(x) * l2(x)), (B, n, D) to the same."""

    def __init__(self, embed_dims: int, glu_dims: int, bias: bool = False):
        super().__init__()
        self.l1 = Linear(embed_dims, glu_dims, bias=bias)
        self.l2 = Linear(embed_dims, glu_dims, bias=bias)
        self.l3 = Linear(glu_dims, embed_dims, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.l3(self.l1(x) * self.l2(x))


class TransNormerLayer(Layer):
    """x + mixer of tokens(norm(x)), then x + mixer of channels(norm(x)); for arguments see the parts."""

    def __init__(
        self,
        embed_dims: int,
        hidden_dims: int,
        glu_dims: int,
        num_heads: int,
        slopes: Tensor,
        *,
        lrpe: bool = False,
        bias: bool = False,
        eps: float = 1e-6,
    ):
        super().__init__()
        self.norm = RMSNorm(embed_dims, eps, elementwise_affine=False)
        self.token_mixer = TokenMixer(
            embed_dims, hidden_dims, num_heads, slopes, lrpe=lrpe, bias=bias, eps=eps
        )
        self.channel_mixer = ChannelMixer(embed_dims, glu_dims, bias)

    def forward(
        self, x: Tensor, start: int = 0, state: Any = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        y, state = self.token_mixer(self.norm(x), start, state, mask)
        x = x + y
        return x + self.channel_mixer(self.norm(x)), state

    def new_state(self, batch: int, like: Tensor) -> Tensor:
        return self.token_mixer.new_state(batch, like)


class ExampleAttention(nn.Module):
    """The attention of the operator repository's example: (B, n, D) to the same.

    Other than in the language model, values are activated, too, the norm is a layer norm, and the gate is a
    sigmoid of two linear layers through the width of a head.

    Args:
        embed_dims: D.
        num_heads: divides D.
        index, depth: which layer of how many it is, for the slopes of decay.
        bias: of the four projections.
    """

    def __init__(self, embed_dims: int, num_heads: int, index: int, depth: int, *, bias: bool = False):
        super().__init__()
        check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            Linear(embed_dims, embed_dims, bias=bias) for _ in range(4)
        )
        narrow = embed_dims // num_heads
        self.output_gate = nn.Sequential(
            Linear(embed_dims, narrow, bias=False), Linear(narrow, embed_dims, bias=False)
        )
        self.norm = LayerNorm(embed_dims, 1e-5)
        self.register_buffer("slopes", layer_slopes(num_heads, index, depth), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = (nn.functional.silu(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        y, _ = lightning_attention(q, k, v, self.slopes)  # (B, heads, n, d)
        return self.o_proj(self.norm(y.transpose(1, 2).flatten(2)) * self.output_gate(x).sigmoid())


def check_heads(dims: int, num_heads: int) -> None:
    if num_heads < 1 or dims % num_heads:
        raise ValueError(f"num_heads must divide the width {dims}, found {num_heads}")


@ZOO.register_network("transnormer", MODELS)
class TransNormer(LanguageModel):
    """TransNormerLLM, a causal language model: see :class:`~dense.sequence.language_model.LanguageModel`.

    Decoding costs the same for every token, in time and memory: what was seen is a matrix for each head.

    Args:
        arch: a variant, or a mapping with their keys; ``hidden_dims`` is the width of queries, keys, values
            and gate, ``glu_dims`` that of the gated linear unit.
        vocab_size: V; by default the variant's.
        lrpe: which layers have relative positions; the others tell places by decay alone. By default the
            first.
        bias: of linear layers.
        eps: of norms.
        scale_embedding: multiply embeddings by sqrt(D).
        tied, with_cp: see :class:`~dense.sequence.language_model.LanguageModel`.
    """

    title = "TransNormerLLM"
    paper = (
        'Qin et al., "TransNormerLLM: A Faster and Better Large Language Model with Improved TransNormer", '
        "arXiv 2307.14995"
    )
    code = "OpenNLPLab/TransnormerLLM"
    licence = "Apache-2.0"
    archs = {
        name: dict(
            zip(
                ("embed_dims", "hidden_dims", "glu_dims", "depth", "num_heads", "vocab_size"),
                row,
                strict=True,
            )
        )
        for name, row in {
            "tiny": (128, 128, 304, 4, 4, 256),
            "small": (384, 384, 896, 6, 6, 256),
            "385m": (1024, 1024, 2816, 24, 8, 64_000),
            "1b": (2048, 2048, 5632, 16, 16, 64_000),
            "7b": (4096, 4096, 11_008, 30, 32, 64_000),
        }.items()
    }
    num_parameters = {
        "tiny": 827_520,
        "small": 10_715_520,
        "385m": 398_984_192,
        "1b": 1_020_266_496,
        "7b": 6_836_719_616,
    }
    published = results(
        ("perplexity", "BoolQ, %", "PIQA, %", "HellaSwag, %", "MMLU, %", "C-Eval, %"),
        {
            "385m": (4.77, None, None, None, None, None),
            "1b": (3.729, None, None, None, None, None),
            "7b": (None, 75.87, 80.09, 75.21, 43.10, 43.18),
        },
    )
    packs = "lightning_attention"

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        vocab_size: int | None = None,
        *,
        lrpe: Sequence[int] = (0,),
        bias: bool = False,
        eps: float = 1e-6,
        scale_embedding: bool = True,
        tied: bool = True,
        with_cp: bool = False,
    ):
        spec = self.find_arch(arch)
        dims, depth, heads = spec["embed_dims"], spec["depth"], spec["num_heads"]
        if wrong := [index for index in lrpe if index not in range(depth)]:
            raise ValueError(f"lrpe must name layers 0..{depth - 1}, found {wrong[0]}")
        super().__init__(
            spec["vocab_size"] if vocab_size is None else vocab_size,
            dims,
            tied=tied,
            embed_scale=sqrt(dims) if scale_embedding else 1.0,
            with_cp=with_cp,
        )
        self.layers.extend(
            TransNormerLayer(
                dims,
                spec["hidden_dims"],
                spec["glu_dims"],
                heads,
                layer_slopes(heads, index, depth),
                lrpe=index in lrpe,
                bias=bias,
                eps=eps,
            )
            for index in range(depth)
        )
        self.norm = RMSNorm(dims, eps, elementwise_affine=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published names begin with ``model.``; the head is the embedding's second name, if equal."""
        embedding, head = (state_dict.get(f"{name}.weight") for name in ("model.embed_tokens", "lm_head"))
        if head is not None and embedding is not None and torch.equal(head, embedding):
            state_dict = {key: value for key, value in state_dict.items() if key != "lm_head.weight"}
        mixers = r"token_mixer\.(?:qkvu_proj|out_proj)|channel_mixer\.l[123]"
        return rename_keys(
            state_dict,
            [
                (rf"model\.(layers\.\d+\.(?:{mixers})\.(?:weight|bias))", r"\1"),
                (r"model\.(layers\.\d+\.token_mixer\.lrpe\.theta)", r"\1"),
                (r"model\.(embed_tokens\.weight)", r"\1"),
                (r"lm_head\.weight", "lm_head.weight"),
            ],
        )

    @classmethod
    def guess_options(
        cls, state_dict: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        """Any depth and width; the number of heads is known where a layer has relative positions."""
        depth = count_parts(state_dict, "layers.")
        mixer = "layers.0.token_mixer."
        vocab_size, dims = state_dict["embed_tokens.weight"].shape
        lrpe = tuple(i for i in range(depth) if f"layers.{i}.token_mixer.lrpe.theta" in state_dict)
        if not lrpe:
            return
        arch, own = cls.name_arch(
            {
                "embed_dims": dims,
                "hidden_dims": state_dict[f"{mixer}out_proj.weight"].shape[1],
                "glu_dims": state_dict["layers.0.channel_mixer.l1.weight"].shape[0],
                "depth": depth,
                "num_heads": state_dict[f"layers.{lrpe[0]}.token_mixer.lrpe.theta"].shape[0],
                "vocab_size": vocab_size,
            }
        )
        bias, tied = f"{mixer}out_proj.bias" in state_dict, "lm_head.weight" not in state_dict
        yield arch, {**own, **cls.drop_defaults(lrpe=lrpe, bias=bias, tied=tied)}, dict(state_dict)

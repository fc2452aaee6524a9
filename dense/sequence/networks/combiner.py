"""Combiner: a causal language model whose layers see all earlier tokens at the cost of sparse attention.

Ren et al., "Combiner: Full Attention Transformer with Sparse Computation Cost", NeurIPS 2021,
arXiv 2107.05768. Published code: google-research/google-research (folder combiner), Apache-2.0.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import CheckpointError, rename_keys

from ...layers import LayerNorm, Linear
from ...ops import combiner_attention
from ...ops.combiner_attention import FACTORIZATIONS, default_segment
from ...registry import MODELS, ZOO
from ..language_model import LanguageModel, Layer

POSITIONS = ("sinusoid", "learned")
ACTIVATIONS = {"relu": F.relu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}
# what the published code calls the attention of each factorization
PUBLISHED = {
    "_SelfAttSqrtn_0": "fixed",
    "_AxialMixtureAtt_0": "mixture",
    "_SelfAttAxialRowmajor_0": "rowmajor",
    "_SelfAttLogn_0": "logsparse",
}


class CombinerAttention(nn.Module):
    """Multi-head attention, some tokens singly, all others by summaries: (B, n, D) to the same.

    Args:
        embed_dims: D.
        num_heads: divides D, unless ``head_dims``.
        factorization, segment, causal, summary, reference_quirks: see
            :func:`~dense.ops.combiner_attention`.
        head_dims: width of a head; D / heads by default.
        qkv_bias, proj_bias: of the layers before and after.
        norm_eps: of the norm within "rowmajor".
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        factorization: str = "fixed",
        segment: int | None = None,
        *,
        causal: bool = True,
        head_dims: int | None = None,
        summary: str = "max",
        qkv_bias: bool = False,
        proj_bias: bool = False,
        norm_eps: float = 1e-6,
        reference_quirks: bool = False,
    ):
        super().__init__()
        if factorization not in FACTORIZATIONS:
            raise ValueError(f"factorization must be one of {FACTORIZATIONS}, found {factorization!r}")
        if num_heads < 1 or (head_dims is None and embed_dims % num_heads):
            raise ValueError(f"num_heads must divide embed_dims {embed_dims}, found {num_heads}")
        width = num_heads * (head_dims or embed_dims // num_heads)
        self.num_heads, self.factorization, self.segment = num_heads, factorization, segment
        self.causal, self.summary, self.reference_quirks = causal, summary, reference_quirks
        self.qkv = Linear(embed_dims, 3 * width, bias=qkv_bias)
        self.proj = Linear(width, embed_dims, bias=proj_bias)
        if factorization == "rowmajor":  # a row's summary becomes a key
            self.key_in = Linear(width, embed_dims, bias=False)
            self.key_norm = LayerNorm(embed_dims, norm_eps)
            self.key_out = Linear(embed_dims, width, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, which are divided by the square root of their width, keys and values: (B, heads, n, d)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return q * q.shape[-1] ** -0.5, k, v

    def attend(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """What tokens see, (B, n, heads * d), of their inputs (B, n, D), queries, keys and values."""

        def summarize(values: Tensor) -> Tensor:
            real = x if key_mask is None else x.masked_fill(~key_mask[..., None], 0)
            real = F.pad(real, (0, 0, 0, values.shape[2] - x.shape[1]))
            y = self.key_in(values.to(x.dtype).transpose(1, 2).flatten(2)) + real
            return self.key_out(self.key_norm(y)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)

        y = combiner_attention(
            q,
            k,
            v,
            self.factorization,
            self.segment,
            causal=self.causal,
            summary=self.summary,
            summarize=summarize if self.factorization == "rowmajor" else None,
            key_mask=key_mask,
            reference_quirks=self.reference_quirks,
        )
        return y.transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        return self.proj(self.attend(x, *self.project(x), key_mask))

    @staticmethod
    def convert_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights of one attention, of Flax's layout and names, by ours."""
        state = dict(state_dict)
        parts = ("query", "key", "value")
        if missing := [f"{part}.kernel" for part in parts if f"{part}.kernel" not in state]:
            raise CheckpointError(f"Combiner's attention lacks {', '.join(missing)}")
        found = {"qkv.weight": torch.cat([state.pop(f"{part}.kernel").flatten(1).T for part in parts])}
        if "query.bias" in state:
            found["qkv.bias"] = torch.cat([state.pop(f"{part}.bias").flatten() for part in parts])
        rowmajor = "LayerNorm_0.scale" in state
        output = "DenseGeneral_2" if rowmajor else "DenseGeneral_0"
        found["proj.weight"] = state.pop(f"{output}.kernel").flatten(0, 1).T
        if f"{output}.bias" in state:
            found["proj.bias"] = state.pop(f"{output}.bias")
        if rowmajor:
            found["key_in.weight"] = state.pop("DenseGeneral_0.kernel").flatten(0, 1).T
            found["key_out.weight"] = state.pop("DenseGeneral_1.kernel").flatten(1).T
            found["key_norm.weight"] = state.pop("LayerNorm_0.scale")
            found["key_norm.bias"] = state.pop("LayerNorm_0.bias")
        if state:
            raise CheckpointError(f"Combiner's attention has no {', '.join(sorted(state))}")
        return {key: value.contiguous() for key, value in found.items()}


class Cache(NamedTuple):
    """Inputs (B, m, D), queries, keys and values (B, heads, m, d) of tokens so far, and which are real."""

    x: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    real: Tensor


class CombinerLayer(Layer):
    """x + attention(norm(x)), then x + MLP(norm(x)): (B, n, D) to the same.

    Given a state, the attention of all tokens is taken anew, so that a token costs as much as a whole pass
    over those before it through this one function.
    """

    def __init__(self, attn: CombinerAttention, hidden_dims: int, activation: str, norm_eps: float):
        super().__init__()
        dims = attn.proj.out_features
        self.norm1 = LayerNorm(dims, norm_eps)
        self.attn = attn
        self.norm2 = LayerNorm(dims, norm_eps)
        self.fc1 = Linear(dims, hidden_dims)
        self.fc2 = Linear(hidden_dims, dims)
        self.activation = activation

    def forward(
        self, x: Tensor, start: int = 0, state: Cache | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Cache | None]:
        normed = self.norm1(x)
        new = (normed, *self.attn.project(normed))
        if state is None:
            y = self.attn.attend(*new, mask)
        else:
            real = mask if mask is not None else x.new_ones(x.shape[:2], dtype=torch.bool)
            kept = (torch.cat((a.to(b.dtype), b), -2) for a, b in zip(state[:4], new, strict=True))
            state = Cache(*kept, torch.cat((state.real, real), 1))
            y = self.attn.attend(*state)[:, start:]
        x = x + self.attn.proj(y)
        return x + self.fc2(ACTIVATIONS[self.activation](self.fc1(self.norm2(x)))), state

    def new_state(self, batch: int, like: Tensor) -> Cache:
        heads, width = self.attn.num_heads, self.attn.proj.in_features
        empty = like.new_empty(batch, heads, 0, width // heads)
        real = like.new_empty(batch, 0, dtype=torch.bool)
        return Cache(like.new_empty(batch, 0, self.attn.proj.out_features), empty, empty, empty, real)


@ZOO.register_network("combiner", MODELS)
class Combiner(LanguageModel):
    """Causal language model: see :class:`~dense.sequence.language_model.LanguageModel`.

    Images are sequences of bytes: ``vocab_size=257`` with the token before the first, and ``max_length`` as
    many as there are bytes. The defaults are those of the published JAX code; its TensorFlow version has
    ``positions="learned", activation="gelu_tanh", attention_bias=True, norm_eps=1e-5, tied=True`` and, with
    axial factorizations, ``summary="cumsum"``.

    Args:
        arch: a variant, or a mapping with their keys.
        vocab_size: V.
        factorization: "fixed", "mixture", "vertical", "horizontal", "rowmajor" or "logsparse".
        segment: tokens of a row; by default about the square root of ``max_length``. Other lengths than
            whole rows are padded.
        max_length: tokens that a learned table of positions reaches; sinusoids have no bound.
        summary, reference_quirks: see :func:`~dense.ops.combiner_attention`.
        positions: "sinusoid" or "learned".
        activation: of the MLP, "relu" or "gelu_tanh".
        attention_bias: of the layers before and after the attention.
        norm_eps: of all norms.
        tied: logits are products with the embeddings; else of a layer with a bias.
        with_cp: see :class:`~dense.sequence.language_model.LanguageModel`.
    """

    paper = (
        'Ren et al., "Combiner: Full Attention Transformer with Sparse Computation Cost", NeurIPS 2021, '
        "arXiv 2107.05768"
    )
    code = "google-research/google-research"
    licence = "Apache-2.0"
    archs = {
        "tiny": {"embed_dims": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 4.0},
        "small": {"embed_dims": 256, "depth": 4, "num_heads": 4, "mlp_ratio": 4.0},
        "base": {"embed_dims": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0},
    }
    num_parameters = {"tiny": 857_088, "small": 3_286_784, "base": 85_412_608}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        vocab_size: int = 256,
        *,
        factorization: str = "fixed",
        segment: int | None = None,
        max_length: int = 2048,
        summary: str = "max",
        reference_quirks: bool = False,
        positions: str = "sinusoid",
        activation: str = "relu",
        attention_bias: bool = False,
        norm_eps: float = 1e-6,
        tied: bool = False,
        with_cp: bool = False,
    ):
        if positions not in POSITIONS:
            raise ValueError(f"positions must be one of {POSITIONS}, found {positions!r}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {tuple(ACTIVATIONS)}, found {activation!r}")
        spec = self.find_arch(arch)
        dims, learned = spec["embed_dims"], positions == "learned"
        if dims % 2 or dims < 4:
            raise ValueError(f"embed_dims must be even and at least 4, found {dims}")
        super().__init__(
            vocab_size, dims, tied=tied, max_length=max_length if learned else None, with_cp=with_cp
        )
        self.embed_positions = nn.Embedding(max_length, dims) if learned else None
        for _ in range(spec["depth"]):
            attn = CombinerAttention(
                dims,
                spec["num_heads"],
                factorization,
                default_segment(max_length) if segment is None else segment,
                summary=summary,
                qkv_bias=attention_bias,
                proj_bias=attention_bias,
                norm_eps=norm_eps,
                reference_quirks=reference_quirks,
            )
            hidden = round(spec["mlp_ratio"] * dims)
            self.layers.append(CombinerLayer(attn, hidden, activation, norm_eps))
        self.norm = LayerNorm(dims, norm_eps)
        if not tied:
            self.lm_head = nn.Linear(dims, vocab_size)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=1e-6)
        nn.init.normal_(self.embed_tokens.weight, std=0.02 if tied else 1.0)
        if learned:
            nn.init.normal_(self.embed_positions.weight, std=0.02)

    def add_positions(self, x: Tensor, start: int) -> Tensor:
        stop = start + x.shape[1]
        if self.embed_positions is not None:
            return x + self.embed_positions.weight[start:stop]
        return x + sinusoid(torch.arange(start, stop, device=x.device), x.shape[2]).to(x.dtype)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of Flax's parameters, nested names joined by dots, as ``autoreg_model.transformer_layer_0...``."""
        attention = re.compile(rf"autoreg_model\.transformer_layer_(\d+)\.({'|'.join(PUBLISHED)})\.(.*)")
        layers: dict[str, dict[str, Tensor]] = {}
        others = {}
        for key, value in state_dict.items():
            if match := attention.fullmatch(key):
                layers.setdefault(match[1], {})[match[3]] = value
            else:
                others[key] = value.T if key.endswith(".kernel") else value
        layer = r"autoreg_model\.transformer_layer_(\d+)\."
        found = rename_keys(
            others,
            [
                (r"Embed_0\.embedding", "embed_tokens.weight"),
                (layer + r"LayerNorm_0\.scale", r"layers.\1.norm1.weight"),
                (layer + r"LayerNorm_0\.bias", r"layers.\1.norm1.bias"),
                (layer + r"LayerNorm_1\.scale", r"layers.\1.norm2.weight"),
                (layer + r"LayerNorm_1\.bias", r"layers.\1.norm2.bias"),
                (layer + r"MlpBlock_0\.Dense_0\.kernel", r"layers.\1.fc1.weight"),
                (layer + r"MlpBlock_0\.Dense_0\.bias", r"layers.\1.fc1.bias"),
                (layer + r"MlpBlock_0\.Dense_1\.kernel", r"layers.\1.fc2.weight"),
                (layer + r"MlpBlock_0\.Dense_1\.bias", r"layers.\1.fc2.bias"),
                (r"autoreg_model\.LayerNorm_0\.scale", "norm.weight"),
                (r"autoreg_model\.LayerNorm_0\.bias", "norm.bias"),
                (r"autoreg_model\.Dense_0\.kernel", "lm_head.weight"),
                (r"autoreg_model\.Dense_0\.bias", "lm_head.bias"),
            ],
        )
        for index, weights in layers.items():
            own = CombinerAttention.convert_official(weights)
            found |= {f"layers.{index}.attn.{key}": value for key, value in own.items()}
        return found

    @classmethod
    def find_factorization(cls, state_dict: Mapping[str, Tensor]) -> str | None:
        """What published weights, by their authors' names, are of; None where these do not say."""
        return next((ours for key in state_dict for name, ours in PUBLISHED.items() if name in key), None)


def sinusoid(places: Tensor, width: int) -> Tensor:
    """Places (n,) as (n, width): sines of the first half, cosines of the second, frequencies
    10,000^(-i / (width / 2 - 1)), float32.
    """
    half = width // 2
    exponents = torch.arange(half, device=places.device, dtype=torch.float32) / (half - 1)
    angles = places[:, None].float() * 10_000.0**-exponents
    return torch.cat((angles.sin(), angles.cos()), 1)

"""Vision Remember: between its layers, a language model looks again at the picture that it was told of.

Feng, Liu, Yang, Xiao et al., "Vision Remember: Recovering Visual Information in Efficient LVLM with Vision
Feature Resampling", arXiv 2506.03928. No code is published: the module is as the paper describes it, and what
the paper leaves open is chosen here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.errors import nearest
from pointsuite.engine.network import Network

from ...layers import LayerNorm, Linear, RMSNorm, run_block
from ...registry import MODELS, ZOO
from ..language_model import LanguageModel, State

MEMORIES = ("vr", "deepstack", "none")
IMAGE = 1  # the id that stands for a vision token; 0 is padding


class Span(NamedTuple):
    """Consecutive tokens of a sequence that are a picture's, row by row.

    Attributes:
        row: of the batch.
        start: place of the first of them.
        image: number of the picture among the features.
    """

    row: int
    start: int
    image: int


def find_spans(vision: Tensor, length: int, images: Sequence[int] | None = None) -> list[Span]:
    """Where pictures are in a batch, sequence by sequence and from left to right.

    Args:
        vision: bool (B, T), which tokens are a picture's.
        length: tokens of a picture; one that ends may be followed by the next at once.
        images: the number of each span's picture; by default 0, 1, 2, ...

    Raises:
        ValueError: a run of tokens that is not of whole pictures, or not one number for each span.
    """
    if vision.ndim != 2 or vision.dtype != torch.bool:
        raise ValueError(f"vision must be bool (B, T), found {vision.dtype} {tuple(vision.shape)}")
    steps = F.pad(vision.int(), (1, 1)).diff(dim=1)  # 1 where a run begins, -1 behind its end
    firsts, ends = (steps == 1).nonzero().tolist(), (steps == -1).nonzero()[:, 1].tolist()
    places = []
    for (row, first), end in zip(firsts, ends, strict=True):
        if (end - first) % length:
            raise ValueError(
                f"sequence {row}: found {end - first} vision tokens from place {first} on, wanted pictures "
                f"of {length}"
            )
        places += [(row, start) for start in range(first, end, length)]
    numbers = range(len(places)) if images is None else images
    if len(numbers) != len(places):
        raise ValueError(f"found {len(numbers)} numbers of images for {len(places)} spans of vision tokens")
    return [Span(row, start, int(image)) for (row, start), image in zip(places, numbers, strict=True)]


def window_ratio(sides: Sequence[int], grid: Sequence[int]) -> tuple[int, int]:
    """Cells of a map to a side of a token, down and across, rounded up."""
    return tuple(-(-side // tokens) for side, tokens in zip(sides, grid, strict=True))


def _largest(features: Sequence[Tensor]) -> tuple[int, int]:
    """Rows and columns of the largest of levels (M, G_h, G_w, C)."""
    return max((tuple(level.shape[1:3]) for level in features), key=lambda sides: sides[0] * sides[1])


def join_features(features: Sequence[Tensor], grid: Sequence[int]) -> Tensor:
    """Levels (M, G_h, G_w, C_i), in increasing depth, as one map (M, r_h g_h, r_w g_w, sum of C_i).

    r is what :func:`window_ratio` says of the largest level and the grid (g_h, g_w) of tokens. Levels of
    other sizes are resized bilinearly.
    """
    size = tuple(r * g for r, g in zip(window_ratio(_largest(features), grid), grid, strict=True))
    resized = [
        level
        if tuple(level.shape[1:3]) == size
        else F.interpolate(level.movedim(-1, 1), size, mode="bilinear", align_corners=False).movedim(1, -1)
        for level in features
    ]
    return torch.cat(resized, -1)


def _check(
    hidden: Tensor, features: Tensor | Sequence[Tensor], spans: Sequence[Span], grid: Sequence[int]
) -> None:
    """Raises a ValueError that names what does not fit."""
    if hidden.ndim != 3:
        raise ValueError(f"hidden must be (B, T, D), found {tuple(hidden.shape)}")
    if len(grid) != 2 or min(grid) < 1:
        raise ValueError(f"grid must be the rows and columns of tokens, from 1, found {tuple(grid)}")
    levels = [features] if isinstance(features, Tensor) else list(features)
    if not levels or any(level.ndim != 4 or len(level) != len(levels[0]) for level in levels):
        shapes = [tuple(level.shape) for level in levels]
        raise ValueError(f"features must be (M, G, G, C) for each level, with one M, found {shapes}")
    (batch, length), count, tokens = hidden.shape[:2], len(levels[0]), grid[0] * grid[1]
    end = dict.fromkeys(range(batch), 0)
    for span in sorted(spans):
        if not 0 <= span.row < batch:
            raise ValueError(f"{span}: found sequence {span.row}, wanted 0 to {batch - 1}")
        if span.start < 0 or span.start + tokens > length:
            raise ValueError(f"{span}: {tokens} tokens from {span.start} on leave the {length} of a sequence")
        if span.start < end[span.row]:
            raise ValueError(f"{span}: its {tokens} tokens overlap those of the picture before it")
        if not 0 <= span.image < count:
            raise ValueError(f"{span}: found image {span.image}, wanted 0 to {count - 1}")
        end[span.row] = span.start + tokens


def _places(spans: Sequence[Span], tokens: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (n, 1) and places (n, tokens) of the vision tokens, and the spans' images (n,)."""
    rows, starts, images = torch.tensor([list(span) for span in spans], device=device).T
    return rows[:, None], starts[:, None] + torch.arange(tokens, device=device), images


class VR(nn.Module):
    """Vision tokens among hidden states see each other, the question and their part of the picture again.

    First bidirectional self-attention among a picture's tokens and the guide token, which is the mean of the
    hidden states of the question (0 where there is none); then cross-attention of each token to the window of
    ``ratio + 2 halo`` cells around its own ones, of the encoder's uncompressed features. Both are added by
    gates that start at 0: the module starts as the identity. All other tokens stay as they are.

        vr = VR(hidden=384, feature_channels=96, levels=3, ratio=2)
        hidden = vr(hidden, features, find_spans(vision, 6 * 6), (6, 6), guide)

    Pictures of several sizes: call it for those of one size at a time. What generates answers runs it on the
    prompt only: answers must not be part of the guide, and what it made lives in the cache of later layers.

    Args:
        hidden: D.
        feature_channels: of each level, or one number for all of them.
        levels: of features; not needed where ``feature_channels`` are several.
        ratio: cells of the features to a side of a token, one number or down and across.
        halo: w, further cells to each side of the window.
        inner: width of the attentions, by default D / 4.
        heads: by default ``inner`` / 64, at least 1.
        self_attention, cross_attention: have that part. The paper's first version has the second only.
    """

    def __init__(
        self,
        hidden: int,
        feature_channels: int | Sequence[int],
        levels: int = 3,
        ratio: int | Sequence[int] = 2,
        halo: int = 1,
        inner: int | None = None,
        heads: int | None = None,
        self_attention: bool = True,
        cross_attention: bool = True,
    ):
        super().__init__()
        inner = max(hidden // 4, 1) if inner is None else inner
        heads = max(inner // 64, 1) if heads is None else heads
        if heads < 1 or inner % heads:
            raise ValueError(f"heads must divide inner {inner}, found {heads}")
        self.ratio = (ratio, ratio) if isinstance(ratio, int) else tuple(ratio)
        if len(self.ratio) != 2 or min(self.ratio) < 1 or halo < 0:
            raise ValueError(f"ratio must be from 1 and halo from 0, found {ratio} and {halo}")
        if not (self_attention or cross_attention):
            raise ValueError("found neither self_attention nor cross_attention, wanted one or both")
        one = isinstance(feature_channels, int)
        self.feature_channels = (feature_channels,) * levels if one else tuple(feature_channels)
        if not self.feature_channels or min(self.feature_channels) < 1:
            raise ValueError(f"feature_channels must be those of one level or more, found {feature_channels}")
        self.hidden, self.heads, self.halo = hidden, heads, halo
        self.self_attention, self.cross_attention = self_attention, cross_attention
        channels = sum(self.feature_channels)
        if self_attention:
            self.self_norm = RMSNorm(hidden)
            self.self_qkv = Linear(hidden, 3 * inner, bias=False)
            self.self_out = Linear(inner, hidden, bias=False)
            self.self_gate = nn.Parameter(torch.zeros(1))
        if cross_attention:
            self.feature_norm = LayerNorm(channels)
            self.cross_norm = RMSNorm(hidden)
            self.cross_q = Linear(hidden, inner, bias=False)
            self.cross_kv = Linear(channels, 2 * inner, bias=False)
            self.cross_bias = nn.Parameter(torch.zeros(heads, *(r + 2 * halo for r in self.ratio)))
            self.cross_out = Linear(inner, hidden, bias=False)
            self.cross_gate = nn.Parameter(torch.zeros(1))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    def forward(
        self,
        hidden: Tensor,
        features: Tensor | Sequence[Tensor],
        spans: Sequence[Span],
        grid: Sequence[int],
        guide: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) to the same.

        Args:
            features: of M pictures, each level (M, G_h, G_w, C), in increasing depth; or the one map that
                :func:`join_features` makes of them.
            spans: where pictures are in the sequences; none is needed.
            grid: rows and columns (g_h, g_w) of a picture's tokens; ceil(G / g) is the ratio.
            guide: bool (B, T), the tokens of the question: neither padding nor answer nor a picture.

        Raises:
            ValueError: shapes, spans, guide or grid that do not fit.
        """
        self._check(hidden, features, spans, grid, guide)
        if not spans:
            return hidden
        rows, places, images = _places(spans, grid[0] * grid[1], hidden.device)
        v = hidden[rows, places]  # (n, N, D)
        if self.self_attention:
            v = self.attend_to_each_other(v, self.guide_token(hidden, guide)[rows])
        if self.cross_attention:
            joined = features if isinstance(features, Tensor) else join_features(features, grid)
            v = self.attend_to_features(v, joined, images, grid)
        return hidden.index_put((rows, places), v.to(hidden.dtype))

    def guide_token(self, hidden: Tensor, guide: Tensor | None) -> Tensor:
        """The mean of hidden states over the guide: (B, T, D) to (B, D)."""
        if guide is None:
            return torch.zeros_like(hidden[:, 0])
        total = hidden.masked_fill(~guide[..., None], 0).sum(1)
        return total / guide.sum(1, keepdim=True).clamp(min=1)

    def attend_to_each_other(self, v: Tensor, guide: Tensor) -> Tensor:
        """Vision tokens (n, N, D) and their guide tokens (n, 1, D) to vision tokens."""
        qkv = self.self_qkv(self.self_norm(torch.cat((guide, v), 1)))
        q, k, value = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (n, heads, 1 + N, d)
        y = F.scaled_dot_product_attention(q[:, :, 1:], k, value)
        return v + self.self_gate.tanh() * self.self_out(y.transpose(1, 2).flatten(2))

    def attend_to_features(self, v: Tensor, joined: Tensor, images: Tensor, grid: Sequence[int]) -> Tensor:
        """Vision tokens (n, N, D) of the pictures ``images`` (n,) of M, whose joined features are
        (M, r_h g_h, r_w g_w, C), to vision tokens.
        """
        count = grid[0] * grid[1]
        q = self.cross_q(self.cross_norm(v)).view(len(v) * count, self.heads, 1, -1)
        kv = self._windows(self.cross_kv(self.feature_norm(joined)))  # (M, N, 2 inner, K)
        kv = kv[images].flatten(0, 1).unflatten(1, (2, self.heads, -1)).mT  # (n N, 2, heads, K, d)
        inside = self._windows(joined.new_ones(1, *joined.shape[1:3], 1))[0, :, None] > 0  # (N, 1, 1, K)
        bias = self.cross_bias.flatten(1)[:, None].to(q.dtype)  # (heads, 1, K)
        bias = torch.where(inside, bias, -torch.inf).repeat(len(v), 1, 1, 1)  # (n N, heads, 1, K)
        y = F.scaled_dot_product_attention(q, kv[:, 0], kv[:, 1], bias)
        return v + self.cross_gate.tanh() * self.cross_out(y.reshape(len(v), count, -1))

    def _windows(self, x: Tensor) -> Tensor:
        """The cells around each token, zeros outside of the map: (M, r_h g_h, r_w g_w, C) to (M, N, C, K)."""
        w = self.halo
        x = F.pad(x, (0, 0, w, w, w, w))
        for axis, r in enumerate(self.ratio, start=1):
            x = x.unfold(axis, r + 2 * w, r)
        return x.flatten(1, 2).flatten(3)

    def _check(
        self,
        hidden: Tensor,
        features: Tensor | Sequence[Tensor],
        spans: Sequence[Span],
        grid: Sequence[int],
        guide: Tensor | None,
    ) -> None:
        _check(hidden, features, spans, grid)
        if hidden.shape[2] != self.hidden:
            raise ValueError(f"hidden must be (B, T, {self.hidden}), found {tuple(hidden.shape)}")
        if guide is not None:
            if guide.dtype != torch.bool or guide.shape != hidden.shape[:2]:
                raise ValueError(
                    f"guide must be bool {tuple(hidden.shape[:2])}, found {guide.dtype} {tuple(guide.shape)}"
                )
            if spans:
                rows, places, _ = _places(spans, grid[0] * grid[1], guide.device)
                if (wrong := guide[rows, places].any(1).nonzero()).numel():
                    raise ValueError(
                        f"{spans[int(wrong[0])]}: tokens of it are in the guide, wanted the question's"
                    )
        if not self.cross_attention:
            return
        joined = isinstance(features, Tensor)
        channels = features.shape[3] if joined else tuple(level.shape[3] for level in features)
        wanted = sum(self.feature_channels) if joined else self.feature_channels
        if channels != wanted:
            raise ValueError(f"features must have {wanted} channels, found {channels}")
        sides = _largest([features] if joined else features)
        ratio = window_ratio(sides, grid)
        if ratio != self.ratio or (joined and any(s % g for s, g in zip(sides, grid, strict=True))):
            raise ValueError(
                f"features of {sides[0]} x {sides[1]} cells are {ratio[0]} x {ratio[1]} to each of the "
                f"{grid[0]} x {grid[1]} tokens, wanted {self.ratio[0]} x {self.ratio[1]}"
            )


class StackedFeatures(nn.Module):
    """As DeepStack: the uncompressed features are added to the vision tokens, some of them at each layer.

    Meng et al., "DeepStack: Deeply Stacking Visual Tokens is Surprisingly Simple and Effective for LMMs",
    NeurIPS 2024, arXiv 2406.04334. The cells of a token are dealt in turn to the layers; a layer adds the
    mean of its own, normed and projected. It starts as the identity, by a gate, as :class:`VR` does, and is
    called as that is.

    Args:
        hidden, feature_channels, ratio: see :class:`VR`; channels are those of all levels.
        index, count: which of how many such layers.
    """

    def __init__(self, hidden: int, feature_channels: int, ratio: int, index: int, count: int):
        super().__init__()
        if not 0 <= index < count <= ratio * ratio:
            raise ValueError(
                f"ratio {ratio} gives a token {ratio * ratio} cells, not enough for layer {index} of {count}"
            )
        self.ratio, self.cells = ratio, list(range(index, ratio * ratio, count))
        self.norm = LayerNorm(feature_channels)
        self.proj = Linear(feature_channels, hidden, bias=False)
        self.gate = nn.Parameter(torch.zeros(1))
        nn.init.normal_(self.proj.weight, std=0.02)

    def forward(
        self,
        hidden: Tensor,
        features: Tensor,
        spans: Sequence[Span],
        grid: Sequence[int],
        guide: Tensor | None = None,
    ) -> Tensor:
        _check(hidden, features, spans, grid)
        if not spans:
            return hidden
        rows, places, images = _places(spans, grid[0] * grid[1], hidden.device)
        r = self.ratio
        cells = self.norm(features).unflatten(1, (-1, r)).unflatten(3, (-1, r))  # (M, g_h, r, g_w, r, C)
        cells = cells.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :, self.cells].mean(2)  # (M, N, C)
        added = (self.gate.tanh() * self.proj(cells))[images]
        return hidden.index_put((rows, places), hidden[rows, places] + added.to(hidden.dtype))


class Pictures(NamedTuple):
    """What the encoder says of pictures; it is kept once, for all layers that look again.

    Attributes:
        tokens: (M, N, D), compressed, for the language model.
        features: (M, r g_h, r g_w, C), the uncompressed levels, joined.
        grid: rows and columns of the tokens.
    """

    tokens: Tensor
    features: Tensor
    grid: tuple[int, int]


def _vit(embed_dims: int, depth: int, num_heads: int, patch_size: int, img_size: int) -> dict[str, Any]:
    arch = {"embed_dims": embed_dims, "depth": depth, "num_heads": num_heads, "patch_size": patch_size}
    arch |= {"img_size": img_size, "mlp": "mlp", "layer_scale_init": 0.0, "num_registers": 0}
    arch |= {"distillation": False, "antialias": True, "scale_offset": 0.0}
    levels = (depth // 2 - 1, depth * 3 // 4 - 1, depth - 1)  # blocks, un-normed
    return {
        "type": "ViT",
        "arch": arch,
        "class_token": False,
        "out_indices": levels,
        "output_norm": False,
    }


def _transformer(embed_dims: int, depth: int, num_heads: int) -> dict[str, Any]:
    arch = {"embed_dims": embed_dims, "depth": depth, "num_heads": num_heads, "mlp_ratio": 4.0}
    return {"type": "Transformer", "arch": arch, "positions": "rotary"}


def insertion_layers(depth: int) -> tuple[int, ...]:
    """How many layers are before each module: floor(k depth / 4) for k = 1, 2, 3, where that is not 0."""
    return tuple(sorted({k * depth // 4 for k in (1, 2, 3)} - {0}))


@ZOO.register_network("vision_remember", MODELS)
class VisionRemember(Network, nn.Module):
    """A vision-language model of few vision tokens, which looks again at the features they are made of.

    An encoder makes maps; ``ratio`` x ``ratio`` average pooling and an MLP of two layers make tokens of the
    last one; these take the places of the ids ``IMAGE`` in the prompt. :class:`VR` modules, without common
    weights, stand behind the layers ``layers`` of the language model.

        network = VisionRemember("tiny", vocab_size=64)
        logits = network(pictures, ids, guide)                         # (M, 3, H, W), (B, T) to (B, T, V)
        answers = network.generate(pictures, ids, guide, max_tokens=1)  # (B, 1)

    A sequence may have no picture or several; the pictures of a batch have one size. Sequences of unequal
    length are padded on the left, by ``mask``: padding changes nothing where the language model's positions
    are relative.

    Args:
        arch: a variant, or a mapping with their keys: ``vision`` is the config (or module) of a backbone of
            :mod:`dense.backbones`, whose outputs, from fine to coarse, are the levels of features;
            ``language`` that of a :class:`~dense.sequence.language_model.LanguageModel`, but for its
            vocabulary.
        vocab_size: V; ids 0 and 1 are padding and a picture's tokens.
        memory: "vr", "deepstack" (:class:`StackedFeatures` in the same places) or "none".
        ratio: the projector makes one token of so many cells down and across.
        layers: after how many of the language model's layers each module stands; by default
            :func:`insertion_layers`.
        halo, inner, heads, self_attention, cross_attention: of :class:`VR`.
        frozen: the encoder learns nothing and stays in evaluation mode.
        with_cp: save memory in training by computing the modules between the layers anew.
    """

    paper = (
        'Feng et al., "Vision Remember: Recovering Visual Information in Efficient LVLM with Vision Feature '
        'Resampling", arXiv 2506.03928'
    )
    archs = {
        "tiny": {"vision": _vit(96, 4, 3, 8, 96), "language": _transformer(128, 4, 4)},
        "small": {"vision": _vit(384, 12, 6, 16, 224), "language": _transformer(384, 8, 6)},
    }
    num_parameters = {"tiny": 1_435_990, "small": 37_483_062}
    example_sizes = ((32, 48), (64, 32))

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        vocab_size: int = 64,
        *,
        memory: str = "vr",
        ratio: int = 2,
        layers: Sequence[int] | None = None,
        halo: int = 1,
        inner: int | None = None,
        heads: int | None = None,
        self_attention: bool = True,
        cross_attention: bool = True,
        frozen: bool = False,
        with_cp: bool = False,
    ):
        super().__init__()
        spec = self.find_arch(arch)
        if memory not in MEMORIES:
            raise ValueError(f"memory must be one of {MEMORIES}, found {memory!r}{nearest(memory, MEMORIES)}")
        if ratio < 1:
            raise ValueError(f"ratio must be at least 1, found {ratio}")
        if vocab_size <= IMAGE + 1:
            raise ValueError(
                f"vocab_size must be at least {IMAGE + 2}, for 0 and 1 are no words; found {vocab_size}"
            )
        self.vision = self._build(spec["vision"])
        self.language: LanguageModel = self._build(spec["language"], vocab_size=vocab_size)
        self.memory, self.ratio, self.frozen, self.with_cp = memory, ratio, frozen, with_cp
        self.vocab_size = vocab_size
        depth = len(self.language.layers)
        self.places = insertion_layers(depth) if layers is None else tuple(layers)
        if wrong := [place for place in self.places if not 1 <= place <= depth]:
            raise ValueError(
                f"layers: found {wrong[0]}, but the language model has {depth} layers; wanted 1 to {depth}"
            )
        if len(set(self.places)) != len(self.places):
            raise ValueError(f"layers must differ, found {self.places}")
        dims, channels = self.language.embed_dims, tuple(self.vision.out_channels)
        self.window = ratio * (self.vision.strides[-1] // self.vision.strides[0])  # cells of the first level
        self.pool = nn.AvgPool2d(ratio)
        self.projector = nn.Sequential(Linear(channels[-1], dims), nn.GELU(), Linear(dims, dims))
        if memory == "vr":
            self.memories = nn.ModuleList(
                VR(dims, channels, 0, self.window, halo, inner, heads, self_attention, cross_attention)
                for _ in self.places
            )
        elif memory == "deepstack":
            self.memories = nn.ModuleList(
                StackedFeatures(dims, sum(channels), self.window, i, len(self.places))
                for i in range(len(self.places))
            )
        else:
            self.memories = nn.ModuleList()
        self.vision.requires_grad_(not frozen)
        self.train()

    @staticmethod
    def _build(part: Mapping[str, Any] | nn.Module, **options: Any) -> nn.Module:
        return MODELS.build({**part, **options}) if isinstance(part, Mapping) else part

    def init_weights(self) -> None:
        """Load or initialise the encoder as its ``init_cfg`` says; all else is initialised when built."""
        if hasattr(self.vision, "init_weights"):
            self.vision.init_weights()

    def train(self, mode: bool = True):
        super().train(mode)
        if self.frozen:
            self.vision.eval()
        return self

    # --------------------------------------------------------------------------------------------- parts

    def encode(self, pictures: Tensor) -> Pictures:
        """Normalised pictures (M, 3, H, W) as tokens and features.

        Raises:
            ValueError: a size whose map ``ratio`` does not divide, or that the encoder does not take.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.vision(pictures)
        rows, columns = maps[-1].shape[2:]
        grid = (rows // self.ratio, columns // self.ratio)
        wrong = not min(grid) or rows % self.ratio or columns % self.ratio
        if wrong or window_ratio(maps[0].shape[2:], grid) != (self.window, self.window):
            raise ValueError(
                f"pictures of {pictures.shape[2]} x {pictures.shape[3]} pixels make {rows} x {columns} "
                f"cells, wanted multiples of the ratio {self.ratio}"
            )
        tokens = self.projector(self.pool(maps[-1]).flatten(2).mT)
        features = tokens.new_empty(0)
        if self.memory != "none":
            features = join_features([level.permute(0, 2, 3, 1) for level in maps], grid)
        return Pictures(tokens, features, grid)

    def count_tokens(self, pictures: Tensor) -> int:
        """Vision tokens of each of the pictures (M, 3, H, W)."""
        step = self.vision.strides[-1] * self.ratio
        return (pictures.shape[2] // step) * (pictures.shape[3] // step)

    def embed(
        self, pictures: Pictures, ids: Tensor, images: Sequence[int] | None = None
    ) -> tuple[Tensor, list[Span]]:
        """Embeddings (B, T, D) of ids (B, T) with pictures in their places, and where these are."""
        spans = find_spans(ids == IMAGE, pictures.tokens.shape[1], images)
        if wrong := [span for span in spans if span.image >= len(pictures.tokens)]:
            raise ValueError(f"found {len(pictures.tokens)} pictures, but ids have room for more: {wrong[0]}")
        x = self.language.embed(ids)
        if not spans:
            return x, spans
        rows, places, numbers = _places(spans, pictures.tokens.shape[1], ids.device)
        return x.index_put((rows, places), pictures.tokens[numbers].to(x.dtype)), spans

    def forward(
        self,
        pictures: Tensor,
        ids: Tensor,
        guide: Tensor,
        mask: Tensor | None = None,
        images: Sequence[int] | None = None,
        state: State | None = None,
    ) -> Tensor | tuple[Tensor, State]:
        """Logits (B, T, V) of the tokens after each; with ``state``, also the state after all of them.

        Args:
            pictures: (M, 3, H, W), normalised.
            ids: (B, T), int64; each picture is N times ``IMAGE``.
            guide: bool (B, T), the words of the question: no padding, no picture, and never an answer.
            mask: bool (B, T), False where a token is padding.
            images: the number of the picture of each span, sequence by sequence, from left to right; by
                default each is of its own.
            state: of ``language.new_state(B)``, to go on with ``language(next_ids, state=state)``.

        Raises:
            ValueError: what does not fit, by name.
        """
        if guide.shape != ids.shape or guide.dtype != torch.bool:
            raise ValueError(
                f"guide must be bool {tuple(ids.shape)}, found {guide.dtype} {tuple(guide.shape)}"
            )
        if (guide & (ids == IMAGE)).any():
            raise ValueError("guide: found tokens of a picture in it, wanted the question's")
        if mask is not None and (guide & ~mask).any():
            raise ValueError("guide: found padding in it, wanted the question's tokens")
        known = self.encode(pictures)
        x, spans = self.embed(known, ids, images)
        modules = dict(zip(self.places, self.memories, strict=False))

        def look_again(i: int, x: Tensor) -> Tensor:
            if i + 1 not in modules:
                return x
            args = (x, known.features, spans, known.grid, guide)
            return run_block(modules[i + 1], *args, with_cp=self.with_cp)

        return self.language(embeddings=x, state=state, mask=mask, after_layer=look_again)

    @torch.no_grad()
    def generate(
        self,
        pictures: Tensor,
        ids: Tensor,
        guide: Tensor,
        mask: Tensor | None = None,
        images: Sequence[int] | None = None,
        max_tokens: int = 2,
        stop: int | None = None,
    ) -> Tensor:
        """The most probable tokens after prompts that end in the same place: (B, up to ``max_tokens``).

        Pictures and prompts are read once; what follows comes from the cache.

        Args:
            stop: the token after which a sequence has ended; 0 stands behind it.
        """
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, found {max_tokens}")
        state = self.language.new_state(len(ids))
        logits, state = self(pictures, ids, guide, mask, images, state)
        ended, found = torch.zeros_like(ids[:, :1], dtype=torch.bool), []
        while True:
            words = logits[:, -1:, IMAGE + 1 :]  # neither padding nor pictures are answers
            token = (words.argmax(-1) + IMAGE + 1).masked_fill(ended, 0)
            found.append(token)
            ended = ended | (token == stop) if stop is not None else ended
            if len(found) == max_tokens or ended.all():
                return torch.cat(found, 1)
            logits, state = self.language(token, state=state)

    def example_inputs(
        self, batch: int = 2, size: tuple[int, int] = (96, 96)
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Random pictures of about that size, one a sequence, a question of three tokens and an answer."""
        step = self.vision.strides[-1] * self.ratio
        size = tuple(max(1, round(side / step)) * step for side in size)
        count = (size[0] // step) * (size[1] // step)
        words = torch.randint(IMAGE + 1, self.vocab_size, (batch, 5))
        ids = torch.cat((words[:, :1], words.new_full((batch, count), IMAGE), words[:, 1:]), 1)
        guide = torch.zeros_like(ids, dtype=torch.bool)
        guide[:, count + 1 : count + 4] = True
        return torch.randn(batch, 3, *size), ids, guide

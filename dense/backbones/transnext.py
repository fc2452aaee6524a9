"""TransNeXt: each pixel attends to the window around it and to a pooled map at once.

Shi, "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", CVPR 2024, arXiv 2311.17132.
Published code: DaiShiResearch/TransNeXt, Apache-2.0.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import exp, isqrt, log, prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    ConvGLU,
    DropPath,
    LayerNorm,
    LayerNorm2d,
    Linear,
    PooledLinear,
    drop_path_rates,
    init_normal,
    on_channels_last,
)
from ..ops import local_logits, local_mask, local_sum
from ..ops.chunks import fitting_rows, rows_at_once, slices

Size = tuple[int, int]
STRIDES = (4, 8, 16, 32)


class PositionBias(nn.Module):
    r"""Bias of each pair of a query and a key, by an MLP of their offset on a logarithmic scale.

    Keys are the means of the queries that adaptive average pooling puts together. On each axis the offset, of
    pixels in a map of H, becomes :math:`\delta = 8 (\text{query} - \text{key}) / (H - 1)` and
    :math:`\mathrm{sign}(\delta) \log_2(|\delta| + 1) / 3`. The MLP sees each distinct offset once, in
    float32 also under autocast.

    Args:
        num_heads: one bias each.
        reference: H and W of the map that training saw at this place; a side of 1 counts as 2.
        grids: (H, W) of queries and of keys for which the bias is made; it is then resized, bilinearly, to
            those asked for. None: made for those asked for.
        hidden_dims: of the MLP.
    """

    def __init__(
        self, num_heads: int, reference: Size, grids: tuple[Size, Size] | None = None, hidden_dims: int = 512
    ):
        super().__init__()
        self.reference = reference
        self.grids = grids
        self.fc1 = nn.Linear(2, hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, num_heads)
        self._kept = None

    def forward(self, queries: Size, keys: Size) -> Callable[[slice], Tensor]:
        """A function of a slice of the rows of queries: their bias (heads, rows, W, keys)."""
        if self.grids in (None, (queries, keys)):
            return self._extrapolate(queries, keys)
        made_for, pooled = self.grids
        bias = self._extrapolate(made_for, pooled)(slice(None)).flatten(1, 2).unflatten(2, pooled)
        bias = _resize(bias, keys).flatten(2).transpose(1, 2).unflatten(2, made_for)
        bias = _resize(bias, queries).permute(0, 2, 3, 1)
        return lambda rows: bias[:, rows]

    def _extrapolate(self, queries: Size, keys: Size) -> Callable[[slice], Tensor]:
        table, down, across = self.table(queries, keys)
        table = (
            table.index_select(2, across.flatten()).unflatten(2, across.shape).transpose(1, 2).contiguous()
        )

        def gather(rows: slice) -> Tensor:
            bias = table.index_select(2, down[rows].flatten())  # (heads, W, rows * Hk, Wk)
            return bias.unflatten(2, down[rows].shape).transpose(1, 2).flatten(3)

        return gather

    def table(self, queries: Size, keys: Size) -> tuple[Tensor, Tensor, Tensor]:
        """The bias of each distinct offset (heads, U, V), and the places in it of pairs: (H, Hk), (W, Wk).

        Inference on a CPU keeps the last one, with the weights that gave it: there, to compare a few thousand
        weights takes far less time than the MLP.
        """
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if torch.is_grad_enabled() or traced or self.fc1.weight.device.type != "cpu":
            return self._make_table(queries, keys)
        weights = torch.cat([parameter.flatten() for parameter in self.parameters()])
        asked = (queries, keys, weights.dtype)
        if self._kept is None or self._kept[0] != asked or not torch.equal(self._kept[1], weights):
            self._kept = asked, weights, self._make_table(queries, keys)
        return self._kept[2]

    def _make_table(self, queries: Size, keys: Size) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.fc1.weight
        axes = [_offsets(*sizes, weight) for sizes in zip(queries, keys, self.reference, strict=True)]
        (down, row_places), (across, column_places) = axes
        with torch.autocast(weight.device.type, enabled=False):
            down = torch.outer(down, weight[:, 0]) + self.fc1.bias  # (U, hidden)
            across = torch.outer(across, weight[:, 1])  # (V, hidden)
            step = fitting_rows(across.numel(), across.device)
            parts = [self.fc2((part[:, None] + across).relu_()) for part in down.split(step)]
        return torch.cat(parts).permute(2, 0, 1).contiguous(), row_places, column_places


def _offsets(queries: int, keys: int, reference: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """On one axis: the distinct offsets on a logarithmic scale (U,), and which a pair has (queries, keys)."""
    device, exact = like.device, torch.promote_types(like.dtype, torch.float32)
    # In half pixels all positions are whole: a key is the mean of the pixels first to last - 1.
    key = torch.arange(keys, device=device)
    first, last = key * queries // keys, -(-(key + 1) * queries // keys)
    pairs = 2 * torch.arange(queries, device=device)[:, None] - (first + last - 1)
    largest = 2 * (queries - 1) - (-(-queries // keys) - 1)
    step = 1 if queries % keys else 2
    offsets = torch.arange(-largest, largest + 1, step, device=device, dtype=exact) / 2
    offsets = offsets / max(reference - 1, 1) * 8
    offsets = offsets.sign() * (offsets.abs() + 1).log2() / 3
    return offsets.to(like.dtype), (pairs + largest) // step


def _resize(x: Tensor, size: Size) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


class GlobalAttention(nn.Module):
    r"""Cosine attention between all pixels: (B, H, W, C) to the same.

    With unit queries and keys, the logit is :math:`s \log N \, (q + e) \cdot k` plus the bias of position; N
    is the number of pixels, e and s > 0 are learned for each head.

    Args:
        embed_dims: C.
        num_heads: divides C.
        reference, grids: of :class:`PositionBias`.
        qkv_bias: bias of queries, keys and values.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        reference: Size,
        grids: tuple[Size, Size] | None = None,
        qkv_bias: bool = True,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        _add_query_parameters(self, embed_dims, num_heads)
        self.cpb = PositionBias(num_heads, reference, grids)
        self.proj = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        qkv = self.qkv(x).view(batch, height * width, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, N, d)
        scale = F.softplus(self.temperature) * log(height * width)
        query = (F.normalize(query, dim=-1) + self.query_embedding) * scale
        bias = self.cpb((height, width), (height, width))(slice(None)).flatten(1, 2).to(query.dtype)
        y = F.scaled_dot_product_attention(query, F.normalize(key, dim=-1), value, bias, scale=1.0)
        return self.proj(y.transpose(1, 2).reshape(x.shape))


class AggregatedAttention(nn.Module):
    r"""Attention of pixels to their windows and a pooled map, under one softmax: (B, H, W, C) to the same.

    The logits are those of :class:`GlobalAttention`, N being the number of keys that the pixel has: those of
    its window that are on the map, and all pooled ones. Each place t of the window has its own bias. The
    values of the window get, after the softmax, a further weight :math:`q \cdot T_t + \beta_t`, with the unit
    query q and learned T, :math:`\beta`.

    Args:
        embed_dims: C.
        num_heads: divides C.
        reference, grids: of :class:`PositionBias`.
        qkv_bias: bias of queries, keys and values.
        sr_ratio: pixels to a pooled one along each axis; the pooled map has at least one.
        window_size: side of the window, odd.
        pool_size: (H, W) of the pooled map instead, whatever the map's.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        reference: Size,
        grids: tuple[Size, Size] | None = None,
        qkv_bias: bool = True,
        *,
        sr_ratio: int,
        window_size: int = 3,
        pool_size: Size | None = None,
    ):
        super().__init__()
        if window_size < 1 or window_size % 2 == 0:
            raise ValueError(f"window_size must be odd and positive, found {window_size}")
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.window_size = window_size
        self.pool_size = pool_size
        places = window_size**2
        self.q = Linear(embed_dims, embed_dims, bias=qkv_bias)
        self.kv = Linear(embed_dims, 2 * embed_dims, bias=qkv_bias)
        self.sr = Linear(embed_dims, embed_dims)
        self.norm = nn.LayerNorm(embed_dims)
        _add_query_parameters(self, embed_dims, num_heads)
        self.relative_pos_bias_local = nn.Parameter(torch.empty(num_heads, places))
        self.learnable_tokens = nn.Parameter(torch.empty(num_heads, embed_dims // num_heads, places))
        self.learnable_bias = nn.Parameter(torch.zeros(num_heads, 1, places))
        nn.init.trunc_normal_(self.relative_pos_bias_local, std=4e-4)
        nn.init.trunc_normal_(self.learnable_tokens, std=0.02)
        self.cpb = PositionBias(num_heads, reference, grids)
        self.proj = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        keys = self.pool_size or pooled_size((height, width), self.sr_ratio)
        inside = local_mask(height, width, self.window_size, x.device)

        query = F.normalize(self._to_heads(self.q(x)), dim=-1)  # (B, heads, H, W, d)
        number = (inside.sum(-1) + prod(keys)).to(self.temperature.dtype)
        scale = F.softplus(self.temperature)[..., None] * number.log()[..., None]  # (heads, H, W, 1)
        scaled = (query + self.query_embedding[:, :, None]) * scale
        key, value = self._keys_and_values(x)
        pooled_key, pooled_value = self._keys_and_values(self._pool(x, keys))
        pooled_key, pooled_value = pooled_key.flatten(2, 3).transpose(2, 3), pooled_value.flatten(2, 3)

        bias = self.relative_pos_bias_local[:, None, None].masked_fill(~inside, -torch.inf)
        near = local_logits(scaled, key.to(scaled.dtype), self.window_size) + bias  # (B, heads, H, W, K * K)
        bias = self.cpb((height, width), keys)
        parts = []
        of_row = batch * self.num_heads * width * (near.shape[-1] + prod(keys))
        for rows in slices(height, rows_at_once(height, of_row, near.device)):
            far = (scaled[:, :, rows].flatten(2, 3) @ pooled_key).unflatten(2, (-1, width))
            far += bias(rows)
            logits = torch.cat([near[:, :, rows], far], -1).flatten(2, 3)
            near_weights, far_weights = logits.softmax(-1).split([near.shape[-1], far.shape[-1]], -1)
            parts.append((near_weights, far_weights @ pooled_value))
        near_weights, far = (torch.cat(part, 2) for part in zip(*parts, strict=True))

        position = query.flatten(2, 3) @ self.learnable_tokens + self.learnable_bias
        near = local_sum((near_weights + position).view(near.shape).to(value.dtype), value)
        return self.proj((near + far.view(near.shape)).permute(0, 2, 3, 1, 4).flatten(3))

    def _to_heads(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, heads, H, W, d), in this order in memory."""
        return x.unflatten(-1, (self.num_heads, -1)).permute(0, 3, 1, 2, 4).contiguous()

    def _keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        key, value = map(self._to_heads, self.kv(x).chunk(2, -1))
        return F.normalize(key, dim=-1), value

    def _pool(self, x: Tensor, size: Size) -> Tensor:
        x = self.sr(x, activation="gelu")
        return self.norm(on_channels_last(lambda x: F.adaptive_avg_pool2d(x, size), x))


def _add_query_parameters(module: nn.Module, embed_dims: int, num_heads: int) -> None:
    module.temperature = nn.Parameter(torch.full((num_heads, 1, 1), log(exp(1 / 0.24) - 1)))
    module.query_embedding = nn.Parameter(torch.empty(num_heads, 1, embed_dims // num_heads))
    nn.init.trunc_normal_(module.query_embedding, std=0.02)


def pooled_size(size: Size, sr_ratio: int) -> Size:
    """Sides of the pooled map, rounded down, but at least 1."""
    return tuple(max(1, side // sr_ratio) for side in size)


class Block(nn.Module):
    """Attention, then the gated MLP, each on a norm and added: (B, H, W, C) to the same."""

    def __init__(self, embed_dims: int, attn: nn.Module, hidden_dims: int, drop_path_rate: float):
        super().__init__()
        self.norm1 = LayerNorm(embed_dims)
        self.attn = attn
        self.drop_path1 = DropPath(drop_path_rate)
        self.norm2 = LayerNorm(embed_dims)
        self.mlp = ConvGLU(embed_dims, hidden_dims)
        self.drop_path2 = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


def _published(
    embed_dims: int,
    depths: tuple[int, ...],
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1),
    img_size: int = 224,
) -> dict[str, Any]:
    return {
        "embed_dims": tuple(embed_dims * 2**i for i in range(4)),
        "num_heads": tuple(embed_dims * 2**i // 24 for i in range(4)),
        "depths": depths,
        "mlp_ratios": (8, 8, 4, 4),
        "sr_ratios": sr_ratios,
        "img_size": img_size,
    }


@register_backbone("transnext")
class TransNeXt(Backbone):
    """TransNeXt's trunk, whose stages end with a norm; strides 4, 8, 16, 32. Images of any size.

    For images of ``img_size`` this is the published classifier. For any others it is the published dense
    backbone: all that depends on the size of a map is made anew, that is, which neighbours there are, the
    number of keys that scales the logits, the pooled map (H // sr_ratio, W // sr_ratio; at least one pixel)
    and the biases of position, the latter in one of two ways.

    Args:
        arch: one of :attr:`archs`, or a mapping with its keys; stages with an sr_ratio of 1 attend globally.
        drop_path_rate: of the last block; those before it rise to it linearly from 0. Published: 0.15 for
            micro, 0.25 for tiny, 0.45 for small, 0.6 for base.
        img_size: side of the images of this training, or (height, width); the arch's by default. It matters
            to ``position_bias="interpolate"``, and is the default of ``pretrain_size``.
        pretrain_size: the same of the first training, by which offsets of position are measured. Published
            weights fine-tuned at 384 pixels want img_size=384, pretrain_size=224.
        position_bias: "extrapolate" makes the biases for the maps at hand; "interpolate" makes them for those
            of ``img_size`` and resizes them.
        fixed_pool_size: side of the pooled maps, or (height, width), whatever the size of the image: the cost
            is then linear in the number of pixels.
        window_sizes: side of the window, odd; or one for each stage.
        qkv_bias: bias of queries, keys and values.
        **kwargs: of :class:`Backbone`; ``output_norm`` changes nothing here.
    """

    paper = (
        'Shi, "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", CVPR 2024, '
        "arXiv 2311.17132"
    )
    code = "DaiShiResearch/TransNeXt"
    licence = "Apache-2.0"
    archs = {
        "micro": _published(48, (2, 2, 15, 2)),
        "tiny": _published(72, (2, 2, 15, 2)),
        "small": _published(72, (5, 5, 22, 5)),
        "base": _published(96, (5, 5, 23, 5)),
        "micro_aaaa": _published(48, (2, 2, 15, 2), (16, 8, 4, 2), 256),
    }
    num_parameters = {
        "micro": 12_809_304,
        "tiny": 28_258_960,
        "small": 49_741_564,
        "base": 89_721_496,
        "micro_aaaa": 13_114_008,
    }
    published = results(
        (
            "ImageNet-1K top-1, %",
            "ImageNet-1K 384 top-1, %",
            "ImageNet-A top-1, %",
            "ImageNet-A 384 top-1, %",
            "ImageNet-C mCE, %",
            "ImageNet-R top-1, %",
            "ImageNet-Sketch top-1, %",
            "ImageNet-V2 top-1, %",
            "COCO Mask R-CNN 1x box AP",
            "COCO Mask R-CNN 1x mask AP",
            "COCO DINO 12 epochs 4 scales AP",
            "COCO DINO 12 epochs 5 scales AP",
            "COCO DINO 12 epochs AP",
            "ADE20K UPerNet mIoU",
            "ADE20K UPerNet mIoU multi-scale, interpolated",
            "ADE20K UPerNet mIoU multi-scale, extrapolated",
            "ADE20K Mask2Former mIoU",
        ),
        {
            "micro": (82.5, None, 29.9, None, 50.8, 45.8, 33.0, 72.6, *[None] * 9),
            "tiny": (
                *(84.0, None, 39.9, None, 46.5, 49.6, 37.6, 73.8),
                *(49.9, 44.6, 55.1, 55.7, None, 51.1, 51.5, 51.7, 53.4),
            ),
            "small": (
                *(84.7, 86.0, 47.1, 58.3, 43.9, 52.5, 39.7, 74.8),
                *(51.1, 45.5, None, None, 56.6, 52.2, 52.5, 52.8, 54.1),
            ),
            "base": (
                *(84.8, 86.2, 50.6, 61.6, 43.5, 53.9, 41.4, 75.1),
                *(51.7, 45.9, None, None, 57.1, 53.0, 53.5, 53.7, 54.7),
            ),
            "micro_aaaa": (82.6, *[None] * 16),
        },
    )
    channels_last = True
    no_weight_decay = ("query_embedding", "relative_pos_bias_local", "cpb", "temperature")

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "micro",
        *,
        drop_path_rate: float = 0.1,
        img_size: int | Size | None = None,
        pretrain_size: int | Size | None = None,
        position_bias: str = "extrapolate",
        fixed_pool_size: int | Size | None = None,
        window_sizes: int | Sequence[int] = 3,
        qkv_bias: bool = True,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        if position_bias not in ("extrapolate", "interpolate"):
            raise ValueError(f"position_bias must be 'extrapolate' or 'interpolate', found {position_bias!r}")
        dims, depths = spec["embed_dims"], spec["depths"]
        img_size = _pair("img_size", spec["img_size"] if img_size is None else img_size, least=STRIDES[-1])
        pretrain_size = img_size if pretrain_size is None else pretrain_size
        pretrain_size = _pair("pretrain_size", pretrain_size, least=STRIDES[-1])
        pool_size = None if fixed_pool_size is None else _pair("fixed_pool_size", fixed_pool_size, least=1)
        if isinstance(window_sizes, int):
            window_sizes = (window_sizes,) * len(dims)
        if len(window_sizes) != len(dims):
            raise ValueError(f"window_sizes must be one or {len(dims)}, found {window_sizes}")
        of_stages = drop_path_rates(drop_path_rate, depths)
        for i, (dim, stride, sr_ratio, rates) in enumerate(
            zip(dims, STRIDES, spec["sr_ratios"], of_stages, strict=True)
        ):
            grid, reference = (tuple(side // stride for side in size) for size in (img_size, pretrain_size))
            keys = grid if sr_ratio == 1 else pool_size or pooled_size(grid, sr_ratio)
            grids = (grid, keys) if position_bias == "interpolate" else None
            if sr_ratio == 1:
                kind = GlobalAttention
            else:
                kind = partial(
                    AggregatedAttention, sr_ratio=sr_ratio, window_size=window_sizes[i], pool_size=pool_size
                )
            attention = partial(kind, dim, spec["num_heads"][i], reference, grids, qkv_bias)
            hidden_dims = int(spec["mlp_ratios"][i] * dim)
            blocks = {str(j): Block(dim, attention(), hidden_dims, rate) for j, rate in enumerate(rates)}
            self.downsamples.append(
                _patch_embedding(dims[i - 1] if i else self.in_channels, dim, first=i == 0)
            )
            self.stages.append(nn.Sequential(OrderedDict(blocks, norm=LayerNorm(dim))))
        self._init()
        self.set_outputs(dims, STRIDES)

    def _init(self) -> None:
        init_normal(self, nn.Linear)
        for module in self.modules():
            if isinstance(module, AggregatedAttention):  # published as a 1x1 convolution
                nn.init.normal_(module.sr.weight, std=sqrt(2 / len(module.sr.weight)))
            if isinstance(module, nn.Conv2d):
                fan_out = prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=sqrt(2 / fan_out))
                nn.init.zeros_(module.bias)

    def make_head(self, num_classes: int) -> PooledLinear:
        return PooledLinear(self.num_features, num_classes)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        tables = [
            state_dict.get(f"backbone.stages.{i}.0.attn.relative_pos_bias_local") for i in range(len(STRIDES))
        ]
        sizes = tuple(3 if table is None else isqrt(table.shape[1]) for table in tables)
        sizes = 3 if set(sizes) == {3} else sizes
        biased = any(key.endswith((".attn.q.bias", ".attn.qkv.bias")) for key in state_dict)
        return cls.drop_defaults(window_sizes=sizes, qkv_bias=biased)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rules = [(r"head\.(.*)", r"head.fc.\1")]
        for i in range(4):
            block, ours = rf"block{i + 1}\.(\d+)\.", rf"backbone.stages.{i}.\1."
            rules += [
                (rf"patch_embed{i + 1}\.(.*)", rf"backbone.downsamples.{i}.\1"),
                (rf"norm{i + 1}\.(.*)", rf"backbone.stages.{i}.norm.\1"),
                (block + r"attn\.cpb_(fc\d\..*)", ours + r"attn.cpb.\2"),
                (block + r"mlp\.dwconv\.(dwconv\..*)", ours + r"mlp.\2"),
                (block + r"(.*)", ours + r"\2"),
            ]
        renamed = rename_keys(cls.find_trunk(state_dict), rules)
        return {key: w[:, :, 0, 0] if key.endswith("sr.weight") else w for key, w in renamed.items()}


def _pair(name: str, size: int | Sequence[int], least: int) -> Size:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < least:
        raise ValueError(f"{name} must be one or two numbers of at least {least}, found {size}")
    return pair


def _patch_embedding(in_channels: int, out_channels: int, first: bool) -> nn.Sequential:
    size, stride = (7, 4) if first else (3, 2)
    # channels last in memory, whose order is that in which initial weights are drawn
    conv = nn.Conv2d(in_channels, out_channels, size, stride, size // 2).to(memory_format=torch.channels_last)
    return nn.Sequential(OrderedDict(proj=conv, norm=LayerNorm2d(out_channels, eps=1e-5)))

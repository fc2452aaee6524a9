"""BiFormer: each window of the map attends to the few windows that suit it best.

Zhu, Wang, Ke, Zhang, Lau, "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023,
arXiv 2303.08810. Published code: rayleizhu/BiFormer, MIT.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    MLP,
    ConditionalPosition,
    ConvNorm,
    DropPath,
    LayerNorm,
    LayerNorm2d,
    Linear,
    PooledLinear,
    drop_path_rates,
    init_normal,
    on_channels_last,
)
from ..ops import merge_windows, pad_map, partition_windows, window_mask
from ..ops.chunks import rows_at_once, slices

ROUTINGS = ("hard", "soft", "differentiable", "parametric")
POOLINGS = {
    "adaptive_avg": nn.AdaptiveAvgPool2d,
    "adaptive_max": nn.AdaptiveMaxPool2d,
    "avg": nn.AvgPool2d,
    "max": nn.MaxPool2d,
}


class RoutingAttention(nn.Module):
    r"""Bi-level routing attention: (B, H, W, C) to the same.

    The map is cut into n x n windows. With :math:`\bar q_i, \bar k_j` the mean query and key of windows i
    and j, window i is routed to the k windows of the largest :math:`\bar q_i^\top \bar k_j`, and its pixels
    attend to the pixels of these. A depthwise convolution of the values (LePE) is added before the last
    projection.

    The number of windows is fixed, not their size: attention costs :math:`k (HW)^2 C / n^2`, routing
    :math:`n^4 C`. Chosen windows are copied, which on CPUs costs a fifth of attending to them: in inference
    some at a time, so that memory grows with HW alone; in training all, 2kHWC numbers a block, which the
    gradient needs (``with_cp=True`` keeps those of one block at a time).

    Routing runs in float32 or wider under autocast, too: in bfloat16 the last window chosen and the first one
    refused tie for up to two windows of five, and which of them wins would be the library's choice. Here the
    first of equal windows wins.

    Args:
        embed_dims: C.
        num_heads: divides C and qk_dims.
        num_windows: n, windows along either side.
        topk: k, windows that one is routed to, at most n^2.
        scale: of the products of queries and keys; by default, as published, qk_dims^-0.5, of all heads.
        qk_dims: width of queries and keys; C by default.
        lepe_size: side of the depthwise convolution, odd.
        routing: "hard", or multiply keys and values of the j-th chosen window by the j-th entry of the
            softmax of the k products, scaled by qk_dims^-0.5: "soft" without its gradient, "differentiable"
            with it, "parametric" with it and after a linear layer on both means.
        kv_pooling: pool keys and values of each window: ("adaptive_avg", p) or ("adaptive_max", p) to p x p,
            ("avg", r) or ("max", r) in patches of r x r. Wants maps that the windows divide, or padding
            "input".
        floor_windows: where n does not divide a side, cut windows of side // n pixels, which are more than n,
            as the published channels-first code does. Else their side is rounded up.
        padding: where windows stick out of the map, "mask" keeps what is outside out of routing and
            attention. As published, it can be attended to: "input" pads x with zeros (to n windows along
            either side), "keys" queries, keys and values.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_windows: int = 7,
        topk: int = 4,
        *,
        scale: float | None = None,
        qk_dims: int | None = None,
        lepe_size: int = 5,
        routing: str = "hard",
        kv_pooling: tuple[str, int] | None = None,
        floor_windows: bool = False,
        padding: str = "mask",
    ):
        super().__init__()
        self.embed_dims = embed_dims
        self.qk_dims = embed_dims if qk_dims is None else qk_dims
        if embed_dims % num_heads or self.qk_dims % num_heads:
            raise ValueError(
                f"num_heads must divide embed_dims {embed_dims} and qk_dims {self.qk_dims}, found {num_heads}"
            )
        if not 1 <= topk <= num_windows**2:
            raise ValueError(f"topk must be in 1..num_windows^2 = {num_windows**2}, found {topk}")
        if routing not in ROUTINGS:
            raise ValueError(f"routing must be one of {ROUTINGS}, found {routing!r}")
        if kv_pooling is not None and kv_pooling[0] not in POOLINGS:
            raise ValueError(f"kv_pooling must be one of {list(POOLINGS)} and a size, found {kv_pooling}")
        if padding not in ("mask", "input", "keys"):
            raise ValueError(f"padding must be 'mask', 'input' or 'keys', found {padding!r}")
        self.num_heads = num_heads
        self.num_windows = num_windows
        self.topk = topk
        self.routing = routing
        self.floor_windows = floor_windows
        self.padding = padding
        self.routing_scale = self.qk_dims**-0.5
        self.scale = self.routing_scale if scale is None else scale
        self.qkv = Linear(embed_dims, 2 * self.qk_dims + embed_dims)
        self.router = nn.Linear(self.qk_dims, self.qk_dims) if routing == "parametric" else None
        self.pool = None if kv_pooling is None else POOLINGS[kv_pooling[0]](kv_pooling[1])
        self.lepe = depthwise(embed_dims, lepe_size)
        self.proj = Linear(embed_dims, embed_dims)

    def window_size(self, height: int, width: int) -> tuple[int, int]:
        """Pixels of a window's sides."""
        n = self.num_windows
        if self.floor_windows:
            return max(1, height // n), max(1, width // n)
        return -(-height // n), -(-width // n)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        size = self.window_size(height, width)
        if self.padding == "input":
            x = pad_map(x, self.num_windows * size[0], self.num_windows * size[1])
        qkv = self.qkv(x)
        q, kv = qkv.split((self.qk_dims, self.qk_dims + self.embed_dims), -1)
        weights, routes = self.route(qkv, size)
        y = routed_attention(
            self._cut(q, size),
            self._pool(self._cut(kv, size), size, x.shape[1:3]),
            routes,
            self.num_heads,
            self.scale,
            weights=None if self.routing == "hard" else weights,
            valid=self._valid(x, size),
        )
        y = merge_windows(y.flatten(0, 1), *x.shape[1:3], size)
        y = y + on_channels_last(self.lepe, kv[..., self.qk_dims :])
        return self.proj(y[:, :height, :width])

    def _cut(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, H, W, C) to windows (B, windows, h * w, C)."""
        return partition_windows(x, size).unflatten(0, (len(x), -1))

    def route(self, qkv: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Choose windows.

        Args:
            qkv: (B, H, W, 2 qk_dims + C), queries, keys and values.
            size: of a window.

        Returns:
            The softmax of the k largest products of each window and whose they are, both (B, windows, k), the
            largest first. k is the number of windows, where that is less than topk.
        """
        if self.routing in ("hard", "soft"):
            qkv = qkv.detach()
        with torch.autocast(qkv.device.type, enabled=False):
            maps = qkv.to(torch.promote_types(qkv.dtype, torch.float32)).permute(0, 3, 1, 2)
            # a window that sticks out of the map has the mean of what is inside
            means = F.avg_pool2d(maps, size, ceil_mode=True, count_include_pad=False).flatten(2).mT
            q, k = means[..., : 2 * self.qk_dims].chunk(2, -1)  # (B, windows, qk_dims)
            if self.router is not None:
                dtype = self.router.weight.dtype
                q, k = (self.router(mean.to(dtype)).to(mean.dtype) for mean in (q, k))
            products, routes = (self.routing_scale * q @ k.mT).sort(dim=-1, descending=True, stable=True)
        return products[..., : self.topk].softmax(-1), routes[..., : self.topk]

    def _pool(self, kv: Tensor, size: tuple[int, int], map_size: Sequence[int]) -> Tensor:
        if self.pool is None:
            return kv
        if self.padding != "input" and any(side % s for side, s in zip(map_size, size, strict=True)):
            raise ValueError(
                f"with kv_pooling, windows of {size[0]} x {size[1]} pixels must divide the map, found one of "
                f"{map_size[0]} x {map_size[1]}"
            )
        maps = kv.flatten(0, 1).unflatten(1, size).permute(0, 3, 1, 2)
        return self.pool(maps).flatten(2).mT.unflatten(0, kv.shape[:2])

    def _valid(self, x: Tensor, size: tuple[int, int]) -> Tensor | None:
        """Which pixels of the windows are on the map: (windows, h * w) bool; None for all."""
        height, width = x.shape[1:3]
        if self.padding != "mask" or not (height % size[0] or width % size[1]):
            return None
        return window_mask(height, width, size, x.device)


def routed_attention(
    q: Tensor,
    kv: Tensor,
    routes: Tensor,
    num_heads: int,
    scale: float,
    *,
    weights: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Attention of each window to the windows it is routed to.

    Args:
        q: (B, windows, N, D), queries of the N pixels of each window.
        kv: (B, windows, M, D + C), keys and values of each window.
        routes: (B, windows, k), of each window the indices of those it attends to.
        num_heads: divides D and C.
        scale: of the products of queries and keys.
        weights: (B, windows, k), factors of keys and values; none by default.
        valid: (windows, M) bool, which keys there are; all by default. A route has one at least.

    Returns:
        (B, windows, N, C).
    """
    batch, windows, k = routes.shape
    qk_dims = q.shape[-1]
    queries = q.flatten(0, 1).unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (B * windows, heads, N, d)
    table = kv.flatten(2).flatten(0, 1)  # (B * windows, M * (D + C))
    first = windows * torch.arange(batch, device=routes.device)
    rows = (routes + first[:, None, None]).flatten(0, 1)
    mask = None
    if valid is not None:
        mask = valid[routes].flatten(2).flatten(0, 1)[:, None, None]  # (B * windows, 1, 1, k * M)
    if weights is not None:
        weights = weights.flatten(0, 1)[..., None].to(kv.dtype)

    # in several pieces, the gradient would add to a whole table for each
    pieces = []
    for piece in slices(len(rows), rows_at_once(len(rows), k * table.shape[1], table.device)):
        chosen = F.embedding(rows[piece], table)  # a gather of rows whose gradient is fast on CPUs
        if weights is not None:
            chosen = chosen * weights[piece]
        chosen = chosen.view(len(chosen), -1, kv.shape[-1]).split((qk_dims, kv.shape[-1] - qk_dims), -1)
        keys, values = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in chosen)
        piece_mask = None if mask is None else mask[piece]
        y = F.scaled_dot_product_attention(queries[piece], keys, values, piece_mask, scale=scale)
        pieces.append(y.transpose(1, 2).flatten(2))
    y = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return y.unflatten(0, (batch, windows))


def _pad(x: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W, C) with zeros below and on the right: (B, height, width, C)."""
    below, right = height - x.shape[1], width - x.shape[2]
    return F.pad(x, (0, 0, 0, right, 0, below)) if below or right else x


def _cut(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows of (B, H, W, C), zeros completing the last ones: (B, windows, h * w, C), all row by row."""
    rows, columns = (-(-side // s) for side, s in zip(x.shape[1:3], size, strict=True))
    x = _pad(x, rows * size[0], columns * size[1])
    x = x.unflatten(2, (columns, size[1])).unflatten(1, (rows, size[0])).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)


def _join(windows: Tensor, size: tuple[int, int], height: int, width: int) -> Tensor:
    """Undo :func:`_cut`: (B, height, width, C)."""
    x = windows.unflatten(2, size).unflatten(1, (-1, -(-width // size[1]))).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)[:, :height, :width]


class FullAttention(nn.Module):
    """Attention between all pixels, and a depthwise convolution (LePE): (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        num_heads: divides C.
        lepe_size: side of the convolution, odd.
        lepe_of: what it reads, the "values" or the "input".
    """

    def __init__(self, embed_dims: int, num_heads: int = 8, *, lepe_size: int = 5, lepe_of: str = "values"):
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f"num_heads must divide embed_dims {embed_dims}, found {num_heads}")
        self.num_heads = num_heads
        self.lepe_of = lepe_of
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=False)
        self.lepe = depthwise(embed_dims, lepe_size)
        self.proj = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        heads = qkv.flatten(1, 2).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, heads, H * W, d)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        local = x if self.lepe_of == "input" else qkv.chunk(3, -1)[2]
        return self.proj(y + on_channels_last(self.lepe, local))


def depthwise(channels: int, kernel_size: int) -> nn.Conv2d:
    """A depthwise convolution, LePE."""
    return nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)


class Block(nn.Module):
    """Position, attention, MLP: (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        attn: maps (B, H, W, C) to the same.
        mlp_ratio: width inside the MLP, relative to C.
        drop_path_rate: of both branches.
        position: begin with a depthwise convolution of 3x3 pixels.
    """

    def __init__(
        self, embed_dims: int, attn: nn.Module, mlp_ratio: float, drop_path_rate: float, position: bool
    ):
        super().__init__()
        self.pos_embed = ConditionalPosition(embed_dims) if position else nn.Identity()
        self.norm1 = LayerNorm(embed_dims)
        self.attn = attn
        self.drop_path1 = DropPath(drop_path_rate)
        self.norm2 = LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, int(mlp_ratio * embed_dims))
        self.drop_path2 = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pos_embed(x)
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class Stem(nn.ModuleList):
    """Convolutions with norms, GELU between them."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self[:-1]:
            x = layer(x, activation="gelu")
        return self[-1](x)


def _arch(width: int, depths: tuple[int, ...], design: str = "biformer") -> dict[str, Any]:
    return {"embed_dims": tuple(width * 2**i for i in range(4)), "depths": depths, "design": design}


@register_backbone("biformer")
class BiFormer(Backbone):
    """BiFormer's trunk; strides 4, 8, 16, 32.

    Any size of image goes (that of the STL designs is at least 32 x 32); windows adapt to the map. With 7
    windows, multiples of 112 pixels are cut evenly.

    Args:
        arch: one of ``archs``, or a dict with their keys. A ``design`` is "biformer", "stl" (the layout of
            Swin-T, to compare attentions), or "stl_nchw", the same by the authors' second implementation.
        drop_path_rate: of the last block; those before rise to it linearly from 0. Published: 0.1 for tiny
            and the STL designs, 0.15 for small, 0.4 for base; 0.3 in segmentation.
        num_windows: windows along either side of the map. Published: 7 for classification at 224 pixels,
            8 for ADE20K, 16 for COCO.
        topks: of each stage, how many windows one attends to; None for attention between all pixels.
        routing, kv_pooling: see :class:`RoutingAttention`; no published network has other values.
        attention_reading: the released weights were trained with code that differs from the paper. They are
            right with it alone, so it is the default, "published": routed attention scales products of
            queries and keys by C^-0.5, C of all heads; full attention has 8 heads, and its LePE reads the
            input of the attention (in "stl_nchw" the values). "paper": all heads are 32 wide, all products
            scaled by 32^-0.5, and LePE always reads the values.
        reference_quirks: where windows stick out of the map, attend to what is outside, as published: keys
            and values equal to the biases, or to 0 in "stl_nchw". Released detectors and segmentors were
            trained so; at 224 pixels, classifiers have no such windows.
        **kwargs: see :class:`Backbone`.
    """

    paper = (
        'Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023, '
        "arXiv 2303.08810"
    )
    code = "rayleizhu/BiFormer"
    licence = "MIT"
    archs = {
        "tiny": _arch(64, (2, 2, 8, 2)),
        "small": _arch(64, (4, 4, 18, 4)),
        "base": _arch(96, (4, 4, 18, 4)),
        "stl": _arch(96, (2, 2, 6, 2), "stl"),
        "stl_nchw": _arch(96, (2, 2, 6, 2), "stl_nchw"),
    }
    example_arch = {"embed_dims": (32, 64, 128, 256)}
    num_parameters = {
        "tiny": 13_142_760,
        "small": 25_536_232,
        "base": 56_804_968,
        "stl": 28_372_552,
        "stl_nchw": 28_372_552,
    }
    published = results(
        (
            "ImageNet-1K top-1, %",
            "ADE20K S-FPN 80k mIoU",
            "ADE20K UPerNet 160k mIoU",
            "ADE20K UPerNet 160k mIoU multi-scale",
            "COCO RetinaNet 1x AP",
            "COCO Mask R-CNN 1x box AP",
            "COCO Mask R-CNN 1x mask AP",
        ),
        {
            "tiny": (81.4, None, None, None, None, None, None),
            "small": (83.8, 48.9, 49.8, 50.8, 45.9, 47.8, 43.2),
            "base": (84.3, 49.9, 51.0, 51.7, 47.1, 48.6, 43.7),
            "stl": (82.7, None, None, None, None, None, None),
            "stl_nchw": (82.7, None, None, None, None, None, None),
        },
    )
    channels_last = True
    head_dims = 32

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        drop_path_rate: float = 0.1,
        num_windows: int = 7,
        topks: Sequence[int | None] = (1, 4, 16, None),
        routing: str = "hard",
        kv_pooling: tuple[str, int] | None = None,
        attention_reading: str = "published",
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        dims, depths, self.design = spec["embed_dims"], spec["depths"], spec["design"]
        if self.design not in ("biformer", "stl", "stl_nchw"):
            raise ValueError(f"design must be 'biformer', 'stl' or 'stl_nchw', found {self.design!r}")
        if any(channels % self.head_dims for channels in dims):
            raise ValueError(f"embed_dims must be multiples of {self.head_dims}, found {tuple(dims)}")
        if attention_reading not in ("published", "paper"):
            raise ValueError(f"attention_reading must be 'published' or 'paper', found {attention_reading!r}")
        if len(topks) != len(depths):
            raise ValueError(f"topks must be {len(depths)}, one a stage, found {topks}")
        nchw, paper = self.design == "stl_nchw", attention_reading == "paper"
        routed = partial(
            RoutingAttention,
            num_windows=num_windows,
            scale=self.head_dims**-0.5 if paper else None,
            routing=routing,
            kv_pooling=kv_pooling,
            floor_windows=nchw,
            padding=("keys" if nchw else "input") if reference_quirks else "mask",
        )

        def attention(channels: int, topk: int | None) -> nn.Module:
            heads = channels // self.head_dims
            if topk is not None:
                return routed(channels, heads, topk=topk)
            lepe_of = "values" if nchw or paper else "input"
            return FullAttention(channels, heads if paper else 8, lepe_of=lepe_of)

        self.downsamples.extend(self._make_downsamples(dims))
        plain = self.design == "biformer"
        for channels, topk, rates in zip(dims, topks, drop_path_rates(drop_path_rate, depths), strict=True):
            blocks = (
                Block(channels, attention(channels, topk), 3 if plain else 4, rate, position=plain)
                for rate in rates
            )
            self.stages.append(nn.Sequential(*blocks))
        if not nchw:  # whose linear layers were convolutions, initialised as PyTorch does
            init_normal(self, nn.Linear)
        self.set_outputs(dims, (4, 8, 16, 32), LayerNorm2d)
        if not plain:
            self.min_size = self.strides[-1]

    def _make_downsamples(self, dims: Sequence[int]) -> Iterator[nn.Module]:
        if self.design == "biformer":
            first = ConvNorm(self.in_channels, dims[0] // 2, 3, stride=2, padding=1, bias=True)
            yield Stem([first, ConvNorm(dims[0] // 2, dims[0], 3, stride=2, padding=1, bias=True)])
            for channels, out_channels in zip(dims, dims[1:], strict=False):
                yield ConvNorm(channels, out_channels, 3, stride=2, padding=1, bias=True)
        else:
            yield Stem([ConvNorm(self.in_channels, dims[0], 4, stride=4, bias=True)])
            for channels, out_channels in zip(dims, dims[1:], strict=False):
                yield nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, out_channels, 2, stride=2))

    def make_head(self, num_classes: int) -> PooledLinear:
        norm = nn.BatchNorm2d(self.num_features)
        return PooledLinear(self.num_features, num_classes, norm, norm_first=True)

    @classmethod
    def names_fit(cls, arch: str, state_dict: Mapping[str, Tensor]) -> bool:
        """The channels-first design has the weights of "stl", with another name of its projections."""
        nchw = any(".attn.qkv_linear." in key for key in state_dict)
        return nchw == (arch == "stl_nchw")

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state_dict = cls.find_trunk(state_dict)
        stl = any(".blocks." in key for key in state_dict)  # there, the norm comes before the convolution
        down = r"downsample_layers\."
        block = r"stages\.(\d+)\.(?:blocks\.)?(\d+)\."
        rules = [
            (down + r"0\.0\.(.*)", r"backbone.downsamples.0.0.conv.\1"),
            (down + r"0\.1\.(.*)", r"backbone.downsamples.0.0.norm.\1"),
            (down + r"0\.3\.(.*)", r"backbone.downsamples.0.1.conv.\1"),
            (down + r"0\.4\.(.*)", r"backbone.downsamples.0.1.norm.\1"),
            (block + r"pos_embed\.(.*)", r"backbone.stages.\1.\2.pos_embed.proj.\3"),
            (block + r"attn\.(?:qkv\.qkv|qkv_linear)\.(.*)", r"backbone.stages.\1.\2.attn.qkv.\3"),
            (block + r"attn\.(?:wo|output_linear)\.(.*)", r"backbone.stages.\1.\2.attn.proj.\3"),
            (block + r"mlp\.0\.(.*)", r"backbone.stages.\1.\2.mlp.fc1.\3"),
            (block + r"mlp\.[23]\.(.*)", r"backbone.stages.\1.\2.mlp.fc2.\3"),
            (block + r"(.*)", r"backbone.stages.\1.\2.\3"),
            (r"extra_norms\.(.*)", r"backbone.norms.\1"),
            (r"norm\.(.*)", r"head.norm.\1"),
            (r"head\.(.*)", r"head.fc.\1"),
        ]
        if stl:
            rules.append((down + r"(.*)", r"backbone.downsamples.\1"))
        else:
            rules.append((down + r"(\d)\.0\.(.*)", r"backbone.downsamples.\1.conv.\2"))
            rules.append((down + r"(\d)\.1\.(.*)", r"backbone.downsamples.\1.norm.\2"))
        pointwise = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
        return {  # the channels-first design has 1x1 convolutions for linear layers
            key: value.flatten(1) if key.endswith(pointwise) else value
            for key, value in rename_keys(state_dict, rules).items()
        }

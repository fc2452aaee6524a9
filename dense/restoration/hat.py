"""HAT: attention in windows beside convolution with channel attention, then attention across windows.

Chen, Wang, Zhou, Qiao, Dong, "Activating More Pixels in Image Super-Resolution Transformer", CVPR 2023,
arXiv 2205.04437; "HAT: Hybrid Attention Transformer for Image Restoration", arXiv 2309.05239. Published code:
XPixelGroup/HAT, Apache-2.0.
"""

from collections.abc import Iterator, Mapping
from itertools import groupby, product
from math import isqrt
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pointsuite.engine.checkpoint import rename_keys

from ..layers import MLP, DropPath, Linear, init_normal
from ..layers.archs import Archs
from ..registry import MODELS
from .edsr import RGB_MEAN

# numbers of keys and values copied at a time: what caches of a CPU hold, what keeps another device busy
COPIED_ON_CPU, COPIED = 2**20, 2**26


class Run(NamedTuple):
    """Neighbouring windows along one axis of a map that lie on it in the same way."""

    count: int  # of windows
    size: int  # of a window, in pixels
    first: int  # query of the first window, on the map
    queries: slice  # those of each window that are on the map
    first_key: int
    keys: slice

    def pieces(self, most: int) -> Iterator["Run"]:
        """The same windows, at most so many at a time."""
        for i in range(0, self.count, most):
            ahead = i * self.size
            yield self._replace(
                count=min(most, self.count - i), first=self.first + ahead, first_key=self.first_key + ahead
            )


def find_runs(length: int, size: int, keys: int, offset: int, margin: int, key_length: int) -> list[Run]:
    """The windows along one axis.

    Args:
        length: of the map, in pixels.
        size: of a window.
        keys: of a window of keys.
        offset: where the first window of queries begins, 0 or less.
        margin: pixels that a window of keys begins before that of queries.
        key_length: of the map of keys.
    """

    def cut(start: int) -> tuple[int, int, int, int]:
        key_start = start - margin
        ends = min(size, length - start), min(keys, key_length - key_start)
        return max(0, -start), ends[0], max(0, -key_start), ends[1]

    runs = []
    for (low, high, key_low, key_high), group in groupby(range(offset, length, size), cut):
        starts = list(group)
        first, first_key = starts[0] + low, starts[0] - margin + key_low
        runs.append(Run(len(starts), size, first, slice(low, high), first_key, slice(key_low, key_high)))
    return runs


def window_attention(
    q: Tensor, kv: Tensor, bias: Tensor, num_heads: int, *, offset: int = 0, pad_keys: bool = False
) -> Tensor:
    """Attention from windows of a map to windows of the same size or larger around them.

    What lies outside of the map takes no part: windows that stick out are cut. So shifted windows at the
    border are smaller. To roll the map, and to mask what does not belong together, would give the same.

    Args:
        q: (B, H, W, C), queries.
        kv: (B, H, W, 2C), keys and values.
        bias: (heads, M, M, K, K), of the logit of each query of a window of M x M pixels and each key of one
            of K x K, which begins (K - M) // 2 pixels before. K - M must be 0 or more.
        num_heads: divides C.
        offset: where the first window begins, within -M + 1..0, on both axes.
        pad_keys: there are zeros around the map, which are keys and values.

    Returns:
        (B, H, W, C).
    """
    size, keys = bias.shape[2], bias.shape[4]
    margin = (keys - size) // 2
    if pad_keys:
        around = (margin, keys - size - margin)
        kv, margin = F.pad(kv, (0, 0, *around, *around)), 0
    bias = bias.to(q.dtype)
    y = q.new_empty(q.shape)
    row_runs, column_runs = (
        find_runs(q.shape[axis], size, keys, offset, margin, kv.shape[axis]) for axis in (1, 2)
    )
    for rows, columns in product(row_runs, column_runs):
        piece_bias = bias[:, rows.queries, columns.queries, rows.keys, columns.keys]
        piece_bias = piece_bias.flatten(3, 4).flatten(1, 2)[None]  # (1, heads, n, m)
        across = len(q) * columns.count * piece_bias.shape[3] * kv.shape[3]
        # one piece where a gradient is wanted: it keeps all copies anyway
        most = COPIED_ON_CPU if q.device.type == "cpu" else COPIED
        step = rows.count if torch.is_grad_enabled() else max(1, most // across)
        for piece in rows.pieces(step):
            queries = _windows(q, piece, columns)  # (B, rows, columns, h, w, C)
            keys_values = _windows(kv, piece, columns, of_keys=True)
            heads = queries.flatten(3, 4).flatten(0, 2).unflatten(-1, (num_heads, -1))
            k, v = keys_values.flatten(3, 4).flatten(0, 2).unflatten(-1, (2, num_heads, -1)).unbind(2)
            attended = F.scaled_dot_product_attention(
                heads.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), piece_bias
            )  # (windows, heads, n, d)
            _windows(y, piece, columns).copy_(attended.transpose(1, 2).reshape(queries.shape))
    return y


def _windows(x: Tensor, rows: Run, columns: Run, of_keys: bool = False) -> Tensor:
    """Windows of (B, H, W, D): a view (B, rows, columns, h, w, D)."""
    for axis, run in ((1, rows), (2, columns)):
        part, first = (run.keys, run.first_key) if of_keys else (run.queries, run.first)
        size = part.stop - part.start
        x = x.narrow(axis, first, (run.count - 1) * run.size + size).unfold(axis, size, run.size)
    return x.movedim(3, 5)


class PositionBias(nn.Module):
    """A number for each head and each way a key can lie to a query.

    Called, it gives (heads, M, M, K, K): of queries (y, x) of a window and of keys in the window around it.

    Args:
        num_heads: of the attention.
        window_size: M, pixels of a side of the window of queries.
        key_size: K, of that of keys, at least M; M by default.
    """

    def __init__(self, num_heads: int, window_size: int, key_size: int | None = None):
        super().__init__()
        self.key_size = window_size if key_size is None else key_size
        side = window_size + self.key_size - 1
        # at [y + M - 1, x + M - 1] for a key y, x pixels after the query (each from the corner of its window)
        self.table = nn.Parameter(torch.empty(num_heads, side, side))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self) -> Tensor:
        # the row of query 0 is the last of the windows that slide over the table
        return self.table.unfold(1, self.key_size, 1).unfold(2, self.key_size, 1).flip(1, 2)


class WindowAttention(nn.Module):
    """Self-attention in windows: (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        num_heads: divides C.
        window_size: side of the windows in pixels; divides H and W.
        shift: pixels by which windows are moved to the bottom right, less than a window.
    """

    def __init__(self, embed_dims: int, num_heads: int, window_size: int, shift: int = 0):
        super().__init__()
        self.num_heads = num_heads
        self.offset = shift - window_size if shift else 0
        self.qkv = Linear(embed_dims, 3 * embed_dims)
        self.bias = PositionBias(num_heads, window_size)
        self.proj = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[-1]
        q, kv = self.qkv(x).split((channels, 2 * channels), -1)
        return self.proj(window_attention(q, kv, self.bias(), self.num_heads, offset=self.offset))


class ConvolutionBlock(nn.Module):
    """Two convolutions 3x3 and channel attention, times a constant: (B, C, H, W) to maps and their factors.

    Args:
        channels: C.
        compress_ratio: C to the channels between the convolutions.
        squeeze_factor: C to the channels inside the attention.
        scale: the constant.

    Returns:
        The maps (B, C, H, W), and (B, C, 1, 1) to multiply them by.
    """

    def __init__(self, channels: int, compress_ratio: int, squeeze_factor: int, scale: float):
        super().__init__()
        inner, squeezed = channels // compress_ratio, channels // squeeze_factor
        if not (inner and squeezed):
            raise ValueError(
                f"compress_ratio and squeeze_factor must be at most embed_dims = {channels}, "
                f"found {compress_ratio} and {squeeze_factor}"
            )
        self.scale = scale
        self.compress = nn.Conv2d(channels, inner, 3, padding=1)
        self.expand = nn.Conv2d(inner, channels, 3, padding=1)
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.expand(F.gelu(self.compress(x)))
        return y, self.scale * self.attention(y)


class HybridBlock(nn.Module):
    """Window attention beside convolution, then a perceptron (HAB): (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        num_heads: divides C.
        window_size: side of the windows in pixels; divides H and W.
        shift: pixels by which the windows are moved.
        compress_ratio, squeeze_factor, conv_scale: see :class:`ConvolutionBlock`.
        mlp_ratio: width inside the perceptron, relative to C.
        drop_path_rate: of attention and perceptron; the convolution is never dropped.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        shift: int = 0,
        *,
        compress_ratio: int,
        squeeze_factor: int,
        conv_scale: float = 0.01,
        mlp_ratio: float = 2.0,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims)
        self.attn = WindowAttention(embed_dims, num_heads, window_size, shift)
        self.conv = ConvolutionBlock(embed_dims, compress_ratio, squeeze_factor, conv_scale)
        self.drop_path1 = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, int(embed_dims * mlp_ratio))
        self.drop_path2 = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        u = self.norm1(x)
        maps, factors = (y.permute(0, 2, 3, 1) for y in self.conv(u.permute(0, 3, 1, 2)))
        x = torch.addcmul(x + self.drop_path1(self.attn(u)), maps, factors)
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class OverlappingBlock(nn.Module):
    """Attention of each window to a larger one around it, then a perceptron (OCAB): (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        num_heads: divides C.
        window_size: M, side of the windows of queries in pixels; divides H and W.
        overlap_ratio: of M, how much larger the windows of keys are.
        mlp_ratio: width inside the perceptron, relative to C.
        pad_keys: outside of the map there are keys and values, all 0.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        overlap_ratio: float = 0.5,
        *,
        mlp_ratio: float = 2.0,
        pad_keys: bool = False,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.pad_keys = pad_keys
        self.norm1 = nn.LayerNorm(embed_dims)
        self.qkv = Linear(embed_dims, 3 * embed_dims)
        self.bias = PositionBias(num_heads, window_size, window_size + int(window_size * overlap_ratio))
        self.proj = Linear(embed_dims, embed_dims)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, int(embed_dims * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[-1]
        q, kv = self.qkv(self.norm1(x)).split((channels, 2 * channels), -1)
        x = x + self.proj(window_attention(q, kv, self.bias(), self.num_heads, pad_keys=self.pad_keys))
        return x + self.mlp(self.norm2(x))


class ResidualGroup(nn.Module):
    """Blocks and a convolution, around which the input is added (RHAG): (B, H, W, C) to the same.

    Args:
        blocks: map (B, H, W, C) to the same.
        overlap: the last of them.
        conv: maps (B, C, H, W) to the same.
        with_cp: save memory in training: keep only the inputs of blocks, and compute the rest anew.
    """

    def __init__(self, blocks: list[nn.Module], overlap: nn.Module, conv: nn.Module, with_cp: bool = False):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.overlap = overlap
        self.conv = conv
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for block in (*self.blocks, self.overlap):
            if self.with_cp and self.training and torch.is_grad_enabled():
                y = checkpoint(block, y, use_reentrant=False)
            else:
                y = block(y)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@MODELS.register_module()
class HAT(Archs, nn.Module):
    """The hybrid attention transformer: images (B, C, h, w) in 0..1 to (B, C, scale * h, scale * w).

    The result is not clipped. Both sides of the image must be multiples of the window;
    :func:`dense.restoration.tiling.restore` takes images of any size. The channel attention pools over the
    whole image that it is given.

    Args:
        arch: "hat_s", "hat", "hat_l", or a mapping with the keys of ``archs``.
        scale: 2, 3, 4 or 8 enlarge. 1 restores at the same size (noise, JPEG): in place of the upsampler, one
            convolution finds what is to be added to the image. No such network was published.
        in_channels: C; the mean colour is taken off images of 3.
        window_size: side of the windows in pixels. For JPEG, whose blocks have 8 pixels, 7 or 8 suit better.
        overlap_ratio: of the window, how much larger windows of keys are in the last block of a group.
        mlp_ratio: width inside the perceptrons, relative to the channels.
        conv_scale: constant factor of the convolutions beside the attention.
        drop_path_rate: of the last block; it grows linearly from 0.
        patch_norm: norm the features that enter the first group.
        ape: learn a vector for each position; images must then have ``img_size``.
        resi_connection: "1conv" ends each group, and their row, with a convolution; "identity" without.
        img_range: factor of the images inside of the network.
        img_size: side of the square images that ``ape`` and ``shift_off_small_img`` are about.
        with_cp: save memory in training: keep only the inputs of blocks, and compute the rest anew.
        ocab_pad_keys: windows of keys that stick out of the image have keys there, which are 0, so that the
            bias alone decides how much a border attends to nothing. By default as ``reference_quirks``.
        shift_off_small_img: shift no window if ``img_size`` is at most a window, whatever the image. By
            default as ``reference_quirks``.
        reference_quirks: be as published in both; so published weights were trained, and results measured.

    Attributes:
        multiple: of the sides of images, the window.
    """

    archs: ClassVar[dict[str, dict[str, Any]]] = {
        "hat_s": {
            "embed_dims": 144,
            "depths": (6,) * 6,
            "num_heads": (6,) * 6,
            "compress_ratio": 24,
            "squeeze_factor": 24,
        },
        "hat": {
            "embed_dims": 180,
            "depths": (6,) * 6,
            "num_heads": (6,) * 6,
            "compress_ratio": 3,
            "squeeze_factor": 30,
        },
        "hat_l": {
            "embed_dims": 180,
            "depths": (6,) * 12,
            "num_heads": (6,) * 12,
            "compress_ratio": 3,
            "squeeze_factor": 30,
        },
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "hat",
        scale: int = 4,
        in_channels: int = 3,
        *,
        window_size: int = 16,
        overlap_ratio: float = 0.5,
        mlp_ratio: float = 2.0,
        conv_scale: float = 0.01,
        drop_path_rate: float = 0.1,
        patch_norm: bool = True,
        ape: bool = False,
        resi_connection: str = "1conv",
        img_range: float = 1.0,
        img_size: int = 64,
        with_cp: bool = False,
        ocab_pad_keys: bool | None = None,
        shift_off_small_img: bool | None = None,
        reference_quirks: bool = False,
    ):
        super().__init__()
        spec = self.find_arch(arch)
        channels, depths, num_heads = spec["embed_dims"], spec["depths"], spec["num_heads"]
        if len(depths) != len(num_heads):
            raise ValueError(f"depths and num_heads must be as many, found {depths} and {num_heads}")
        for heads in num_heads:
            if channels % heads:
                raise ValueError(f"num_heads must divide embed_dims {channels}, found {heads}")
        if scale not in (1, 2, 3, 4, 8):
            raise ValueError(f"scale must be 1, 2, 3, 4 or 8, found {scale}")
        if resi_connection not in ("1conv", "identity"):
            raise ValueError(f"resi_connection must be '1conv' or 'identity', found {resi_connection!r}")
        if ocab_pad_keys is None:
            ocab_pad_keys = reference_quirks
        if shift_off_small_img is None:
            shift_off_small_img = reference_quirks
        self.scale, self.in_channels, self.multiple = scale, in_channels, window_size
        self.img_range, self.img_size = img_range, img_size
        mean = RGB_MEAN if in_channels == 3 else (0.0,) * in_channels
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)

        def conv() -> nn.Module:
            return nn.Conv2d(channels, channels, 3, 1, 1) if resi_connection == "1conv" else nn.Identity()

        shift = 0 if shift_off_small_img and img_size <= window_size else window_size // 2
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        self.conv_first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.patch_norm = nn.LayerNorm(channels) if patch_norm else nn.Identity()
        self.position = nn.Parameter(torch.empty(img_size, img_size, channels)) if ape else None
        self.groups = nn.Sequential()
        for depth, heads in zip(depths, num_heads, strict=True):
            blocks = [
                HybridBlock(
                    channels,
                    heads,
                    window_size,
                    shift if i % 2 else 0,
                    compress_ratio=spec["compress_ratio"],
                    squeeze_factor=spec["squeeze_factor"],
                    conv_scale=conv_scale,
                    mlp_ratio=mlp_ratio,
                    drop_path_rate=next(rates),
                )
                for i in range(depth)
            ]
            overlap = OverlappingBlock(
                channels, heads, window_size, overlap_ratio, mlp_ratio=mlp_ratio, pad_keys=ocab_pad_keys
            )
            self.groups.append(ResidualGroup(blocks, overlap, conv(), with_cp))
        self.norm = nn.LayerNorm(channels)
        self.conv_after_body = conv()
        if scale > 1:
            self.conv_before_upsample = nn.Sequential(nn.Conv2d(channels, 64, 3, padding=1), nn.LeakyReLU())
            self.upsample = nn.Sequential()
            for factor in {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}[scale]:
                self.upsample.append(nn.Conv2d(64, 64 * factor**2, 3, padding=1))
                self.upsample.append(nn.PixelShuffle(factor))
        self.conv_last = nn.Conv2d(channels if scale == 1 else 64, in_channels, 3, padding=1)
        init_normal(self, nn.Linear)  # convolutions start as PyTorch has them
        if ape:
            nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"images must be (B, {self.in_channels}, h, w), found {tuple(x.shape)}")
        height, width = x.shape[2:]
        if height % self.multiple or width % self.multiple or not x.numel():
            raise ValueError(
                f"sides of images must be multiples of the window, {self.multiple}, found {height} x "
                f"{width}; dense.restoration.tiling.restore pads them"
            )
        x = (x - self.mean) * self.img_range
        shallow = self.conv_first(x.contiguous(memory_format=torch.channels_last))
        features = self.conv_after_body(self.extract(shallow)) + shallow
        if self.scale == 1:
            y = x + self.conv_last(features)
        else:
            y = self.conv_last(self.upsample(self.conv_before_upsample(features)))
        return y / self.img_range + self.mean

    def extract(self, x: Tensor) -> Tensor:
        """Deep features of shallow ones: (B, C, h, w) to the same."""
        x = self.patch_norm(x.permute(0, 2, 3, 1))
        if self.position is not None:
            if x.shape[1:3] != self.position.shape[:2]:
                side = self.img_size
                raise ValueError(f"ape wants images of {side} x {side}, found {x.shape[1]} x {x.shape[2]}")
            x = x + self.position
        return self.norm(self.groups(x)).permute(0, 3, 1, 2)

    @staticmethod
    def convert_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights under our names; index tables are dropped, bias tables get one order of rows.

        Weights of another scale lack parts of the upsampler: load them with ``strict=False``.
        """
        group, block = r"layers\.(\d+)\.residual_group\.", r"blocks\.(\d+)\."
        bias = r"relative_position_bias_table"
        state = rename_keys(
            state_dict,
            [
                (r"relative_position_index_(SA|OCA)", None),
                (r"absolute_pos_embed", r"position"),
                (r"patch_embed\.norm\.(.*)", r"patch_norm.\1"),
                (rf"{group}{block}attn\.{bias}", r"groups.\1.blocks.\2.attn.bias.table"),
                (rf"{group}{block}conv_block\.cab\.0\.(.*)", r"groups.\1.blocks.\2.conv.compress.\3"),
                (rf"{group}{block}conv_block\.cab\.2\.(.*)", r"groups.\1.blocks.\2.conv.expand.\3"),
                (rf"{group}{block}conv_block\.cab\.3\.(.*)", r"groups.\1.blocks.\2.conv.\3"),
                (rf"{group}{block}(.*)", r"groups.\1.blocks.\2.\3"),
                (rf"{group}overlap_attn\.{bias}", r"groups.\1.overlap.bias.table"),
                (rf"{group}overlap_attn\.(.*)", r"groups.\1.overlap.\2"),
                (r"layers\.(\d+)\.conv\.(.*)", r"groups.\1.conv.\2"),
                (r"((norm|conv_first|conv_after_body|conv_before_upsample|upsample|conv_last)\..*)", r"\1"),
            ],
        )
        if "position" in state:  # (1, side * side, C)
            side = isqrt(state["position"].shape[1])
            state["position"] = state["position"].view(side, side, -1)
        window = None
        for key, table in state.items():
            if key.endswith(".attn.bias.table"):  # ((2M - 1)^2, heads), by query minus key
                window = (isqrt(len(table)) + 1) // 2
                state[key] = _square(table.flip(0))
        for key, table in state.items():
            if key.endswith(".overlap.bias.table"):
                # ((M + K - 1)^2, heads), by key minus query, whose range the published index begins at
                # M - K + 1 in place of 1 - M: it is negative, and wraps around the end of the table
                side = isqrt(len(table))
                state[key] = _square(table.roll((side - window - 1) * (side + 1), 0))
        return state


def _square(table: Tensor) -> Tensor:
    """(side * side, heads) as (heads, side, side)."""
    return table.T.unflatten(1, (isqrt(len(table)), -1)).contiguous()

"""HAT: attention in windows beside convolution with channel attention, then attention across windows.

Chen, Wang, Zhou, Qiao, Dong, "Activating More Pixels in Image Super-Resolution Transformer", CVPR 2023,
arXiv 2205.04437; "HAT: Hybrid Attention Transformer for Image Restoration", arXiv 2309.05239. Published code:
XPixelGroup/HAT, Apache-2.0.
"""

from collections.abc import Iterator, Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import count_parts, rename_keys

from ...layers import (
    MLP,
    DropPath,
    Linear,
    PositionBias,
    ShiftedWindowAttention,
    channel_gates,
    drop_path_rates,
    init_normal,
    run_block,
    square_table,
)
from ...ops import window_attention
from ...registry import MODELS, ZOO
from .base import RestorationNetwork
from .edsr import FACTORS, RGB_MEAN, make_upsampler


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
        squeeze, excite = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.attention = nn.ModuleDict({"1": squeeze, "3": excite})  # of five layers, as published

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.expand(F.gelu(self.compress(x)))
        return y, self.scale * channel_gates(y, *self.attention.values())


class HybridBlock(nn.Module):
    """Window attention beside convolution, then an MLP (HAB): (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        num_heads: divides C.
        window_size: side of the windows in pixels; divides H and W.
        shift: pixels by which the windows are moved.
        compress_ratio, squeeze_factor, conv_scale: see :class:`ConvolutionBlock`.
        mlp_ratio: width inside the MLP, relative to C.
        drop_path_rate: of attention and MLP; the convolution is never dropped.
        qkv_bias: bias of queries, keys and values.
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
        qkv_bias: bool = True,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims)
        self.attn = ShiftedWindowAttention(embed_dims, num_heads, window_size, shift, qkv_bias)
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
    """Attention of each window to a larger one around it, then an MLP (OCAB): (B, H, W, C) to the same.

    Args:
        embed_dims: C.
        num_heads: divides C.
        window_size: M, side of the windows of queries in pixels; divides H and W.
        overlap_ratio: of M, how much larger the windows of keys are.
        mlp_ratio: width inside the MLP, relative to C.
        pad_keys: outside of the map there are keys and values, all 0.
        qkv_bias: bias of queries, keys and values.
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
        qkv_bias: bool = True,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.pad_keys = pad_keys
        self.norm1 = nn.LayerNorm(embed_dims)
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
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
            y = run_block(block, y, with_cp=self.with_cp and self.training)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@ZOO.register_network("hat", MODELS)
class HAT(RestorationNetwork):
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
        mlp_ratio: width inside the MLPs, relative to the channels.
        qkv_bias: bias of queries, keys and values.
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

    paper = (
        'Chen, Wang, Zhou, Qiao, Dong, "Activating More Pixels in Image Super-Resolution Transformer", CVPR '
        '2023, arXiv 2205.04437; "HAT: Hybrid Attention Transformer for Image Restoration", arXiv 2309.05239'
    )
    code = "XPixelGroup/HAT"
    licence = "Apache-2.0"
    archs = {
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
    num_parameters = {"hat_s": 9_621_183, "hat": 20_772_507, "hat_l": 40_846_575}  # x4
    example_sizes = ((16, 16), (24, 16))
    published = {  # on the luma, trained on DF2K
        "hat_s": {
            "PSNR of Set5, x4": 32.92,
            "PSNR of Set14, x4": 29.15,
            "PSNR of BSD100, x4": 27.97,
            "PSNR of Urban100, x4": 27.87,
            "PSNR of Manga109, x4": 32.35,
        },
        "hat": {
            "PSNR of Set5, x4": 33.04,
            "PSNR of Set14, x4": 29.23,
            "PSNR of BSD100, x4": 28.00,
            "PSNR of Urban100, x4": 27.97,
            "PSNR of Manga109, x4": 32.48,
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
        qkv_bias: bool = True,
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
        if scale not in FACTORS:
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
        self.conv_first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.patch_norm = nn.LayerNorm(channels) if patch_norm else nn.Identity()
        self.position = nn.Parameter(torch.empty(img_size, img_size, channels)) if ape else None
        self.groups = nn.Sequential()
        for rates, heads in zip(drop_path_rates(drop_path_rate, depths), num_heads, strict=True):
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
                    drop_path_rate=rate,
                    qkv_bias=qkv_bias,
                )
                for i, rate in enumerate(rates)
            ]
            overlap = OverlappingBlock(
                channels,
                heads,
                window_size,
                overlap_ratio,
                mlp_ratio=mlp_ratio,
                pad_keys=ocab_pad_keys,
                qkv_bias=qkv_bias,
            )
            self.groups.append(ResidualGroup(blocks, overlap, conv(), with_cp))
        self.norm = nn.LayerNorm(channels)
        self.conv_after_body = conv()
        if scale > 1:
            self.conv_before_upsample = nn.Sequential(nn.Conv2d(channels, 64, 3, padding=1), nn.LeakyReLU())
            self.upsample = make_upsampler(64, scale)
        self.conv_last = nn.Conv2d(channels if scale == 1 else 64, in_channels, 3, padding=1)
        init_normal(self, nn.Linear)  # convolutions start as PyTorch has them
        if ape:
            nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        self.check_images(x)
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

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        arch = {**cls.archs["hat_s"], "embed_dims": 48, "depths": (2,), "num_heads": (2,)}
        return cls.create(arch, **{"window_size": 8, **options})

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
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
                state[key] = square_table(table.flip(0))
        for key, table in state.items():
            if key.endswith(".overlap.bias.table"):
                # ((M + K - 1)^2, heads), by key minus query, whose range the published index begins at
                # M - K + 1 in place of 1 - M: it is negative, and wraps around the end of the table
                side = isqrt(len(table))
                state[key] = square_table(table.roll((side - window - 1) * (side + 1), 0))
        return state

    @classmethod
    def guess_options(
        cls, state_dict: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        """Variant, scale and all that has a shape; factors (``conv_scale``, ``img_range``) have none.

        ``squeeze_factor`` and ``compress_ratio`` are known to the rounding of what they divide.
        """
        shapes = {key: tuple(value.shape) for key, value in state_dict.items()}
        groups = range(count_parts(state_dict, "groups."))
        block = "groups.0.blocks.0."
        channels = shapes["norm.weight"][0]
        spec = {
            "embed_dims": channels,
            "depths": tuple(count_parts(state_dict, f"groups.{i}.blocks.") for i in groups),
            "num_heads": tuple(shapes[f"groups.{i}.overlap.bias.table"][0] for i in groups),
            "compress_ratio": channels // shapes[f"{block}conv.compress.weight"][0],
            "squeeze_factor": channels // shapes[f"{block}conv.attention.1.weight"][0],
        }
        window = (shapes[f"{block}attn.bias.table"][1] + 1) // 2
        keys = shapes["groups.0.overlap.bias.table"][1] - window + 1
        steps = sorted(key for key in shapes if key.startswith("upsample.") and key.endswith(".weight"))
        factors = tuple(isqrt(shapes[key][0] // 64) for key in steps)
        options = cls.drop_defaults(
            in_channels=shapes["conv_first.weight"][1],
            window_size=window,
            overlap_ratio=(keys - window) / window,
            mlp_ratio=shapes[f"{block}mlp.fc1.weight"][0] / channels,
            qkv_bias=f"{block}attn.qkv.bias" in shapes,
            patch_norm="patch_norm.weight" in shapes,
            ape="position" in shapes,
            img_size=shapes["position"][0] if "position" in shapes else 64,
            resi_connection="1conv" if "conv_after_body.weight" in shapes else "identity",
        )
        arch, own = cls.name_arch(spec)
        scale = next((scale for scale, known in FACTORS.items() if known == factors), 0)
        yield arch, {**own, "scale": scale, **options}, dict(state_dict)

"""InLine-Swin: injective linear attention in very large windows, softmax attention in small shifted ones.

Han et al., "Bridging the Divide: Reconsidering Softmax and Linear Attention", NeurIPS 2024, arXiv 2412.06590.
Published code: LeapLabTHU/InLine, without a licence.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from pointsuite.engine.checkpoint import rename_keys

from ..base import Backbone, register_backbone
from ..layers import (
    MLP,
    ConvLayerNorm,
    InjectiveAttention,
    LayerNorm2d,
    PooledLinear,
    ShiftedWindowAttention,
    SwinPatchMerging,
    drop_path_rates,
    init_normal,
    square_table,
)
from ..ops import map_windows
from .inline_deit import CODE, LICENCE, PAPER
from .vit import Block

EPS = 1e-5  # of all norms


class InjectiveWindowAttention(InjectiveAttention):
    """Injective attention in windows, the kernels of the convolution too: (B, H, W, C) to the same.

    Args:
        embed_dims, num_heads, **kwargs: see :class:`InjectiveAttention`.
        window_size: side of the windows in pixels, which are cut where they leave the map.
        shift: pixels by which windows are moved to the bottom right; along an axis that a single window
            covers they are not.
        wraps: shifted windows do not end at a border, but go on at the opposite one.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, window_size: int, shift: int, wraps: bool = False, **kwargs
    ):
        super().__init__(embed_dims, num_heads, **kwargs)
        self.window_size, self.shift, self.wraps = window_size, shift, wraps

    def forward(self, x: Tensor) -> Tensor:
        size, attend = self.window_size, super().forward
        shifts = [self.shift if side > size else 0 for side in x.shape[1:3]]
        if self.wraps and any(shifts):
            y = map_windows(attend, x.roll([-shift for shift in shifts], (1, 2)), size)
            return y.roll(shifts, (1, 2))
        return map_windows(attend, x, size, tuple(shift - size if shift else 0 for shift in shifts))


def _swin(
    width: int, depths: tuple[int, ...], num_heads: tuple[int, ...], num_inline: tuple[int, ...]
) -> dict[str, Any]:
    return {
        "embed_dims": tuple(width * 2**i for i in range(4)),
        "depths": depths,
        "num_heads": num_heads,
        "num_inline": num_inline,
        "window_size": 56,
        "softmax_windows": (7, 7, 7, 7),
    }


@register_backbone("inline_swin")
class InLineSwin(Backbone):
    """The Swin Transformer with injective attention in the first blocks of its stages.

    Windows of these, 56 pixels, are the whole map of images of up to 224 pixels.

    Args:
        arch: a published variant, or a dict as those in ``archs``. There, ``num_inline`` are the blocks of
            each stage, from its first, that have injective attention in windows of ``window_size``; the
            others have softmax attention in those of ``softmax_windows`` (as published, the larger of 7 and
            an eighth of ``window_size``).
        drop_path_rate: of the last block; it grows linearly from 0. Published: 0.2, 0.3, 0.5.
        qkv_bias: bias of queries, keys and values.
        feature: map of queries and keys of the injective attention, see :func:`~dense.ops.linear_attention`.
        reference_quirks: let shifted windows of injective attention, which maps larger than a window have,
            go on at the opposite border, as published. By default they end there, as those of softmax do.
        **kwargs: see :class:`Backbone`.
    """

    folder = "inline"
    paper, code, licence = PAPER, CODE, LICENCE
    archs = {
        "tiny": _swin(96, (2, 2, 6, 2), (3, 6, 12, 24), (2, 2, 6, 0)),
        "small": _swin(96, (2, 2, 18, 2), (3, 6, 12, 24), (2, 2, 0, 0)),
        "base": _swin(128, (2, 2, 18, 2), (4, 8, 16, 32), (2, 2, 2, 0)),
    }
    example_arch = {"embed_dims": (24, 48, 96, 192)}
    num_parameters = {"tiny": 29_223_544, "small": 49_793_296, "base": 88_350_120}
    published = {
        "tiny": {"ImageNet-1K top-1, %": 82.4},
        "small": {"ImageNet-1K top-1, %": 83.6},
        "base": {"ImageNet-1K top-1, %": 84.1},
    }
    channels_last = True

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        drop_path_rate: float = 0.2,
        qkv_bias: bool = True,
        feature: str = "identity",
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        dims, window = spec["embed_dims"], spec["window_size"]
        self.downsamples.append(ConvLayerNorm(self.in_channels, dims[0], 4, 4, norm_eps=EPS))
        self.downsamples.extend(SwinPatchMerging(*pair, norm_eps=EPS) for pair in pairwise(dims))
        rates = drop_path_rates(drop_path_rate, spec["depths"])
        stages = zip(dims, spec["num_heads"], spec["num_inline"], spec["softmax_windows"], rates, strict=True)
        for channels, heads, num_inline, small, of_blocks in stages:
            blocks = nn.ModuleList()
            for i, rate in enumerate(of_blocks):
                if i < num_inline:
                    shift, how = window // 2 * (i % 2), {"qkv_bias": qkv_bias, "feature": feature}
                    attn = InjectiveWindowAttention(
                        channels, heads, window, shift, wraps=reference_quirks, **how
                    )
                else:
                    shift = small // 2 * (i % 2)
                    attn = ShiftedWindowAttention(channels, heads, small, shift, qkv_bias, keep_whole=True)
                blocks.append(Block(channels, attn, MLP(channels, 4 * channels), rate, norm_eps=EPS))
            self.stages.append(blocks)
        init_normal(self, nn.Linear)
        self.set_outputs(dims, (4, 8, 16, 32), lambda channels: LayerNorm2d(channels, EPS))

    def make_head(self, num_classes: int) -> PooledLinear:
        norm = LayerNorm2d(self.num_features, EPS)
        return PooledLinear(self.num_features, num_classes, norm, norm_first=True)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        block, ours = r"layers\.(\d)\.blocks\.(\d+)\.", r"backbone.stages.\1.\2."
        downsamples = [
            (rf"layers\.{i}\.downsample\.(.*)", rf"backbone.downsamples.{i + 1}.\1") for i in range(3)
        ]
        state = rename_keys(
            cls.find_trunk(state_dict),
            [
                *downsamples,
                (r"patch_embed\.(.*)", r"backbone.downsamples.0.\1"),
                (block + r"(?:attn_mask|attn\.relative_position_index)", None),  # computed
                (block + r"attn\.relative_position_bias_table", ours + "attn.bias.table"),
                (block + r"(norm\d|mlp|attn\.(?:qkv|proj|residual))\.(.*)", ours + r"\3.\4"),
                (r"norm(\d\..*)", r"backbone.norms.\1"),  # of copies for detection and segmentation
                (r"norm\.(.*)", r"head.norm.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )
        for key, table in state.items():
            if key.endswith(".bias.table"):  # ((2M - 1)^2, heads), by query minus key
                state[key] = square_table(table.flip(0))
        return state

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return cls.drop_defaults(qkv_bias="backbone.stages.0.0.attn.qkv.bias" in state_dict)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """A variant with the depths, kinds of attention and windows that converted weights have."""
        spec = super().adapt_arch(spec, state_dict)
        counts, windows = [0] * len(spec["depths"]), list(spec["softmax_windows"])
        for key, value in state_dict.items():
            if key.endswith(".attn.residual.0.weight"):
                counts[int(key.split(".")[2])] += 1
            elif key.endswith(".attn.bias.table"):
                windows[int(key.split(".")[2])] = (value.shape[1] + 1) // 2
        largest = max(windows)
        return {
            **spec,
            "num_inline": tuple(counts),
            "softmax_windows": (largest,) * len(windows) if largest > 7 else tuple(windows),
            "window_size": 8 * largest if largest > 7 else spec["window_size"],
        }

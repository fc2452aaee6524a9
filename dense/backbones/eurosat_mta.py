"""Three networks of satellite images: plain convolutions, CBAM, and balanced multi-task attention.

Vir, "Balanced Multi-Task Attention for Satellite Image Classification: A Systematic Approach to Achieving
97.23% Accuracy on EuroSAT Without Pre-Training", arXiv 2510.15527. Published code:
virAditya/satellite-image-classification-eurosat, MIT. Its two larger networks cannot be built as they are
published, for the initialiser sets biases that squeeze and excitation and CBAM do not have; here it passes
over these.
"""

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys

from ..base import Backbone, register_backbone
from ..layers import (
    CBAM,
    BalancedAttention,
    ClassificationHead,
    ConvNorm,
    ConvNormReLU,
    DropBlock,
    PooledLinear,
    SqueezeExcitation,
    init_he,
    init_normal,
    make_classifier,
)

DESIGNS = ("baseline", "attention", "balanced")


class ConvStage(nn.Module):
    """Convolutions, each normed and with ReLU, then CBAM if wanted: (B, in, H, W) to (B, out, H, W).

    Args:
        in_channels, out_channels: as above.
        num_convs: of 3x3; 0 is one of 1x1.
        cbam: attend at the end.
        ratio: of CBAM.
    """

    def __init__(self, in_channels: int, out_channels: int, num_convs: int, cbam: bool, ratio: int = 16):
        super().__init__()
        widths = (in_channels, *[out_channels] * num_convs)
        convs = [ConvNormReLU(a, b, bias=True) for a, b in zip(widths, widths[1:], strict=False)]
        self.convs = nn.ModuleList(convs or [ConvNorm(in_channels, out_channels, 1, bias=True)])
        self.attention = CBAM(out_channels, ratio) if cbam else None

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, "relu") if type(conv) is ConvNorm else conv(x)
        return x if self.attention is None else self.attention(x)


class BalancedBlock(nn.Module):
    """relu(shortcut(x) + attended convolutions of x): (B, in, H, W) to (B, out, H / stride, W / stride).

    Args:
        in_channels, out_channels, stride: as above; odd maps are rounded up.
        drop_block: rate between the two convolutions.
        block_size: of DropBlock.
        reference_quirks: see :class:`~dense.layers.DropBlock`.
        ratio, se_ratio: see :class:`~dense.layers.BalancedAttention`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        drop_block: float = 0.0,
        block_size: int = 7,
        reference_quirks: bool = False,
        ratio: int = 8,
        se_ratio: int = 16,
    ):
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, 3, stride, 1)
        self.drop_block = DropBlock(drop_block, block_size, reference_quirks)
        self.conv2 = ConvNorm(out_channels, out_channels, 3, 1, 1)
        self.attention = BalancedAttention(out_channels, ratio, se_ratio)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvNorm(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.conv2(self.drop_block(self.conv1(x, "relu"))))
        return (y + (x if self.shortcut is None else self.shortcut(x))).relu()


def _init_classifier(fc: nn.Linear) -> None:
    init_normal(fc, nn.Linear, std=0.01)


class DropoutLinear(PooledLinear):
    """Mean over positions, dropout, Linear: (B, C, H, W) to (B, num_classes)."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float):
        super().__init__(in_channels, num_classes, init=_init_classifier)
        self.dropout = nn.Dropout(dropout)

    def classify(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(x))


class HiddenHead(ClassificationHead):
    """A hidden Linear, dropout, Linear: (B, C, H, W) to (B, num_classes).

    Args:
        in_channels: C.
        hidden_dims: of the first Linear.
        num_classes: number of logits.
        dropout: between the two.
        grid: side of the map that is flattened, after it is halved by maxima; None for the mean of the map
            and ReLU after the hidden Linear.
    """

    def __init__(
        self, in_channels: int, hidden_dims: int, num_classes: int, dropout: float, grid: int | None = None
    ):
        super().__init__(hidden_dims, None, _init_classifier)
        self.grid = grid
        self.hidden = nn.Linear(in_channels * (1 if grid is None else grid**2), hidden_dims)
        _init_classifier(self.hidden)
        self.dropout = nn.Dropout(dropout)
        self.fc = make_classifier(hidden_dims, num_classes, _init_classifier)

    def pre_logits(self, features: Tensor) -> Tensor:
        if self.grid is None:
            return self.hidden(features.mean((2, 3))).relu()
        height, width = features.shape[2:]
        if (height // 2, width // 2) != (self.grid, self.grid):
            raise ValueError(
                f"the classifier takes maps of {2 * self.grid} x {2 * self.grid}, found {height} x {width}: "
                "images must have the side img_size of its arch"
            )
        # in the published order, channel by channel
        return self.hidden(F.max_pool2d(features, 2).flatten(1))

    def classify(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(x))


@register_backbone("eurosat_mta")
class EuroSATNet(Backbone):
    """The three networks as classifiers, ten classes by default, and as pyramids.

    ``baseline``: stages of a convolution, its norm and ReLU, halved by maxima between them and before the
    head, which flattens the map: a classifier takes squares of ``img_size`` alone. ``attention``: stages of
    two convolutions, CBAM from the second on, halved between them; the last is a convolution of 1x1. Maps of
    both are those before they are halved, of strides 1, 2, 4, ...; odd ones are rounded down. ``balanced``: a
    stem that keeps the size and stages of :class:`BalancedBlock`; odd maps are rounded up.

    Args:
        arch: one of :attr:`archs`, or a mapping with its keys: ``design``; ``embed_dims`` and ``depths`` by
            stage, depths of convolutions (0: the one of 1x1) or blocks; ``hidden_dims`` of the head, or 0;
            ``img_size`` of a baseline, else 0; ``drop_block`` by stage, rates of blocks of balanced.
        block_size: side of DropBlock's squares.
        dropout: of the head; by default as published, 0.5, 0.4 and 0.5 for the three designs.
        reference_quirks: DropBlock as published, see :class:`~dense.layers.DropBlock`.
        **kwargs: of :class:`Backbone`.

    Raises:
        ValueError: an unknown design, or stages that do not fit.
    """

    title = "Balanced multi-task attention"
    paper = (
        'Vir, "Balanced Multi-Task Attention for Satellite Image Classification: A Systematic Approach to '
        'Achieving 97.23% Accuracy on EuroSAT Without Pre-Training", arXiv 2510.15527'
    )
    code = "virAditya/satellite-image-classification-eurosat"
    licence = "MIT"
    archs = {
        "baseline3": {
            "design": "baseline",
            "embed_dims": (32, 64, 128),
            "depths": (1, 1, 1),
            "hidden_dims": 512,
            "img_size": 64,
            "drop_block": (0.0, 0.0, 0.0),
        },
        "attention7": {
            "design": "attention",
            "embed_dims": (32, 64, 128, 256, 512, 512, 512),
            "depths": (2, 2, 2, 2, 2, 2, 0),
            "hidden_dims": 256,
            "img_size": 0,
            "drop_block": (0.0,) * 7,
        },
        "balanced12": {
            "design": "balanced",
            "embed_dims": (64, 128, 256, 512),
            "depths": (3, 3, 3, 2),
            "hidden_dims": 0,
            "img_size": 0,
            "drop_block": (0.05, 0.1, 0.15, 0.2),
        },
    }
    example_arch = {
        "design": "balanced",
        "embed_dims": (48, 64, 64),
        "hidden_dims": 0,
        "img_size": 0,
        "drop_block": (0.05, 0.1, 0.15),
    }
    example_sizes = ((32, 32), (48, 32))
    num_parameters = {"baseline3": 4_293_642, "attention7": 9_912_212, "balanced12": 13_115_813}
    published = {
        arch: {"EuroSAT accuracy, %": value}
        for arch, value in {"baseline3": 94.30, "attention7": 95.98, "balanced12": 97.23}.items()
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "balanced12",
        *,
        block_size: int = 7,
        dropout: float | None = None,
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        spec = self.spec
        self.design, dims, depths = spec["design"], spec["embed_dims"], spec["depths"]
        if self.design not in DESIGNS:
            raise ValueError(f"design must be one of {list(DESIGNS)}, found {self.design!r}")
        if not len(dims) == len(depths) == len(spec["drop_block"]):
            found = ", ".join(str(len(spec[key])) for key in ("embed_dims", "depths", "drop_block"))
            raise ValueError(f"embed_dims, depths and drop_block must have one entry a stage, found {found}")
        self.dropout = (0.4 if self.design == "attention" else 0.5) if dropout is None else dropout
        balanced, channels = self.design == "balanced", self.in_channels
        if balanced:
            channels = dims[0]
            self.downsamples.append(ConvNormReLU(self.in_channels, channels))
        for i, (dim, depth, rate) in enumerate(zip(dims, depths, spec["drop_block"], strict=True)):
            blocks = []
            if balanced:
                for j in range(depth):
                    stride = 2 if i and not j else 1
                    blocks.append(BalancedBlock(channels, dim, stride, rate, block_size, reference_quirks))
                    channels = dim
            else:
                cbam = self.design == "attention" and i > 0 and depth > 0
                blocks.append(ConvStage(channels, dim, depth, cbam))
                channels = dim
            self.stages.append(nn.Sequential(*blocks))
            if len(self.downsamples) <= i:
                self.downsamples.append(nn.Identity() if balanced or i == 0 else nn.MaxPool2d(2))
        init_he(self)
        init_normal(self, nn.Linear, std=0.01)
        for module in self.modules():
            if isinstance(module, SqueezeExcitation):  # published as linear layers
                init_normal(module, nn.Conv2d, std=0.01)
        self.set_outputs(dims, [2**i for i in range(len(dims))])
        self.min_size = self.strides[-1]

    def make_head(self, num_classes: int) -> ClassificationHead:
        if self.design == "balanced":
            return DropoutLinear(self.num_features, num_classes, self.dropout)
        grid = self.spec["img_size"] // (2 * self.strides[-1]) if self.design == "baseline" else None
        return HiddenHead(self.num_features, self.spec["hidden_dims"], num_classes, self.dropout, grid)

    @classmethod
    def create(cls, arch: str | Mapping[str, Any], *, num_classes: int = 10, **kwargs) -> nn.Module:
        """As any backbone's, of ten classes by default, those of EuroSAT."""
        return super().create(arch, num_classes=num_classes, **kwargs)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """What converted weights, merged ones too, are of."""
        places: dict[tuple[int, int], list[tuple[int, ...]]] = {}  # kernels by stage and block
        for key, value in state_dict.items():
            pattern = r"backbone\.stages\.(\d+)\.(\d+)\.(?:convs\.\d+|conv\d)(?:\.conv)?\.weight"
            if found := re.fullmatch(pattern, key):
                places.setdefault((int(found[1]), int(found[2])), []).append(tuple(value.shape))
        if not places:
            return dict(spec)
        count = 1 + max(stage for stage, _ in places)
        first = [places.get((i, 0), [(0, 0, 0, 0)]) for i in range(count)]
        design = "baseline"
        if any(key.endswith(".attention.alpha") for key in state_dict):
            design = "balanced"
        elif any(".attention.conv.weight" in key for key in state_dict):
            design = "attention"
        if design == "balanced":
            depths = [sum(stage == i for stage, _ in places) for i in range(count)]
        else:
            depths = [len(kernels) if kernels[0][-1] == 3 else 0 for kernels in first]
        own = next(known for known in cls.archs.values() if known["design"] == design)
        rates = own["drop_block"]
        hidden = state_dict.get("head.hidden.weight")
        arch = {
            "design": design,
            "embed_dims": tuple(kernels[0][0] for kernels in first),
            "depths": tuple(depths),
            "hidden_dims": own["hidden_dims"] if hidden is None else len(hidden),
            "img_size": own["img_size"],
            "drop_block": rates if len(rates) == count else (*rates, *rates[-1:] * count)[:count],
        }
        if design == "baseline" and hidden is not None:
            arch["img_size"] = 2**count * isqrt(hidden.shape[1] // arch["embed_dims"][-1])
        return arch

    @classmethod
    def is_merged(cls, state_dict: Mapping[str, Tensor]) -> bool:
        first = ("backbone.downsamples.0.weight", "backbone.stages.0.0.convs.0.weight")
        return any(key in state_dict for key in first)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        first = ("backbone.downsamples.0.conv.weight", "backbone.stages.0.0.convs.0.conv.weight")
        merged = [key.replace(".conv.weight", ".weight") for key in first]
        kernel = next((state_dict[key] for key in (*first, *merged) if key in state_dict), None)
        return {} if kernel is None or kernel.shape[1] == 3 else {"in_channels": kernel.shape[1]}

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state_dict = cls.find_trunk(state_dict)
        if any(key.startswith(("stem.", "stage1.")) for key in state_dict):
            return _convert_balanced(state_dict)
        blocks = any(key.startswith("block1.") for key in state_dict)
        return (_convert_attention if blocks else _convert_baseline)(state_dict)


def _convert_baseline(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    counted = {_count_down(key, r"^(conv|bn)(\d+)\.", "{0}.{1}."): x for key, x in state_dict.items()}
    return rename_keys(
        counted,
        [
            (r"conv\.(\d+)\.(.*)", r"backbone.stages.\1.0.convs.0.conv.\2"),
            (r"bn\.(\d+)\.(.*)", r"backbone.stages.\1.0.convs.0.norm.\2"),
            (r"fc1\.(.*)", r"head.hidden.\1"),
            (r"fc2\.(.*)", r"head.fc.\1"),
        ],
    )


def _convert_attention(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {}
    for key, value in state_dict.items():
        # after the blocks, layers stand alone: conv6_1, bn6_1, attention6, conv7
        key = re.sub(r"^(conv|bn)(\d+)_(\d+)\.", r"block\2.\1\3.", key)
        key = re.sub(r"^(conv|bn)(\d+)\.", r"block\2.\g<1>1.", key)
        key = re.sub(r"^attention(\d+)\.", r"block\1.attention.", key)
        key = _count_down(key, r"^(block)(\d+)\.", "{0}.{1}.")
        named[_count_down(key, r"\.(conv|bn)(\d+)\.", ".{0}.{1}.")] = value
    attention, place = r"block\.(\d+)\.attention\.", r"backbone.stages.\1.0.attention."
    return rename_keys(
        named,
        [
            (r"block\.(\d+)\.conv\.(\d+)\.(.*)", r"backbone.stages.\1.0.convs.\2.conv.\3"),
            (r"block\.(\d+)\.bn\.(\d+)\.(.*)", r"backbone.stages.\1.0.convs.\2.norm.\3"),
            (rf"{attention}channel_attention\.fc\.0\.(.*)", rf"{place}fc1.\2"),
            (rf"{attention}channel_attention\.fc\.2\.(.*)", rf"{place}fc2.\2"),
            (rf"{attention}spatial_attention\.conv\.(.*)", rf"{place}conv.\2"),
            (r"fc1\.(.*)", r"head.hidden.\1"),
            (r"fc2\.(.*)", r"head.fc.\1"),
        ],
    )


def _convert_balanced(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    counted = {_count_down(key, r"^(stage)(\d+)\.", "{0}.{1}."): x for key, x in state_dict.items()}
    place, attention = r"backbone.stages.\1.\2.", r"stage\.(\d+)\.(\d+)\.attention\."
    renamed = rename_keys(
        counted,
        [
            (r"stem\.0\.(.*)", r"backbone.downsamples.0.conv.\1"),
            (r"stem\.1\.(.*)", r"backbone.downsamples.0.norm.\1"),
            (r"stage\.(\d+)\.(\d+)\.conv(\d)\.(.*)", rf"{place}conv\3.conv.\4"),
            (r"stage\.(\d+)\.(\d+)\.bn(\d)\.(.*)", rf"{place}conv\3.norm.\4"),
            (r"stage\.(\d+)\.(\d+)\.shortcut\.0\.(.*)", rf"{place}shortcut.conv.\3"),
            (r"stage\.(\d+)\.(\d+)\.shortcut\.1\.(.*)", rf"{place}shortcut.norm.\3"),
            (rf"{attention}alpha", rf"{place}attention.alpha"),
            (rf"{attention}coord_attention\.conv1\.(.*)", rf"{place}attention.coordinate.squeeze.conv.\3"),
            (rf"{attention}coord_attention\.bn1\.(.*)", rf"{place}attention.coordinate.squeeze.norm.\3"),
            (rf"{attention}coord_attention\.conv_h\.(.*)", rf"{place}attention.coordinate.rows.\3"),
            (rf"{attention}coord_attention\.conv_w\.(.*)", rf"{place}attention.coordinate.columns.\3"),
            (rf"{attention}se_attention\.excitation\.0\.(.*)", rf"{place}attention.se.fc1.\3"),
            (rf"{attention}se_attention\.excitation\.2\.(.*)", rf"{place}attention.se.fc2.\3"),
            (r"fc\.(.*)", r"head.fc.\1"),
        ],
    )
    return {  # linear layers there
        key: value[..., None, None] if ".attention.se.fc" in key and value.ndim == 2 else value
        for key, value in renamed.items()
    }


def _count_down(key: str, pattern: str, form: str) -> str:
    """A key whose number, the second group of ``pattern``, counts from 0 instead of 1."""
    return re.sub(pattern, lambda found: form.format(found[1], int(found[2]) - 1), key)

"""RISurConv: rotation-invariant surface convolutions for point clouds.

Paper: Zhang, Yang, Xiang, "RISurConv: Rotation Invariant Surface Attention-Augmented Convolutions for 3D
Point Cloud Classification and Segmentation", ECCV 2024, arXiv 2408.06110.
Published code: cszyzhang/RISurConv, MIT. This is an independent implementation.

A forward pass has two halves. `geometry` turns coordinates into rotation-invariant features and neighbour
indices; it has no parameters and no gradient. `forward_geometry` is the network proper. Where the geometry
of a cloud does not change, it can be computed once and kept.

The published behaviour differs from ours in six points, each a flag (the published value second):

- batch_attention: "none" treats each cloud alone; "published" attends across the clouds of a batch.
- neighbour_order: "sorted" by distance; "index" as the published CUDA code is believed to order them;
  "torch" as an unsorted top-k on this machine does.
- reference_sign: "fixed" or "rounded", see `pointsuite.ops.surface_features`.
- global_sign: "third_moment" turns the global frame with the cloud; "lapack" leaves its sign to chance.
- global_origin: "centroid" makes the global features independent of translation; "origin" does not.
- global_attention: "ones" is what dividing the attention of a single centre by its own sum amounts to;
  "published" keeps the queries and keys that decide only where the published 1e-9 in the divisor matters.

`reference_quirks=True` sets all six, with neighbour_order="index".
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pointsuite.engine.checkpoint import CheckpointError, rename_keys
from pointsuite.engine.zoo import ZOO
from pointsuite.layers import SurfaceBackbone, SurfaceConv, SurfaceGeometry, global_frame
from pointsuite.ops import surface_features
from pointsuite.registry import MODELS

from .base import CloudNetwork

PAPER = (
    'Zhang, Yang, Xiang, "RISurConv: Rotation Invariant Surface Attention-Augmented Convolutions for 3D '
    'Point Cloud Classification and Segmentation", ECCV 2024, arXiv 2408.06110'
)
QUIRKS = {
    "batch_attention": ("none", "published"),
    "neighbour_order": ("sorted", "index", "torch"),
    "reference_sign": ("fixed", "rounded"),
    "global_sign": ("third_moment", "lapack"),
    "global_origin": ("centroid", "origin"),
    "global_attention": ("ones", "published"),
}


def choose_quirks(reference_quirks: bool, **flags: str | None) -> dict[str, str]:
    """Fill in flags that were left None and check the others."""
    for name, value in flags.items():
        if value is None:
            flags[name] = QUIRKS[name][reference_quirks]
        elif value not in QUIRKS[name]:
            raise ValueError(f"{name} must be one of {QUIRKS[name]}, found {value!r}")
    return flags


class ValueProjection(nn.Module):
    """Self-attention of a sequence of one: the softmax is 1, so queries and keys play no part."""

    def __init__(self, dims: int):
        super().__init__()
        self.value = nn.Linear(dims, dims)
        self.out = nn.Linear(dims, dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.value(x))


class BatchAttention(nn.Module):
    """The published encoder's attention: the sequence is the batch, so clouds see each other."""

    def __init__(self, dims: int, num_heads: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(dims, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]  # (B, 1, C): length B, one sequence
        return self.attention(x, x, x, need_weights=False)[0][:, 0]


class EncoderLayer(nn.Module):
    """Post-norm transformer encoder layer over (B, C)."""

    def __init__(self, attention: nn.Module, dims: int, hidden_dims: int, dropout: float):
        super().__init__()
        self.attention = attention
        self.norm1 = nn.LayerNorm(dims)
        self.linear1 = nn.Linear(dims, hidden_dims)
        self.linear2 = nn.Linear(hidden_dims, dims)
        self.norm2 = nn.LayerNorm(dims)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attention(x)))
        hidden = self.dropout(self.linear1(x).relu())
        return self.norm2(x + self.dropout(self.linear2(hidden)))


def global_geometry(points: Tensor, sign: str, origin: str, reference_sign: str) -> SurfaceGeometry:
    """Geometry of a layer with one centre, the centroid, and all points (B, N, 3) as its neighbours.

    The frame's normal is the direction of least spread; the points' own normals are those given as the last
    three of six channels.
    """
    xyz, normals = points.split(3, -1)
    centroid, normal, idx = global_frame(xyz, sign)
    origins = torch.zeros_like(centroid) if origin == "origin" else centroid
    return SurfaceGeometry(
        *surface_features(centroid, normal, xyz, normals, idx, origins=origins, reference_sign=reference_sign)
    )


@ZOO.register_network("risurconv", MODELS)
class RISurConvClassifier(CloudNetwork):
    """RISurConv's classifier: (B, N, 6) points and unit normals -> (B, num_classes) logits.

    Args:
        num_classes: classes.
        width: n of the published networks: 2 for ModelNet40 and FG3D, 1 for ScanObjectNN. The layers have
            512n, 256n, 128n and 64n centres.
        centres: replaces the centres that `width` gives.
        neighbours, channels: of the layers, and the channels of the last, global layer after them.
        embed_channels: width of the embedded surface features.
        encoder_depth, num_heads, encoder_dims: layers, heads and hidden width of the encoder. The heads
            matter with batch_attention="published" only.
        head_dims: hidden widths of the classifying head.
        encoder_dropout, dropout: of the encoder and of the head.
        reference_quirks, batch_attention, neighbour_order, reference_sign, global_sign, global_origin,
            global_attention: see the module's docstring.

    Raises:
        ValueError: points of the wrong shape, too few of them, NaN or infinity; unknown flags.
    """

    title = "RISurConv"
    paper = PAPER
    code = "cszyzhang/RISurConv"
    licence = "MIT"
    archs = {
        "s_cls": {  # for laptops: half the channels
            "num_classes": 10,
            "centres": (256, 128, 64, 32),
            "neighbours": (8, 16, 16, 32),
            "channels": (32, 64, 128, 256, 256),
            "embed_channels": 32,
            "encoder_depth": 1,
            "encoder_dims": 512,
            "head_dims": (128,),
        },
        "cls": {},
    }
    num_parameters = {"s_cls": 930_442, "cls": 9_097_896}
    published = {
        "cls": {
            "ModelNet40 overall accuracy (width 2), %": 96.0,
            "ScanObjectNN PB_T50_RS overall accuracy (width 1), %": 93.1,
        }
    }

    def __init__(
        self,
        num_classes: int = 40,
        width: int = 2,
        *,
        centres: tuple[int, ...] | None = None,
        neighbours: tuple[int, ...] = (8, 16, 32, 64),
        channels: tuple[int, ...] = (32, 64, 128, 256, 512),
        embed_channels: int = 64,
        encoder_depth: int = 3,
        num_heads: int = 8,
        encoder_dims: int = 2048,
        head_dims: tuple[int, ...] = (256, 128),
        encoder_dropout: float = 0.05,
        dropout: float = 0.4,
        reference_quirks: bool = False,
        batch_attention: str | None = None,
        neighbour_order: str | None = None,
        reference_sign: str | None = None,
        global_sign: str | None = None,
        global_origin: str | None = None,
        global_attention: str | None = None,
    ):
        super().__init__()
        if num_classes < 0 or width < 1:
            raise ValueError(f"num_classes must be at least 0 and width 1, found {num_classes} and {width}")
        self.quirks = choose_quirks(
            reference_quirks,
            batch_attention=batch_attention,
            neighbour_order=neighbour_order,
            reference_sign=reference_sign,
            global_sign=global_sign,
            global_origin=global_origin,
            global_attention=global_attention,
        )
        centres = tuple(width * c for c in (512, 256, 128, 64)) if centres is None else tuple(centres)
        order, sign = self.quirks["neighbour_order"], self.quirks["reference_sign"]
        self.backbone = SurfaceBackbone(centres, neighbours, channels[:-1], embed_channels, order, sign)
        ones = self.quirks["global_attention"] == "ones"
        self.global_layer = SurfaceConv(
            channels[-2], channels[-1], embed_channels, single=True, keep_queries=not ones
        )
        dims = channels[-1]
        across = self.quirks["batch_attention"] == "published"
        self.encoder = nn.Sequential(
            *(
                EncoderLayer(
                    BatchAttention(dims, num_heads) if across else ValueProjection(dims),
                    dims,
                    encoder_dims,
                    encoder_dropout,
                )
                for _ in range(encoder_depth)
            )
        )
        head = []
        for before, after in zip([dims, *head_dims], head_dims, strict=False):
            head += [
                nn.Linear(before, after, bias=False),
                nn.BatchNorm1d(after),
                nn.ReLU(),
                nn.Dropout(dropout),
            ]
        last = [nn.Linear([dims, *head_dims][-1], num_classes)] if num_classes else []  # of 0: features
        self.head = nn.Sequential(*head, *last)

        # of an instance, it converts for the flags of that
        self.convert_official = partial(
            type(self).convert_official,
            last_centres=centres[-1],
            batch_attention=self.quirks["batch_attention"],
            global_attention=self.quirks["global_attention"],
        )

    @torch.no_grad()
    def geometry(self, points: Tensor) -> list[SurfaceGeometry]:
        """Rotation-invariant features and neighbours of every layer, in float32 or float64."""
        with torch.autocast(points.device.type, enabled=False):
            stages, levels = self.backbone.geometry(points)
            flags = (self.quirks[name] for name in ("global_sign", "global_origin", "reference_sign"))
            return [*stages, global_geometry(torch.cat(levels[-1], -1), *flags)]

    def embed(self, geometry: list[SurfaceGeometry]) -> Tensor:
        """Global descriptors (B, channels[-1]) of the clouds, before the encoder."""
        values = self.backbone(geometry[:-1])[-1]
        return self.global_layer(*geometry[-1], values)[:, 0]

    def forward_geometry(self, geometry: list[SurfaceGeometry]) -> Tensor:
        """Logits (B, num_classes) of clouds whose geometry is known."""
        return self.head(self.encoder(self.embed(geometry)))

    def forward(self, points: Tensor) -> Tensor:
        return self.forward_geometry(self.geometry(points))

    @classmethod
    def convert_official(
        cls,
        state_dict: Mapping[str, Tensor],
        *,
        last_centres: int | None = None,
        batch_attention: str = "none",
        global_attention: str = "ones",
    ) -> dict[str, Tensor]:
        """The published classifier's state dict as this network's.

        Left out: the never-used `encoder_layer`; queries and keys of attentions over a single entry, the
        encoder's and the global layer's among them unless their flags say "published". A bias before a batch
        norm moves into its running mean.

        Args:
            state_dict: of any number of layers and classes.
            last_centres: of the layer before the global one, which no weight tells; by default those of
                :meth:`guess_width`.
            batch_attention, global_attention: flags of the network that takes the weights.

        Raises:
            CheckpointError: a key that is not the published network's, or one without its counterpart.
        """
        layers = [match[1] for key in state_dict if (match := re.match(r"sc(\d+)\.", key))]
        last = max(map(int, layers), default=0)
        rules = [
            (r"encoder_layer\..*", None),
            (rf"sc{last}\.(.*)", r"global_layer.\1"),
            (r"sc(\d+)\.(.*)", r"backbone.layers.\1.\2"),
            (r"transformer_encoder\.layers\.(.*)", r"encoder.\1"),
            (r"fc1\.(.*)", r"head.0.\1"),
            (r"bn1\.(.*)", r"head.1.\1"),
            (r"fc2\.(.*)", r"head.4.\1"),
            (r"bn2\.(.*)", r"head.5.\1"),
            (r"fc3\.(.*)", r"head.8.\1"),
        ]
        state = rename_keys(state_dict, rules)
        last_centres = last_centres or 64 * cls.guess_width(state)
        ones = global_attention == "ones"

        def column_sum(prefix: str) -> int | None:
            if "point_attention" in prefix:
                return 1
            return last_centres if ones and prefix.startswith("global_layer.") else None

        state = convert_surface_layers(state, column_sum)
        for key in [key for key in state if ".self_attn." in key]:
            value, (layer, name) = state.pop(key), key.split(".self_attn.")
            if batch_attention == "published":
                state[f"{layer}.attention.attention.{name}"] = value
            elif name.startswith("in_proj_"):
                state[f"{layer}.attention.value.{name.removeprefix('in_proj_')}"] = value.chunk(3)[2]
            else:
                state[f"{layer}.attention.out.{name.removeprefix('out_proj.')}"] = value
        for i in (0, 4):
            fold_bias(state, f"head.{i}", f"head.{i + 1}")
        unused = rf"global_layer\.{'.*' if ones else 'point_'}attention\.(query|key)\."
        return {key: value for key, value in state.items() if not re.match(unused, key)}

    @staticmethod
    def guess_width(state_dict: Mapping[str, Tensor]) -> int:
        """`width` of converted weights: 1 for the 15 classes of ScanObjectNN, else 2, as published."""
        return 1 if len(state_dict.get("head.8.bias", ())) == 15 else 2

    @classmethod
    def guess_options(
        cls, state_dict: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        if classes := len(state_dict.get("head.8.bias", ())):
            options = cls.drop_defaults(num_classes=classes, width=cls.guess_width(state_dict))
            yield "cls", options, dict(state_dict)


ZOO.register_alias("risurconv_s", "risurconv_s_cls")


# ---------------------------------------------------------------------------------------- published weights

KEEP = (r".*", r"\g<0>")  # the last of rules that leave other keys as they are


def fold_bias(state: dict[str, Tensor], linear: str, norm: str) -> None:
    """Move the bias of a linear map right before a batch norm into the norm's running mean.

    Raises:
        CheckpointError: one of the two is missing.
    """
    bias, mean = f"{linear}.bias", f"{norm}.running_mean"
    if missing := [key for key in (bias, mean) if key not in state]:
        raise CheckpointError(f"found no {' and no '.join(missing)}, wanted both {bias} and {mean}")
    state[mean] = state[mean] - state.pop(bias)


def convert_surface_layers(
    state: dict[str, Tensor], column_sum: Callable[[str], int | None]
) -> dict[str, Tensor]:
    """Published set abstraction layers, under any prefix, to `SurfaceConv`'s keys and shapes."""
    names = {
        "embedding.0": "embedding.conv1",
        "embedding.1": "embedding.norm1",
        "embedding.2": "embedding.conv2",
        "embedding.3": "embedding.norm2",
        "self_attention_0": "neighbour_attention",
        "self_attention_1": "point_attention",
        "risurconv.0": "conv",
        "risurconv.1": "norm",
    }
    rules = [(rf"(.*\.){re.escape(old)}\.(.*)", rf"\1{new}.\2") for old, new in names.items()]
    state = convert_attentions(rename_keys(state, [*rules, KEEP]), column_sum)
    for prefix in [key.removesuffix("conv.bias") for key in state if key.endswith(".conv.bias")]:
        fold_bias(state, f"{prefix}conv", f"{prefix}norm")
    return state


def convert_attentions(
    state: Mapping[str, Tensor], column_sum: Callable[[str], int | None]
) -> dict[str, Tensor]:
    """Published attentions, under any prefix, to `OffsetAttention`'s keys and shapes.

    `column_sum(prefix)` is what every column of that attention's A sums to, None where it varies: with a
    constant sum the values' bias is a constant before the norm too.
    """
    names = {
        "q_conv": "query",
        "k_conv": "key",
        "v_conv": "value",
        "trans_conv": "transform",
        "after_norm": "norm",
    }
    rules = [(rf"(.*\.)?{old}\.(.*)", rf"\g<1>{new}.\2") for old, new in names.items()]
    state = {  # 1x1 convolutions become matrices
        key: value.flatten(1) if value.ndim > 2 else value
        for key, value in rename_keys(state, [*rules, KEEP]).items()
    }
    for prefix in [key.removesuffix("transform.bias") for key in state if key.endswith("transform.bias")]:
        total = column_sum(prefix)
        if total is not None:
            shift = state[f"{prefix}transform.weight"] @ state.pop(f"{prefix}value.bias")
            state[f"{prefix}transform.bias"] = state[f"{prefix}transform.bias"] - total * shift
        fold_bias(state, f"{prefix}transform", f"{prefix}norm")
    return state

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
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.registry import MODELS
from pointsuite.engine.zoo import register_model
from pointsuite.layers import SurfaceConv
from pointsuite.ops import farthest_point_sample, gather_points, knn, surface_features, weighted_normal

QUIRKS = {
    "batch_attention": ("none", "published"),
    "neighbour_order": ("sorted", "index", "torch"),
    "reference_sign": ("fixed", "rounded"),
    "global_sign": ("third_moment", "lapack"),
    "global_origin": ("centroid", "origin"),
    "global_attention": ("ones", "published"),
}


class SurfaceGeometry(NamedTuple):
    """What one layer needs of the coordinates."""

    features: Tensor  # (B, S, K, 14)
    idx: Tensor  # (B, S, K) int64, neighbours among the layer's input points, in angular order


def find_neighbours(query: Tensor, points: Tensor, k: int, order: str = "sorted") -> Tensor:
    """Indices (B, S, k) of the k nearest points, in the asked order (see the module's docstring)."""
    if order == "torch":  # the expanded form and top-k of the published code
        distance = (query**2).sum(-1, keepdim=True) + (points**2).sum(-1)[:, None]
        distance = distance - 2 * query @ points.transpose(1, 2)
        return distance.topk(k, dim=-1, largest=False, sorted=False).indices
    idx, _ = knn(query, points, k)
    if order == "index":  # all but the farthest by index, then the farthest
        idx = torch.cat([idx[..., :-1].sort(-1).values, idx[..., -1:]], -1)
    return idx


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


class SurfaceBackbone(nn.Module):
    """The set abstraction layers shared by RISurConv's networks: quirks, geometry, features of every layer.

    Args:
        centres, neighbours, channels: one entry a layer; a layer's centres are the first ones of the
            previous layer's, in the order of farthest point sampling.
        embed_channels: width of the embedded surface features.
    """

    def __init__(self, centres, neighbours, channels, embed_channels, neighbour_order, reference_sign):
        super().__init__()
        if not len(centres) == len(neighbours) == len(channels):
            raise ValueError(
                "centres, neighbours and channels must have one entry a layer, "
                f"found {len(centres)}, {len(neighbours)} and {len(channels)}"
            )
        sources = [None, *centres]
        for i, (source, count, k) in enumerate(zip(sources, centres, neighbours, strict=False)):
            if source is not None and (count > source or k > source):
                raise ValueError(
                    f"layer {i} wants {count} centres of {k} neighbours, but has {source} points"
                )
        self.centres, self.neighbours = tuple(centres), tuple(neighbours)
        self.neighbour_order, self.reference_sign = neighbour_order, reference_sign
        self.layers = nn.ModuleList(
            SurfaceConv(before, after, embed_channels)
            for before, after in zip([0, *channels], channels, strict=False)
        )

    @torch.no_grad()
    def geometry(self, xyz: Tensor, normals: Tensor) -> tuple[list[SurfaceGeometry], Tensor, Tensor]:
        """Geometry of every layer, and the last layer's centres and normals."""
        order = farthest_point_sample(xyz, self.centres[0])
        centres, centre_normals = gather_points(xyz, order), gather_points(normals, order)
        stages = []
        for count, k in zip(self.centres, self.neighbours, strict=True):
            # Sampling is nested: the next layer's centres are the first of these.
            centres, centre_normals = centres[:, :count], centre_normals[:, :count]
            idx = find_neighbours(centres, xyz, k, self.neighbour_order)
            shift = 2 if count >= 1024 else 1
            sign = self.reference_sign
            features = surface_features(
                centres, centre_normals, xyz, normals, idx, shift=shift, reference_sign=sign
            )
            stages.append(SurfaceGeometry(*features))
            xyz, normals = centres, centre_normals
        return stages, xyz, normals

    def forward(self, stages: list[SurfaceGeometry]) -> list[Tensor]:
        """Values (B, S_i, C_i) of every layer's centres."""
        outputs, values = [], None
        for layer, stage in zip(self.layers, stages, strict=True):
            values = layer(*stage, values)
            outputs.append(values)
        return outputs


def global_geometry(points: Tensor, sign: str, origin: str, reference_sign: str) -> SurfaceGeometry:
    """Geometry of a layer with one centre, the centroid, and all points (B, N, 3) as its neighbours.

    The frame's normal is the direction of least spread; the points' own normals are those given as the last
    three of six channels.
    """
    xyz, normals = points.split(3, -1)
    centroid = xyz.mean(1, keepdim=True)
    normal = weighted_normal(xyz - centroid, sign)[:, None]
    idx = torch.arange(xyz.shape[1], device=xyz.device).expand(len(xyz), 1, -1)
    origins = torch.zeros_like(centroid) if origin == "origin" else centroid
    return SurfaceGeometry(
        *surface_features(centroid, normal, xyz, normals, idx, origins=origins, reference_sign=reference_sign)
    )


KEEP = (r".*", r"\g<0>")  # the last of rules that leave other keys as they are


def fold_bias(state: dict[str, Tensor], linear: str, norm: str) -> None:
    """Move the bias of a linear map right before a batch norm into the norm's running mean."""
    state[f"{norm}.running_mean"] = state[f"{norm}.running_mean"] - state.pop(f"{linear}.bias")


def convert_surface_layers(state: dict[str, Tensor], column_sum) -> dict[str, Tensor]:
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


def convert_attentions(state: dict[str, Tensor], column_sum) -> dict[str, Tensor]:
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


def choose_quirks(reference_quirks: bool, **flags: str | None) -> dict[str, str]:
    """Fill in flags that were left None and check the others."""
    for name, value in flags.items():
        if value is None:
            flags[name] = QUIRKS[name][reference_quirks]
        elif value not in QUIRKS[name]:
            raise ValueError(f"{name} must be one of {QUIRKS[name]}, found {value!r}")
    return flags


def check_points(points: Tensor, wanted: int) -> Tensor:
    """Float (B, N, 6) with N >= wanted, in float32 at least: coordinates do not survive 16 bits."""
    if points.ndim != 3 or points.shape[-1] != 6:
        raise ValueError(
            f"points must have shape (B, N, 6), xyz and unit normal, found {tuple(points.shape)}"
        )
    if points.shape[1] < wanted:
        raise ValueError(
            f"this network samples {wanted} points of each cloud, found {points.shape[1]} points"
        )
    return points.to(torch.promote_types(points.dtype, torch.float32))


@MODELS.register_module()
class RISurConvClassifier(nn.Module):
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

    rotation_invariant = True

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
        if num_classes < 1 or width < 1:
            raise ValueError(f"num_classes and width must be at least 1, found {num_classes} and {width}")
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
        self.head = nn.Sequential(*head, nn.Linear([dims, *head_dims][-1], num_classes))

    @torch.no_grad()
    def geometry(self, points: Tensor) -> list[SurfaceGeometry]:
        """Rotation-invariant features and neighbours of every layer, in float32 or float64."""
        xyz, normals = check_points(points, self.backbone.centres[0]).split(3, -1)
        with torch.autocast(points.device.type, enabled=False):
            stages, xyz, normals = self.backbone.geometry(xyz, normals)
            quirks = self.quirks
            last = global_geometry(
                torch.cat([xyz, normals], -1),
                quirks["global_sign"],
                quirks["global_origin"],
                quirks["reference_sign"],
            )
        return [*stages, last]

    def embed(self, geometry: list[SurfaceGeometry]) -> Tensor:
        """Global descriptors (B, channels[-1]) of the clouds, before the encoder."""
        values = self.backbone(geometry[:-1])[-1]
        return self.global_layer(*geometry[-1], values)[:, 0]

    def forward_geometry(self, geometry: list[SurfaceGeometry]) -> Tensor:
        """Logits (B, num_classes) of clouds whose geometry is known."""
        return self.head(self.encoder(self.embed(geometry)))

    def forward(self, points: Tensor) -> Tensor:
        return self.forward_geometry(self.geometry(points))

    def convert_official(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn the published classifier's state dict into this network's.

        Left out: the never-used `encoder_layer`; queries and keys of attentions over a single entry, the
        encoder's and the global layer's among them unless their flags say "published". A bias before a batch
        norm moves into its running mean. An unknown key raises an error that names it.
        """
        last = len(self.backbone.layers)
        rules = [
            (r"encoder_layer\..*", None),
            (rf"sc{last}\.(.*)", r"global_layer.\1"),
            (r"sc(\d)\.(.*)", r"backbone.layers.\1.\2"),
            (r"transformer_encoder\.layers\.(.*)", r"encoder.\1"),
            (r"fc1\.(.*)", r"head.0.\1"),
            (r"bn1\.(.*)", r"head.1.\1"),
            (r"fc2\.(.*)", r"head.4.\1"),
            (r"bn2\.(.*)", r"head.5.\1"),
            (r"fc3\.(.*)", r"head.8.\1"),
        ]
        ones = self.quirks["global_attention"] == "ones"

        def column_sum(prefix):
            if "point_attention" in prefix:
                return 1
            return self.backbone.centres[-1] if ones and prefix.startswith("global_layer.") else None

        state = convert_surface_layers(rename_keys(state_dict, rules), column_sum)
        for i in range(len(self.encoder)):
            old, new = f"encoder.{i}.self_attn.", f"encoder.{i}.attention."
            if self.quirks["batch_attention"] == "published":
                for key in [key for key in state if key.startswith(old)]:
                    state[f"{new}attention.{key.removeprefix(old)}"] = state.pop(key)
                continue
            for name in ("weight", "bias"):
                state[f"{new}value.{name}"] = state.pop(f"{old}in_proj_{name}").chunk(3)[2]
                state[f"{new}out.{name}"] = state.pop(f"{old}out_proj.{name}")
        for i in range(0, len(self.head) - 1, 4):
            fold_bias(state, f"head.{i}", f"head.{i + 1}")
        unused = rf"global_layer\.{'.*' if ones else 'point_'}attention\.(query|key)\."
        for key in [key for key in state if re.match(unused, key)]:
            del state[key]
        return state


@register_model
def risurconv_cls(num_classes: int = 40, width: int = 2, **kwargs) -> RISurConvClassifier:
    """The published classifier; width 2 for ModelNet40 and FG3D, 1 for ScanObjectNN."""
    return RISurConvClassifier(num_classes, width, **kwargs)


@register_model
def risurconv_s_cls(num_classes: int = 10, **kwargs) -> RISurConvClassifier:
    """A small classifier for laptops: 256 centres, half the channels, one encoder layer."""
    small = {
        "centres": (256, 128, 64, 32),
        "neighbours": (8, 16, 16, 32),
        "channels": (32, 64, 128, 256, 256),
        "embed_channels": 32,
        "encoder_depth": 1,
        "encoder_dims": 512,
        "head_dims": (128,),
    }
    return RISurConvClassifier(num_classes, **(small | kwargs))

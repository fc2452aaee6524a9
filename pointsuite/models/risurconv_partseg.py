"""RISurConv's part segmenter: the classifier's layers down, feature propagation back up to every point.

Paper: Zhang, Yang, Xiang, "RISurConv: Rotation Invariant Surface Attention-Augmented Convolutions for 3D
Point Cloud Classification and Segmentation", ECCV 2024, arXiv 2408.06110.
Published code: cszyzhang/RISurConv, MIT. This is an independent implementation.

As in `pointsuite.models.risurconv`, `geometry` has no parameters and no gradient, and `forward_geometry` is
the network proper. Of the published quirks listed there, two concern this network: neighbour_order and
reference_sign. As published, a layer with 1024 centres or more compares neighbours two slots apart, others
one slot apart; the last propagation has all points as centres, so train and test on the same side of 1024.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pointsuite.engine.checkpoint import CheckpointError, rename_keys
from pointsuite.engine.zoo import ZOO
from pointsuite.layers import SurfaceBackbone, SurfaceGeometry, SurfacePropagation, classification_head
from pointsuite.registry import MODELS

from .base import CloudNetwork
from .risurconv import PAPER, choose_quirks, convert_surface_layers, fold_bias


@ZOO.register_network("risurconv_partseg", MODELS)
class RISurConvPartSegmenter(CloudNetwork):
    """RISurConv's part segmenter: (B, N, 6) points and unit normals, categories -> (B, N, num_parts) logits.

    Args:
        num_parts: parts of all categories together.
        num_categories: categories, which the network is told; with one, it need not be.
        centres, neighbours, channels: of the layers down, fine to coarse.
        up_neighbours, up_channels: of the propagations up, one a layer, coarse to fine: the neighbours are
            the centres of the layer below.
        mlp_channels: widths of the layers behind each propagation.
        embed_channels: width of the embedded surface features.
        head_dims: hidden widths of the head.
        dropout: of the head.
        reference_quirks, neighbour_order, reference_sign: see `pointsuite.models.risurconv`.

    Raises:
        ValueError: points of the wrong shape, too few of them, NaN or infinity; categories missing or of the
            wrong shape; unknown flags.
    """

    title = "RISurConv, part segmentation"
    folder = "risurconv"
    paper = PAPER
    code = "cszyzhang/RISurConv"
    licence = "MIT"
    archs = {
        "s": {  # for laptops: half the channels or less
            "num_parts": 4,
            "num_categories": 10,
            "centres": (256, 128, 64, 32),
            "neighbours": (8, 16, 16, 32),
            "channels": (32, 64, 128, 256),
            "up_neighbours": (16, 16, 16, 16),
            "up_channels": (256, 128, 128, 64),
            "mlp_channels": ((128,), (128,), (64,), ()),
            "embed_channels": 32,
            "head_dims": (64,),
        },
        "": {},
    }
    num_parameters = {"s": 774_660, "": 4_055_090}
    published = {"": {"ShapeNetPart class mIoU (z/SO3, SO3/SO3), %": 81.5}}

    def __init__(
        self,
        num_parts: int = 50,
        num_categories: int = 16,
        *,
        centres: tuple[int, ...] = (512, 256, 128, 64),
        neighbours: tuple[int, ...] = (8, 16, 32, 64),
        channels: tuple[int, ...] = (64, 128, 256, 512),
        up_neighbours: tuple[int, ...] = (64, 32, 32, 32),
        up_channels: tuple[int, ...] = (512, 512, 256, 128),
        mlp_channels: tuple[tuple[int, ...], ...] = ((512,), (256,), (128,), ()),
        embed_channels: int = 64,
        head_dims: tuple[int, ...] = (128,),
        dropout: float = 0.4,
        reference_quirks: bool = False,
        neighbour_order: str | None = None,
        reference_sign: str | None = None,
    ):
        super().__init__()
        if num_parts < 1 or num_categories < 1:
            raise ValueError(
                f"num_parts and num_categories must be at least 1, found {num_parts} and {num_categories}"
            )
        if not len(centres) == len(up_neighbours) == len(up_channels) == len(mlp_channels):
            raise ValueError(
                f"up_neighbours, up_channels and mlp_channels must have one entry a layer, {len(centres)}, "
                f"found {len(up_neighbours)}, {len(up_channels)} and {len(mlp_channels)}"
            )
        for k, count in zip(up_neighbours, reversed(centres), strict=True):
            if k > count:
                raise ValueError(f"a propagation wants {k} neighbours among {count} centres")
        quirks = choose_quirks(
            reference_quirks, neighbour_order=neighbour_order, reference_sign=reference_sign
        )
        self.num_categories = num_categories
        self.up_neighbours = tuple(up_neighbours)
        self.backbone = SurfaceBackbone(centres, neighbours, channels, embed_channels, **quirks)
        dims = channels[-1]
        propagation = []
        for skip, conv, mlp in zip([*channels[-2::-1], 0], up_channels, mlp_channels, strict=True):
            propagation.append(SurfacePropagation(dims, conv, skip, mlp, embed_channels))
            dims = [conv + skip, *mlp][-1]
        self.propagation = nn.ModuleList(propagation)  # coarse to fine
        self.head = classification_head(dims + num_categories, head_dims, num_parts, dropout)

    def example_inputs(self, batch: int = 2, size: int | tuple[int] = 1024) -> tuple[Tensor, Tensor]:
        """Clouds as of other networks, and categories (B,) int64."""
        return *super().example_inputs(batch, size), torch.randint(self.num_categories, (batch,))

    @torch.no_grad()
    def geometry(self, points: Tensor) -> list[SurfaceGeometry]:
        """Features and neighbours of every layer down, then of every one up, in float32 or float64."""
        with torch.autocast(points.device.type, enabled=False):
            down, levels = self.backbone.geometry(points)
            levels = levels[::-1]
            up = zip(levels[1:], levels, self.up_neighbours, strict=False)
            # The published code rounds sums otherwise on the way up; see `surface_features`.
            return [*down, *(self.backbone.relate(fine, coarse, k, "propagation") for fine, coarse, k in up)]

    def _one_hot(self, category: Tensor | None, like: Tensor) -> Tensor:
        """Categories as (B, num_categories) in the dtype of `like` (B, N, C)."""
        if category is None and self.num_categories == 1:
            category = torch.zeros(like.shape[0], dtype=torch.int64, device=like.device)
        if category is None:
            raise ValueError(f"this network knows {self.num_categories} categories, found none given")
        if category.ndim == 1 and not category.is_floating_point():
            category = one_hot(category, self.num_categories)
        if category.shape != (like.shape[0], self.num_categories):
            raise ValueError(
                f"category must be integers ({len(like)},) or one-hot ({len(like)}, {self.num_categories}), "
                f"found {category.dtype} {tuple(category.shape)}"
            )
        return category.to(like.dtype)

    def forward_geometry(self, geometry: list[SurfaceGeometry], category: Tensor | None = None) -> Tensor:
        """Logits (B, N, num_parts) of clouds whose geometry is known; see `forward` for `category`."""
        count = len(self.propagation)
        skips = self.backbone(geometry[:count])
        x = skips.pop()
        for layer, stage, skip in zip(
            self.propagation, geometry[count:], [*reversed(skips), None], strict=True
        ):
            x = layer(*stage, x, skip)
        category = self._one_hot(category, x)[:, None].expand(-1, x.shape[1], -1)
        return self.head(torch.cat([x, category], -1))

    def forward(self, points: Tensor, category: Tensor | None = None) -> Tensor:
        """Logits of every point's part.

        Args:
            points: (B, N, 6) xyz and unit normal.
            category: int64 (B,) or one-hot (B, num_categories).

        Returns:
            (B, N, num_parts).
        """
        return self.forward_geometry(self.geometry(points), category)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published segmenter's state dict, of any number of layers, as this network's.

        A bias before a batch norm moves into its running mean.

        Raises:
            CheckpointError: a key that is not the published network's, or one without its counterpart.
        """
        layers = [match[1] for key in state_dict if (match := re.match(r"fp(\d+)\.", key))]
        if not layers:
            raise CheckpointError(
                "found no keys fp0.*, wanted the propagations of RISurConv's part segmenter"
            )
        last = max(map(int, layers))
        rules = [
            (r"sa(\d+)\.(.*)", r"backbone.layers.\1.\2"),
            (r"conv1\.(.*)", r"head.0.0.\1"),
            (r"bn1\.(.*)", r"head.0.1.\1"),
            (r"conv2\.(.*)", r"head.1.\1"),
        ]
        before_norm = [("head.0.0", "head.0.1")]
        for i in range(last + 1):
            old, new = f"fp{last - i}", f"propagation.{i}"  # the last is the first
            count = sum(bool(re.fullmatch(rf"{old}\.mlp_convs\.\d+\.weight", key)) for key in state_dict)
            for j in range(count):  # linear map, norm, ReLU
                linear, norm = f"{new}.mlp.{3 * j}", f"{new}.mlp.{3 * j + 1}"
                rules.append((rf"{old}\.mlp_convs\.{j}\.(.*)", rf"{linear}.\1"))
                rules.append((rf"{old}\.mlp_bns\.{j}\.(.*)", rf"{norm}.\1"))
                before_norm.append((linear, norm))
            rules.append((rf"{old}\.(.*)", rf"{new}.conv.\1"))
        state = convert_surface_layers(
            rename_keys(state_dict, rules), lambda prefix: 1 if "point_attention" in prefix else None
        )
        for linear, norm in before_norm:
            fold_bias(state, linear, norm)
        return state

    @classmethod
    def guess_options(
        cls, state_dict: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        last = max(int(key.split(".")[1]) for key in state_dict if key.startswith("propagation."))
        features, joined, parts = (  # the category is joined to the features as a one-hot
            state_dict.get(key, torch.empty(0, 0)).shape
            for key in (f"propagation.{last}.conv.conv.weight", "head.0.0.weight", "head.1.weight")
        )
        if joined[1] > features[0] and parts[0]:
            options = cls.drop_defaults(num_parts=parts[0], num_categories=joined[1] - features[0])
            yield "", options, dict(state_dict)


ZOO.register_alias("risurconv_s_partseg", "risurconv_partseg_s")

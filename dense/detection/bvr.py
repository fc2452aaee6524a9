"""RelationNet++: bridging visual representations (BVR) of an object in a dense detector.

Chi, Wei, Hu, "RelationNet++: Bridging Visual Representations for Object Detection via Transformer Decoder",
NeurIPS 2020, https://arxiv.org/abs/2010.15831. Published code: microsoft/RelationNet2, MIT; this is an
independent implementation.

The features of the grid that a detector predicts from are queries; a few key points, found by a small head of
their own, are keys: centres for classification, corners for boxes. One layer of attention, whose weights also
depend on where a key lies from a query, adds the keys to the grid: :class:`BVR`. The detectors that use it
are in :mod:`dense.detection.bvr_heads`.
"""

import math
import re
from collections.abc import Mapping, Sequence

import torch
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import reduce_mean
from torch import Tensor, nn
from torch.nn import functional as F

from .bvr_points import KeyPointHead, Keys, Points, cell_centres, keypoint_targets, sample_keys, wide

UNIT = 8  # pixels; what offsets between queries and keys are counted in
MOST_WEIGHTS = 1 << 21  # attention weights at a time in inference: few enough to stay in a CPU's cache


# ------------------------------------------------------------------------------------ transformer


class LocationEmbedding(nn.Module):
    """How much a key counts for a query, from where it lies: offsets to a bias of each head.

    As published, a linear layer takes the sine encodings of x and y on a grid of whole offsets to a map of
    each head, and the map is interpolated bilinearly; beyond its border the border goes on. Each map is the
    sum of a function of x and one of y, and so are its interpolations, so that two lines replace the map:
    the same numbers without its 160,000 cells.

    Args:
        channels: of the encodings, a multiple of 4.
        base_size: width and height of the grid, in units of the offsets.
        log_scale: the bias is the logarithm of the embedding, at least 1e-6: the embedding multiplies the
            weights of the attention.
        reference_quirks: as published, stretch offsets by (size + 1) / size where the size is even.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        base_size: tuple[int, int] = (400, 400),
        log_scale: bool = True,
        reference_quirks: bool = False,
    ):
        super().__init__()
        if channels % 4:
            raise ValueError(f"channels of a location embedding must be a multiple of 4, found {channels}")
        if len(base_size) != 2 or min(base_size) < 2:
            raise ValueError(f"base_size must be width and height, both 2 at least, found {base_size}")
        self.base_size = tuple(base_size)
        self.log_scale = log_scale
        self.reference_quirks = reference_quirks
        self.proj = nn.Linear(channels, num_heads)
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.normal_(self.proj.weight, std=0.01)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Bias (B, heads, ...) of offsets x, y (B, ...), which broadcast to each other."""
        return self.to_bias(*self.interpolate(x, y))

    def interpolate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The two summands (B, heads, ...) of the embedding, each of the shape of its offsets (B, ...)."""
        dtype = wide(self.proj.weight.dtype)
        weight, bias = self.proj.weight.to(dtype), self.proj.bias.to(dtype)
        parts = []
        with torch.autocast(x.device.type, enabled=False):
            for offset, size, half in zip((x, y), self.base_size, weight.chunk(2, 1), strict=True):
                sines = self._sines(size // 2, half.shape[1] // 2, half)
                line = sines @ half.T  # (2 * (size // 2) + 1, heads)
                stretch = len(line) / size if self.reference_quirks else 1.0
                last = len(line) - 1
                position = (offset.to(dtype) * stretch + size // 2).clamp(0, last)
                low = position.detach().floor().clamp(max=last - 1)
                fraction, index = (position - low)[..., None], low.long()
                part = F.embedding(index, line) * (1 - fraction) + F.embedding(index + 1, line) * fraction
                parts.append(part.movedim(-1, 1))
        across, down = parts
        return across + bias.view(-1, *[1] * (x.ndim - 1)), down

    def to_bias(self, across: Tensor, down: Tensor) -> Tensor:
        embedding = across + down
        return embedding.clamp(min=1e-6).log() if self.log_scale else embedding

    @staticmethod
    def _sines(reach: int, frequencies: int, like: Tensor) -> Tensor:
        """Encodings (2 * reach + 1, 2 * frequencies) of -reach .. reach."""
        z = torch.arange(-reach, reach + 1, device=like.device, dtype=like.dtype)
        r = torch.arange(frequencies, device=like.device, dtype=like.dtype)
        angle = z[:, None] / 1000 ** (r / frequencies)
        return torch.cat((angle.sin(), angle.cos()), 1)


class KeyAttention(nn.Module):
    """Multi-head attention of queries to a few keys, with a bias for where these lie.

    Args:
        channels: of the queries and of the output.
        key_channels: of the keys.
        embed_dims: of all heads together.
        give_position: also return where each query attends to, the mean of the heads.
    """

    def __init__(
        self, channels: int, key_channels: int, embed_dims: int, num_heads: int, give_position: bool = False
    ):
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f"embed_dims must be a multiple of num_heads {num_heads}, found {embed_dims}")
        self.num_heads = num_heads
        self.give_position = give_position
        self.query = nn.Linear(channels, embed_dims)
        self.key_value = nn.Linear(key_channels, 2 * embed_dims)
        self.out_proj = nn.Linear(embed_dims, channels)
        self.init_weights()

    def init_weights(self) -> None:
        """As PyTorch's attention, whose three input layers are one."""
        for layer in (self.query, self.key_value):
            bound = math.sqrt(6 / (layer.in_features + 3 * self.query.out_features))
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)
        self.out_proj.reset_parameters()
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, x: Tensor, keys: Keys, across: Tensor, down: Tensor, embedding: LocationEmbedding
    ) -> tuple[Tensor, Tensor | None]:
        """The attention's output (B, S, ..., channels) and, or None, the places it looks at (B, S, ..., 2).

        Args:
            x: (B, S, ..., channels); any shape of queries.
            across, down: (B, heads, S, ..., K), summands of the embedding as of
                :meth:`LocationEmbedding.interpolate`; they broadcast to each other.
        """
        heads, keys_xy = self.num_heads, keys.xy.detach()
        query = self.query(x).unflatten(-1, (heads, -1))  # (B, S, ..., heads, d)
        key, value = self.key_value(keys.features).unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        dtype = across.dtype
        if self.give_position:  # positions are more values, which the same weights sum
            keys_xy = keys_xy[:, None].expand(-1, heads, -1, -1)
            value = torch.cat((value.to(dtype), keys_xy.to(dtype)), -1)
        outputs = []
        with torch.autocast(x.device.type, enabled=False):  # scores and bias in float32
            query, key, value = (t.to(dtype) for t in (query, key, value))
            for rows in self._chunks(query, key):
                bias = embedding.to_bias(_rows(across, rows), _rows(down, rows))
                part = query[:, rows].flatten(1, -3).transpose(1, 2)  # (B, heads, n, d)
                part = F.scaled_dot_product_attention(part, key, value, attn_mask=bias.flatten(2, -2))
                outputs.append(part.transpose(1, 2))
        output = torch.cat(outputs, 1).unflatten(1, x.shape[1:-1])  # (B, S, ..., heads, d)
        position = None
        if self.give_position:
            output, position = output.split((query.shape[-1], 2), -1)
            position = position.mean(-2)
        return self.out_proj(output.flatten(-2).to(x.dtype)), position

    @staticmethod
    def _chunks(query: Tensor, key: Tensor) -> list[slice]:
        """All queries at once where gradients keep the weights anyway, else as many rows as are fast."""
        size = query.shape[1]
        if torch.is_grad_enabled():
            return [slice(0, size)]
        weights = query.numel() // query.shape[-1] * key.shape[2]
        rows = max(1, size * MOST_WEIGHTS // max(1, weights))
        return [slice(i, i + rows) for i in range(0, max(1, size), rows)]


def _rows(part: Tensor, rows: slice) -> Tensor:
    return part if part.shape[2] == 1 else part[:, :, rows]


class BVRTransformer(nn.Module):
    """Queries see groups of keys: ReLU(x + the sum of one attention a group).

    Args:
        channels: of the queries and of the output.
        num_groups: each has an attention of its own; one location embedding is for all.
        key_channels, embed_dims: of :class:`KeyAttention`; as channels by default.
        embedding: a :class:`LocationEmbedding` to share; None for one's own, by the arguments left.
        concat_position: an option that no published configuration has: go on with ReLU(linear layer of the
            output and, of each group, a linear layer of the offset to where its attention looks).
    """

    def __init__(
        self,
        channels: int,
        num_groups: int,
        num_heads: int = 8,
        *,
        key_channels: int | None = None,
        embed_dims: int | None = None,
        embedding: LocationEmbedding | None = None,
        base_size: tuple[int, int] = (400, 400),
        log_scale: bool = True,
        concat_position: bool = False,
        reference_quirks: bool = False,
    ):
        super().__init__()
        embed_dims = embed_dims or channels
        self.decoder = nn.ModuleList(
            KeyAttention(channels, key_channels or channels, embed_dims, num_heads, concat_position)
            for _ in range(num_groups)
        )
        self.embedding = embedding or LocationEmbedding(
            embed_dims, num_heads, base_size, log_scale, reference_quirks
        )
        if concat_position:
            self.position_layers = nn.ModuleList(nn.Linear(2, channels) for _ in range(num_groups))
            self.fusion = nn.Linear((1 + num_groups) * channels, channels)
        self.concat_position = concat_position

    def forward(self, queries: Tensor, x: Tensor, y: Tensor, groups: Sequence[Keys]) -> Tensor:
        """Features of the shape of ``queries``.

        Args:
            queries: (B, S, ..., channels), any shape S, ... of queries.
            x, y: where they are; shapes that broadcast to (S, ...), of equally many axes or fewer.
            groups: of keys; positions in the units of x and y.
        """
        if len(groups) != len(self.decoder):
            raise ValueError(f"wanted {len(self.decoder)} groups of keys, found {len(groups)}")
        axes = queries.ndim - 2
        x, y = (p.view(*[1] * (axes - p.ndim), *p.shape)[..., None] for p in (x, y))  # (S or 1, ..., 1)
        outputs, looks = [], []
        for attention, keys in zip(self.decoder, groups, strict=True):
            key_x, key_y = keys.xy.view(len(keys.xy), *[1] * axes, -1, 2).unbind(-1)  # (B, 1, ..., K)
            across, down = self.embedding.interpolate(key_x - x, key_y - y)
            output, position = attention(queries, keys, across, down, self.embedding)
            outputs.append(output)
            if position is not None:
                place = torch.stack(torch.broadcast_tensors(x[..., 0], y[..., 0]), -1)
                looks.append((position - place).to(output.dtype))
        result = F.relu(queries + sum(outputs))
        if self.concat_position:
            looks = [layer(look) for layer, look in zip(self.position_layers, looks, strict=True)]
            result = F.relu(self.fusion(torch.cat((result, *looks), -1)))
        return result


# ------------------------------------------------------------------------------------------- whole


class BVR(nn.Module):
    """The bridge of a detector: its key points, the two transformers, and the losses of the points.

    Args:
        num_classes: of the points, as of the detector.
        in_channels: of the maps that points are predicted from.
        feat_channels: of the maps that keys are taken from.
        strides: of all these maps.
        query_channels: of what is bridged; by default it is those maps.
        num_heads: of the attention.
        base_size: width and height within which offsets differ, in units of 8 pixels.
        level_keys, num_keys: of :func:`sample_keys`.
        shared_embedding: one location embedding for both branches.
        scale_position: count offsets in strides of the query's level, not in 8 pixels.
        log_scale, concat_position, reference_quirks: of :class:`BVRTransformer`; ``concat_position`` is
            for the branch of boxes.
        min_overlap: of :func:`gaussian_radius`.
        keypoint_head: further arguments of :class:`KeyPointHead`.
        loss_cls, loss_offset: of the points' scores and offsets, MMDetection's.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int,
        strides: Sequence[int],
        *,
        query_channels: int | None = None,
        num_heads: int = 8,
        base_size: tuple[int, int] = (400, 400),
        level_keys: int = 20,
        num_keys: int = 50,
        shared_embedding: bool = False,
        scale_position: bool = False,
        log_scale: bool = True,
        concat_position: bool = False,
        reference_quirks: bool = False,
        min_overlap: float = 0.7,
        keypoint_head: Mapping | None = None,
        loss_cls: Mapping | None = None,
        loss_offset: Mapping | None = None,
    ):
        super().__init__()
        if min(level_keys, num_keys) < 1:
            raise ValueError(f"level_keys and num_keys must be positive, found {level_keys} and {num_keys}")
        self.num_classes = num_classes
        self.strides = tuple(strides)
        self.level_keys, self.num_keys = level_keys, num_keys
        self.scale_position = scale_position
        self.min_overlap = min_overlap
        self.keypoint_head = KeyPointHead(
            num_classes, in_channels, **{"feat_channels": in_channels, **(keypoint_head or {})}
        )
        options = {
            "num_heads": num_heads,
            "key_channels": feat_channels,
            "embed_dims": feat_channels,
            "base_size": base_size,
            "log_scale": log_scale,
            "reference_quirks": reference_quirks,
        }
        channels = query_channels or feat_channels
        self.cls_transformer = BVRTransformer(channels, 1, **options)
        if shared_embedding:
            options["embedding"] = self.cls_transformer.embedding
        self.reg_transformer = BVRTransformer(channels, 2, concat_position=concat_position, **options)
        self.loss_cls = MODELS.build(loss_cls or {"type": "GaussianFocalLoss", "loss_weight": 0.25})
        self.loss_offset = MODELS.build(loss_offset or {"type": "SmoothL1Loss", "beta": 1.0})

    def init_weights(self) -> None:
        """The initial weights again, after an ``init_cfg`` of the detector's head changed some."""
        for module in self.modules():
            if isinstance(module, (KeyPointHead, LocationEmbedding, KeyAttention)):
                module.init_weights()

    def forward(
        self, maps: Sequence[Tensor], cls_maps: Sequence[Tensor], reg_maps: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], Points]:
        """The bridged maps of both branches, and the points, for :meth:`loss`.

        Args:
            maps: (B, in_channels, H_l, W_l) of every level.
            cls_maps, reg_maps: (B, feat_channels, H_l, W_l), what classes and boxes are predicted from.
        """
        points, cls_keys, reg_keys = self.find_keys(maps, cls_maps, reg_maps)
        cls_maps = self._bridge(self.cls_transformer, cls_maps, cls_keys)
        reg_maps = self._bridge(self.reg_transformer, reg_maps, reg_keys)
        return cls_maps, reg_maps, points

    def find_keys(
        self, maps: Sequence[Tensor], cls_maps: Sequence[Tensor], reg_maps: Sequence[Tensor]
    ) -> tuple[Points, list[Keys], list[Keys]]:
        """The points, and the groups of keys for classes (centres) and for boxes (both corners)."""
        if not len(maps) == len(cls_maps) == len(reg_maps) == len(self.strides):
            raise ValueError(f"wanted maps of {len(self.strides)} levels, found {len(maps)}")
        points = self.keypoint_head(maps)

        def keys(i: int, features: Sequence[Tensor]) -> Keys:
            logits, offsets = ([level[:, i] for level in levels] for levels in points)
            return sample_keys(logits, offsets, features, self.strides, self.level_keys, self.num_keys)

        return points, [keys(2, cls_maps)], [keys(0, reg_maps), keys(1, reg_maps)]

    def _bridge(
        self, transformer: BVRTransformer, maps: Sequence[Tensor], groups: list[Keys]
    ) -> list[Tensor]:
        bridged = []
        for level, stride in zip(maps, self.strides, strict=True):
            unit = stride if self.scale_position else UNIT
            x, y = cell_centres(*level.shape[2:], stride, level)
            scaled = [Keys(keys.xy / unit, keys.features) for keys in groups]
            queries = transformer(level.permute(0, 2, 3, 1), x / unit, y / unit, scaled)
            bridged.append(queries.permute(0, 3, 1, 2))
        return bridged

    def loss(self, points: Points, gt_instances: Sequence) -> dict[str, Tensor]:
        """Losses of the points' scores and offsets, per positive cell of the mean process.

        Images without boxes are background. Where no process has a box, both are 0.

        Args:
            gt_instances: one for each image, with ``bboxes`` (G, 4) and ``labels`` (G).
        """
        sizes = [tuple(level.shape[-2:]) for level in points.logits]
        targets = [
            keypoint_targets(
                get_box_tensor(gt.bboxes), gt.labels, sizes, self.strides, self.num_classes, self.min_overlap
            )
            for gt in gt_instances
        ]
        scores, offsets, positive = (torch.stack(parts) for parts in zip(*targets, strict=True))
        # (B, 3, N, classes) and (B, 3, N, 2)
        logits, found = (torch.cat([x.flatten(3) for x in levels], 3).mT for levels in points)
        count = reduce_mean(positive.sum().to(scores.dtype))
        share = torch.where(count > 0, 1 / count.clamp(min=torch.finfo(count.dtype).tiny), 0)
        probabilities = logits.to(wide(logits.dtype)).sigmoid()
        found = found.to(wide(found.dtype))[positive]
        with torch.autocast(logits.device.type, enabled=False):
            loss_cls = self.loss_cls(probabilities, scores, reduction_override="sum")
            loss_offset = self.loss_offset(found, offsets[positive], reduction_override="sum")
        return {"kpt_loss_point_cls": loss_cls * share, "kpt_loss_point_offset": loss_offset * share}


def convert_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' weights, of MMDetection 2.x, named as here; of a whole detector, or of its head alone.

    The encodings of the grid, 165 MB each, are dropped: they are computed.
    """
    prefix = "bbox_head." if any(key.startswith("bbox_head.keypoint_head.") for key in state_dict) else ""
    converted = {}
    for key, value in state_dict.items():
        if not key.startswith(prefix):  # backbone and neck
            converted[key] = value
            continue
        name = key.removeprefix(prefix)
        if name.startswith("bbox_head."):
            converted[prefix + name.removeprefix("bbox_head.")] = value
            continue
        converted.update({f"{prefix}bvr.{new}": part for new, part in _rename(name, value).items()})
    return converted


def _rename(name: str, value: Tensor) -> dict[str, Tensor]:
    if name.endswith("base_embedding"):
        return {}
    if match := re.fullmatch(r"(.*)in_proj_(weight|bias)", name):
        query, key_value = value.split((len(value) // 3, len(value) // 3 * 2))
        return {f"{match[1]}query.{match[2]}": query, f"{match[1]}key_value.{match[2]}": key_value}
    embedding = r"relative_positional_encoding\.embedding_transform\.0\.conv\."
    if re.search(embedding, name):
        return {re.sub(embedding, "embedding.proj.", name): value.flatten(1) if value.ndim > 1 else value}
    return {name: value}

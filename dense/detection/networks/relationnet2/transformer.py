"""The attention of RelationNet++: queries see a few keys, and a bias says where these lie."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .points import Keys, wide

MOST_WEIGHTS = 1 << 21  # attention weights at a time in inference: few enough to stay in a CPU's cache


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

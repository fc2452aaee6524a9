"""What a learnt matcher must beat, in its own interface: nearest neighbours of its features; no motion."""

from collections.abc import Sequence

import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ...ops.flow import grid_positions
from ...registry import MODELS
from ..cost_volume import correlate, normalize
from .backbone import build_backbone
from .base import PairNetwork


@MODELS.register_module()
class MutualNearestNeighbours(PairNetwork):
    """Cells of two images that are each other's most similar; every pixel moves as the nearest of them does.

    The most similar cells of all are mutual, so there are always some. There is nothing to learn.

    Args:
        backbone: config or module, (B, 3, S, S) to maps. Similar are cells whose maps, each of length 1 and
            on the grid of the largest, side by side have a large cosine.
        indices: of the maps that are used, by default all.
    """

    def __init__(self, backbone: dict | nn.Module, indices: Sequence[int] | None = None):
        super().__init__()
        self.backbone = build_backbone(backbone)
        self.indices = indices

    def extract(self, images: Tensor) -> tuple[Tensor, int]:
        """Features (B, g * g, C) by row, and g."""
        maps = self.backbone(images)
        maps = [maps[i] for i in self.indices] if self.indices is not None else list(maps)
        grid = max(x.shape[-1] for x in maps)
        maps = [interpolate(x, (grid, grid), mode="bilinear") if x.shape[-1] != grid else x for x in maps]
        return torch.cat([normalize(x.flatten(2).mT) for x in maps], -1), grid

    def forward(self, source: Tensor, target: Tensor) -> list[Tensor]:
        return [self.match(source, target)[0]]

    def match(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Flow (B, 2, S, S) in pixels, and confidence (B, S, S): 1 in mutual cells, 0 elsewhere."""
        features, grid = self.extract(torch.cat((source, target)))
        similarity = correlate(*features.chunk(2))  # (B, N_s, N_t)
        best_source, best_target = similarity.argmax(1), similarity.argmax(2)  # (B, N_t), (B, N_s)
        own = torch.arange(grid * grid, device=source.device)
        mutual = best_target.gather(1, best_source) == own  # (B, N_t)
        cells = grid_positions((grid, grid), source).flatten(1).T  # (N, 2)
        flows = cells[best_source] - cells  # (B, N, 2)
        size = source.shape[-1]
        step = size / grid
        pixels = grid_positions((size, size), source).flatten(1).T
        filled = []
        for flow, kept in zip(flows, mutual, strict=True):
            tree = cKDTree(((cells[kept] + 0.5) * step - 0.5).cpu().numpy())
            nearest = torch.from_numpy(tree.query(pixels.cpu().numpy())[1]).to(flow.device)
            filled.append((flow[kept] * step)[nearest].T.unflatten(1, (size, size)))
        confidence = mutual.to(flows.dtype).unflatten(1, (1, grid, grid))
        return torch.stack(filled), interpolate(confidence, (size, size), mode="nearest")[:, 0]


@MODELS.register_module()
class NoMotion(PairNetwork):
    """Every point is where it was: a flow of 0 and a confidence of 1, on a grid of that many cells a side."""

    def __init__(self, grid: int = 16):
        super().__init__()
        self.grid = grid

    def forward(self, source: Tensor, target: Tensor) -> list[Tensor]:
        return [source.new_zeros(len(source), 2, self.grid, self.grid)]

    def match(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        (flow,) = self(source, target)
        return flow, torch.ones_like(flow[:, 0])

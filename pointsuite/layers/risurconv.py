"""RISurConv's layer for flat points with a batch vector, as layers of PyTorch Geometric take them."""

import torch
from torch import Tensor, nn

from pointsuite.ops import knn, surface_features

from .surface_conv import SurfaceConv


class RISurConv(nn.Module):
    """Rotation-invariant surface convolution over flat points: to chosen centres, or to all points.

    Stands where PyTorch Geometric's ``PointNetConv`` would; centres come from ``fps``::

        index = fps(data.pos, data.batch, ratio=0.25)
        x = conv(None, data.pos, data.normal, data.batch, index)
        pos, normal, batch = data.pos[index], data.normal[index], data.batch[index]

    A cloud's result depends on that cloud alone (in training, but for the batch norms). What it computes of
    one cloud is :class:`SurfaceConv`, whose attention is among the neighbours and the centres of a cloud:
    there are no single edges to pass messages along, so this is no ``MessagePassing``.

    Args:
        in_channels: channels that the points carry, 0 for none.
        out_channels: channels of the centres, a multiple of 4.
        k: neighbours of a centre, itself among them where it is a point.
        embed_channels: width of the embedded surface features, a multiple of 4.

    Source: Zhang, Yang, Xiang, "RISurConv", ECCV 2024.
    """

    def __init__(self, in_channels: int, out_channels: int, k: int, embed_channels: int = 64):
        super().__init__()
        if k < 3:
            raise ValueError(f"k must be at least 3, so that neighbours have others beside them, found {k}")
        self.in_channels, self.out_channels, self.k = in_channels, out_channels, k
        self.conv = SurfaceConv(in_channels, out_channels, embed_channels)

    def reset_parameters(self) -> None:
        for module in self.conv.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def forward(
        self,
        x: Tensor | None,
        pos: Tensor,
        normal: Tensor,
        batch: Tensor | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """Compute the centres' values.

        Args:
            x: (N, in_channels) of the points, None where that is 0.
            pos: (N, 3) float.
            normal: (N, 3) of unit length.
            batch: (N,) int64, the cloud of each point, ascending; None is one cloud.
            index: (M,) int64, the centres among the points, cloud by cloud; None: all points.

        Returns:
            (M, out_channels), in the order of ``index``.

        Raises:
            ValueError: shapes that do not fit, clouds without centres or of fewer than k points; in training,
                clouds of different numbers of points or centres, over which batch norms could not average as
                one.
        """
        self._check(x, pos, normal, batch)
        batch = pos.new_zeros(len(pos), dtype=torch.long) if batch is None else batch
        index = torch.arange(len(pos), device=pos.device) if index is None else index
        owner = batch[index]
        if bool((batch.diff() < 0).any()) or bool((owner.diff() < 0).any()):
            raise ValueError("batch must be ascending, and index cloud by cloud, found another order")
        sizes, counts = batch.bincount(), owner.bincount(minlength=int(batch[-1]) + 1)
        for cloud, (size, count) in enumerate(zip(sizes.tolist(), counts.tolist(), strict=True)):
            if size and (size < self.k or not count):
                raise ValueError(
                    f"cloud {cloud} must have {self.k} points or more and a centre, found {size} and {count}"
                )
        kinds = torch.stack([sizes, counts], 1)[sizes > 0].unique(dim=0)
        if self.training and len(kinds) > 1:
            raise ValueError(
                f"in training all clouds must have as many points and centres, found {kinds.tolist()[:5]}"
            )
        out, first = None, sizes.cumsum(0) - sizes
        for size, count in kinds.tolist():  # clouds of one shape at once
            clouds = ((sizes == size) & (counts == count)).nonzero()[:, 0]
            rows = first[clouds, None] + torch.arange(size, device=pos.device)
            places = (counts.cumsum(0) - counts)[clouds, None] + torch.arange(count, device=pos.device)
            found = self._clouds(x, pos, normal, rows, index[places])
            if out is None:
                out = found.new_empty(len(index), self.out_channels)
            out = out.index_copy(0, places.flatten(), found.flatten(0, 1))
        return out

    def _clouds(self, x, pos: Tensor, normal: Tensor, rows: Tensor, centres: Tensor) -> Tensor:
        """Of clouds of one size: rows (B, N) of the points, centres (B, S)."""
        with torch.no_grad():
            points, normals = pos[rows], normal[rows]
            at = pos[centres], normal[centres]
            idx, _ = knn(at[0], points, self.k)
            features, idx = surface_features(*at, points, normals, idx)
        return self.conv(features, idx, None if x is None else x[rows])

    def _check(self, x: Tensor | None, pos: Tensor, normal: Tensor, batch: Tensor | None) -> None:
        count = len(pos)
        wanted = {"pos": (pos, (count, 3)), "normal": (normal, (count, 3))}
        if x is not None or self.in_channels:
            wanted["x"] = (x, (count, self.in_channels))
        if batch is not None:
            wanted["batch"] = (batch, (count,))
        for name, (value, shape) in wanted.items():
            found = None if value is None else tuple(value.shape)
            if found != shape or not count:
                raise ValueError(f"{name} must have shape {shape} with points, found {found}")

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, k={self.k}"

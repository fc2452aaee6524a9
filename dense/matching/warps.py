"""Pairs of images whose true flow is known: a picture, and what a warp makes of it.

Coordinates of an image are x, y from -1 to 1, from edge to edge; the centre of pixel (or cell) i of n is at
(2 i + 1) / n - 1.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ..registry import TRANSFORMS


def cell_centres(grid: int, **options) -> Tensor:
    """Coordinates x, y of the cells of a grid: (grid, grid, 2), rows first."""
    ticks = (2 * torch.arange(grid, **options) + 1) / grid - 1
    return torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)


@dataclass(frozen=True, eq=False)
class Warp:
    r"""Where in the source a point p of the target is: affine, projective, or a thin-plate spline.

    .. math::
        W(p) = \frac{c_0 + c_1 p_x + c_2 p_y + \sum_k c_{3 + k} \, U(|p - q_k|)}{1 + h \cdot p}, \quad
        U(r) = r^2 \log r

    Args:
        coefficients: c, float64 (3 + K, 2).
        centres: q of a spline, float64 (K, 2), by default none.
        perspective: h, float64 (2,), by default 0.
    """

    coefficients: Tensor
    centres: Tensor | None = None
    perspective: Tensor | None = None

    @classmethod
    def from_matrix(cls, matrix: Tensor | Sequence[Sequence[float]]) -> "Warp":
        """Of a homography (3, 3) of points (x, y, 1), whose last element is not 0."""
        matrix = torch.as_tensor(matrix, dtype=torch.float64)
        if matrix.shape != (3, 3) or matrix[2, 2] == 0:
            raise ValueError(f"a homography is (3, 3) and ends with a number that is not 0, found {matrix}")
        matrix = matrix / matrix[2, 2]
        return cls(matrix[:2, [2, 0, 1]].T, perspective=matrix[2, :2])

    @classmethod
    def from_points(cls, target: Tensor, source: Tensor) -> "Warp":
        """The thin-plate spline that takes points (K, 2) to points (K, 2) and bends least; K of at least 3.

        Source: Bookstein, "Principal Warps: Thin-Plate Splines and the Decomposition of Deformations", PAMI
        1989.

        Raises:
            torch.linalg.LinAlgError: target points that are equal, or all on one line.
        """
        target, source = target.double(), source.double()
        plane = torch.cat((torch.ones_like(target[:, :1]), target), 1)  # (K, 3)
        matrix = target.new_zeros(2 * (3 + len(target),))
        matrix[:-3, :3], matrix[:-3, 3:], matrix[-3:, 3:] = plane, _bend(target, target), plane.T
        return cls(torch.linalg.solve(matrix, torch.cat((source, source.new_zeros(3, 2)))), target)

    def __call__(self, points: Tensor) -> Tensor:
        """Coordinates (..., 2) in the target to those in the source; not finite at a warp's horizon."""
        basis = torch.cat((torch.ones_like(points[..., :1]), points), -1).double()
        if self.centres is not None:
            basis = torch.cat((basis, _bend(points.double(), self.centres)), -1)
        found = basis @ self.coefficients
        if self.perspective is not None:
            found = found / (1 + points.double() @ self.perspective)[..., None]
        return found.to(points.dtype)

    def flow(self, grid: int) -> tuple[Tensor, Tensor]:
        """The exact flow of a grid's cells and whether they are inside of the source.

        Returns:
            float32 (2, grid, grid), x and y, in cells, 0 where it leaves the source, and bool (grid, grid).
        """
        target = cell_centres(grid, dtype=torch.float64)
        source = self(target)
        valid = (source.abs() <= 1).all(-1)
        if self.perspective is not None:
            valid &= 1 + target @ self.perspective > 0  # what lies behind the horizon is not seen
        flow = torch.where(valid[..., None], (source - target) * (grid / 2), 0)
        return flow.permute(2, 0, 1).float(), valid

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The target of a source, both uint8 (S, S, C), by bilinear interpolation; black outside."""
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))[None]).float()
        source = self(cell_centres(image.shape[0], dtype=torch.float32)).nan_to_num(9, 9, -9)
        found = grid_sample(pixels, source[None], padding_mode="zeros", align_corners=False)
        return found[0].round().byte().permute(1, 2, 0).numpy()


def _bend(points: Tensor, centres: Tensor) -> Tensor:
    """U(|p - q|) of points (..., 2) and centres (K, 2): (..., K)."""
    squared = (points[..., None, :] - centres).square().sum(-1)
    return torch.special.xlogy(squared, squared) / 2


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RandomWarp:
    """``img``, a square, becomes ``source_img``; ``target_img`` is that, warped; ``warp`` is how.

    One kind is drawn for each sample: "affine", "homography" (an affine map, then a projective one) or "tps"
    (an affine map of a grid of points, each of which is then moved).

    Args:
        kinds: to draw from, each as often.
        rotation: largest, in degrees, either way.
        scale: from its inverse to this.
        stretch: of x against y, from its inverse to this.
        shear: largest, either way.
        shift: largest, either way, of x and y, in halves of the image.
        perspective: largest, either way: how much nearer the image's edges come.
        bend: largest move of a spline's points, in halves of the image.
        grid: points to a side of a spline.
    """

    kinds: tuple[str, ...] = ("affine", "homography", "tps")
    rotation: float = 20.0
    scale: float = 1.4
    stretch: float = 1.2
    shear: float = 0.15
    shift: float = 0.25
    perspective: float = 0.2
    bend: float = 0.2
    grid: int = 3

    def __post_init__(self):
        if unknown := set(self.kinds) - {"affine", "homography", "tps"}:
            raise ValueError(f"warps are 'affine', 'homography' or 'tps', found {sorted(unknown)}")

    def __call__(self, sample: dict) -> dict:
        image = sample["img"]
        if image.shape[0] != image.shape[1]:
            raise ValueError(
                f"{sample.get('img_path', 'an image')}: is {image.shape}, wanted a square: add "
                "RandomResizedCrop to the pipeline"
            )
        warp = self.draw()
        return {**sample, "source_img": image, "target_img": warp.apply(image), "warp": warp}

    def draw(self) -> Warp:
        def both_ways(limit: float) -> float:
            return random.uniform(-limit, limit)

        angle = both_ways(self.rotation) * pi / 180
        scale, stretch = self.scale ** both_ways(1), self.stretch ** both_ways(0.5)
        rotation = torch.tensor([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]], dtype=torch.float64)
        shear = torch.tensor([[1, both_ways(self.shear)], [0, 1]], dtype=torch.float64)
        matrix = torch.eye(3, dtype=torch.float64)
        matrix[:2, :2] = (
            rotation @ shear @ torch.tensor([[scale * stretch, 0], [0, scale / stretch]]).double()
        )
        matrix[:2, 2] = torch.tensor([both_ways(self.shift), both_ways(self.shift)])
        kind = random.choice(self.kinds)
        if kind == "homography":
            tilt = torch.eye(3, dtype=torch.float64)
            tilt[2, :2] = torch.tensor([both_ways(self.perspective), both_ways(self.perspective)])
            matrix = matrix @ tilt
        warp = Warp.from_matrix(matrix)
        if kind == "tps":
            ticks = torch.linspace(-1, 1, self.grid, dtype=torch.float64)
            points = torch.cartesian_prod(ticks, ticks)
            moves = [[both_ways(self.bend), both_ways(self.bend)] for _ in points]
            warp = Warp.from_points(points, warp(points) + torch.tensor(moves, dtype=torch.float64))
        return warp

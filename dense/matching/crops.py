"""Crops: parts of both images at the same place, enlarged, for a second, closer look."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from ..ops.flow import grid_positions, sample_at


class Crop(NamedTuple):
    """A part of images of size (H, W), all in pixels."""

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]

    def apply(self, images: Tensor) -> Tensor:
        """The part of images (B, C, H, W), as large as these, bilinearly."""
        part = images[:, :, self.top : self.top + self.height, self.left : self.left + self.width]
        return F.interpolate(part, self.size, mode="bilinear", align_corners=False)

    def find(self, size: tuple[int, int], like: Tensor) -> Tensor:
        """Where cells of a grid of the whole image lie, 0 to 1 inside of the crop: (2, *size), x and y."""
        place = grid_positions(size, like)
        for axis, (side, pixels, start, length) in enumerate(
            (
                (size[1], self.size[1], self.left, self.width),
                (size[0], self.size[0], self.top, self.height),
            )
        ):
            place[axis] = ((place[axis] + 0.5) * (pixels / side) - start) / length
        return place

    def covers(self, size: tuple[int, int], like: Tensor) -> Tensor:
        """Which cells of a grid of the whole image lie in the crop: bool (H, W)."""
        place = self.find(size, like)
        return ((place >= 0) & (place <= 1)).all(0)

    def widen_flow(self, flow: Tensor, size: tuple[int, int]) -> Tensor:
        """The crop's flow (B, 2, h, w) on a grid of the whole image, in cells of that: (B, 2, *size).

        Outside of the crop, the flow of its border.
        """
        height, width = flow.shape[2:]
        cells = flow.new_tensor([width, height])[:, None, None]
        place = self.find(size, flow) * cells - 0.5
        sampled = sample_at(flow, place.expand(len(flow), -1, -1, -1))
        share = flow.new_tensor([self.width / self.size[1] * size[1], self.height / self.size[0] * size[0]])
        return sampled / cells * share[:, None, None]


def corner_crops(size: tuple[int, int], share: float) -> list[Crop]:
    """The crops in the four corners of images of size (H, W), their sides ``share`` of the image's."""
    height, width = (round(share * side) for side in size)
    return [
        Crop(top, left, height, width, tuple(size))
        for top in (0, size[0] - height)
        for left in (0, size[1] - width)
    ]

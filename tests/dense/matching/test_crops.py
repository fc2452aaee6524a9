"""Crops of pairs: where they lie, and their flows on the grid of the whole image."""

import torch

from dense.matching.crops import corner_crops


def test_corners():
    crops = corner_crops((64, 96), 0.625)
    assert [(crop.top, crop.left, crop.height, crop.width) for crop in crops] == [
        (0, 0, 40, 60), (0, 36, 40, 60), (24, 0, 40, 60), (24, 36, 40, 60)
    ]  # fmt: skip
    like = torch.zeros((), dtype=torch.float64)
    covered = torch.stack([crop.covers((8, 8), like) for crop in crops])
    assert covered.any(0).all()
    assert covered[0, :5, :5].all() and covered[0].sum() == 25


def test_an_affine_flow_of_a_crop_is_that_of_the_image():
    """In pixels x' = 0.9 x + 3: the same motion, in cells of either grid, where the crop's cells reach."""
    size, grid = (64, 64), 16
    crop = corner_crops(size, 0.75)[3]  # of 48 pixels, from 16

    def flow(start, length):
        x = start + (torch.arange(grid, dtype=torch.float64) + 0.5) / grid * length
        along = (0.9 * x + 3 - x) / length * grid
        return torch.stack([along.expand(grid, grid), torch.zeros(grid, grid)])[None]

    found = crop.widen_flow(flow(16, 48), (grid, grid))
    covered = crop.covers((grid, grid), found)
    torch.testing.assert_close(found[..., covered], flow(0, 64)[..., covered], atol=0.005, rtol=0)
    assert covered.sum() == 12 * 12


def test_crops_are_enlarged():
    crop = corner_crops((8, 8), 0.5)[1]
    images = torch.arange(64.0).view(1, 1, 8, 8)
    part = crop.apply(images)
    assert part.shape == images.shape
    assert part.min() == 4 and part.max() == 31

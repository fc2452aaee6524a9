import pytest
import torch
from mmcv.ops import RoIAlign, deform_roi_pool, roi_align, roi_align_rotated, roi_pool

from ...ops import reference
from ...ops.test_roi_align import make


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize(("ratio", "aligned"), [(0, True), (2, False)])
def test_roi_align(ratio, aligned, mode):
    maps, rois = make()
    found = roi_align(maps, rois, (2, 3), 0.25, ratio, mode, aligned)
    wanted = reference.roi_align(maps, rois, (2, 3), 0.25, ratio, mode, aligned)
    torch.testing.assert_close(found, wanted)
    assert found.is_contiguous()
    maps.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: roi_align(x, rois, (2, 3), 0.25, ratio, mode, aligned), (maps,), fast_mode=True
    )


def test_no_boxes():
    maps = torch.randn(1, 3, 7, 11, requires_grad=True)
    for mode in ("avg", "max"):
        found = RoIAlign((2, 3), 0.25, pool_mode=mode)(maps, torch.zeros(0, 5))
        assert found.shape == (0, 3, 2, 3)
        found.sum().backward()
    assert roi_pool(maps, torch.zeros(0, 5), 2, 1.0).shape == (0, 3, 2, 2)


def test_roi_pool():
    maps, rois = make()
    found = roi_pool(maps, rois, (2, 3), 0.25)
    torch.testing.assert_close(found, reference.roi_pool(maps, rois, (2, 3), 0.25))
    maps.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: roi_pool(x, rois, (2, 3), 0.25), (maps,), fast_mode=True)


def test_roi_pool_by_hand():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    rois = torch.tensor([[0, 1.0, 0.0, 2.0, 3.0]])  # columns 1 and 2, all rows
    assert roi_pool(maps, rois, (2, 1), 1.0).flatten().tolist() == [6, 14]


@pytest.mark.parametrize("ratio", [0, 2])
def test_deform_roi_pool(ratio):
    maps, rois = make()
    offset = torch.randn(len(rois), 2, 2, 3, dtype=torch.float64)
    found = deform_roi_pool(maps, rois, offset, (2, 3), 0.25, ratio, 0.1)
    wanted = reference.roi_align(maps, rois, (2, 3), 0.25, ratio, offset=offset, gamma=0.1)
    torch.testing.assert_close(found, wanted)
    plain = deform_roi_pool(maps, rois, None, (2, 3), 0.25, ratio, 0.1)
    torch.testing.assert_close(plain, reference.roi_align(maps, rois, (2, 3), 0.25, ratio))
    inputs = [maps.requires_grad_(), offset.requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda x, o: deform_roi_pool(x, rois, o, (2, 3), 0.25, ratio, 0.1), inputs, fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda x: deform_roi_pool(x, rois, None, (2, 3), 0.25, ratio, 0.1), (maps,), fast_mode=True
    )


POOLS = {
    "align": lambda maps, rois: roi_align(maps, rois, 2),
    "max": lambda maps, rois: roi_align(maps, rois, 2, 1.0, 0, "max"),
    "pool": lambda maps, rois: roi_pool(maps, rois, 2),
    "deform": lambda maps, rois: deform_roi_pool(maps, rois, None, (2, 2)),
    "rotated": lambda maps, rois: roi_align_rotated(maps, torch.nn.functional.pad(rois, (0, 1)), (2, 2), 1.0),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())
@pytest.mark.parametrize("image", [-1, 2, torch.nan])
def test_images_that_do_not_exist(pool, image):
    rois = torch.tensor([[0, 1.0, 1, 5, 5], [image, 1, 1, 5, 5]])
    with pytest.raises(
        ValueError, match=r"rois\[:, 0\] must be images, 0 to 1, found (-1|0|nan) to (0|2|nan)$"
    ):
        pool(torch.zeros(2, 3, 7, 11), rois)


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())
def test_maps_of_whole_numbers(pool):
    with pytest.raises(ValueError, match=r"input must be floating \(B, C, H, W\), found torch.int64"):
        pool(torch.zeros(1, 3, 7, 11, dtype=torch.int64), torch.zeros(1, 5))


def test_offsets_of_other_bins():
    with pytest.raises(ValueError, match=r"offset must be \(1, 2, 2, 2\), found \(1, 2, 3, 3\)"):
        deform_roi_pool(torch.zeros(1, 3, 7, 11), torch.zeros(1, 5), torch.zeros(1, 2, 3, 3), (2, 2))

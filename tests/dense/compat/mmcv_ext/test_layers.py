"""Small families: CARAFE, masked convolution, PSA masks, synchronised batch norm, overlaps."""

import pytest
import torch
from mmcv.ops import bbox_overlaps, carafe, carafe_naive, masked_conv2d
from mmcv.ops.psa_mask import psa_mask
from mmcv.ops.sync_bn import SyncBatchNormFunction
from torch.nn import functional as F

from ...ops import reference


@pytest.mark.parametrize(("kernel", "groups", "scale"), [(3, 1, 2), (5, 2, 1), (1, 2, 3)])
def test_carafe(kernel, groups, scale):
    features = torch.randn(2, 4, 3, 4, dtype=torch.float64)
    masks = torch.rand(2, groups * kernel**2, 3 * scale, 4 * scale, dtype=torch.float64)
    wanted = reference.carafe(features, masks, kernel, groups, scale)
    for layer in (carafe, carafe_naive):
        torch.testing.assert_close(layer(features, masks, kernel, groups, scale), wanted)
    inputs = [
        x[:1, :, :2].contiguous().requires_grad_() for x in (features, masks.view(2, -1, 3, 4 * scale**2))
    ]
    inputs[1] = inputs[1].detach().view(1, -1, 2 * scale, 4 * scale).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, m: carafe(x, m, kernel, groups, scale), inputs)


def test_masked_conv():
    features, weight, bias = torch.randn(1, 3, 6, 5), torch.randn(4, 3, 3, 3), torch.randn(4)
    mask = (torch.rand(1, 6, 5) > 0.5).float()
    wanted = F.conv2d(features, weight, bias, padding=1) * mask[:, None]
    torch.testing.assert_close(masked_conv2d(features, mask, weight, bias, 1), wanted)
    assert not masked_conv2d(features, torch.zeros(1, 6, 5), weight, bias, 1).any()


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("mask_size", [(5, 7), (3, 3), (9, 1), (4, 2)])
def test_psa_mask(mask_size, kind):
    masks = torch.randn(2, mask_size[0] * mask_size[1], 3, 4, dtype=torch.float64, requires_grad=True)
    found = psa_mask(masks, kind, mask_size)
    torch.testing.assert_close(found, reference.psa_mask(masks, mask_size, collect=kind == 0))
    assert torch.autograd.gradcheck(lambda x: psa_mask(x, kind, mask_size), (masks[:1],))


def test_psa_mask_of_one_pixel():
    pair = torch.randn(2, 1, 1, 1)
    assert torch.equal(psa_mask(pair[1:], 0, (1, 1)), pair[1:])  # a view that begins within its memory


def test_sync_bn():
    x = (torch.randn(4, 3, 5, 2) * 2 + 1).requires_grad_()
    weight, bias = torch.rand(3).requires_grad_(), torch.randn(3).requires_grad_()
    grad = torch.randn(4, 3, 5, 2)
    running = [(torch.zeros(3), torch.ones(3)) for _ in range(2)]
    wanted = F.batch_norm(x, *running[0], weight, bias, True, 0.1, 1e-5)
    found = SyncBatchNormFunction.apply(x, *running[1], weight, bias, 0.1, 1e-5, None, 1, "default")
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(running[1], running[0])
    torch.testing.assert_close(
        torch.autograd.grad(found, (x, weight, bias), grad),
        torch.autograd.grad(wanted, (x, weight, bias), grad),
        rtol=1e-4,
        atol=1e-5,
    )


def test_overlaps_by_hand():
    a = torch.tensor([[0.0, 0, 4, 4], [1, 1, 1, 1], [0, 0, 2, 8]])
    b = torch.tensor([[2.0, 2, 6, 6], [0, 0, 4, 4], [9, 9, 9, 9]])
    torch.testing.assert_close(bbox_overlaps(a, b), torch.tensor([[4 / 28, 1, 0], [0, 0, 0], [0, 8 / 24, 0]]))
    assert bbox_overlaps(a, b, mode="iof")[2].tolist() == [0, 0.5, 0]
    torch.testing.assert_close(bbox_overlaps(a, b, aligned=True), torch.tensor([4 / 28, 0, 0]))
    assert bbox_overlaps(a, b, offset=1)[0, 0] == torch.tensor(9 / 41)


def test_no_images():
    assert psa_mask(torch.zeros(0, 25, 3, 4), 0, (5, 5)).shape == (0, 12, 3, 4)
    assert carafe(torch.zeros(0, 4, 5, 6), torch.zeros(0, 9, 10, 12), 3, 1, 2).shape == (0, 4, 10, 12)


def test_masks_of_other_batches():
    with pytest.raises(ValueError, match=r"masks must be \(2, 9, 10, 12\), found \(1, 9, 10, 12\)"):
        carafe(torch.zeros(2, 4, 5, 6), torch.zeros(1, 9, 10, 12), 3, 1, 2)

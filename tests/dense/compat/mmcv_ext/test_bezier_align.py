import pytest
import torch
from mmcv.ops import BezierAlign, bezier_align

from ...ops import reference

UPRIGHT = [10.0, 20, 20, 20, 30, 20, 40, 20, 40, 32, 30, 32, 20, 32, 10, 32]


def make(dtype=torch.float64):
    points = torch.rand(5, 16, dtype=dtype) * 60 - 10  # some outside of the map
    points[3] = points[3, :2].repeat(8)  # no size
    points[4] = torch.tensor(UPRIGHT)  # no height
    return torch.randn(2, 3, 7, 11, dtype=dtype), torch.cat(
        (torch.tensor([[0.0], [1], [1], [0], [1]]), points), 1
    ).to(dtype)


@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize("aligned", [True, False])
def test_reference(ratio, aligned):
    maps, beziers = make()
    arguments = ((2, 3), 0.25, ratio, aligned)
    found = bezier_align(maps, beziers, *arguments)
    torch.testing.assert_close(found, reference.bezier_align(maps, beziers, *arguments))
    maps.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bezier_align(x, beziers, *arguments), (maps,), fast_mode=True)


def test_by_hand():
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(60.0), indexing="ij")
    arch = [0.0, 20, 0, 0, 30, 0, 30, 20]  # at half of its way 15, 5
    floor = [30.0, 40, 20, 40, 10, 40, 0, 40]
    found = bezier_align(torch.stack((x, y))[None], torch.tensor([[0, *arch, *floor]]), (2, 2), 1.0, 1, False)
    torch.testing.assert_close(found[0], torch.tensor([[[0.0, 15], [0, 15]], [[20, 5], [30, 22.5]]]))


def test_large_beziers_in_parts(monkeypatch):
    maps, beziers = make()
    wanted = bezier_align(maps, beziers, (2, 3), 0.25, 0, False)
    from dense.compat.mmcv_ext import bezier_align as module

    monkeypatch.setattr(module, "TAPS", 1)
    torch.testing.assert_close(bezier_align(maps, beziers, (2, 3), 0.25, 0, False), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype):
    maps, beziers = make(dtype)
    maps.requires_grad_()
    found = BezierAlign((2, 3), 0.25, 2)(maps, beziers)
    wanted = reference.bezier_align(maps.detach().double(), beziers.double(), (2, 3), 0.25, 2, True)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=0.02, atol=0.02)
    found.sum().backward()
    assert maps.grad.dtype == dtype and maps.grad.any()


def test_none():
    maps = torch.randn(1, 3, 7, 11, requires_grad=True)
    found = bezier_align(maps, torch.zeros(0, 17), (2, 3), 1.0)
    assert found.shape == (0, 3, 2, 3)
    found.sum().backward()
    assert not maps.grad.any()


def test_bad_input():
    maps, beziers = make()
    beziers[0, 0] = 2
    with pytest.raises(ValueError, match=r"beziers\[:, 0\] must be images, 0 to 1, found 0 to 2"):
        bezier_align(maps, beziers, (2, 3))
    with pytest.raises(
        ValueError, match=r"input must be floating \(B, C, H, W\), found torch.int64 \(2, 3, 7"
    ):
        bezier_align(maps.long(), beziers, (2, 3))

import pytest
import torch

pytest.importorskip("triton")
from dense.ops import roi_align
from dense.ops.roi_align import roi_align_backward, roi_align_forward

from .test_roi_align import BOXES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make(boxes=BOXES, channels=3, dtype=torch.float32):
    torch.manual_seed(0)
    maps = torch.randn(2, channels, 7, 11).to(DEVICE, dtype)
    return maps, torch.tensor(boxes, device=DEVICE)


def results(backend, maps, rois, *arguments, grad):
    maps = maps.detach().requires_grad_()
    pooled = roi_align(maps, rois, *arguments, backend=backend)
    return [pooled.detach(), *torch.autograd.grad(pooled, maps, grad.to(pooled))]


def check(maps, rois, size, *arguments, tolerance=1e-6, grad=None):
    """Against the portable form in float64."""
    grad = torch.randn(len(rois), maps.shape[1], *size).to(maps) if grad is None else grad
    found = results("triton", maps, rois, size, *arguments, grad=grad)
    wanted = results("torch", maps.double(), rois.double(), size, *arguments, grad=grad)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == maps.dtype
        assert (a - b).norm() <= tolerance * b.norm()


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_equals_float64(ratio, mode, aligned):
    check(*make(), (1, 2), 0.125, ratio, mode, aligned)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype, mode):
    maps, rois = make(BOXES[:2], dtype=dtype)
    check(maps, rois.double(), (2, 1), 0.25, 1, mode, tolerance=torch.finfo(dtype).eps)


def test_half_boxes():
    maps, rois = make(BOXES[:2])
    check(maps, rois.half(), (2, 1), 0.25, 1)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("channels", [1, 300])
def test_channels(channels, mode):
    """One; and more than a program takes."""
    check(*make(BOXES[:2], channels), (1, 1), 0.25, 1, mode)


def test_strides():
    maps, rois = make(BOXES[:2], 6)
    ones = maps.new_ones(1, 1, 1, 1).expand(2, 3, 2, 1)
    for view in (maps.contiguous(memory_format=torch.channels_last)[:, :3], maps[:, ::2], maps.mT[:, 3:].mT):
        check(view, rois.T.contiguous().T, (2, 1), 0.25, 1, grad=ones)


@pytest.mark.parametrize("ratio", [0, 3])
def test_samples_are_at_the_places_of_the_portable_form(ratio):
    """To the bit, also at a scale that is not a power of two: on borders, a last bit decides."""
    maps, rois = make(BOXES[:2])
    found, wanted = (
        roi_align_forward(maps, rois, (1, 3), 0.2, ratio, "max", True, backend=backend)
        for backend in ("triton", "torch")
    )
    torch.testing.assert_close(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1]) and torch.equal(found[2], wanted[2])


def test_at_the_borders():
    """The only sample is one pixel outside of the map, further out, and on the last pixel."""
    maps = torch.full((1, 1, 5, 5), 3.0, device=DEVICE)
    rows = [(-2, 0), (4, 6), (-2.5, 0), (4, 6.5), (3, 5)]
    rois = torch.tensor([(0, 1.0, low, 3.0, high) for low, high in rows], device=DEVICE)
    found = roi_align(maps, rois, 1, 1.0, 1, aligned=False, backend="triton")
    assert found.flatten().tolist() == [3, 3, 0, 0, 3]


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_boxes_that_are_not_numbers_give_nothing(ratio, mode):
    maps, rois = make(BOXES[:1])
    rois[:, 1:] = float("nan")
    found = results("triton", maps, rois, (1, 1), 0.25, ratio, mode, grad=maps.new_ones(1, 3, 1, 1))
    assert not any(t.any() for t in found)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_no_boxes(mode):
    maps, rois = make(BOXES[:1])
    grad = maps.new_ones(0, 3, 2, 3)
    pooled, grad = results("triton", maps, rois[:0], (2, 3), 1.0, 0, mode, grad=grad)
    assert pooled.shape == (0, 3, 2, 3) and grad.shape == maps.shape and not grad.any()


def test_a_box_does_not_depend_on_the_others():
    maps, rois = make(BOXES[:3])
    together, alone = (roi_align(maps, boxes, 1, 0.25, 2, backend="triton") for boxes in (rois, rois[1:2]))
    assert torch.equal(together[1:2], alone)  # to the bit


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_backward_without_autograd(mode):
    """With half places, as mmcv keeps them."""
    maps, rois = make(BOXES[:2])
    _, *places = roi_align_forward(maps, rois, (1, 2), 0.25, 1, mode, True, backend="torch")
    places = [place.half() for place in places]
    grad = torch.randn(2, 3, 1, 2, device=DEVICE)
    arguments = (grad, rois, maps.shape, 0.25, 1, mode, True)
    found = roi_align_backward(*arguments, *places, backend="triton")
    wanted = roi_align_backward(*arguments, *(place.float() for place in places), backend="torch")
    torch.testing.assert_close(found, wanted)

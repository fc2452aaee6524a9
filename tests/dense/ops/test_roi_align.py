import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from dense.ops import roi_align
from dense.ops.roi_align import roi_align_backward, roi_align_forward

from . import reference

# inside, over the edge, far outside, thin, tiny, of no height, upside down, the whole map
BOXES = [
    (0, 2.3, 1.1, 30.2, 19.7),
    (1, -9.0, -5.0, 12.0, 8.0),
    (0, 200.0, 10.0, 260.0, 40.0),
    (1, 3.0, 2.0, 5.0, 37.0),
    (0, 7.1, 7.2, 7.4, 7.3),
    (0, 4.0, 9.0, 20.0, 9.0),
    (1, 20.0, 20.0, 8.0, 9.0),
    (0, 0.0, 0.0, 44.0, 28.0),
]


def make(dtype=torch.float64):
    return torch.randn(2, 3, 7, 11, dtype=dtype), torch.tensor(BOXES, dtype=dtype)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_reference(ratio, mode, aligned):
    maps, rois = make()
    arguments = ((2, 3), 0.25, ratio, mode, aligned)
    found = roi_align(maps, rois, *arguments)
    torch.testing.assert_close(found, reference.roi_align(maps, rois, *arguments))


def test_by_hand():
    maps = torch.arange(16.0).view(1, 1, 4, 4)  # y * 4 + x
    rois = torch.tensor([[0, 1.0, 1.0, 3.0, 3.0]])
    assert roi_align(maps, rois, 1, 1.0, 1).item() == 1.5 * 4 + 1.5  # the middle, (2, 2) - 0.5
    assert roi_align(maps, rois, 1, 1.0, 1, aligned=False).item() == 2 * 4 + 2
    assert roi_align(maps, rois, 2, 1.0, 1).flatten().tolist() == [5, 6, 9, 10]
    assert roi_align(maps, rois, 1, 1.0, 2, "max").item() == 10


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_gradient(mode, ratio):
    maps, rois = make()
    maps.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: roi_align(x, rois, (2, 3), 0.25, ratio, mode), (maps,), fast_mode=True
    )


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_backward(mode):
    maps, rois = make()
    maps.requires_grad_()
    grad = torch.randn(len(rois), 3, 2, 3, dtype=torch.float64)
    wanted = torch.autograd.grad(roi_align(maps, rois, (2, 3), 0.25, 0, mode), maps, grad)[0]
    pooled, *places = roi_align_forward(maps, rois, (2, 3), 0.25, 0, mode, True)
    found = roi_align_backward(grad, rois, maps.shape, 0.25, 0, mode, True, *places)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_kernel_is_called(mode, monkeypatch):
    """The file of kernels need only offer the two functions."""
    calls = []

    def forward(*arguments):
        calls.append("forward")
        return roi_align_forward(*arguments, backend="torch")

    def backward(*arguments):
        calls.append("backward")
        return roi_align_backward(*arguments, backend="torch")

    kernels = SimpleNamespace(forward=forward, backward=backward)
    monkeypatch.setitem(sys.modules, "dense.ops.triton", SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "dense.ops.triton.roi_align", kernels)
    maps, rois = make()
    maps.requires_grad_()
    found = [roi_align(maps, rois, 2, 0.25, 0, mode, backend=backend) for backend in ("triton", "torch")]
    assert torch.equal(*found)
    torch.testing.assert_close(*(torch.autograd.grad(x.square().sum(), maps) for x in found))
    assert calls == ["forward", "backward"]


def test_parts_make_no_difference(monkeypatch):
    maps, rois = make()
    wanted = roi_align(maps, rois, 3, 0.25)
    monkeypatch.setattr(import_module("dense.ops.roi_align"), "TAPS", 1)
    assert torch.equal(roi_align(maps, rois, 3, 0.25), wanted)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_no_boxes(mode):
    maps = torch.randn(1, 3, 7, 11, requires_grad=True)
    found = roi_align(maps, torch.zeros(0, 5), (2, 3), pool_mode=mode)
    assert found.shape == (0, 3, 2, 3)
    found.sum().backward()
    assert not maps.grad.any()


def test_dtypes():
    maps, rois = make()
    wanted = roi_align(maps, rois, 3, 0.25)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)):
        found = roi_align(maps.to(dtype), rois.float(), 3, 0.25)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)


def test_compile():
    maps, rois = make()
    compiled = torch.compile(roi_align, backend="eager")
    assert torch.equal(compiled(maps, rois, 3, 0.25, 2), roi_align(maps, rois, 3, 0.25, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.zeros(3, 7, 11)}, r"input must be floating \(B, C, H, W\)"),
        ({"rois": torch.zeros(2, 4)}, r"rois must be \(R, 5\), found \(2, 4\)"),
        ({"pool_mode": "sum"}, "pool_mode must be 'avg' or 'max', found 'sum'"),
        ({"backend": "numba"}, "backend must be one of"),
    ],
)
def test_bad_input(change, message):
    arguments = {"input": torch.zeros(1, 3, 7, 11), "rois": torch.zeros(2, 5), "output_size": 2, **change}
    with pytest.raises(ValueError, match=message):
        roi_align(**arguments)

import importlib

import torch

from pointsuite.ops import add_activated

module = importlib.import_module("pointsuite.ops.add_activated")


def arguments(shape=(2, 9, 5), dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(s, dtype=dtype).requires_grad_() for s in (shape, shape, shape[-1:], shape[-1:])]


def test_fused_equals_plain(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 300)
    for dtype in (torch.float64, torch.float32):
        given, results = arguments((3, 700, 5), dtype), []
        for fused in (True, False):
            found = add_activated(*given, fused=fused)
            assert found.dtype == dtype
            results.append([found, *torch.autograd.grad((found * found.detach()).sum(), given)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)


def test_gradcheck():
    assert torch.autograd.gradcheck(add_activated, arguments())


def test_by_hand():
    x, h = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -4.0]])
    found = add_activated(x, h, torch.tensor([2.0, 2.0]), torch.tensor([-1.0, 1.0]))
    assert found.tolist() == [[6, 2]]


def test_strided_input():
    x, h, slope, shift = arguments()
    strided = h.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(add_activated(x, strided, slope, shift), add_activated(x, h, slope, shift))


def test_nan_comes_out():
    given = arguments()
    for number in range(4):
        damaged = [t.detach().clone() for t in given]
        damaged[number].flatten()[2] = float("nan")
        assert torch.equal(add_activated(*damaged).isnan(), add_activated(*damaged, fused=False).isnan())

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pointsuite.engine import backends
from pointsuite.engine.backends import (
    choose_backend,
    choose_inference_kernel,
    device_of,
    is_traced,
    is_watched,
)


class Elsewhere:
    """A tensor of another device."""

    def __init__(self, device):
        self.device = torch.device(device)


CPU, CUDA, META = Elsewhere("cpu"), Elsewhere("cuda"), Elsewhere("meta")


@pytest.mark.parametrize(
    ("tensor", "kernels", "wanted"),
    [
        (CPU, {"numba": True, "triton": True}, "numba"),
        (CPU, {"numba": False}, "torch"),
        (CPU, {"triton": True}, "torch"),
        (CUDA, {"numba": True, "triton": True}, "triton"),
        (CUDA, {"numba": True, "triton": False}, "torch"),
        (CUDA, {"numba": True}, "torch"),
        (META, {"numba": True, "triton": True}, "torch"),
    ],
)
def test_auto(tensor, kernels, wanted, monkeypatch):
    monkeypatch.setattr(backends, "has_triton", lambda: True)
    assert choose_backend("auto", tensor, **kernels) == wanted
    assert choose_backend("torch", tensor, **kernels) == "torch"
    monkeypatch.setattr(backends, "has_triton", lambda: False)
    assert choose_backend("auto", tensor, **kernels) == ("torch" if wanted == "triton" else wanted)


def test_what_one_asks_for_one_gets():
    assert choose_backend("numba", CPU, numba=False) == "numba"
    assert choose_backend("triton", CUDA, triton=False) == "triton"


def test_bad_backends():
    with pytest.raises(ValueError, match=r"one of \('auto', 'torch', 'triton'\), found 'numba'"):
        choose_backend("numba", CPU, triton=True)
    with pytest.raises(ValueError, match="backend 'numba' wants CPU tensors, found cuda"):
        choose_backend("numba", CUDA, numba=True)


def test_triton_wants_a_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="backend 'triton' wants CUDA tensors, found cpu"):
        device_of(torch.zeros(1))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with device_of(torch.zeros(1)):
        pass


def test_kernels_without_a_gradient():
    x = torch.zeros(2)
    assert choose_inference_kernel("auto", x) == "numba"
    assert choose_inference_kernel("torch", x) == "torch"
    assert choose_inference_kernel("auto", x, x.double()) == "torch"
    with pytest.raises(
        ValueError, match="wants float32 on a CPU without gradient, found torch.float64 on cpu"
    ):
        choose_inference_kernel("numba", x.double())
    x.requires_grad_()
    assert choose_inference_kernel("auto", x) == "torch"
    with pytest.raises(ValueError, match="found a gradient"):
        choose_inference_kernel("numba", x)
    with torch.no_grad():
        assert choose_inference_kernel("auto", x) == "numba"


def test_traced_code_gets_pytorch():
    seen = []

    def function(x):
        seen.append((is_traced(), is_watched()))
        return x + int(choose_inference_kernel("auto", x) == "torch")

    traced = torch.jit.trace(function, torch.zeros(1), check_trace=False)
    assert seen == [(True, True)] and traced(torch.zeros(1)) == 1
    assert torch.compile(function, backend="eager")(torch.zeros(1)) == 1
    with FlopCounterMode(display=False):
        assert is_watched() and not is_traced()
    assert not is_watched()

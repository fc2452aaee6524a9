import pytest
import torch

pytest.importorskip("triton")
from dense.ops import ms_deform_attn
from dense.ops.ms_deform_attn import ms_deform_attn_backward

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MAPS = [(4, 6), (2, 3), (1, 1)]


def make(batch, queries, heads, dims, points, maps=MAPS, dtype=torch.float32):
    """Locations reach far outside of the maps."""
    torch.manual_seed(0)
    sizes = torch.tensor(maps).prod(1)
    shape = (batch, queries, heads, len(maps), points)
    tensors = (
        torch.randn(batch, int(sizes.sum()), heads, dims).to(dtype),
        torch.tensor(maps),
        sizes.cumsum(0) - sizes,
        (torch.rand(*shape, 2) * 1.6 - 0.3).to(dtype),
        torch.rand(*shape).to(dtype),
    )
    return [t.to(DEVICE) for t in tensors]


def results(backend, *arguments, grad=None):
    """Output and gradients, by autograd."""
    arguments = [t.detach().requires_grad_() if t.is_floating_point() else t for t in arguments]
    output = ms_deform_attn(*arguments, backend=backend)
    inputs = [t for t in arguments if t.requires_grad]
    grad = torch.ones_like(output) if grad is None else grad.to(output)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def double(arguments):
    return [t.double() if t.is_floating_point() else t for t in arguments]


def check(arguments, tolerance=1e-6, grad=None):
    """Against the portable form in float64, in the dtypes of the arguments."""
    value, _, _, locations, weights = arguments
    if grad is None:
        grad = torch.randn(value.shape[0], locations.shape[1], value[0, 0].numel()).to(value)
    found = results("triton", *arguments, grad=grad)
    wanted = results("torch", *double(arguments), grad=grad)
    for a, b, like in zip(found, wanted, (value, value, locations, weights), strict=True):
        assert a.dtype == like.dtype
        assert (a - b).norm() <= tolerance * b.norm()


@pytest.mark.parametrize(
    ("shape", "maps"),
    [
        ((2, 7, 3, 5, 3), MAPS),  # padded heads
        ((1, 1, 1, 1, 1), [(3, 5)]),
        ((2, 7, 2, 64, 2), MAPS),  # two blocks of an image's queries, six of its points
        ((1, 2, 1, 600, 1), [(2, 2), (1, 3)]),  # a program takes one head
    ],
)
def test_equals_float64(shape, maps):
    check(make(*shape, maps))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    check(make(2, 3, 2, 4, 2, dtype=dtype), torch.finfo(dtype).eps)


def test_half_values_at_float32_locations():
    value, shapes, starts, locations, weights = make(1, 3, 2, 4, 2)
    check((value.half(), shapes, starts, locations, weights), torch.finfo(torch.half).eps)


def test_double_locations_of_float32_values():
    value, shapes, starts, locations, weights = make(1, 3, 2, 4, 2)
    check((value, shapes, starts, locations.double(), weights.double()))


def test_a_whole_pixel_outside_has_no_gradient():
    """Offsets begin at zero, so the padding is full of places at exactly -1."""
    value, shapes, starts, locations, weights = make(1, 2, 1, 4, 1, [(4, 4)])
    locations[:] = -0.125  # -1 pixel
    locations[0, 0, ..., 0] = 0.4
    arguments = (value, shapes, starts, locations, weights)
    for backend in ("torch", "triton"):
        assert not results(backend, *arguments)[2].any(), backend


def test_gradcheck():
    value, shapes, starts, locations, weights = make(1, 2, 1, 3, 2, [(3, 4)], torch.float64)
    inputs = [t.requires_grad_() for t in (value, locations, weights)]
    assert torch.autograd.gradcheck(
        lambda v, x, w: ms_deform_attn(v, shapes, starts, x, w, backend="triton"),
        inputs,
        fast_mode=True,
        nondet_tol=1e-12,
    )


def test_strides():
    value, shapes, starts, locations, weights = make(2, 3, 2, 5, 2)
    value = value.transpose(1, 2).contiguous().transpose(1, 2)
    shapes = torch.stack((shapes, shapes), 1)[:, 0]
    locations = locations[:, :1].expand(-1, 3, -1, -1, -1, -1)
    weights = weights.flip(-1).permute(4, 0, 1, 2, 3).contiguous().permute(1, 2, 3, 4, 0)
    assert not any(t.is_contiguous() for t in (value, shapes, locations, weights))
    check((value, shapes, starts, locations, weights), grad=value.new_ones(1, 1, 1).expand(2, 3, 10))


def test_at_the_borders():
    """A map's border, half a pixel outside of it, just inside of that, and beyond."""
    places = torch.tensor([0.0, 1.0, -0.1, 1.1, -0.0999, 1.0999, -0.2, 5.0])
    locations = torch.cartesian_prod(places, places).view(1, 64, 1, 1, 1, 2).to(DEVICE)
    arguments = [*make(1, 64, 1, 3, 1, [(5, 5)])[:3], locations, torch.ones(1, 64, 1, 1, 1, device=DEVICE)]
    found, wanted = (ms_deform_attn(*arguments, backend=backend) for backend in ("triton", "torch"))
    torch.testing.assert_close(found, wanted)
    assert found.any(2).sum() == 4 * 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e30])
def test_not_finite_locations_count_nothing(bad):
    arguments = make(1, 2, 1, 3, 2)
    arguments[3][:, :, :, :, 0, 0] = bad
    output, *grads = results("triton", *arguments)
    arguments[3][:, :, :, :, 0, 0] = 9
    for found, wanted in zip((output, *grads), results("triton", *arguments), strict=True):
        torch.testing.assert_close(found, wanted)
    assert not grads[1][:, :, :, :, 0].any() and not grads[2][:, :, :, :, 0].any()


@pytest.mark.parametrize("shape", [(2, 0, 2, 4, 3), (0, 3, 2, 4, 3), (2, 3, 2, 4, 0), (2, 3, 2, 0, 3)])
def test_nothing_to_do(shape):
    arguments = make(*shape)
    output, *grads = results("triton", *arguments)
    assert output.shape == (shape[0], shape[1], shape[2] * shape[3]) and not output.any()
    for grad, tensor in zip(grads, (arguments[0], *arguments[3:]), strict=True):
        assert grad.shape == tensor.shape and not grad.any()


def test_an_image_does_not_depend_on_the_batch():
    value, shapes, starts, locations, weights = make(3, 4, 2, 5, 2)
    together = ms_deform_attn(value, shapes, starts, locations, weights, backend="triton")
    alone = ms_deform_attn(value[1:2], shapes, starts, locations[1:2], weights[1:2], backend="triton")
    assert torch.equal(together[1:2], alone)  # to the bit


def test_backward_without_autograd():
    arguments = make(1, 3, 2, 5, 2)
    grad = torch.randn(1, 3, 10, device=DEVICE)
    found = ms_deform_attn_backward(grad, *arguments, backend="triton")
    for a, b in zip(found, ms_deform_attn_backward(grad, *arguments, backend="torch"), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about tensors that are not on a GPU")
def test_wants_a_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="backend 'triton' wants CUDA tensors, found cpu"):
        ms_deform_attn(*make(1, 1, 1, 1, 1), backend="triton")

import pytest
import torch
from mmcv.ops import DeformConv2dPack, deform_conv2d, modulated_deform_conv2d

from dense.compat.mmcv_ext import deform_conv

from ...ops import reference

# stride, padding, dilation, groups, groups of offsets
GEOMETRIES = [(1, 1, 1, 1, 1), ((2, 1), (1, 2), (1, 2), 2, 2), (1, 0, 1, 1, 4)]


def make(geometry, batch=2, kernel=(3, 2), dtype=torch.float64):
    stride, padding, dilation, groups, deform_groups = geometry
    pair = [x if isinstance(x, tuple) else (x, x) for x in (stride, padding, dilation)]
    maps = torch.randn(batch, 4, 5, 6, dtype=dtype)
    weight = torch.randn(6, 4 // groups, *kernel, dtype=dtype)
    size = torch.nn.functional.conv2d(maps, weight, None, *pair, groups).shape[2:]
    taps = deform_groups * kernel[0] * kernel[1]
    offset = torch.randn(batch, 2 * taps, *size, dtype=dtype) * 2
    mask = torch.rand(batch, taps, *size, dtype=dtype)
    return maps, offset, mask, weight, (*pair, groups, deform_groups)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_reference(geometry):
    maps, offset, mask, weight, options = make(geometry)
    found = deform_conv2d(maps, offset, weight, *options)
    torch.testing.assert_close(found, reference.deform_conv(maps, offset, None, weight, *options))
    bias = torch.randn(6, dtype=torch.float64)
    found = modulated_deform_conv2d(maps, offset, mask, weight, bias, *options)
    wanted = reference.deform_conv(maps, offset, mask, weight, *options) + bias[:, None, None]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradient(geometry):
    maps, offset, mask, weight, options = make(geometry, batch=1, kernel=(2, 2))
    inputs = [x.requires_grad_() for x in (maps, offset, mask, weight)]
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, o, m, w, b: modulated_deform_conv2d(x, o, m, w, b, *options),
        [*inputs, bias],
        fast_mode=True,
    )
    del inputs[2]
    assert torch.autograd.gradcheck(lambda x, o, w: deform_conv2d(x, o, w, *options), inputs, fast_mode=True)


def test_no_offset_is_a_convolution():
    layer = DeformConv2dPack(4, 6, 3, padding=1, bias=False)  # offsets begin at zero
    x = torch.randn(2, 4, 7, 5)
    torch.testing.assert_close(layer(x), torch.nn.functional.conv2d(x, layer.weight, padding=1))


def test_gradient_of_no_offset():
    """By hand, on a row of 1, 2 and 3: the derivative is to the right, and zero in the padding."""
    maps = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    offset = torch.zeros(1, 2, 1, 5, requires_grad=True)
    deform_conv2d(maps, offset, torch.ones(1, 1, 1, 1), 1, (0, 1)).sum().backward()
    assert offset.grad[0, 1, 0].tolist() == [0, 1, 1, -3, 0]  # places -1, 0, 1, 2, 3
    assert offset.grad[0, 0, 0].tolist() == [0, -1, -2, -3, 0]


def test_parts_make_no_difference(monkeypatch):
    maps, offset, mask, weight, options = make(GEOMETRIES[1], batch=3)
    wanted = modulated_deform_conv2d(maps, offset, mask, weight, None, *options)
    monkeypatch.setattr(deform_conv, "COLUMNS", 1)
    found = modulated_deform_conv2d(maps, offset, mask, weight, None, *options)
    torch.testing.assert_close(found, wanted)


def test_offsets_of_another_size_are_read_by_memory():
    maps, offset, mask, weight, options = make(GEOMETRIES[0])
    wanted = modulated_deform_conv2d(maps, offset, mask, weight, None, *options)
    size = offset.shape[2:]
    larger = [torch.cat((x, x), 3) for x in (offset, mask)]  # twice as wide
    for new, old in zip(larger, (offset, mask), strict=True):
        new.flatten(1)[:, : old[0].numel()] = old.flatten(1)
    assert larger[0].shape[3] == 2 * size[1]
    assert torch.equal(modulated_deform_conv2d(maps, *larger, weight, None, *options), wanted)
    with pytest.raises(ValueError, match=r"offset of an image must be \(12, 5, 7\), found \(12, 5, 6\)"):
        modulated_deform_conv2d(maps, offset[..., 1:], mask, weight, None, *options)


def test_half():
    maps, offset, mask, weight, options = make(GEOMETRIES[0])
    wanted = modulated_deform_conv2d(maps, offset, mask, weight, None, *options)
    half = [x.bfloat16().requires_grad_() for x in (maps, offset, mask, weight)]
    found = modulated_deform_conv2d(*half, None, *options)
    torch.testing.assert_close(found.double(), wanted, rtol=0.1, atol=0.2)
    found.sum().backward()
    assert all(x.grad.dtype == torch.bfloat16 and x.grad.isfinite().all() for x in half)


def test_other_batches_and_channels():
    maps, offset, mask, weight, options = make(GEOMETRIES[0])
    with pytest.raises(ValueError, match="offset must be of 2 images, as the input, found 1"):
        deform_conv2d(maps, offset[:1], weight, *options)
    with pytest.raises(ValueError, match="mask must be of 2 images, as the input, found 1"):
        modulated_deform_conv2d(maps, offset, mask[:1], weight, None, *options)
    with pytest.raises(ValueError, match=r"weight must be \(6, 4, 3, 2\), found \(6, 3, 3, 2\)"):
        deform_conv2d(maps, offset, weight[:, 1:], *options)

import pytest
import torch

from dense.ops import (
    complete,
    map_windows,
    merge_windows,
    neighborhood_attention,
    pad_map,
    partition_windows,
    window_attention,
    window_mask,
)

SIZES = [(6, 9), (7, 8), (2, 5), (1, 1), (3, 3)]
WINDOWS = [3, (3, 3), (2, 5), (5, 1)]


def sides(size):
    return (size, size) if isinstance(size, int) else size


@pytest.mark.parametrize("size", WINDOWS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_equals_slices(height, width, size):
    h, w = sides(size)
    x = torch.randn(2, height, width, 4)
    padded = torch.zeros(2, height + h, width + w, 4)
    padded[:, :height, :width] = x
    slices = [
        padded[b, i : i + h, j : j + w].reshape(h * w, 4)
        for b in range(2)
        for i in range(0, height, h)
        for j in range(0, width, w)
    ]
    windows = partition_windows(x, size)
    assert torch.equal(windows, torch.stack(slices))
    assert torch.equal(merge_windows(windows, height, width, size), x)
    if h == w:
        assert torch.equal(merge_windows(windows, height, width), x)


@pytest.mark.parametrize("size", WINDOWS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_mask_is_true_on_the_map(height, width, size):
    mask = window_mask(height, width, size)
    windows = partition_windows(torch.ones(1, height, width, 2), size)
    assert mask.dtype == torch.bool
    assert torch.equal(mask[..., None].expand_as(windows).float(), windows)


def test_pad_map():
    x = torch.randn(2, 3, 4, 5)
    padded = pad_map(x, 4, 6)
    assert padded.shape == (2, 4, 6, 5) and torch.equal(padded[:, :3, :4], x)
    assert padded.count_nonzero() == x.count_nonzero()
    assert pad_map(x, 3, 4) is x


def test_a_column_of_windows_is_a_view():
    x = torch.randn(2, 6, 3, 4)
    assert partition_windows(x, 3).data_ptr() == x.data_ptr()
    assert partition_windows(x, (2, 3)).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("size", [3, (2, 4)])
def test_gradient(size):
    x = torch.randn(1, 4, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: merge_windows(partition_windows(x, size).sin(), 4, 5, size), x)


class ThereAndBack(torch.nn.Module):
    def forward(self, x):
        return merge_windows(partition_windows(x, 3), *x.shape[1:3])


def test_compiles():
    x = torch.randn(2, 4, 5, 3)
    assert torch.equal(torch.compile(ThereAndBack(), backend="eager")(x), x)


def test_exports_for_any_batch():
    batch = torch.export.Dim("batch", min=1, max=9)
    exported = torch.export.export(ThereAndBack(), (torch.randn(2, 4, 5, 3),), dynamic_shapes=({0: batch},))
    x = torch.randn(7, 4, 5, 3)
    assert torch.equal(exported.module()(x), x)


def test_bad_input():
    with pytest.raises(ValueError, match=r"\(B, H, W, C\), found \(4, 4, 3\)"):
        partition_windows(torch.zeros(4, 4, 3), 2)
    with pytest.raises(ValueError, match="size must be at least 1, found 0"):
        partition_windows(torch.zeros(1, 4, 4, 3), 0)
    with pytest.raises(ValueError, match=r"size must be at least 1, found \(2, 0\)"):
        partition_windows(torch.zeros(1, 4, 4, 3), (2, 0))
    with pytest.raises(ValueError, match=r"4 x 5, found \(3, 4, 1\)"):
        merge_windows(torch.zeros(3, 4, 1), 4, 5)
    with pytest.raises(ValueError, match=r"4 x 4, found \(1, 15, 1\)"):
        merge_windows(torch.zeros(1, 15, 1), 4, 4)
    with pytest.raises(ValueError, match=r"\(B \* 2, 6, C\) for maps of 4 x 3, found \(2, 4, 1\)"):
        merge_windows(torch.zeros(2, 4, 1), 4, 3, (2, 3))


def means(windows):
    """The mean of each window, everywhere in it."""
    return windows.mean((1, 2), keepdim=True).expand(windows.shape)


@pytest.mark.parametrize("offset", [0, -1, (-2, 0)])
@pytest.mark.parametrize("size", [3, (4, 2), 20])
def test_map_windows_cuts_at_borders(size, offset):
    x = torch.randn(2, 8, 5, 3).double()
    h, w = (size, size) if isinstance(size, int) else size
    top, left = (offset, offset) if isinstance(offset, int) else offset
    if left <= -w:
        pytest.skip("an offset of a window")
    wanted = torch.empty_like(x)
    for row in range(top, 8, h):
        for column in range(left, 5, w):
            part = slice(None), slice(max(row, 0), row + h), slice(max(column, 0), column + w)
            wanted[part] = means(x[part])
    torch.testing.assert_close(map_windows(means, x, size, offset), wanted)


def test_map_windows_changes_channels_and_has_gradients():
    x = torch.randn(1, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    double = lambda w: torch.cat((means(w), w.sin()), -1)  # noqa: E731
    assert map_windows(double, x, 2).shape == (1, 3, 4, 4)
    assert torch.autograd.gradcheck(lambda x: map_windows(double, x, 2, -1), x)


def test_map_windows_of_a_window_is_the_function_of_the_map():
    x = torch.randn(1, 3, 4, 2)
    assert map_windows(lambda windows: windows, x, 4) is x


def test_map_windows_refuses():
    with pytest.raises(ValueError, match=r"offset must be within -2..0 for windows of 3, found -3"):
        map_windows(means, torch.zeros(1, 4, 4, 1), 3, -3)
    with pytest.raises(ValueError, match=r"\(B, H, W, C\), found \(4, 4, 1\)"):
        map_windows(means, torch.zeros(4, 4, 1), 3)


def test_complete_rounds_up():
    x = torch.randn(1, 2, 3, 4)
    y = complete(x, 4)
    assert y.shape == (1, 2, 4, 4) and torch.equal(y[:, :, :3], x) and not y[:, :, 3].any()
    assert complete(y, 2) is y


class Windows(torch.nn.Module):
    def forward(self, x):
        bias, heads = torch.zeros(2, 3, 3, 5, 5), x.unflatten(-1, (2, 2))
        return (
            map_windows(lambda y: 2 * y, x, 3, -1),
            window_attention(x, torch.cat([x, x], -1), bias, 2, offset=-1),
            neighborhood_attention(heads, heads, heads, 3, 2),
        )


def test_exporters_can_write_windows():
    """PyTorch writes into overlapping views by an index of 32 bits, which ONNX does not take."""
    program = torch.export.export(Windows(), (torch.randn(1, 8, 7, 4),)).run_decompositions()
    names = {str(node.target) for node in program.graph.nodes}
    assert "aten.slice_scatter.default" in names and not any("index_put" in name for name in names)

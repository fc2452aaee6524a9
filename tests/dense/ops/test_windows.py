import pytest
import torch

from dense.ops import merge_windows, partition_windows, window_mask

SIZES = [(6, 9), (7, 8), (2, 5), (1, 1), (3, 3)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_equals_slices(height, width):
    x = torch.randn(2, height, width, 4)
    padded = torch.zeros(2, 9, 9, 4)
    padded[:, :height, :width] = x
    slices = [
        padded[b, i : i + 3, j : j + 3].reshape(9, 4)
        for b in range(2)
        for i in range(0, height, 3)
        for j in range(0, width, 3)
    ]
    windows = partition_windows(x, 3)
    assert torch.equal(windows, torch.stack(slices))
    assert torch.equal(merge_windows(windows, height, width), x)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_mask_is_true_on_the_map(height, width):
    mask = window_mask(height, width, 3)
    windows = partition_windows(torch.ones(1, height, width, 2), 3)
    assert mask.dtype == torch.bool
    assert torch.equal(mask[..., None].expand_as(windows).float(), windows)


def test_a_column_of_windows_is_a_view():
    x = torch.randn(2, 6, 3, 4)
    assert partition_windows(x, 3).data_ptr() == x.data_ptr()


def test_gradient():
    x = torch.randn(1, 4, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: merge_windows(partition_windows(x, 3).sin(), 4, 5), x)


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
    with pytest.raises(ValueError, match=r"4 x 5, found \(3, 4, 1\)"):
        merge_windows(torch.zeros(3, 4, 1), 4, 5)
    with pytest.raises(ValueError, match=r"4 x 4, found \(1, 15, 1\)"):
        merge_windows(torch.zeros(1, 15, 1), 4, 4)

import numpy as np
import pytest
import torch
from mmcv.ops import contour_expand, pixel_group
from scipy import ndimage

from ...ops import reference


def make_kernels(seed, kernels=3, size=(12, 17)):
    """Blobs that shrink, and which is which of the smallest."""
    relief = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(size), 1.5)
    masks = np.stack([relief > np.quantile(relief, q) for q in np.linspace(0.4, 0.85, kernels)])
    labels, count = ndimage.label(masks[-1])
    return masks, labels, count


@pytest.mark.parametrize("kernels", [1, 2, 5])
def test_contour_expand(kernels):
    contested = 0
    for seed in range(10):
        masks, labels, count = make_kernels(seed, kernels)
        wanted = reference.contour_expand(masks.tolist(), labels.tolist(), 3)
        found = contour_expand(masks.astype(np.uint8), labels.astype(np.int32), 3, count + 1)
        assert found == wanted
        contested += count > 1
        assert contour_expand(torch.tensor(masks), torch.tensor(labels), 3, count) == wanted
    assert contested


def test_contour_expand_by_hand():
    masks = np.array([[[1, 1, 1, 1, 1, 1, 1]], [[1, 1, 1, 1, 1, 0, 1]], [[1, 0, 0, 0, 0, 0, 1]]], np.uint8)
    labels = np.array([[1, 0, 0, 0, 0, 0, 2]], np.int32)
    grown = [[1, 1, 1, 1, 2, 2, 2]]  # from both ends at once
    assert contour_expand(masks, labels, 1, 3) == contour_expand(masks[::2], labels, 1, 3) == grown
    assert contour_expand(masks, labels, 2, 3) == [[0] * 7]


def group_slowly(score, mask, embedding, labels, contour, num, threshold):
    centres = [embedding[labels == k].mean(0) if (labels == k).any() else None for k in range(num)]
    labels = labels.copy()
    queue = list(zip(*np.nonzero((labels > 0) & contour), strict=True))
    for y, x in queue:
        for p in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if not (0 <= p[0] < len(mask) and 0 <= p[1] < len(mask[0])) or not mask[p] or labels[p]:
                continue
            if np.linalg.norm(embedding[p] - centres[labels[y, x]]) < threshold:
                labels[p] = labels[y, x]
                queue.append(p)
    regions = [[0.0, 0.0]]
    for label in range(1, num):
        y, x = np.nonzero(labels == label)
        mean = score[y, x].mean() if len(y) else 0
        regions.append([mean, len(y), *np.stack((x, y), 1).ravel()])
    return regions


@pytest.mark.parametrize("contour_only", [True, False])
def test_pixel_group(contour_only):
    for seed in range(10):
        random = np.random.default_rng(seed)
        masks, labels, count = make_kernels(seed)
        embedding = random.standard_normal((*labels.shape, 4)).astype(np.float32)
        score = random.random(labels.shape).astype(np.float32)
        inner = ndimage.binary_erosion(masks[-1])
        contour = masks[-1] & ~inner if contour_only else masks[-1]
        arguments = (score, masks[0], embedding, labels, contour, count + 2, 2.5)  # the last has no pixels
        found, wanted = pixel_group(*arguments), group_slowly(*arguments)
        assert len(found) == count + 2 and found[-1] == [0, 0]
        assert any(len(region) > 2 for region in found)
        for region, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(region, other, rtol=1e-6)
        tensors = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arguments]
        assert pixel_group(*tensors) == found


def test_pixel_group_by_hand():
    score = np.array([[0.5, 0.25, 1, 1, 0.75]], np.float32)
    label, mask = np.array([[1, 0, 0, 0, 2]], np.int32), np.array([[1, 1, 1, 0, 1]], np.uint8)
    near = np.array([[[0.0], [1], [5], [0], [0]]], np.float32)
    found = pixel_group(score, mask, near, label, label.astype(np.uint8), 3, 1.5)
    assert found == [[0, 0], [0.375, 2, 0, 0, 1, 0], [0.75, 1, 4, 0]]
    assert pixel_group(score, mask, near, label, label, 3, 1.0)[1] == [
        0.5,
        1,
        0,
        0,
    ]  # nearer than, not as near as


def test_a_large_page():
    relief = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((640, 640)), 16)
    relief /= relief.std()
    labels, count = ndimage.label(relief > 1.2)
    embedding = np.zeros((640, 640, 4), np.float32)
    found = pixel_group(relief, relief > 0, embedding, labels, labels > 0, count + 1, 1.0)
    assert count > 30 and sum(region[1] for region in found) > 0.4 * 640**2


def test_bad_input():
    masks, labels, count = make_kernels(0)
    score = np.zeros(labels.shape, np.float32)
    with pytest.raises(ValueError, match=r"internal_kernel_label must be \(12, 17\), found \(17, 12\)"):
        contour_expand(masks, labels.T, 1, count)
    with pytest.raises(ValueError, match=rf"internal_kernel_label holds {count}, but kernel_num is 0"):
        contour_expand(masks, labels, 1, 0)
    with pytest.raises(ValueError, match="kernel_mask must be of whole numbers or bool, found torch.float64"):
        contour_expand(masks * 0.3, labels, 1, count)
    with pytest.raises(ValueError, match=r"kernel_mask must be \(kernels, H, W\), found \(12, 17\)"):
        contour_expand(masks[0], labels, 1, count)
    with pytest.raises(ValueError, match=r"embedding must be \(12, 17, 4\), found \(4, 12, 4\)"):
        pixel_group(score, masks[0], np.zeros((4, 12, 4)), labels, masks[2], count + 1, 1.0)
    with pytest.raises(ValueError, match=rf"kernel_label holds {count}, but kernel_region_num - 1 is 0"):
        pixel_group(score, masks[0], np.zeros((12, 17, 4)), labels, masks[2], 1, 1.0)

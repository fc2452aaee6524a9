"""From kernels, the middles of words, to whole words, on the CPU by numba. No gradient.

Kernels grow over their four neighbours, first come, first served.
"""

import numpy as np

from ._checks import check_shape, check_whole
from .nms import jit, to_numpy


def contour_expand(kernel_mask, internal_kernel_label, min_kernel_area, kernel_num):
    """Grow the smallest kernels into the largest, as mmcv's compiled form does.

    The paper grows them through those between, one after another, which with more than two kernels gives
    some pixels that several instances can reach to others of these.

    Source: Wang et al., "Shape Robust Text Detection with Progressive Scale Expansion Network" (PSENet),
    CVPR 2019, section 3.2.

    Args:
        kernel_mask: (kernels, H, W) of bool or whole numbers, the largest first.
        internal_kernel_label: (H, W) of whole numbers: which instance of the smallest kernel; 0 is none.
        min_kernel_area: instances of fewer pixels are dropped.
        kernel_num: the number of instances; the background may be counted.

    Returns:
        H lists of W labels.
    """
    if kernel_mask.ndim != 3:
        raise ValueError(f"kernel_mask must be (kernels, H, W), found {tuple(kernel_mask.shape)}")
    check_whole(kernel_mask, "kernel_mask", tuple(kernel_mask.shape))
    check_whole(internal_kernel_label, "internal_kernel_label", tuple(kernel_mask.shape[1:]))
    labels = _read_labels(internal_kernel_label, "internal_kernel_label", kernel_num, "kernel_num")
    areas = np.bincount(labels.ravel(), minlength=1)
    labels[areas[labels] < min_kernel_area] = 0
    if len(kernel_mask) > 1:
        _expand(to_numpy(kernel_mask[0]) != 0, labels)
    return labels.tolist()


def pixel_group(score, mask, embedding, kernel_label, kernel_contour, kernel_region_num, distance_threshold):
    """Give pixels to the kernel that they touch and resemble.

    Source: Wang et al., "Efficient and Accurate Arbitrary-Shaped Text Detection with Pixel Aggregation
    Network" (PAN), ICCV 2019, section 3.4.

    Args:
        score: (H, W) floating.
        mask: (H, W) of bool or whole numbers: where pixels may be taken.
        embedding: (H, W, C) floating. A pixel is taken nearer than ``distance_threshold`` to the mean of
            a kernel.
        kernel_label: (H, W) of whole numbers: which kernel; 0 is none.
        kernel_contour: (H, W) of bool or whole numbers: where kernels begin to grow.
        kernel_region_num: the number of kernels and 1 for the background.

    Returns:
        For each label, the background empty: mean score, number of pixels, then x and y of each by row.
    """
    if score.ndim != 2:
        raise ValueError(f"score must be (H, W), found {tuple(score.shape)}")
    size = tuple(score.shape)
    for array, name in ((mask, "mask"), (kernel_label, "kernel_label"), (kernel_contour, "kernel_contour")):
        check_whole(array, name, size)
    if embedding.ndim != 3:
        raise ValueError(f"embedding must be (H, W, C), found {tuple(embedding.shape)}")
    check_shape(embedding, "embedding", (*size, embedding.shape[2]))
    labels = _read_labels(kernel_label, "kernel_label", kernel_region_num - 1, "kernel_region_num - 1")
    _aggregate(
        to_numpy(mask) != 0,
        to_numpy(embedding),
        labels,
        to_numpy(kernel_contour) != 0,
        max(kernel_region_num, 1),
        distance_threshold,
    )
    order = np.argsort(labels, axis=None, kind="stable")
    places = np.stack(np.divmod(order, max(size[1], 1))[::-1], 1).astype(np.float64)
    scores = to_numpy(score).ravel()[order].astype(np.float64)
    ends = np.searchsorted(labels.ravel()[order], np.arange(kernel_region_num), side="right")
    regions = [[0.0, 0.0]] if kernel_region_num > 0 else []
    for first, last in zip(ends, ends[1:], strict=False):
        mean = scores[first:last].mean() if last > first else 0.0
        regions.append([float(mean), float(last - first), *places[first:last].ravel().tolist()])
    return regions


def _read_labels(labels, name: str, most: int, wanted: str) -> np.ndarray:
    """A copy, int32, negative ones 0."""
    found = to_numpy(labels)
    if found.size and found.max() > most:
        raise ValueError(f"{name} holds {found.max()}, but {wanted} is {most}")
    return np.where(found > 0, found, 0).astype(np.int32)


@jit
def _expand(mask, labels):
    height, width = labels.shape
    queue, count = np.empty(labels.size, np.int64), 0
    for pixel in range(labels.size):
        if labels[pixel // width, pixel % width] > 0:
            queue[count] = pixel
            count += 1
    head = 0
    while head < count:
        y, x = queue[head] // width, queue[head] % width
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            to_y, to_x = y + dy, x + dx
            inside = 0 <= to_y < height and 0 <= to_x < width
            if inside and mask[to_y, to_x] and labels[to_y, to_x] == 0:
                labels[to_y, to_x] = labels[y, x]
                queue[count] = to_y * width + to_x
                count += 1
        head += 1


@jit
def _aggregate(mask, embedding, labels, contour, regions, threshold):
    height, width, channels = embedding.shape
    means, areas = np.zeros((regions, channels)), np.zeros(regions)
    queue, count = np.empty(labels.size, np.int64), 0
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label > 0:
                areas[label] += 1
                for c in range(channels):
                    means[label, c] += embedding[y, x, c]
                if contour[y, x]:
                    queue[count] = y * width + x
                    count += 1
    for label in range(1, regions):
        for c in range(channels):
            means[label, c] /= max(areas[label], 1)
    head = 0
    while head < count:
        y, x = queue[head] // width, queue[head] % width
        label = labels[y, x]
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            to_y, to_x = y + dy, x + dx
            inside = 0 <= to_y < height and 0 <= to_x < width
            if inside and mask[to_y, to_x] and labels[to_y, to_x] == 0:
                square = 0.0
                for c in range(channels):
                    square += (means[label, c] - embedding[to_y, to_x, c]) ** 2
                if square < threshold * threshold:
                    labels[to_y, to_x] = label
                    queue[count] = to_y * width + to_x
                    count += 1
        head += 1

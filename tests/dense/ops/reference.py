"""The operators as written in their papers: loops over every pixel, sample and tap, in the dtype given."""

import math
from itertools import product

import torch


def bilinear(maps, y, x, border="zeros"):
    """(C, H, W) at one point: (C,). Border "edge": the edge's value within a pixel of the map, then zero."""
    height, width = maps.shape[1:]
    y, x = float(y), float(x)
    if border == "edge":
        if not (-1 <= y <= height and -1 <= x <= width):
            return maps.new_zeros(len(maps))
        y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    total = maps.new_zeros(len(maps))
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                total = total + maps[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def ms_deform_attn(value, shapes, starts, locations, weights):
    batch, _, heads, dims = value.shape
    queries, levels, points = (locations.shape[i] for i in (1, 3, 4))
    output = value.new_zeros(batch, queries, heads, dims)
    for b in range(batch):
        for level in range(levels):
            height, width = shapes[level].tolist()
            first = int(starts[level])
            for m in range(heads):
                maps = value[b, first : first + height * width, m].T.reshape(dims, height, width)
                for q in range(queries):
                    for p in range(points):
                        x, y = locations[b, q, m, level, p].tolist()
                        sampled = bilinear(maps, y * height - 0.5, x * width - 0.5)
                        output[b, q, m] += weights[b, q, m, level, p] * sampled
    return output.flatten(2)


def roi_align(maps, rois, size, scale, ratio, mode="avg", aligned=True, offset=None, gamma=0.1):
    output = maps.new_zeros(len(rois), maps.shape[1], *size)
    for r, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (c * scale - (0.5 if aligned else 0) for c in box)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        bin_h, bin_w = height / size[0], width / size[1]
        num_y, num_x = (ratio, ratio) if ratio > 0 else (math.ceil(bin_h), math.ceil(bin_w))
        if num_y <= 0 or num_x <= 0:
            continue
        for i in range(size[0]):
            for j in range(size[1]):
                top, left = y1 + i * bin_h, x1 + j * bin_w
                if offset is not None:
                    left += gamma * width * offset[r, 0, i, j].item()
                    top += gamma * height * offset[r, 1, i, j].item()
                samples = torch.stack(
                    [
                        bilinear(
                            maps[int(image)],
                            top + (a + 0.5) * bin_h / num_y,
                            left + (b + 0.5) * bin_w / num_x,
                            "edge",
                        )
                        for a in range(num_y)
                        for b in range(num_x)
                    ]
                )
                output[r, :, i, j] = samples.mean(0) if mode == "avg" else samples.amax(0)
    return output


def roi_align_rotated(maps, rois, size, scale, ratio, aligned, clockwise):
    output = maps.new_zeros(len(rois), maps.shape[1], *size)
    for r, (image, x, y, width, height, angle) in enumerate(rois.tolist()):
        shift = 0.5 if aligned else 0
        x, y, width, height = x * scale - shift, y * scale - shift, width * scale, height * scale
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        angle = angle if clockwise else -angle
        bin_h, bin_w = height / size[0], width / size[1]
        num_y, num_x = (ratio, ratio) if ratio > 0 else (math.ceil(bin_h), math.ceil(bin_w))
        for i in range(size[0]):
            for j in range(size[1]):
                total = 0
                for a in range(num_y):
                    for b in range(num_x):
                        down = -height / 2 + i * bin_h + (a + 0.5) * bin_h / num_y
                        across = -width / 2 + j * bin_w + (b + 0.5) * bin_w / num_x
                        at_y = y + math.sin(angle) * across + math.cos(angle) * down
                        at_x = x + math.cos(angle) * across - math.sin(angle) * down
                        total = total + bilinear(maps[int(image)], at_y, at_x, "edge")
                output[r, :, i, j] = total / (num_y * num_x)
    return output


def roi_pool(maps, rois, size, scale):
    _, channels, height, width = maps.shape
    output = maps.new_zeros(len(rois), channels, *size)
    for r, (image, *box) in enumerate(rois.tolist()):
        x1, y1 = box[0] * scale, box[1] * scale
        bin_w, bin_h = ((box[2] + 1) * scale - x1) / size[1], ((box[3] + 1) * scale - y1) / size[0]
        if bin_w <= 0 or bin_h <= 0:
            continue
        for i in range(size[0]):
            for j in range(size[1]):
                rows = range(max(0, math.floor(y1 + i * bin_h)), min(height, math.ceil(y1 + (i + 1) * bin_h)))
                columns = range(
                    max(0, math.floor(x1 + j * bin_w)), min(width, math.ceil(x1 + (j + 1) * bin_w))
                )
                pixels = [maps[int(image), :, y, x] for y in rows for x in columns]
                if pixels:
                    output[r, :, i, j] = torch.stack(pixels).amax(0)
    return output


def deform_conv(maps, offset, mask, weight, stride, padding, dilation, groups, deform_groups):
    batch, channels, _, _ = maps.shape
    out, per_group, kernel_h, kernel_w = weight.shape
    width = channels // deform_groups
    output = maps.new_zeros(batch, out, *offset.shape[2:])
    for b, i, j, u, v in product(*(range(n) for n in (batch, *offset.shape[2:], kernel_h, kernel_w))):
        seen = []
        for g in range(deform_groups):
            tap = (g * kernel_h + u) * kernel_w + v
            y, x = offset[b, 2 * tap : 2 * tap + 2, i, j].tolist()
            y += i * stride[0] - padding[0] + u * dilation[0]
            x += j * stride[1] - padding[1] + v * dilation[1]
            sampled = bilinear(maps[b, g * width : (g + 1) * width], y, x)
            seen.append(sampled if mask is None else sampled * mask[b, tap, i, j])
        seen = torch.cat(seen).view(groups, per_group)
        for o in range(out):
            output[b, o, i, j] += weight[o, :, u, v] @ seen[o // (out // groups)]
    return output


def carafe(features, masks, kernel, groups, scale):
    batch, channels, height, width = features.shape
    output = features.new_zeros(batch, channels, height * scale, width * scale)
    sizes = (batch, channels, height * scale, width * scale, kernel, kernel)
    for b, c, y, x, u, v in product(*(range(n) for n in sizes)):
        row, column = y // scale + u - kernel // 2, x // scale + v - kernel // 2
        if 0 <= row < height and 0 <= column < width:
            group = c // (channels // groups)
            weight = masks[b, group * kernel**2 + u * kernel + v, y, x]
            output[b, c, y, x] += weight * features[b, c, row, column]
    return output


def psa_mask(masks, mask_size, collect):
    batch, _, height, width = masks.shape
    mask_h, mask_w = mask_size
    output = masks.new_zeros(batch, height * width, height, width)
    for h in range(height):
        for w in range(width):
            for i in range(mask_h):
                for j in range(mask_w):
                    y, x = h + i - (mask_h - 1) // 2, w + j - (mask_w - 1) // 2
                    if 0 <= y < height and 0 <= x < width:
                        value = masks[:, i * mask_w + j, h, w]
                        if collect:
                            output[:, y * width + x, h, w] = value
                        else:
                            output[:, h * width + w, y, x] = value
    return output


def box_iou(a, b, offset=0):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    area_a, area_b = ((c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b))
    return width * height / (area_a + area_b - width * height)


def nms(boxes, scores, threshold, overlap=box_iou):
    """Indices kept, by falling score, and the kept one that each index stands behind."""
    left = sorted(range(len(boxes)), key=lambda i: -scores[i])
    keep, leader = [], {}
    while left:
        best = left.pop(0)
        keep.append(best)
        leader[best] = best
        behind = [i for i in left if overlap(boxes[best], boxes[i]) > threshold]
        leader.update(dict.fromkeys(behind, best))
        left = [i for i in left if i not in behind]
    return keep, leader


def soft_nms(boxes, scores, threshold, sigma, min_score, method):
    scores = dict(enumerate(scores))
    keep, final = [], []
    while scores:
        best = max(scores, key=scores.get)
        keep.append(best)
        final.append(scores.pop(best))
        for i in list(scores):
            overlap = box_iou(boxes[best], boxes[i])
            if method == "gaussian":
                scores[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                scores[i] *= 0 if method == "naive" else 1 - overlap
            if scores[i] < min_score:
                del scores[i]
    return keep, final


def bezier_align(maps, beziers, size, scale, ratio, aligned):
    output = maps.new_zeros(len(beziers), maps.shape[1], *size)
    for r, (image, *numbers) in enumerate(beziers.tolist()):
        points = [(x * scale, y * scale) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
        curves = [points[:4], points[:3:-1]]  # both from left to right
        width, height = (max(abs(c[0][axis] - c[3][axis]) for c in curves) for axis in (0, 1))
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        bin_h, bin_w = height / size[0], width / size[1]
        num_y, num_x = (ratio, ratio) if ratio > 0 else (math.ceil(bin_h), math.ceil(bin_w))
        for i, j in product(range(size[0]), range(size[1])):
            down, along = i / size[0], j / size[1]
            basis = [math.comb(3, k) * along**k * (1 - along) ** (3 - k) for k in range(4)]
            (x0, y0), (x1, y1) = (
                [sum(b * p[axis] for b, p in zip(basis, c, strict=True)) for axis in (0, 1)] for c in curves
            )
            x, y = (a + down * (b - a) - (0.5 if aligned else 0) for a, b in ((x0, x1), (y0, y1)))
            for a, b in product(range(num_y), range(num_x)):
                at_y, at_x = y + ((a + 0.5) / num_y - 0.5) * bin_h, x + ((b + 0.5) / num_x - 0.5) * bin_w
                output[r, :, i, j] += bilinear(maps[int(image)], at_y, at_x, "edge") / (num_y * num_x)
    return output


def rotated_feature_align(maps, boxes, scale, points):
    output = maps.clone()
    batch, _, height, width = maps.shape
    for b, i, j in product(range(batch), range(height), range(width)):
        y, x, wide, tall, angle = boxes[b, i, j].tolist()
        places = [(0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)]
        for down, across in places[:points]:
            down, across = down * tall / 2, across * wide / 2
            at_y = y + math.sin(angle) * across + math.cos(angle) * down
            at_x = x + math.cos(angle) * across - math.sin(angle) * down
            output[b, :, i, j] += bilinear(maps[b], at_y * scale, at_x * scale, "edge")
    return output


def contour_expand(masks, labels, min_area):
    """Lists: masks of K kernels, the largest first; labels of the last."""
    pixels = [(y, x) for y, row in enumerate(labels) for x, label in enumerate(row) if label]
    found = {p: labels[p[0]][p[1]] for p in pixels}
    found = {p: label for p, label in found.items() if list(found.values()).count(label) >= min_area}
    if len(masks) > 1:
        mask, queue = masks[0], list(found)
        for y, x in queue:
            for p in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= p[0] < len(mask) and 0 <= p[1] < len(mask[0])
                if inside and mask[p[0]][p[1]] and p not in found:
                    found[p] = found[y, x]
                    queue.append(p)
    return [[found.get((y, x), 0) for x in range(len(row))] for y, row in enumerate(labels)]


def voxelize(points, voxel_size, low, high, max_points, max_voxels):
    """Lists: the points of each voxel, (z, y, x), in the order in which voxels are met."""
    voxels = {}
    for point in points:
        at = [math.floor((p - a) / s) for p, a, s in zip(point, low, voxel_size, strict=False)]
        grid = [round((b - a) / s) for a, b, s in zip(low, high, voxel_size, strict=True)]
        voxel = tuple(at[::-1])
        if all(0 <= a < n for a, n in zip(at, grid, strict=True)):
            if voxel not in voxels and len(voxels) < max_voxels:
                voxels[voxel] = []
            if len(voxels.get(voxel, [None] * max_points)) < max_points:
                voxels[voxel].append(point)
    return voxels

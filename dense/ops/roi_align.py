"""RoIAlign: pool the map under each box to one size, without rounding its coordinates."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pointsuite.engine.backends import choose_backend

from .sampling import Taps, check_maps, cross_taps, edge_taps, merge_taps, sum_rows, to_rows

TAPS = 2**22  # taps made at once: bounds the memory


def roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    pool_mode: str = "avg",
    aligned: bool = True,
    *,
    backend: str = "auto",
) -> Tensor:
    """Cut each box into bins and pool bilinear samples, evenly spaced, in each.

    Args:
        input: (B, C, H, W) floating; differentiable.
        rois: (R, 5) floating: index of the image, then x1, y1, x2, y2 in pixels of the image.
        output_size: bins, (height, width) or one number for both.
        spatial_scale: pixels of the map to a pixel of the image.
        sampling_ratio: samples a bin along each axis; 0 takes one a pixel of the map, rounded up.
        pool_mode: "avg" or "max" of the samples.
        aligned: put pixel centres at half-integers, and leave small boxes small; the first Mask R-CNN
            put them at integers, and made boxes at least one pixel of the map wide (False).
        backend: "auto", "torch" (portable) or "triton" (CUDA).

    Returns:
        (R, C, height, width), dtype of input. Samples up to one pixel outside of the map have the value of
        its edge, others zero. A box of no size, or of a negative one, gives zeros where sampling_ratio is 0.

    Raises:
        ValueError: shapes that do not fit, images that do not exist (on CPUs), an unknown pool_mode.

    Source: He et al., "Mask R-CNN", ICCV 2017, section 3.
    """
    check_rois(input, rois, 5)
    if pool_mode not in ("avg", "max"):
        raise ValueError(f"pool_mode must be 'avg' or 'max', found {pool_mode!r}")
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    arguments = (size, spatial_scale, sampling_ratio, pool_mode, aligned)
    if choose_backend(backend, input, triton=True) == "triton":
        return _Kernel.apply(input, rois, *arguments)
    return roi_align_forward(input, rois, *arguments, backend="torch")[0]


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: str,
    aligned: bool,
    *,
    backend: str = "auto",
) -> tuple[Tensor, ...]:
    """What :func:`roi_align` returns; with "max" also the places y and x on the map, -2 without any."""
    check_rois(input, rois, 5)
    if choose_backend(backend, input, triton=True) == "triton":
        from .triton.roi_align import forward

        return forward(input, rois, size, spatial_scale, sampling_ratio, pool_mode, aligned)
    pool = _average if pool_mode == "avg" else _maximum
    return pool(input, rois, size, spatial_scale, sampling_ratio, aligned)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    input_shape: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: str,
    aligned: bool,
    *places: Tensor,
    backend: str = "auto",
) -> Tensor:
    """Gradient (B, C, H, W) of the input; ``places`` are what "max" returned besides the maps."""
    if choose_backend(backend, grad_output, triton=True) == "triton":
        from .triton.roi_align import backward

        shape = tuple(input_shape)
        return backward(grad_output, rois, shape, spatial_scale, sampling_ratio, pool_mode, aligned, *places)
    if pool_mode == "max":
        height, width = input_shape[2:]
        y_taps, x_taps = (edge_taps(place, end) for place, end in zip(places, (height, width), strict=True))
        taps = cross_taps(y_taps, x_taps, width)  # (R, C, h, w, 4)
        values = (grad_output[..., None] * taps.weight).to(grad_output.dtype)
        return add_to_planes(input_shape, rois, taps.index, values)
    with torch.enable_grad():
        maps = grad_output.new_zeros(input_shape).requires_grad_()
        size = tuple(grad_output.shape[2:])
        pooled = _average(maps, rois, size, spatial_scale, sampling_ratio, aligned)[0]
        return torch.autograd.grad(pooled, maps, grad_output)[0]


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, rois, size, *arguments):
        pooled, *places = roi_align_forward(input, rois, size, *arguments, backend="triton")
        ctx.save_for_backward(rois, *places)
        ctx.shape, ctx.arguments = input.shape, arguments
        return pooled

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output):
        rois, *places = ctx.saved_tensors
        grad = roi_align_backward(grad_output, rois, ctx.shape, *ctx.arguments, *places, backend="triton")
        return grad, *[None] * 6


def _average(input, rois, size, spatial_scale, sampling_ratio, aligned):
    height, width = input.shape[2:]
    rows = to_rows(input)
    order, pooled = [], [rows[:0, None, None].expand(0, *size, -1)]  # which keeps the graph without boxes
    for part, y, x in sample_places(rois, size, spatial_scale, sampling_ratio, aligned):
        count = y.shape[-1] * x.shape[-1]
        y_taps, x_taps = (axis_taps(places, end, sampling_ratio) for places, end in ((y, height), (x, width)))
        step = max(1, TAPS // (size[0] * size[1] * y_taps.index.shape[-1] * x_taps.index.shape[-1]))
        for some in torch.arange(len(part), device=part.device).split(step):
            taps = cross_taps(
                Taps(*(t[some, :, None] for t in y_taps)), Taps(*(t[some, None] for t in x_taps)), width
            )  # (r, height, width, T)
            image = rois[part[some], 0].int().view(-1, 1, 1, 1) * (height * width)
            order.append(part[some])
            pooled.append(sum_rows(rows, Taps(taps.index + image, taps.weight / count)))
    return (join_parts(order, pooled, len(rois)).permute(0, 3, 1, 2),)


def _maximum(input, rois, size, spatial_scale, sampling_ratio, aligned):
    height, width = input.shape[2:]
    rows = to_rows(input)
    shape = (len(rois), *size, input.shape[1])
    order, pooled = [], [rows[:0, None, None].expand(0, *size, -1)]
    best_y, best_x = (
        rois.new_full(shape, -2, dtype=torch.promote_types(rois.dtype, torch.float32)) for _ in range(2)
    )
    for part, y, x in sample_places(rois, size, spatial_scale, sampling_ratio, aligned):
        image = rois[part, 0].int().view(-1, 1, 1, 1) * (height * width)
        value = input.new_full((len(part), *shape[1:]), -torch.inf)
        value_y, value_x = best_y[part], best_x[part]
        for sample_y in y.unbind(-1):
            for sample_x in x.unbind(-1):
                at_y, at_x = torch.broadcast_tensors(sample_y[:, :, None], sample_x[:, None])
                taps = cross_taps(edge_taps(at_y, height), edge_taps(at_x, width), width)
                sampled = sum_rows(rows, Taps(taps.index + image, taps.weight))
                larger = sampled > value
                value = torch.where(larger, sampled, value)
                value_y = torch.where(larger, at_y[..., None], value_y)
                value_x = torch.where(larger, at_x[..., None], value_x)
        order.append(part)
        pooled.append(value)
        best_y[part], best_x[part] = value_y, value_x
    output = join_parts(order, pooled, len(rois))
    return tuple(t.permute(0, 3, 1, 2) for t in (output, best_y, best_x))


def check_rois(input: Tensor, rois: Tensor, columns: int, name: str = "rois") -> None:
    """That maps are floating (B, C, H, W) and ``rois`` (R, columns), the first column an image's index."""
    check_maps(input, "input")
    if rois.ndim != 2 or rois.shape[1] != columns:
        raise ValueError(f"{name} must be (R, {columns}), found {tuple(rois.shape)}")
    if len(rois) and rois.device.type == "cpu":  # on a GPU a look at them would have to wait
        first, last = rois[:, 0].aminmax()
        if not (first >= 0 and last < len(input)):
            raise ValueError(
                f"{name}[:, 0] must be images, 0 to {len(input) - 1}, found {first:g} to {last:g}"
            )


def sample_places(
    rois: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Boxes (r,) with equally many samples, and the places of these on the map, (r, bins, n) of y and x."""
    boxes = rois[:, 1:] if rois.dtype == torch.float64 else rois[:, 1:].float()
    boxes = boxes * spatial_scale - (0.5 if aligned else 0.0)
    start, length = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]  # (R, 2): x, y
    if not aligned:
        length = length.clamp(min=1)
    for part, num_y, num_x in same_samples(length.flip(1), size, sampling_ratio):
        x, y = (
            start[part, axis, None, None] + length[part, axis, None, None] * bin_places(bins, num, length)
            for axis, bins, num in ((0, size[1], num_x), (1, size[0], num_y))
        )
        yield part, y, x


def same_samples(
    length: Tensor, size: tuple[int, int], sampling_ratio: int
) -> Iterator[tuple[Tensor, int, int]]:
    """Of boxes with heights and widths ``length`` (R, 2): those (r,) with as many rows and columns a bin."""
    bins = length / length.new_tensor(size)
    counts = torch.full_like(bins, sampling_ratio) if sampling_ratio > 0 else bins.ceil()
    found, group = counts.int().unique(dim=0, return_inverse=True)
    for i, (num_y, num_x) in enumerate(found.tolist()):
        if num_y > 0 and num_x > 0:
            yield (group == i).nonzero()[:, 0], num_y, num_x


def bin_places(bins: int, num: int, like: Tensor) -> Tensor:
    """Of ``num`` even samples in each of ``bins`` equal parts of [0, 1]: (bins, num)."""
    return ((torch.arange(bins * num, dtype=like.dtype, device=like.device) + 0.5) / (bins * num)).view(
        bins, num
    )


def axis_taps(places: Tensor, end: int, sampling_ratio: int) -> Taps:
    """Taps of the samples (..., n) of a bin along one axis of the map, summed."""
    taps = edge_taps(places, end)
    if sampling_ratio > 0:
        return Taps(taps.index.flatten(-2), taps.weight.flatten(-2))
    return merge_taps(taps, min(places.shape[-1] + 1, end), end)  # they are a pixel apart at most


def join_parts(order: list[Tensor], parts: list[Tensor], total: int) -> Tensor:
    """Parts (r, ...) put in their places among ``total``; zeros elsewhere."""
    joined = torch.cat(parts)
    output = joined.new_zeros(total, *joined.shape[1:])
    return output.index_copy(0, torch.cat(order), joined) if order else output + joined.sum()


def add_to_planes(shape: Sequence[int], rois: Tensor, pixel: Tensor, values: Tensor) -> Tensor:
    """Zeros (B, C, H, W) but for values (R, C, h, w, T) at pixels y * W + x of the boxes' images."""
    _, channels, height, width = shape
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)  # (R, C)
    index = plane[:, :, None, None, None] * (height * width) + pixel
    maps = values.new_zeros(torch.Size(shape).numel())
    return maps.index_add_(0, index.flatten(), values.flatten()).view(shape)

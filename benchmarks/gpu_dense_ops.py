"""Time the image operators on an NVIDIA GPU: Triton kernels and the portable PyTorch form on the same card.

Example:
    python benchmarks/gpu_dense_ops.py [--batch 2] [--out benchmarks/results]

Sizes are those of a detector on images of 800 x 1072 pixels. Medians of CUDA events, the L2 cache emptied
between runs. "kernel" is the Triton function alone, "operator" the public one, "ratio" the portable form's
time over the kernel's; "floor" is as in gpu_ops.py. "equals_cpu" is the largest relative error (norm of the
difference over the norm) of output and gradients against the CPU's float64, on the first image; without the
gradient of locations, which jumps at pixel centres, on either side of which rounding may put a point. Writes
gpu_dense_ops.json and gpu_dense_ops.txt.
"""

import pathlib
import sys
from collections.abc import Callable, Sequence

import torch
from gpu_ops import relative_error, row, time, write_report

from dense.ops import ms_deform_attn, roi_align
from pointsuite.engine import command

DEVICE = "cuda"
MAPS = [(100, 134), (50, 67), (25, 34), (13, 17)]
PIXELS = sum(height * width for height, width in MAPS)
QUERIES = (300, 900, PIXELS)  # two decoders, and an encoder, whose queries are the pixels
HEADS, WIDTH, POINTS = 8, 32, 4
BOXES, BINS, CHANNELS = 512, (7, 7), 256
BOX_MAP, BOX_SIDES = (200, 268), (4, 32)  # the finest map, and how long the boxes are there
DTYPES = (torch.float32, torch.bfloat16)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("--batch", type=int, default=2, help="images")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"))
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        sys.exit(
            "benchmarks/gpu_dense_ops.py wants an NVIDIA GPU, found none: torch.cuda.is_available() is False"
        )
    torch.manual_seed(0)
    rows = []
    for dtype in DTYPES:
        for queries in QUERIES:
            rows += bench_attention(args.batch, queries, dtype)
        for ratio, layout in ((0, "last"), (2, "last"), (0, "first")):
            rows += bench_roi_align(args.batch, ratio, layout, dtype)
    write_report(rows, args.out, "gpu_dense_ops", argv)


def bench_attention(batch: int, queries: int, dtype: torch.dtype) -> list[dict]:
    from dense.ops.triton.ms_deform_attn import backward, forward

    shapes = torch.tensor(MAPS, device=DEVICE)
    shape = (batch, queries, HEADS, len(MAPS), POINTS)
    value = torch.randn(batch, PIXELS, HEADS, WIDTH, device=DEVICE).to(dtype)
    weights = torch.rand(*shape, device=DEVICE)
    arguments = (value, shapes, shapes.prod(1).cumsum(0) - shapes.prod(1), locate(shape), weights)
    grad = torch.randn(batch, queries, HEADS * WIDTH, device=DEVICE).to(dtype)

    def step(backend, grad, *arguments):
        inputs = [t.detach().requires_grad_(t.is_floating_point()) for t in arguments]
        output = ms_deform_attn(*inputs, backend=backend)
        of_value, _, of_weights = torch.autograd.grad(output, [t for t in inputs if t.requires_grad], grad)
        return output.detach(), of_value, of_weights

    exact = [t[:1].cpu().double() if t.is_floating_point() else t.cpu() for t in (grad, *arguments)]
    pairs = zip(step("triton", grad, *arguments), step("torch", *exact), strict=True)
    moved = sum(t.nbytes for t in (*arguments, grad))
    operations = 2 * 4 * WIDTH * weights.numel()
    return compare(
        f"ms_deform_attn {str(dtype)[6:]} {batch}x{queries}",
        max(relative_error(a[:1], b) for a, b in pairs),
        lambda: forward(*arguments),
        lambda: backward(grad, *arguments),
        lambda backend: ms_deform_attn(*arguments, backend=backend),
        lambda backend: step(backend, grad, *arguments),
        (moved, operations),
        # All is read again, and the gradients are written, that of values in float32.
        (3 * moved + 4 * value.numel(), 3 * operations),
    )


def locate(shape: tuple[int, ...]) -> torch.Tensor:
    """Locations around those of the queries, which go through the image by rows, as an encoder's do."""
    queries = shape[1]
    place = torch.arange(queries, device=DEVICE) / queries
    centre = torch.stack((place * MAPS[0][0] % 1, place), -1).view(1, queries, 1, 1, 1, 2)
    return centre + 0.05 * torch.randn(*shape, 2, device=DEVICE)


def bench_roi_align(batch: int, ratio: int, channels: str, dtype: torch.dtype) -> list[dict]:
    from dense.ops.triton.roi_align import backward, forward

    maps = torch.randn(batch, CHANNELS, *BOX_MAP, device=DEVICE).to(dtype)
    if channels == "last":
        maps = maps.contiguous(memory_format=torch.channels_last)
    size = torch.tensor(BOX_MAP[::-1], device=DEVICE)
    centre = torch.rand(BOXES, 2, device=DEVICE) * size
    extent = torch.empty(BOXES, 2, device=DEVICE).uniform_(*BOX_SIDES)
    image = torch.arange(BOXES, device=DEVICE) % batch
    rois = 4 * torch.cat((image[:, None] / 4, centre - extent / 2, centre + extent / 2), 1)
    arguments = (0.25, ratio, "avg", True)
    grad = torch.randn(BOXES, CHANNELS, *BINS, device=DEVICE).to(dtype)

    def step(backend, grad, maps, rois):
        maps = maps.detach().requires_grad_()
        pooled = roi_align(maps, rois, BINS, *arguments, backend=backend)
        return pooled.detach(), torch.autograd.grad(pooled, maps, grad)[0]

    first = image == 0
    exact = [t.cpu().double() for t in (grad[first], maps[:1], rois[first])]
    pairs = zip(step("triton", grad, maps, rois), step("torch", *exact), (first, image[:1]), strict=True)
    samples = ratio**2 * BOXES if ratio else (extent / torch.tensor(BINS, device=DEVICE)).ceil().prod(1).sum()
    operations = 8 * int(samples) * grad[0].numel()
    covered = min(maps[:, 0].numel(), int(extent.prod(1).sum())) * CHANNELS
    moved = covered * maps.element_size() + grad.nbytes
    return compare(
        f"roi_align {str(dtype)[6:]} {BOXES} boxes, ratio {ratio}, channels {channels}",
        max(relative_error(a[chosen], b) for a, b, chosen in pairs),
        lambda: forward(maps, rois, BINS, *arguments),
        lambda: backward(grad, rois, maps.shape, *arguments),
        lambda backend: roi_align(maps, rois, BINS, *arguments, backend=backend),
        lambda backend: step(backend, grad, maps, rois),
        (moved, operations),
        # The gradient of the maps is summed in float32, from zeros, and converted.
        (moved + grad.nbytes + 12 * maps.numel() + maps.nbytes, 2 * operations),
    )


def compare(
    case: str,
    error: float,
    forward: Callable,
    backward: Callable,
    operator: Callable[[str], object],
    step: Callable[[str], object],
    work: tuple[float, float],
    work_of_step: tuple[float, float],
) -> list[dict]:
    """Rows of the forward pass and of both; operator and step take the backend."""
    rows = []
    for suffix, kernel, function, cost in (
        ("", forward, operator, work),
        (" with gradient", lambda: (forward(), backward()), step, work_of_step),
    ):
        times = {
            "kernel": time(kernel),
            "operator": time(lambda function=function: function("triton")),
            "torch": time(lambda function=function: function("torch")),
        }
        rows.append(row(case + suffix, error, times, "portable operator", cost))
    return rows


if __name__ == "__main__":
    main()

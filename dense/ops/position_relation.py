"""Position relation: how boxes lie to each other, as a bias of the attention between them (Relation-DETR).

For a box a (of the rows) and a box b (of the columns), with e = ``eps``, the four numbers

    log(|xa - xb| / (wa + e) + 1),  log(|ya - yb| / (ha + e) + 1),
    log((wa + e) / (wb + e)),       log((ha + e) / (hb + e))

each become sines and cosines of ``number * scale / temperature ** (i / K)``, i = 0..K-1, of which a linear
map and a ReLU make one number a head. As written, 900 x 900 boxes take 52 million sines and 200 MB. Here the
sizes, whose angles are those of the row less those of the column, go by the addition theorems into a matrix
product; the centres go a piece at a time; and the gradient computes its pieces anew, so none of them is kept.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .chunks import slices

PAIRS_CPU, PAIRS_CUDA = 1 << 15, 1 << 18  # in a piece: sines and cosines of 4 MB, 33 MB


def position_relation(
    source: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    temperature: float = 10000.0,
    scale: float = 100.0,
    eps: float = 1e-5,
    pairs: int | None = None,
) -> Tensor:
    """ReLU of a linear map of the codes of all pairs of boxes; gradients reach weight and bias, not boxes.

    Args:
        source: (B, N1, 4) boxes of the rows: centre x, y, width, height; sizes not negative.
        target: (B, N2, 4) boxes of the columns.
        weight: (heads, 8 * K); its columns by coordinate (x, y, width, height), then frequency, then sine
            before cosine.
        bias: (heads,).
        temperature: how far the frequencies spread.
        scale: of the angles.
        eps: added to sizes; in the unit of the boxes.
        pairs: how many of them at a time, which bounds the memory in between; None for what suits the device.

    Returns:
        (B, heads, N1, N2), not negative; float64 if an argument is, else float32, also under autocast.

    Raises:
        ValueError: shapes that do not fit.

    Source: Hou et al., "Relation DETR", ECCV 2024, section 4.1; the ReLU as in the published code.
    """
    _check(source, target, weight, bias)
    dtype = torch.float32
    for tensor in (source, target, weight, bias):
        dtype = torch.promote_types(dtype, tensor.dtype)
    source, target, weight, bias = (tensor.to(dtype) for tensor in (source, target, weight, bias))
    frequencies = weight.shape[1] // 8
    steps = torch.arange(frequencies, dtype=torch.float64, device=source.device) / frequencies
    pairs = pairs or (PAIRS_CUDA if source.is_cuda else PAIRS_CPU)
    rates = scale * temperature**-steps
    boxes = source.detach(), target.detach()
    return _PositionRelation.apply(*boxes, weight.contiguous(), bias, rates, eps, pairs)


class _PositionRelation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments):
        source, target, weight = arguments[:3]
        ctx.save_for_backward(*arguments[:5])
        ctx.options = arguments[5:]
        relation = source.new_empty(len(source), len(weight), source.shape[1], target.shape[1])
        with torch.autocast(source.device.type, enabled=False):
            for image, rows, logits, *_ in _pieces(*arguments):
                torch.clamp(logits, min=0, out=relation[image, :, rows])
        return relation

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        weight, bias = ctx.saved_tensors[2:4]
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        of_centres, of_sizes = _split(grad_weight)  # views
        with torch.autocast(grad.device.type, enabled=False):
            pieces = _pieces(*ctx.saved_tensors, *ctx.options)
            for image, rows, logits, codes, (sine, cosine), column in pieces:
                g = torch.ops.aten.threshold_backward(grad[image, :, rows], logits, 0)  # (heads, rows, N2)
                grad_bias += g.sum((1, 2))
                of_centres += (g.flatten(1) @ codes.T).unflatten(1, (2, -1)).mT
                with_cosine, with_sine = (g @ column.T).chunk(2, -1)  # (heads, rows, 2 * K) each
                of_sizes[..., 0] += (sine * with_cosine - cosine * with_sine).sum(1)
                of_sizes[..., 1] += (cosine * with_cosine + sine * with_sine).sum(1)
        return None, None, grad_weight, grad_bias, None, None, None


def _pieces(source, target, weight, bias, rates, eps, pairs) -> Iterator[tuple]:
    """For some rows of an image at a time: (image, rows, logits (heads, rows, N2), what they are made of)."""
    of_centres, of_sizes = _split(weight)
    of_centres = of_centres.mT.flatten(1)  # (heads, 4 * K)
    of_sine, of_cosine = of_sizes[:, None].unbind(-1)  # (heads, 1, 2 * K) each
    columns = target.shape[1]
    step = max(1, pairs // max(1, columns))
    for image in range(len(source)):
        # sin(a - b) = sin a cos b - cos a sin b, and cos(a - b) = cos a cos b + sin a sin b
        sine, cosine = _size_codes(source[image], rates, eps)
        row = torch.cat([of_sine * sine + of_cosine * cosine, of_cosine * sine - of_sine * cosine], -1)
        column = torch.cat(_size_codes(target[image], rates, eps)[::-1], -1).T  # (4 * K, N2)
        for rows in slices(source.shape[1], step):
            boxes = source[image, rows]
            codes = _centre_codes(boxes, target[image], rates, eps)
            logits = torch.addmm(bias[:, None], of_centres, codes).unflatten(1, (len(boxes), columns))
            logits.baddbmm_(row[:, rows], column.expand(len(row), -1, -1))
            yield image, rows, logits, codes, (sine[rows], cosine[rows]), column


def _split(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Views (heads, 2 * K, 2) of the weights of centres and of sizes; last axis: sine, cosine."""
    return weight.view(len(weight), 2, -1, 2).unbind(1)


def _centre_codes(source: Tensor, target: Tensor, rates: Tensor, eps: float) -> Tensor:
    """Sines, then cosines, of the centres' distances: (4 * K, N1 * N2)."""
    a, b = source.T[..., None], target.T[:, None]
    distances = ((a[:2] - b[:2]).abs_() / (a[2:] + eps)).log1p_()  # (2, N1, N2)
    angles = (distances[:, None] * rates.to(source.dtype)[:, None, None]).flatten(0, 1).flatten(1)
    codes = angles.new_empty(2, *angles.shape)
    torch.sin(angles, out=codes[0])
    torch.cos(angles, out=codes[1])
    return codes.flatten(0, 1)


def _size_codes(boxes: Tensor, rates: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Sine and cosine of the angles of a box's own sizes, (N, 2 * K) each."""
    # of large angles only small differences matter, hence double precision
    angles = ((boxes[:, 2:, None].double() + eps).log() * rates).flatten(1)
    return angles.sin().to(boxes.dtype), angles.cos().to(boxes.dtype)


def _check(source: Tensor, target: Tensor, weight: Tensor, bias: Tensor) -> None:
    for name, boxes in (("source", source), ("target", target)):
        if boxes.ndim != 3 or boxes.shape[-1] != 4 or not boxes.is_floating_point():
            raise ValueError(f"{name} must be floating (B, N, 4), found {boxes.dtype} {tuple(boxes.shape)}")
    if len(source) != len(target):
        raise ValueError(f"source and target must be of one batch, found {len(source)} and {len(target)}")
    if weight.ndim != 2 or weight.shape[1] % 8 or not weight.shape[1]:
        raise ValueError(f"weight must be (heads, a multiple of 8), found {tuple(weight.shape)}")
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be {tuple(weight.shape[:1])}, found {tuple(bias.shape)}")

"""Multi-scale deformable attention: each query sums a few points of each of several maps."""

import torch
from torch import Tensor

from pointsuite.engine.backends import choose_backend

from .sampling import Taps, cross_taps, linear_taps, sum_rows


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """Sum values, read bilinearly at the locations, by the weights; outside of a map they are zero.

    Args:
        value: (B, S, M, D) floating; the L maps one after the other, each by rows; differentiable.
        spatial_shapes: (L, 2) int64, height and width of each map; their products sum to S.
        level_start_index: (L,) int64, where each map begins in S.
        sampling_locations: (B, Q, M, L, P, 2), x and y, 0 to 1 from one edge of the map to the other;
            differentiable.
        attention_weights: (B, Q, M, L, P); differentiable.
        backend: "auto", "torch" (portable) or "triton" (CUDA).

    Returns:
        (B, Q, M * D), dtype of value.

    Raises:
        ValueError: shapes that do not fit.

    Source: Zhu et al., "Deformable DETR", ICLR 2021, equation 3.
    """
    _check(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    arguments = (value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    if choose_backend(backend, value, triton=True) == "triton":
        return _Kernel.apply(*arguments)
    return _ms_deform_attn_torch(*arguments)


def ms_deform_attn_backward(
    grad_output: Tensor, *arguments: Tensor, backend: str = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, sampling_locations and attention_weights; arguments: those of the operator."""
    if choose_backend(backend, arguments[0], triton=True) == "triton":
        from .triton.ms_deform_attn import backward

        return backward(grad_output, *arguments)
    value, shapes, starts, locations, weights = arguments
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in (value, locations, weights)]
        output = _ms_deform_attn_torch(inputs[0], shapes, starts, *inputs[1:])
        return torch.autograd.grad(output, inputs, grad_output)


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments):
        from .triton.ms_deform_attn import forward

        ctx.save_for_backward(*arguments)
        return forward(*arguments)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output):
        value, locations, weights = ms_deform_attn_backward(
            grad_output.contiguous(), *ctx.saved_tensors, backend="triton"
        )
        return value, None, None, locations, weights


def _ms_deform_attn_torch(value, spatial_shapes, level_start_index, sampling_locations, attention_weights):
    batch, total, heads, dims = value.shape
    if value.dtype != torch.float64:  # coordinates of large maps need more than half precision
        sampling_locations, attention_weights = sampling_locations.float(), attention_weights.float()
    height, width = spatial_shapes.to(torch.int32).T[..., None]  # (L, 1) each
    x, y = sampling_locations.unbind(-1)  # (B, Q, M, L, P)
    pixel = cross_taps(
        linear_taps(y * height - 0.5, height), linear_taps(x * width - 0.5, width), width[..., None]
    )  # (B, Q, M, L, P, 4)
    image = torch.arange(batch, dtype=torch.int32, device=value.device).view(-1, 1, 1, 1, 1, 1) * total
    head = torch.arange(heads, dtype=torch.int32, device=value.device).view(-1, 1, 1, 1)
    start = level_start_index.to(torch.int32)[:, None, None]
    index = (pixel.index + start + image) * heads + head
    weight = pixel.weight * attention_weights[..., None]
    taps = Taps(index.flatten(3), weight.flatten(3))  # (B, Q, M, L * P * 4)
    return sum_rows(value.reshape(-1, dims), taps).flatten(2)


def _check(value, spatial_shapes, level_start_index, sampling_locations, attention_weights):
    if value.ndim != 4 or not value.is_floating_point():
        raise ValueError(f"value must be floating (B, S, M, D), found {value.dtype} {tuple(value.shape)}")
    if spatial_shapes.ndim != 2 or spatial_shapes.shape[1] != 2:
        raise ValueError(f"spatial_shapes must be (L, 2), found {tuple(spatial_shapes.shape)}")
    levels = (len(spatial_shapes),)
    if level_start_index.shape != levels:
        raise ValueError(f"level_start_index must be {levels}, found {tuple(level_start_index.shape)}")
    wanted = (value.shape[0], value.shape[2], *levels, 2)
    found = tuple(sampling_locations.shape)
    if len(found) != 6 or found[:1] + found[2:4] + found[5:] != wanted:
        batch, heads, maps, _ = wanted
        raise ValueError(f"sampling_locations must be ({batch}, Q, {heads}, {maps}, P, 2), found {found}")
    if tuple(attention_weights.shape) != found[:-1]:
        raise ValueError(f"attention_weights must be {found[:-1]}, found {tuple(attention_weights.shape)}")

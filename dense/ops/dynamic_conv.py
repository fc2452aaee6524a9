"""Convolutions whose kernels each sample, or each position, has for itself."""

import numba
import torch
from torch import Tensor
from torch.nn import functional as F

from pointsuite.engine.backends import choose_backend, is_traced
from pointsuite.engine.parallel import run_rows


def dynamic_depthwise_conv(x: Tensor, kernels: Tensor, bias: Tensor | None = None) -> Tensor:
    """Depthwise convolution (cross-correlation, stride 1) with kernels of each sample, zeros around the map.

    Args:
        x: (B, H, W, C).
        kernels: (B, C, K, L), K and L odd.
        bias: (C), or none.

    Returns:
        (B, H, W, C), channels last in memory.

    Raises:
        ValueError: shapes that do not fit, or even kernels.
    """
    if x.ndim != 4 or kernels.ndim != 4 or kernels.shape[:2] != (len(x), x.shape[3]):
        found = f"{tuple(x.shape)} and {tuple(kernels.shape)}"
        raise ValueError(f"x and kernels must be (B, H, W, C) and (B, C, K, L), found {found}")
    size = kernels.shape[2:]
    if not all(side % 2 for side in size):
        raise ValueError(f"kernels must have odd sides, found {size[0]} x {size[1]}")
    margins = [side // 2 for side in size]
    if x.device.type == "cpu" and len(x) and not is_traced():
        # one convolution of B * C groups: samples beside each other, channel by channel
        maps = x.permute(1, 2, 0, 3).flatten(2)[None].permute(0, 3, 1, 2)
        shared = None if bias is None else bias.repeat(len(x))
        y = F.conv2d(maps, kernels.flatten(0, 1)[:, None], shared, padding=margins, groups=maps.shape[1])
        return y[0].unflatten(0, x.shape[::3]).permute(0, 2, 3, 1).contiguous()
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, margins[1], margins[1], margins[0], margins[0]))
    y = None if bias is None else bias.expand_as(x)
    for i in range(size[0]):
        for j in range(size[1]):
            tap, shifted = kernels[:, None, None, :, i, j], padded[:, i : i + height, j : j + width]
            y = tap * shifted if y is None else torch.addcmul(y, tap, shifted)
    return y


def involution(x: Tensor, kernels: Tensor, *, backend: str = "auto") -> Tensor:
    r"""Depthwise convolution (stride 1) with kernels of each position, zeros around the map.

    .. math:: y[n, c] = \sum_t k[n, t, c \bmod G] \; x[n + o(t), c], \quad o(t) \text{ the offset of tap } t.

    A kernel serves the channels g, G + g, 2 G + g, and so on, not neighbouring ones. Nothing is made of the
    size of the kernels, but their gradient.

    Args:
        x: (B, H, W, C) floating; differentiable (once).
        kernels: (B, H, W, K, L, G) of the same dtype, K and L odd, G divides C; differentiable (once).
        backend: "auto", "torch" (portable), "numba" (CPU) or "triton" (CUDA). 16-bit numbers are summed in
            float32. Compiled code sees the portable form.

    Returns:
        (B, H, W, C), channels last in memory.

    Raises:
        ValueError: shapes that do not fit, even kernels, a backend that is unknown or cannot run there.
        TypeError: dtypes that differ or are not floating.

    Source: Li et al., "Involution: Inverting the Inherence of Convolution for Visual Recognition", CVPR 2021,
    arXiv 2103.06255, has kernels of positions; Wang et al., "LSNet: See Large, Focus Small", CVPR 2025,
    arXiv 2503.23135, these channels.
    """
    _check_involution(x, kernels)
    chosen = choose_backend(backend, x, numba=not is_traced(), triton=not is_traced())
    if chosen == "torch" or x.numel() == 0:
        return _involve(x, kernels)
    if chosen == "triton":
        from .triton.involution import involve

        return involve(x, kernels)
    exact = torch.promote_types(x.dtype, torch.float32)
    return _Involution.apply(x.to(exact), kernels.to(exact)).to(x.dtype)


def _check_involution(x: Tensor, kernels: Tensor) -> None:
    fits = x.ndim == 4 and kernels.ndim == 6 and kernels.shape[:3] == x.shape[:3]
    if not fits or kernels.shape[5] == 0 or x.shape[3] % kernels.shape[5]:
        raise ValueError(
            "x and kernels must be (B, H, W, C) and (B, H, W, K, L, G), where G divides C, "
            f"found {tuple(x.shape)} and {tuple(kernels.shape)}"
        )
    if not all(side % 2 for side in kernels.shape[3:5]):
        raise ValueError(f"kernels must have odd sides, found {kernels.shape[3]} x {kernels.shape[4]}")
    if not x.is_floating_point() or x.dtype != kernels.dtype:
        raise TypeError(f"x and kernels must be floating, of one dtype, found {x.dtype} and {kernels.dtype}")


def _involve(x: Tensor, kernels: Tensor) -> Tensor:
    height, width = x.shape[1:3]
    exact = torch.promote_types(x.dtype, torch.float32)
    padded = _pad(x, kernels).unflatten(3, (-1, kernels.shape[5]))  # (B, ..., ..., C / G, G)
    taps = iter(kernels.flatten(3, 4).unbind(3))
    y = None
    for i in range(kernels.shape[3]):
        for j in range(kernels.shape[4]):
            tap = next(taps)[:, :, :, None].to(exact)
            shifted = padded[:, i : i + height, j : j + width].to(exact)
            y = tap * shifted if y is None else torch.addcmul(y, tap, shifted)
    return y.flatten(3).to(x.dtype)


def _pad(x: Tensor, kernels: Tensor) -> Tensor:
    """x with zeros around it, so that no kernel leaves it."""
    rows, columns = (side // 2 for side in kernels.shape[3:5])
    return F.pad(x, (0, 0, columns, columns, rows, rows))


class _Involution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernels):
        ctx.save_for_backward(x, kernels)
        out = x.new_empty(x.shape)
        arrays = _arrays(kernels, _pad(x, kernels), out)
        run_rows(_involve_rows, len(x) * x.shape[1], *arrays)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, kernels = ctx.saved_tensors
        padded = _pad(x, kernels)
        grad_padded, grad_kernels = padded.new_zeros(padded.shape), kernels.new_empty(kernels.shape)
        arrays = _arrays(kernels, padded, grad)
        shape = arrays[3].shape
        of_maps, of_kernels = grad_padded.view(shape).numpy(), grad_kernels.flatten(3, 4).numpy()
        run_rows(_involve_back, len(x), *arrays, of_maps, of_kernels)
        rows, columns = (side // 2 for side in kernels.shape[3:5])
        height, width = x.shape[1:3]
        return grad_padded[:, rows : rows + height, columns : columns + width], grad_kernels


def _arrays(kernels: Tensor, padded: Tensor, *maps: Tensor) -> list:
    """What numba's kernels take: offsets of taps in pixels of a padded map; pixels of a line of it;
    (B, H, W, K * L, G); padded maps (B, pixels, C / G, G); and others (B, H, W, C / G, G).
    """
    rows, columns, groups = kernels.shape[3:]
    line = padded.shape[2]
    tensors = kernels.flatten(3, 4), padded.flatten(1, 2).unflatten(2, (-1, groups))
    tensors += tuple(t.unflatten(3, (-1, groups)) for t in maps)
    offsets = tuple(i * line + j for i in range(rows) for j in range(columns))
    return [offsets, line, *(t.detach().contiguous().numpy() for t in tensors)]


# Sums of taps may be contracted. The offsets are a tuple: its length is a constant to the compiler.
_jit = numba.njit(nogil=True, cache=True, boundscheck=False, fastmath={"reassoc", "contract", "nsz"})


@_jit
def _involve_rows(offsets, line, kernels, padded, out, start, stop):
    """Rows [start, stop) of all maps."""
    _, height, width, repeats, groups = out.shape
    for row in range(start, stop):
        b, y = row // height, row % height
        for x in range(width):
            weights, result, first = kernels[b, y, x], out[b, y, x], y * line + x
            for r in range(repeats):
                for g in range(groups):
                    total = weights[0, g] * padded[b, first, r, g]
                    for t in range(1, len(offsets)):
                        total += weights[t, g] * padded[b, first + offsets[t], r, g]
                    result[r, g] = total


@_jit
def _involve_back(offsets, line, kernels, padded, grad, grad_padded, grad_kernels, start, stop):
    """Maps [start, stop)."""
    _, height, width, repeats, groups = grad.shape
    for b in range(start, stop):
        for y in range(height):
            for x in range(width):
                slope, first = grad[b, y, x], y * line + x
                for t in range(len(offsets)):
                    seen, back = padded[b, first + offsets[t]], grad_padded[b, first + offsets[t]]
                    weights, own = kernels[b, y, x, t], grad_kernels[b, y, x, t]
                    own[:] = 0
                    for r in range(repeats):
                        for g in range(groups):
                            own[g] += slope[r, g] * seen[r, g]
                            back[r, g] += slope[r, g] * weights[g]

"""Attention whose tokens are whole frames: few of them, but long, channels-last in memory."""

import numba
import numpy as np
import torch
from torch import Tensor

from pointsuite.engine.backends import choose_inference_kernel
from pointsuite.engine.parallel import run_rows


def frame_logits(query: Tensor, key: Tensor, num_heads: int, *, backend: str = "auto") -> Tensor:
    """Inner products of frames with frames, head by head.

    Args:
        query: (B, T, C, H, W) floating, C a multiple of ``num_heads``; a head is C / num_heads neighbouring
            channels at all pixels.
        key: (B, S, C, H, W) of the same dtype.
        num_heads: number of heads.
        backend: "auto", "torch" (portable, differentiable) or "numba" (float32 on a CPU, no gradient; takes
            slices of channels-last tensors as they are). Compiled code sees the portable form.

    Returns:
        (B, num_heads, T, S).

    Raises:
        ValueError: shapes that do not fit, a backend that is unknown or cannot run there.
        TypeError: dtypes that differ or are not floating.
    """
    if query.ndim != 5:
        raise ValueError(f"query must be (B, T, C, H, W), found {tuple(query.shape)}")
    batch, targets, channels, *size = query.shape
    if key.ndim != 5 or key.shape != (batch, key.shape[1], channels, *size):
        found = f"{tuple(query.shape)} and {tuple(key.shape)}"
        raise ValueError(f"query and key must agree but for the number of frames, found {found}")
    if not query.is_floating_point() or query.dtype != key.dtype:
        raise TypeError(f"query and key must be floating, of one dtype, found {query.dtype} and {key.dtype}")
    if num_heads < 1 or channels % num_heads:
        raise ValueError(f"channels must be a multiple of num_heads {num_heads}, found {channels}")
    if choose_inference_kernel(backend, query, key) == "torch":
        query, key = (x.unflatten(2, (num_heads, -1)) for x in (query, key))
        return torch.einsum("bthdyx,bshdyx->bhts", query, key)
    height, width = size
    shape = (height, width, targets, key.shape[1], channels)
    out = query.new_empty(batch, height, *shape[2:])
    run_rows(_logits, batch * height, *_flat(query), *_flat(key), out.view(-1).numpy(), shape)
    return out.unflatten(4, (num_heads, -1)).sum((1, 5)).permute(0, 3, 1, 2)


def _flat(x: Tensor) -> tuple[np.ndarray, tuple[int, int, int]]:
    """A frame tensor as one array from its first number to its last, and its strides of (B, T, pixel)."""
    width = x.shape[4]
    if x.stride(2) != 1 or x.stride(3) != width * x.stride(4):
        x = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    length = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    strides = (x.stride(0), x.stride(1), x.stride(4))
    return x.detach().as_strided((length if x.numel() else 0,), (1,)).numpy(), strides


_jit = numba.njit(nogil=True, cache=True, boundscheck=False, fastmath={"reassoc", "contract", "nsz"})


@_jit
def _logits(query, query_strides, key, key_strides, out, shape, start, stop):
    """Lines of pixels [start, stop) of (B, H): sums along them for all pairs of frames, channels apart."""
    height, width, targets, sources, channels = shape
    for row in range(start, stop):
        b, y = row // height, row % height
        for pair in range(targets * sources):
            i, j = pair // sources, pair % sources
            q = b * query_strides[0] + i * query_strides[1] + y * width * query_strides[2]
            k = b * key_strides[0] + j * key_strides[1] + y * width * key_strides[2]
            place = (row * targets * sources + pair) * channels
            total = out[place : place + channels]
            total[:] = 0
            for _ in range(width):
                ours, theirs = query[q : q + channels], key[k : k + channels]
                for c in range(channels):
                    total[c] += ours[c] * theirs[c]
                q += query_strides[2]
                k += key_strides[2]

"""Argument checks of the point operators: errors name the argument, what was found and what is wanted."""

import torch
from torch import Tensor

from ..engine.backends import choose_backend

MOST_NEIGHBOURS = 128  # that kernels keep in registers


def check_cloud(name: str, cloud: Tensor) -> None:
    """A batch of clouds: float32 or float64 (B, N, 3), not empty."""
    if not isinstance(cloud, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, found {type(cloud).__name__}")
    if cloud.ndim != 3 or cloud.shape[-1] != 3:
        raise ValueError(f"{name} must have shape (B, N, 3), found {tuple(cloud.shape)}")
    if cloud.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, found {cloud.dtype}")
    if cloud.shape[0] == 0 or cloud.shape[1] == 0:
        raise ValueError(
            f"{name} must hold at least one cloud of one point, found shape {tuple(cloud.shape)}"
        )


def check_finite(name: str, cloud: Tensor) -> None:
    """No NaN and no infinity; the error names the first bad point."""
    # Adding zero times each value is one pass without a mask: NaN and infinity both leave NaN.
    if not torch.isnan((cloud.detach() * 0).sum()):
        return
    bad = (~torch.isfinite(cloud)).any(-1).nonzero()[0].tolist()
    raise ValueError(
        f"{name} must be finite, found {cloud[tuple(bad)].tolist()} at cloud {bad[0]}, point {bad[1]}"
    )


def check_same(name: str, tensor: Tensor, other_name: str, other: Tensor, dtype: bool = True) -> None:
    """Same batch size, device and, unless told otherwise, dtype."""
    if tensor.device != other.device:
        raise ValueError(
            f"{name} and {other_name} must be on one device, found {tensor.device} and {other.device}"
        )
    if tensor.shape[0] != other.shape[0]:
        raise ValueError(
            f"{name} and {other_name} must hold the same number of clouds, "
            f"found {tensor.shape[0]} and {other.shape[0]}"
        )
    if dtype and tensor.dtype != other.dtype:
        raise TypeError(
            f"{name} and {other_name} must have one dtype, found {tensor.dtype} and {other.dtype}"
        )


def check_index(name: str, index: Tensor, values: Tensor, ndim: int | None = None) -> None:
    """int64 indices whose first axis is the batch of `values`."""
    if index.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, found {index.dtype}")
    if ndim is not None and index.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, found shape {tuple(index.shape)}")
    check_same(name, index, "values", values, dtype=False)


def check_valid(valid: Tensor | None, points: Tensor) -> Tensor | None:
    """`valid` (B,) int64 counts of real points, between 1 and N; None means all."""
    if valid is None:
        return None
    if valid.dtype != torch.int64 or valid.shape != points.shape[:1]:
        raise ValueError(
            f"valid must be int64 of shape ({points.shape[0]},), found {valid.dtype} {tuple(valid.shape)}"
        )
    if valid.device != points.device:
        raise ValueError(f"valid and points must be on one device, found {valid.device} and {points.device}")
    return valid


def check_counts(valid: Tensor | None, points: Tensor, wanted: int, name: str) -> None:
    """Every cloud holds at least `wanted` real points. Reads values, so it runs inside the operator."""
    size = points.shape[1]
    if valid is None:
        if wanted > size:
            raise ValueError(
                f"{name} must be at most the number of points, found {name}={wanted} for {size} points"
            )
        return
    low, high = int(valid.min()), int(valid.max())
    if low < 1 or high > size:
        raise ValueError(f"valid must lie between 1 and {size}, found {low} to {high}")
    if wanted > low:
        cloud = int(valid.argmin())
        raise ValueError(
            f"{name} must be at most the number of valid points, "
            f"found {name}={wanted} for {low} in cloud {cloud}"
        )


def choose_neighbour_backend(backend: str, tensor: Tensor, k: int) -> str:
    """:func:`~pointsuite.engine.backends.choose_backend` of an operator on `k` neighbours a point."""
    return choose_backend(backend, tensor, numba=True, triton=k <= MOST_NEIGHBOURS)

"""Interpolate per-point values from a few neighbours."""

from torch import Tensor

from ._checks import check_index, check_same
from .gather_points import gather_points


def inverse_distance_weights(sqdist: Tensor, eps: float = 1e-8) -> Tensor:
    """Weights proportional to 1 / (squared distance + eps), normalised over the last axis.

    Args:
        sqdist: (B, S, k) squared distances, as :func:`knn` returns them.
        eps: added to each, in squared units of the coordinates.

    Returns:
        (B, S, k), summing to one; a query that coincides with a point takes practically all from it.
    """
    weight = 1 / (sqdist + eps)
    return weight / weight.sum(-1, keepdim=True)


def three_interpolate(values: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of neighbours' values (three of them in PointNet++; any k >= 1 here).

    Args:
        values: (B, N, C); differentiable.
        idx: (B, S, k) int64 in [0, N).
        weight: (B, S, k), dtype of values; differentiable.

    Returns:
        (B, S, C).

    Raises:
        ValueError: shapes or devices that do not fit.
        TypeError: dtypes that do not fit.

    Source: Qi et al., "PointNet++", 2017, section 3.4.
    """
    check_index("idx", idx, values, ndim=3)
    check_same("weight", weight, "values", values)
    if weight.shape != idx.shape:
        raise ValueError(
            f"weight must have the shape of idx, {tuple(idx.shape)}, found {tuple(weight.shape)}"
        )
    return (weight[..., None, :] @ gather_points(values, idx)).squeeze(-2)

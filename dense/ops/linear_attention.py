"""Attention without a softmax over pairs, in time and memory linear in the positions."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def elu_plus_one(x: Tensor) -> Tensor:
    """ELU + 1, without its cancellation far below zero, and faster."""
    return F.relu(x) + x.clamp(max=0).exp_()


FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,  # slope 0.01
    "exp": lambda x: (0.2 * x).exp(),
    "elu": elu_plus_one,
}
NORMALIZATIONS = ("quotient", "difference", "none")


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    feature: str = "identity",
    normalization: str = "quotient",
    scale: float | Tensor = 1.0,
    augment_rank: bool = False,
    rotate: Callable[[Tensor], Tensor] | None = None,
    eps: float = 0.0,
    minimum: float | None = None,
) -> Tensor:
    r"""Kernelised attention: with :math:`q_i, k_j` after the feature map, N of the latter, and means over all
    keys and values :math:`\bar k, \bar v`,

    .. math:: y_i = \frac{s \, (R q_i)^\top \sum_j e_j \, R k_j \, v_j^\top}
                         {\max(q_i \cdot \sum_j e_j k_j, m) + \epsilon} \quad (\text{quotient}), \qquad
              y_i = \frac{s}{N} q_i^\top \sum_j k_j v_j^\top + (1 - s \, q_i \cdot \bar k) \, \bar v
              \quad (\text{difference}).

    Weights of the second kind sum to one and may be negative; other queries have other weights (they are
    injective), also q and 2 q. "none" is the numerator of the first. No (N, M) is made; sums run in float32.

    Sources: Katharopoulos et al., "Transformers are RNNs", ICML 2020, arXiv 2006.16236 (quotient); Han et
    al., "Bridging the Divide: Reconsidering Softmax and Linear Attention", NeurIPS 2024, arXiv 2412.06590
    (difference); Fan et al., "Breaking the Low-Rank Dilemma of Linear Attention", CVPR 2025, arXiv 2411.07635
    (augmented rank).

    Args:
        q: (B, heads, M, d).
        k: (B, heads, N, d).
        v: (B, heads, N, c).
        feature: map of queries and keys: "identity", "relu", "leaky_relu" (slope 0.01), "exp" (of 0.2 x),
            "elu" (plus 1).
        normalization: "quotient", "difference" or "none".
        scale: s, a number or a tensor that broadcasts to (B, heads, d, c).
        augment_rank: weigh keys by :math:`e = \mathrm{softmax}_j(\bar q \cdot k_j / \sqrt d)`, with the mean
            query; else e = 1. Not with "difference".
        rotate: R, of (B, heads, N, d) by position, in the numerator alone. Not with "difference".
        eps: of the quotient.
        minimum: m, a lower bound of the quotient's denominator; None for none.

    Returns:
        (B, heads, M, c), of the dtype of v.

    Raises:
        ValueError: an unknown feature map or normalization, or options that exclude each other.
    """
    _check(feature, normalization, augment_rank or rotate is not None, eps != 0 or minimum is not None)
    dtype = v.dtype
    with torch.autocast(v.device.type, enabled=False):
        exact = torch.promote_types(dtype, torch.float32)
        q, k = (FEATURES[feature](x.to(exact)) for x in (q, k))
        v = v.to(exact)
        if normalization == "difference":
            return _by_difference(q, k, v, scale).to(dtype)
        if augment_rank:
            scores = k @ q.mean(-2, keepdim=True).transpose(-2, -1)  # (B, heads, N, 1)
            k = k * (scores * k.shape[-1] ** -0.5).softmax(-2)
        total = None
        if normalization == "quotient":
            total = q @ k.sum(-2, keepdim=True).transpose(-2, -1)  # (B, heads, M, 1)
            total = total if minimum is None else total.clamp(min=minimum)
            total = total + eps if eps else total
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        y = q @ _scaled(k.transpose(-2, -1) @ v, scale)
        return (y if total is None else y / total).to(dtype)


def _by_difference(q: Tensor, k: Tensor, v: Tensor, scale: float | Tensor) -> Tensor:
    """What the mean value adds for each query is a matrix of rank one: it joins that of keys and values."""
    mean_k, mean_v = (x.mean(-2, keepdim=True) for x in (k, v))
    matrix = k.transpose(-2, -1) @ v / k.shape[-2] - mean_k.transpose(-2, -1) * mean_v  # (B, heads, d, c)
    return q @ _scaled(matrix, scale) + mean_v


def _scaled(matrix: Tensor, scale: float | Tensor) -> Tensor:
    return matrix if isinstance(scale, float) and scale == 1 else matrix * scale


def _check(feature: str, normalization: str, weighs_positions: bool, bounds: bool) -> None:
    if feature not in FEATURES:
        raise ValueError(f"feature must be one of {list(FEATURES)}, found {feature!r}")
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {list(NORMALIZATIONS)}, found {normalization!r}")
    if normalization == "difference" and weighs_positions:
        raise ValueError("normalization 'difference' excludes augment_rank and rotate")
    if normalization != "quotient" and bounds:
        raise ValueError(f"normalization {normalization!r} has no denominator for eps and minimum")

"""Attention without its matrix, where values are wider or narrower than queries and keys."""

from torch import Tensor
from torch.nn import functional as F


def padded_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, bias: Tensor | None = None
) -> Tensor:
    """``softmax(scale q k^T + bias) v``, by the kernels that hold no (N, M), which want one width.

    Channels of zeros complete the narrower ones: they add nothing to q k^T.

    Args:
        q: (B, heads, N, d).
        k: (B, heads, M, d).
        v: (B, heads, M, c).
        scale: of the products; by default d^-0.5.
        bias: (B or 1, heads, N, M), of the dtype of q; none by default.

    Returns:
        (B, heads, N, c).
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    width = max(q.shape[-1], v.shape[-1])
    padded = (F.pad(t, (0, width - t.shape[-1])) if t.shape[-1] < width else t for t in (q, k, v))
    return F.scaled_dot_product_attention(*padded, bias, scale=scale)[..., : v.shape[-1]]

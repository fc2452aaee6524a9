"""Attention whose tokens send: each gives its value out, instead of gathering those of others."""

from torch import Tensor

from .chunks import PAIRS, sum_chunks


def reversed_attention(q: Tensor, k: Tensor, v: Tensor, sent: Tensor, scale: float | None = None) -> Tensor:
    r"""Reversed attention, :math:`y_i = \sum_j s_j \, \mathrm{softmax}_i(c\, q_j \cdot k_i)\, v_j`.

    The softmax runs over receivers i, so sender j gives out s_j in all, and what a receiver gets is not
    normalised. Computed for some senders at a time: at most a quarter of the pairs is ever held, and the
    gradient computes them anew.

    Source: Ding et al., "Visual Dependency Transformers", CVPR 2023.

    Args:
        q: (B, heads, N, d), of senders.
        k: (B, heads, N, d), of receivers.
        v: (B, heads, N, c), of senders.
        sent: (B, heads, N), s.
        scale: c; by default d^-0.5.

    Returns:
        (B, heads, N, c), of the dtype of ``v``.

    Raises:
        ValueError: shapes that do not fit.
    """
    if q.shape != k.shape or q.ndim != 4 or v.shape[:-1] != q.shape[:-1] or sent.shape != q.shape[:-1]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (q, k, v, sent))
        raise ValueError(
            f"q, k, v and sent must be (B, heads, N, d), the same, (B, heads, N, c) and (B, heads, N), "
            f"found {shapes}"
        )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    given = (v * sent[..., None].to(v.dtype)).contiguous()
    q, k, count = (scale * q).contiguous(), k.contiguous(), q.shape[2]  # else each piece is copied

    def send(senders: slice) -> Tensor:
        weights = (q[:, :, senders] @ k.mT).softmax(-1)  # (B, heads, senders, N)
        return weights.to(given.dtype).mT @ given[:, :, senders]

    return sum_chunks(send, count, count, pairs=max(1, min(PAIRS, count**2 // 4)))

"""Lightning attention: causal linear attention with decay, chunk by chunk, of any length."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pointsuite.engine.backends import choose_backend

CHUNK = 64  # positions whose pairs are weighed; between chunks a matrix goes on
AT_ONCE = 4  # chunks: enough work for several threads, few enough for the caches


def lightning_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None = None,
    state: Tensor | None = None,
    *,
    chunk: int = CHUNK,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Causal linear attention with decay, without softmax, scale and denominator:

    .. math:: y_i = \sum_{j \le i} e^{-s (i - j)} (q_i \cdot k_j) \, v_j + e^{-s (i + 1)} S^\top q_i, \qquad
              S' = \sum_j e^{-s (n - 1 - j)} k_j v_j^\top + e^{-s n} S.

    S is what is left of the tokens before, S' what is left after these: parts of a sequence, one after
    another with the state handed on, give what the whole does, and a single token costs d * e whatever came
    before it. Pairs are weighed within chunks of T positions only: time O(n (T + d)(d + e)), memory O(n (d +
    e)). Sums run in float32 (float64 for float64), no exponent is positive. The gradient is three such scans,
    two of them backwards.

    Sources: Qin et al., "Various Lengths, Constant Speed: Efficient Language Modeling with Lightning
    Attention", ICML 2024, arXiv 2405.17381; "Lightning Attention-2", arXiv 2401.04658.

    Args:
        q, k: (B, heads, n, d).
        v: (B, heads, n, e).
        slopes: s, (heads,), not negative, without gradient; None for 0, a plain lower triangle.
        state: S, (B, heads, d, e), float32 (float64 for float64), as it was returned; None for zeros.
        chunk: T of the portable form.
        backend: "auto", "torch" (portable) or "triton" (CUDA).

    Returns:
        y, (B, heads, n, e), of the dtype of v, and S', (B, heads, d, e), float32 or float64.

    Raises:
        ValueError: shapes that do not fit, no position, slopes that are negative or not finite (asked on a
            CPU), an unknown backend.
        TypeError: dtypes that differ or are not floating.
    """
    _check(q, k, v, slopes, state, chunk)
    exact = torch.promote_types(q.dtype, torch.float32)
    heads, device = q.shape[1], q.device
    slopes = torch.zeros(heads, device=device) if slopes is None else slopes.detach().to(device)
    if state is None:
        state = q.new_zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=exact)
    chosen = choose_backend(backend, q, triton=q.dtype != torch.float64)
    with torch.autocast(device.type, enabled=False):
        return _Scan.apply(q, k, v, slopes.to(exact), state, chunk, chosen)


def head_slopes(heads: int) -> Tensor:
    """Slopes of decay of so many heads, (heads,) float32: 2^(-8 (i + 1) / heads) for powers of two.

    Otherwise those of the largest power of two p below, then every second of those of 2p from the first, as
    ALiBi has them (Press et al., "Train Short, Test Long", ICLR 2022, arXiv 2108.12409).
    """
    if heads < 1:
        raise ValueError(f"heads must be at least 1, found {heads}")
    power = 1 << (heads.bit_length() - 1)

    def geometric(count: int) -> list[float]:
        return [2.0 ** (-8 * (i + 1) / count) for i in range(count)]

    return torch.tensor([*geometric(power), *geometric(2 * power)[::2][: heads - power]])


class _Scan(torch.autograd.Function):
    """The scan and its gradient: with swapped roles, of queries forwards, of keys and values backwards."""

    @staticmethod
    def forward(ctx, q, k, v, slopes, state, chunk, backend):
        ctx.save_for_backward(q, k, v, slopes, state)
        ctx.run = run = _runner(backend, chunk)
        return run(q, k, v, slopes, state, False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, grad_state):
        q, k, v, slopes, state = ctx.saved_tensors
        wants_q, wants_k, wants_v, _, wants_state, *_ = ctx.needs_input_grad
        grad, grad_q, grad_k, grad_v, before = grad.contiguous(), None, None, None, None
        if wants_q:
            grad_q = ctx.run(grad, v, k, slopes, state.mT, False)[0]
        if wants_k:
            grad_k = ctx.run(v, grad, q, slopes, grad_state.mT, True)[0]
        if wants_v or wants_state:
            grad_v, before = ctx.run(k, q, grad, slopes, grad_state, True)
        return grad_q, grad_k, grad_v, None, before, None, None


def _runner(backend: str, chunk: int):
    if backend == "triton":
        from .triton.lightning_attention import scan

        return scan
    return lambda *args: scan_portably(*args, chunk)


def scan_portably(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor, reverse: bool, chunk: int
) -> tuple[Tensor, Tensor]:
    r""":func:`lightning_attention`, chunk by chunk; with ``reverse`` that of later positions,

    .. math:: y_i = \sum_{j \ge i} e^{-s (j - i)} (q_i \cdot k_j) \, v_j + e^{-s (n - 1 - i)} S^\top q_i,
              \qquad S' = \sum_j e^{-s (j + 1)} k_j v_j^\top + e^{-s n} S.
    """
    n, exact = q.shape[2], state.dtype
    size = min(chunk, n)
    place, slopes = torch.arange(size, device=q.device, dtype=exact)[:, None], slopes.view(-1, 1, 1, 1)
    pairs = torch.exp(-slopes * (place - place.T).abs())  # (heads, 1, T, T)
    pairs = pairs.triu() if reverse else pairs.tril()
    since_start = torch.exp(-slopes * (place + 1))  # (heads, 1, T, 1)
    to_end = torch.exp(-slopes * (size - 1 - place))
    y = v.new_empty(*q.shape[:3], v.shape[3])
    pieces = list(_pieces(n, size))
    for start, stop, length in reversed(pieces) if reverse else pieces:
        queries, keys, values = (
            x[:, :, start:stop].to(exact).unflatten(2, (-1, length)) for x in (q, k, v)
        )  # (B, heads, chunks, T, d)
        before, after = since_start[:, :, :length], to_end[:, :, size - length :]
        near, far = (after, before) if reverse else (before, after)
        added, carried = (keys * far).mT @ values, []
        for part in reversed(added.unbind(2)) if reverse else added.unbind(2):
            carried.append(state)
            state = state * before[:, 0, -1:] + part
        states = torch.stack(carried[::-1] if reverse else carried, 2)  # before each chunk, in its order
        weights = (queries @ keys.mT).mul_(pairs[:, :, :length, :length])
        y[:, :, start:stop] = (weights @ values).add_((queries * near) @ states).flatten(2, 3)
    return y, state


def _pieces(n: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Where a few chunks begin and end, and the length of each: the last one may be shorter."""
    whole = n // size * size
    for start in range(0, whole, AT_ONCE * size):
        yield start, min(start + AT_ONCE * size, whole), size
    if whole < n:
        yield whole, n, n - whole


def _check(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, state: Tensor | None, chunk: int) -> None:
    if q.ndim != 4 or k.shape != q.shape or v.ndim != 4 or v.shape[:3] != q.shape[:3]:
        found = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"q, k and v must be (B, heads, n, d), the same and (B, heads, n, e), found {found}")
    if not q.shape[2]:
        raise ValueError("n must be at least 1, found 0 positions")
    if not (q.dtype == k.dtype == v.dtype and q.is_floating_point()):
        raise TypeError(f"q, k and v must be floating, of one dtype, found {q.dtype}, {k.dtype}, {v.dtype}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, found {chunk}")
    if slopes is not None:
        if tuple(slopes.shape) != (q.shape[1],):
            raise ValueError(f"slopes must be ({q.shape[1]},), one a head, found {tuple(slopes.shape)}")
        if slopes.device.type == "cpu" and not bool(((slopes >= 0) & slopes.isfinite()).all()):
            raise ValueError(f"slopes must be finite and not negative, found {slopes.tolist()}")
    if state is not None:
        wanted = (*q.shape[:2], q.shape[3], v.shape[3])
        exact = torch.promote_types(q.dtype, torch.float32)
        if tuple(state.shape) != wanted or state.dtype != exact:
            found = f"{tuple(state.shape)} {state.dtype}"
            raise ValueError(f"state must be {wanted} {exact}, found {found}")

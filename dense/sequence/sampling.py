"""Choosing a token by its logits, and going on with it."""

from collections.abc import Iterator
from math import isfinite

import torch
from torch import Tensor

from .language_model import LanguageModel


def choose(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a token of each row, by softmax(logits / temperature).

    Args:
        logits: (B, V).
        temperature: above 0; 0 takes the most probable token, of several the first.
        top_k: draw from so many of the most probable ones; None from all.
        generator: of random numbers, on the CPU; None for PyTorch's own.

    Returns:
        (B,) int64, on the logits' device.

    Raises:
        ValueError: a temperature below 0 or not finite, ``top_k`` below 1, or logits that are not finite.
    """
    if not (isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature must be finite, from 0, found {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, found {top_k}")
    if not bool(logits.isfinite().all()):
        raise ValueError("found logits that are NaN or infinite, wanted finite ones")
    if temperature == 0:
        return logits.argmax(-1)
    scores = logits.detach().float().cpu()
    if top_k is not None and top_k < scores.shape[-1]:
        kept, places = scores.topk(top_k)
        scores = torch.full_like(scores, -torch.inf).scatter(-1, places, kept)
    scores = (scores - scores.amax(-1, keepdim=True)) / temperature
    return torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0].to(logits.device)


@torch.no_grad()
def speak(
    model: LanguageModel,
    prompt: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Tokens that follow a prompt, one by one, without end.

    Where positions end (``max_length``), the later half of what was seen is read anew from position 0.

    Args:
        model: in evaluation mode.
        prompt: (n,) ids, n from 1.
        temperature, top_k, generator: see :func:`choose`.

    Raises:
        ValueError: a prompt without tokens, with ids outside the vocabulary or longer than positions reach;
            and as :func:`choose`.
    """
    if prompt.ndim != 1 or not len(prompt):
        raise ValueError(f"a prompt must have at least one token, (n,), found {tuple(prompt.shape)}")
    if model.max_length is not None and len(prompt) > model.max_length:
        raise ValueError(f"the prompt has {len(prompt)} tokens, but positions reach only {model.max_length}")
    state, given = model.new_state(), prompt[None]
    seen = prompt.tolist() if model.max_length is not None else []  # where nothing ends, nothing is kept
    while True:
        logits, state = model(given, state=state)
        given = choose(logits[:, -1], temperature, top_k, generator)[:, None]
        token = int(given)
        yield token
        if model.max_length is not None:
            seen.append(token)
            if state.length == model.max_length:
                seen = seen[-max(1, model.max_length // 2) :]
                state, given = model.new_state(), torch.tensor([seen], device=given.device)

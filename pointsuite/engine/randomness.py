"""Seeds, the state of every global random generator as plain data, and the random numbers of a sample."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.runner import set_random_seed


def seed_everything(seed: int | None, deterministic: bool = False, diff_rank_seed: bool = False) -> int:
    """Seed Python, NumPy and PyTorch; returns the seed (a drawn one, equal on all ranks, for None).

    Args:
        deterministic: use deterministic algorithms only; PyTorch raises where an operation has none.
        diff_rank_seed: add the rank, so that processes draw different numbers.
    """
    if deterministic:  # cuBLAS reads it when its first handle is made
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return set_random_seed(seed, deterministic, diff_rank_seed)


def get_random_state() -> dict[str, Any]:
    """The states of the generators of Python, NumPy and PyTorch (CPU and, if there is one, this GPU)."""
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    state = {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Go back to what :func:`get_random_state` returned."""
    random.setstate(state["python"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


# --------------------------------------------------------------------------------------------- of a sample

_draw: list[int] | None = None  # pass, index, turn and uses of the sample that this process is making


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """The global generators of Python, NumPy and PyTorch (CPU) start at ``key`` within, and are after it as
    they were before.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)  # not that of GPUs, which workers must not touch
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


@contextmanager
def drawing(seed: int, number: int, index: int, turn: int = 0) -> Iterator[None]:
    """Within, this process makes one sample of a data set, and all its random numbers follow from the four.

    Whatever makes it may draw from the global generators; data sets that have a seed of their own ask for
    :func:`draw_key`.

    Args:
        seed: of the run.
        number: of the pass over the data, from 0.
        index: of the sample in the outermost data set.
        turn: how many samples of this index come before it in the pass.
    """
    global _draw
    before, _draw = _draw, [number, index, turn, 0]
    try:
        with seeded(seed, number, index, turn):
            yield
    finally:
        _draw = before


def draw_key(index: int, fixed: bool = False) -> tuple[int, ...]:
    """What, with the seed of a data set, the random numbers of its sample ``index`` follow from.

    Within :func:`drawing` that is (pass, index in the outermost data set, turn); a transform that takes more
    samples of a data set into one gets another key for each. Outside, or if ``fixed``, as for tests: pass 0.
    """
    if _draw is None or fixed:
        return 0, index, 0
    *key, uses = _draw
    _draw[3] += 1
    return (*key, uses) if uses else tuple(key)

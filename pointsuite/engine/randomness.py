"""Seeds, and the state of every global random generator as plain data."""

import os
import random
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

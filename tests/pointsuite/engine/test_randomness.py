import random

import numpy as np
import torch

from pointsuite.engine.checkpoint import load_checkpoint, save_checkpoint
from pointsuite.engine.randomness import get_random_state, seed_everything, set_random_state


def draw():
    return random.gauss(0, 1), np.random.normal(size=3).tolist(), torch.randn(3).tolist()  # noqa: NPY002


def test_state_survives_a_file(tmp_path):
    draw()  # leaves a second gaussian in the cache of Python and NumPy
    save_checkpoint(get_random_state(), tmp_path / "state.pth")
    expected = draw()
    assert draw() != expected
    set_random_state(load_checkpoint(tmp_path / "state.pth"))
    assert draw() == expected


def test_seed():
    assert seed_everything(3) == 3
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert draw() != first


def test_deterministic():
    try:
        seed_everything(0, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)

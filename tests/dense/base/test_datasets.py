"""Random numbers of samples."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dense.base.datasets import seeded
from dense.classification.datasets import ImageFolder
from tests.dense.classification.toy import write_images


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "train", count=2)
    return tmp_path


def draw(sample):
    numbers = (random.random(), np.random.random())  # noqa: NPY002
    return {"index": sample["sample_idx"], "drawn": torch.tensor(numbers, dtype=torch.float64)}


def drawn(dataset, **kwargs):
    found = [batch["drawn"] for batch in DataLoader(dataset, **kwargs)]
    return torch.cat(found)


def test_random_numbers_depend_on_seed_epoch_and_index_alone(folder):
    dataset = ImageFolder(folder, "train", pipeline=[draw], seed=3)
    first = drawn(dataset)
    assert len(first.unique()) == 12  # all differ
    random.seed(9)
    loader = DataLoader(dataset, batch_size=4, num_workers=1, persistent_workers=True)
    assert torch.cat([batch["drawn"] for batch in loader]).equal(first)
    assert dataset[-1]["drawn"].equal(first[-1])
    dataset.set_epoch(1)
    second = torch.cat([batch["drawn"] for batch in loader])  # the worker is the one of before
    assert not (second == first).any()
    assert drawn(dataset).equal(second)
    assert not (drawn(ImageFolder(folder, "train", pipeline=[draw], seed=4)) == first).any()
    fixed = ImageFolder(folder, "train", pipeline=[draw], seed=3, test_mode=True)
    fixed.set_epoch(1)
    assert drawn(fixed).equal(first)


def test_seeding_leaves_the_generators_as_they_were():
    def numbers():
        return random.random(), np.random.random()  # noqa: NPY002

    random.seed(0), np.random.seed(0)  # noqa: NPY002
    wanted = numbers(), numbers()
    random.seed(0), np.random.seed(0)  # noqa: NPY002
    first = numbers()
    with pytest.raises(KeyError), seeded(1, 2):
        numbers()
        raise KeyError
    assert (first, numbers()) == wanted

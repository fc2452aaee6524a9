"""Random numbers of samples."""

import random

import numpy as np
import pytest
import torch
from mmengine.dataset import ClassBalancedDataset
from torch.utils.data import DataLoader

from dense.classification.datasets import ImageFolder
from pointsuite.engine.errors import UsageError
from pointsuite.engine.loader import Loader
from pointsuite.engine.randomness import seeded
from pointsuite.engine.runner import Runner
from pointsuite.engine.runner.loops import EndlessBatches
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


def test_random_numbers_depend_on_seed_pass_and_index_alone(folder):
    dataset = ImageFolder(folder, "train", pipeline=[draw], seed=3)
    first = drawn(dataset)
    assert len(first.unique()) == 12  # all differ
    random.seed(9)
    loader = Loader(dataset, batch_size=4, num_workers=1, persistent_workers=True)
    assert torch.cat([batch["drawn"] for batch in loader]).equal(first)
    assert dataset[-1]["drawn"].equal(first[-1])
    loader.start(1)
    second = torch.cat([batch["drawn"] for batch in loader])  # the worker is the one of before
    assert not (second == first).any()
    assert not (drawn(ImageFolder(folder, "train", pipeline=[draw], seed=4)) == first).any()
    fixed = ImageFolder(folder, "train", pipeline=[draw], seed=3, test_mode=True)
    loader = Loader(fixed, batch_size=4)
    loader.start(1)
    assert torch.cat([batch["drawn"] for batch in loader]).equal(first)


def test_24_samples_are_24_draws_under_the_wrappers_of_mmengine(folder):
    common = {"data_root": str(folder), "pipeline": [draw], "serialize_data": False}
    images = {"type": "dense.ImageFolder", "split": "train", **common}
    pairs = {"type": "dense.RestorationDataset", "gt": "train", **common}
    balanced = {"type": "ClassBalancedDataset", "oversample_thr": 1.0, "dataset": images}
    for parts in ([images], [pairs], [pairs, pairs], [balanced, images]):
        joined = {"type": "ConcatDataset", "datasets": parts}
        for dataset in (joined, {"type": "RepeatDataset", "times": 2, "dataset": joined}):
            for sampler in ("DefaultSampler", "InfiniteSampler"):
                config = {"dataset": dataset, "sampler": {"type": sampler}, "batch_size": 2}
                loader = Runner.build_dataloader(config, seed=0)
                loader.counts_passes = True
                batches = EndlessBatches(loader)
                numbers = torch.stack([row for _ in range(12) for row in next(batches)["drawn"]])
                assert [len(column.unique()) for column in numbers.T] == [24, 24]
    with pytest.raises(UsageError, match="RestorationDataset: its samples have no classes"):
        ClassBalancedDataset(pairs, 1.0)


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

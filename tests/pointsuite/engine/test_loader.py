"""Random numbers of samples follow from seed, pass, index and turn under every loop, sampler and wrapper."""

from itertools import islice

import pytest
import torch
from mmengine.dataset import sampler as mmengine_samplers
from mmengine.hooks import Hook
from torch.utils.data import RandomSampler, Subset

from pointsuite.engine import loader
from pointsuite.engine.runner import Runner
from pointsuite.engine.runner.hooks import TrainingInterrupted
from pointsuite.engine.runner.loops import EndlessBatches

from .test_runner import Stop
from .toy import ToyItems, make_config

ITEMS = {"type": "ToyItems"}
BALANCED = {"type": "ClassBalancedDataset", "oversample_thr": 1.0, "dataset": ITEMS}
NESTED = {
    "type": "RepeatDataset",
    "times": 2,
    "dataset": {"type": "ConcatDataset", "datasets": [BALANCED, ITEMS]},
}
DATASETS = {
    "bare": ITEMS,
    "repeated": {"type": "RepeatDataset", "times": 3, "dataset": ITEMS},
    "balanced": BALANCED,
    "joined": {"type": "ConcatDataset", "datasets": [ITEMS, ITEMS]},
    "nested": NESTED,
}
SAMPLERS = {
    "default": {"type": "DefaultSampler", "shuffle": True},
    "infinite": {"type": "InfiniteSampler", "shuffle": True},
}


def build(dataset, sampler="default", seed=0, **options):
    config = {
        "dataset": dataset,
        "sampler": SAMPLERS[sampler] if isinstance(sampler, str) else sampler,
        "batch_size": 2,
        "num_workers": 0,
    }
    built = Runner.build_dataloader({**config, **options}, seed=seed)
    built.counts_passes = True
    return built


def take(batches, count):
    return torch.stack([row for batch in islice(batches, count) for row in batch["inputs"]])


def assert_distinct(numbers, count=24):
    """All numbers of all three generators."""
    assert numbers.shape == (count, 4)
    assert [len(column.unique()) for column in numbers.T[:3]] == [count] * 3


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_24_samples_are_24_draws(dataset, sampler):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    seen = take(EndlessBatches(build(DATASETS[dataset], sampler)), 12)
    assert_distinct(seen)
    assert torch.get_rng_state().equal(before)  # data leave the model's generator alone
    assert take(EndlessBatches(build(DATASETS[dataset], sampler)), 12).equal(seen)
    other = take(EndlessBatches(build(DATASETS[dataset], sampler, seed=1)), 12)
    assert not set(other[:, 0].tolist()) & set(seen[:, 0].tolist())
    for skipped in (1, 3, 7):
        batches = EndlessBatches(build(DATASETS[dataset], sampler))
        batches.skip_iter(skipped)
        assert take(batches, 12 - skipped).equal(seen[2 * skipped :])


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_draw_what_one_process_draws(persistent):
    seen = take(EndlessBatches(build(NESTED)), 24)
    workers = build(NESTED, num_workers=2, persistent_workers=persistent)
    assert take(EndlessBatches(workers), 24).equal(seen)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("size", [4, 3])  # of 3, the first is drawn twice to fill the batches
def test_two_processes_draw_different_numbers(monkeypatch, sampler, size):
    seen = []
    for rank in range(2):
        for module in (loader, mmengine_samplers):
            monkeypatch.setattr(module, "get_dist_info", lambda rank=rank: (rank, 2))
        seen.append(take(EndlessBatches(build({**ITEMS, "count": size}, sampler, batch_size=1)), 12))
    assert_distinct(torch.cat(seen))
    if size == 4:  # together they are one process
        monkeypatch.undo()
        alone = take(EndlessBatches(build(ITEMS, sampler)), 12)
        assert set(torch.cat(seen)[:, 0].tolist()) == set(alone[:, 0].tolist())


def test_other_samplers_and_data_sets():
    items = ToyItems()
    for sampler in (RandomSampler(items, replacement=True, num_samples=24), [torch.tensor(1)] * 24):
        assert_distinct(take(build(items, sampler), 12))
    assert_distinct(take(EndlessBatches(build(Subset(items, [2, 2, 0, 1]))), 12))


def test_validation_is_the_same_each_time():
    found = Runner.build_dataloader(
        {"dataset": ITEMS, "sampler": SAMPLERS["default"], "batch_size": 2}, seed=0
    )
    assert take(found, 2).equal(take(found, 2))


class Record(Hook):
    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen += [row.tolist() for row in data_batch["inputs"]]


def run(work_dir, stop=None, **options):
    """What a run sees; it is interrupted at the iteration `stop`."""
    runner = Runner.from_cfg(make_config(work_dir, **options))
    record = Record()
    runner.register_hook(record)
    if stop is None:
        runner.train()
    else:
        runner.register_hook(Stop(stop, "train"))
        with pytest.raises(TrainingInterrupted):
            runner.train()
    return record.seen


@pytest.mark.parametrize(
    ("loop", "sampler", "stop"),
    [("epoch", "default", 4), ("epoch", "default", 5), ("iter", "default", 7), ("iter", "infinite", 7)],
)
def test_a_run_sees_as_many_draws_as_samples_and_goes_on_with_them(tmp_path, loop, sampler, stop):
    options = {
        "train_dataloader.dataset": {"_delete_": True, **NESTED},  # of 22 samples
        "train_dataloader.sampler": SAMPLERS[sampler],
        "train_dataloader.drop_last": True,
        "train_dataloader.batch_size": 5,
        "model": {"type": "ToyModel", "plain": True},
    }
    if loop == "iter":
        options["train_cfg"] = {"_delete_": True, "by_epoch": False, "max_iters": 12, "val_interval": 5}
        options["default_hooks.checkpoint"] = {"type": "CheckpointHook", "by_epoch": False, "interval": 12}
    whole = run(tmp_path / "whole", **options)
    assert len({tuple(row) for row in whole}) == len(whole) == 60
    options["train_dataloader.num_workers"] = 1
    options["train_dataloader.persistent_workers"] = True
    first = run(tmp_path / "broken", stop, **options)
    assert first == whole[: 5 * stop]
    assert first + run(tmp_path / "broken", resume=True, **options) == whole

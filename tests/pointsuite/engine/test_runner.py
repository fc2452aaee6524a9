import os
import shutil
import signal

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader
from torch import nn

from pointsuite.engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from pointsuite.engine.errors import UsageError
from pointsuite.engine.runner import Runner
from pointsuite.engine.runner.hooks import TrainingInterrupted

from .toy import ToyDataset, make_config

BY_ITERATION = {
    "train_cfg": {"_delete_": True, "by_epoch": False, "max_iters": 15, "val_interval": 5},
    "default_hooks.checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 5},
    "train_dataloader.sampler": {"type": "InfiniteSampler", "shuffle": True},
    "log_processor.by_epoch": False,
}
KINDS = {
    "epoch": {},
    "iter": BY_ITERATION,
    "noise": {"train_dataloader.dataset.noise": 0.1},
    "ema": {"custom_hooks": [{"type": "EMAHook", "momentum": 0.1}]},
    "accumulate": {"optim_wrapper.accumulative_counts": 3},  # an epoch ends between two steps
    "amp": {"optim_wrapper.type": "AmpOptimWrapper"},
}


class Stop(Hook):
    """Sends Ctrl-C at one iteration of training, or in the validation after it."""

    def __init__(self, iteration, stage):
        self.iteration, self.stage = iteration, stage

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.stage == "train" and runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGINT)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if self.stage == "val" and runner.iter == self.iteration and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGINT)


def same(a, b):
    """Whether two nested values are equal, tensors bit by bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.equal(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_run(first, second):
    """The checkpoints hold the same weights (averaged ones, too), optimiser, gradients, schedulers, random
    states and history of the loss."""
    first, second = load_checkpoint(first), load_checkpoint(second)
    for key in first.keys() - {"meta", "message_hub"}:
        assert same(first[key], second[key]), key
    for key in ("train/loss", "train/lr"):
        assert same(*(checkpoint["message_hub"]["log_scalars"][key] for checkpoint in (first, second))), key


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folders of whole runs, by kind."""
    folders = {}
    for name, options in KINDS.items():
        folders[name] = tmp_path_factory.mktemp(name)
        cfg = make_config(folders[name], **options)
        cfg.default_hooks.checkpoint.max_keep_ckpts = -1
        Runner.from_cfg(cfg).train()
    return folders


def test_checkpoints_hold_what_resuming_needs(unbroken):
    checkpoint = load_checkpoint(unbroken["epoch"] / "epoch_2.pth")
    assert checkpoint["meta"]["epoch"] == 2 and checkpoint["meta"]["iter"] == 10
    assert checkpoint["meta"]["dataset_meta"] == {"classes": ("even", "odd")}
    assert len(checkpoint["message_hub"]["log_scalars"]["train/loss"]["history"]) == 10
    assert "network.0.weight" in checkpoint["state_dict"]


@pytest.mark.parametrize(
    "kind, first, last",
    [
        ("epoch", "epoch_1", "epoch_3"),
        ("iter", "iter_5", "iter_15"),
        ("ema", "epoch_1", "epoch_3"),
        ("accumulate", "epoch_1", "epoch_3"),
        ("amp", "epoch_2", "epoch_3"),
    ],
)
def test_resumed_run_equals_unbroken_run(tmp_path, unbroken, kind, first, last):
    options = {"resume": True, "load_from": str(unbroken[kind] / f"{first}.pth")}
    Runner.from_cfg(make_config(tmp_path, **options, **KINDS[kind])).train()
    assert_same_run(unbroken[kind] / f"{last}.pth", tmp_path / f"{last}.pth")


@pytest.mark.parametrize(
    "kind, stage, iteration, more",
    [
        ("epoch", "train", 2, {}),
        ("epoch", "train", 8, {"train_dataloader.num_workers": 1}),
        ("epoch", "train", 10, {}),
        ("epoch", "val", 5, {}),
        ("noise", "train", 8, {}),
        ("iter", "train", 8, {}),
        ("ema", "train", 8, {}),
        ("ema", "val", 5, {}),
        ("accumulate", "train", 4, {}),
    ],
)
def test_interrupted_run_resumes_to_the_unbroken_one(tmp_path, unbroken, kind, stage, iteration, more):
    options = {**KINDS[kind], **more}
    runner = Runner.from_cfg(make_config(tmp_path, **options))
    runner.register_hook(Stop(iteration, stage))
    with pytest.raises(TrainingInterrupted) as error:
        runner.train()
    assert f"--resume continues after iteration {iteration} of 15" in str(error.value)
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "interrupted.pth")
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    shutil.move(tmp_path, moved)

    Runner.from_cfg(make_config(moved, resume=True, **options)).train()
    last = "iter_15.pth" if kind == "iter" else "epoch_3.pth"
    assert_same_run(unbroken[kind] / last, moved / last)
    assert not (moved / "interrupted.pth").exists()


def test_checkpoint_holds_averaged_weights_and_waiting_gradients(unbroken):
    ema, plain = (load_checkpoint(unbroken[kind] / "epoch_3.pth") for kind in ("ema", "epoch"))
    averaged, own = (ema[key] for key in ("state_dict", "ema_state_dict"))
    assert averaged.keys() == {key.removeprefix("module.") for key in own} - {"steps"}
    assert own["module.network.0.weight"].equal(plain["state_dict"]["network.0.weight"])
    assert not averaged["network.0.weight"].equal(own["module.network.0.weight"])
    assert not plain["gradients"]
    first = load_checkpoint(unbroken["accumulate"] / "epoch_1.pth")
    assert first["gradients"]["network.0.weight"].abs().max() > 0


def test_accumulated_gradients_equal_the_large_batch(tmp_path):
    """Dropout and batch norm see single batches, so the network has neither."""
    states = []
    for batch_size, counts in ((6, 1), (3, 2)):
        options = {"train_dataloader.batch_size": batch_size, "optim_wrapper.accumulative_counts": counts}
        options |= {"param_scheduler": None, "model": {"type": "ToyModel", "plain": True}}
        Runner.from_cfg(make_config(tmp_path / str(counts), **options)).train()
        states.append(load_checkpoint(tmp_path / str(counts) / "epoch_3.pth")["state_dict"])
    torch.testing.assert_close(*states)


def test_resume_says_what_is_wrong(tmp_path, unbroken, caplog):
    def resume(path, **options):
        cfg = make_config(tmp_path, resume=True, load_from=str(path), **options)
        Runner.from_cfg(cfg).train()

    checkpoint = load_checkpoint(unbroken["epoch"] / "epoch_2.pth")
    save_checkpoint(checkpoint["state_dict"], tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"has no meta, message_hub, random_states, optimizer"):
        resume(tmp_path / "weights.pth")
    checkpoint["meta"].update(batch=3, epoch_length=9)
    save_checkpoint(checkpoint, tmp_path / "within.pth")
    with pytest.raises(CheckpointError, match="saved after batch 3 of 9 of an epoch, which has 5 now"):
        resume(tmp_path / "within.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        resume(tmp_path / "missing.pth")


def test_weights_load_strictly(tmp_path):
    save_checkpoint({"state_dict": nn.Linear(2, 2).state_dict()}, tmp_path / "a.pth")
    runner = Runner.from_cfg(make_config(tmp_path, load_from=str(tmp_path / "a.pth")))
    with pytest.raises(
        CheckpointError, match=r"a\.pth does not fit ToyModel: .* missing: network\.0\.weight"
    ):
        runner.test()


def test_what_mmengine_loads_itself_is_read_as_safely(tmp_path):
    torch.save({"state_dict": {}, "hook": Stop}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"holds .*test_runner\.Stop"):
        CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"))
    with pytest.raises(CheckpointError, match="wanted URL#sha256"):
        CheckpointLoader.load_checkpoint("https://example.org/a.pth")


def test_metrics_that_are_not_plain_do_not_stop_a_run(tmp_path):
    runner = Runner.from_cfg(make_config(tmp_path))
    runner.message_hub.update_info("val/figure", Stop(1, "val"))
    runner.train()
    assert "val/figure" not in load_checkpoint(tmp_path / "epoch_3.pth")["message_hub"]["runtime_info"]


def test_hooks_can_be_left_out(tmp_path):
    cfg = make_config(tmp_path, default_scope="mmengine")
    cfg.default_hooks.update(
        progress_bar=None, checkpoint={"type": "CheckpointHook", "interval": 2}, timer=None
    )
    hooks = {type(hook).__module__ + "." + type(hook).__name__ for hook in Runner.from_cfg(cfg).hooks}
    assert "pointsuite.engine.runner.hooks.CheckpointHook" in hooks
    assert "mmengine.hooks.checkpoint_hook.CheckpointHook" not in hooks
    assert not any(name.endswith(("ProgressBarHook", "IterTimerHook")) for name in hooks)


def test_runs_of_one_second_share_nothing(tmp_path, monkeypatch):
    """MMEngine names logger, messages and visualizer after config and second."""
    monkeypatch.setattr("time.time", lambda: 1.7e9)
    runs = [Runner.from_cfg(make_config(tmp_path / name)) for name in "abc"]
    assert len({run.experiment_name for run in runs}) == len({run.timestamp for run in runs}) == len(runs)
    for what in ("message_hub", "logger", "visualizer"):
        assert len({id(getattr(run, what)) for run in runs}) == len(runs), what


def test_a_loader_without_batches_is_an_error(tmp_path):
    """18 samples in batches of 32 of which incomplete ones are left out; no samples at all."""
    few = {"train_dataloader.batch_size": 32, "train_dataloader.drop_last": True}
    for kind in ({}, {"train_cfg": BY_ITERATION["train_cfg"]}):
        with pytest.raises(
            UsageError,
            match="toy.py: train_dataloader: the data set ToyDataset has 18 samples, fewer.*32, .*drop_last",
        ):
            Runner.from_cfg(make_config(tmp_path, **few, **kind)).train()
    endless = {**BY_ITERATION, **few}  # an endless sampler fills the batch
    assert len(Runner.from_cfg(make_config(tmp_path, **endless)).build_dataloader(
        make_config(tmp_path, **endless).train_dataloader).dataset) == 18  # fmt: skip


def test_an_empty_data_set_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(ToyDataset, "__len__", lambda self: 0)
    for kind in ({}, BY_ITERATION):
        with pytest.raises(UsageError, match="toy.py: train_dataloader: the data set ToyDataset is empty"):
            Runner.from_cfg(make_config(tmp_path, **kind)).train()


def test_an_empty_loader_of_validation_is_named_by_its_key(tmp_path):
    few = {"val_dataloader.batch_size": 32, "val_dataloader.drop_last": True}
    with pytest.raises(UsageError, match="toy.py: val_dataloader: the data set ToyDataset has 18 samples"):
        Runner.from_cfg(make_config(tmp_path, **few)).train()


@pytest.mark.parametrize(("size", "which"), [(17, "the last batch of an epoch"), (1, "every batch")])
def test_a_batch_of_one_under_batch_norm_stops_before_training(tmp_path, size, which):
    runner = Runner.from_cfg(make_config(tmp_path, **{"train_dataloader.batch_size": size}))
    with pytest.raises(
        UsageError,
        match=f"toy.py: train_dataloader: {which} has one sample .18 samples.*network.1.*drop_last=True",
    ):
        runner.train()
    assert runner.iter == 0 and not list(tmp_path.glob("*.pth"))


def test_a_batch_of_one_without_batch_norm_or_left_out_trains(tmp_path):
    for i, more in enumerate(
        ({"model": {"type": "ToyModel", "plain": True}}, {"train_dataloader.drop_last": True})
    ):
        options = {"train_dataloader.batch_size": 17, "train_cfg.max_epochs": 1, **more}
        Runner.from_cfg(make_config(tmp_path / str(i), **options)).train()
        assert (tmp_path / str(i) / "epoch_1.pth").exists()


def resume(tmp_path, path, **options):
    runner = Runner.from_cfg(make_config(tmp_path, resume=True, load_from=path and str(path), **options))
    runner.train()
    return runner


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"optim_wrapper.optimizer": {"_delete_": True, "type": "SGD", "lr": 0.1}},
            "found 'AdamW', .* 'SGD'",
        ),
        ({"param_scheduler": [{"type": "StepLR", "step_size": 2}]}, "its param_schedulers does not fit"),
        (
            {"optim_wrapper.paramwise_cfg": {"custom_keys": {"network.0": {"lr_mult": 0.1}}}},
            "its optimizer does not fit",
        ),
        ({"train_dataloader.batch_size": 6}, "its epochs had 5 iterations, and these have 3"),
    ],
)
def test_resuming_another_run_is_refused(tmp_path, unbroken, options, message):
    with pytest.raises(CheckpointError, match=message):
        resume(tmp_path, unbroken["epoch"] / "epoch_1.pth", **options)


def test_resuming_with_damaged_parts_is_refused(tmp_path, unbroken):
    whole = load_checkpoint(unbroken["epoch"] / "epoch_1.pth")
    for part, value, message in (
        ("meta", {**whole["meta"], "iter": "5"}, "meta: iter: found '5', wanted a whole number"),
        ("meta", {**whole["meta"], "dataset_length": 20}, "had 20 samples, and this one has 18"),
        ("meta", {**whole["meta"], "iter": 7}, "meta: iter: found 7, wanted 5: 1 epochs of 5 iterations"),
        ("meta", {**whole["meta"], "epoch": 2}, "meta: iter: found 5, wanted 10: 2 epochs of 5 iterations"),
        ("message_hub", {}, "its message_hub does not fit"),
        ("random_states", [], "its random_states does not fit"),
        ("optimizer", {"state": {}}, "its optimizer does not fit"),
    ):
        save_checkpoint({**whole, part: value}, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match=message):
            resume(tmp_path, tmp_path / "a.pth")


def spoil(value, number):
    """A copy of nested values whose first weights hold the number."""
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim:
        value = value.clone()
        value.view(-1)[-1] = number
    elif isinstance(value, dict):
        for key, item in value.items():
            if not same(changed := spoil(item, number), item):
                return {**value, key: changed}
    return value


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("kind", "part", "named"),
    [
        ("epoch", "optimizer", r"optimizer\.state\.0\.exp_avg"),
        ("accumulate", "gradients", r"gradients\.network\.0\.weight"),
        ("ema", "ema_state_dict", r"ema_state_dict: module\.network\.0\.weight"),
        ("epoch", "message_hub", r"message_hub: train/loss\.history"),
    ],
)
def test_resuming_with_numbers_that_are_none_is_refused(tmp_path, unbroken, kind, part, named, number):
    whole = load_checkpoint(unbroken[kind] / "epoch_1.pth")
    if part == "message_hub":
        hub = whole[part]
        loss = {"train/loss": spoil(hub["log_scalars"]["train/loss"], number)}
        whole[part] = {**hub, "log_scalars": {**hub["log_scalars"], **loss}}
    else:
        whole[part] = spoil(whole[part], number)
    save_checkpoint(whole, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"a\.pth: {named}.*: found (NaN|infinity), wanted"):
        resume(tmp_path, tmp_path / "a.pth", **KINDS[kind])


def test_resuming_after_the_data_changed_is_refused(tmp_path):
    """As many samples, others in them."""
    (tmp_path / "a.json").write_text("[1, 0, 0, 0]")
    options = {
        "train_dataloader.dataset": {
            "_delete_": True,
            "type": "RepeatDataset",
            "times": 2,
            "dataset": {"type": "ToyItems", "ann_file": str(tmp_path / "a.json")},
        },
        "model": {"type": "ToyModel", "plain": True},
        "train_cfg.max_epochs": 1,
    }
    Runner.from_cfg(make_config(tmp_path, **options)).train()
    options["train_cfg.max_epochs"] = 2
    (tmp_path / "a.json").write_text("[0, 1, 0, 0]")
    with pytest.raises(CheckpointError, match="epoch_1.pth: the data have changed since: ToyItems a.json"):
        resume(tmp_path, None, **options)
    (tmp_path / "a.json").write_text("[1, 0, 0, 0]")
    resume(tmp_path, None, **options)
    assert (tmp_path / "epoch_2.pth").exists()


def test_a_change_of_processes_moves_the_iterations(tmp_path, unbroken):
    """An epoch of two processes has half as many: a run that went on alone goes on again."""
    whole = load_checkpoint(unbroken["epoch"] / "epoch_1.pth")
    whole["meta"].update(world_size=2, epoch_length=3, iter=3)
    save_checkpoint(whole, tmp_path / "a.pth")
    resume(tmp_path, tmp_path / "a.pth", **{"train_cfg.max_epochs": 2})
    meta = load_checkpoint(tmp_path / "epoch_2.pth")["meta"]
    assert (meta["iter"], meta["iter_offset"]) == (8, -2)
    resume(tmp_path, None)
    assert load_checkpoint(tmp_path / "epoch_3.pth")["meta"]["iter"] == 13


def test_a_changed_schedule_is_named_and_taken_on_request(tmp_path, unbroken):
    changed = {"param_scheduler.0.T_max": 30, "optim_wrapper.optimizer.lr": 0.5, "train_cfg.max_epochs": 4}
    path = unbroken["epoch"] / "epoch_2.pth"
    (tmp_path / "old").mkdir()
    old = resume(tmp_path / "old", path, **changed)
    said = next((tmp_path / "old").glob("*/*.log")).read_text()
    assert "optim_wrapper.optimizer.lr 0.01 -> 0.5, param_scheduler.0.T_max 15 -> 30; --new-schedule" in said
    assert "takes from the config what has changed: train_cfg.max_epochs 3 -> 4" in said
    (tmp_path / "new").mkdir()
    new = resume(tmp_path / "new", path, new_schedule=True, **changed)
    (tmp_path / "whole").mkdir()
    whole = Runner.from_cfg(make_config(tmp_path / "whole", **changed))
    whole.train()
    rates = [runner.optim_wrapper.get_lr()["lr"][0] for runner in (old, new, whole)]
    assert rates[1] == pytest.approx(rates[2]) and rates[0] < 0.01


def test_resuming_without_a_pointer_does_not_overwrite(tmp_path, unbroken):
    shutil.copy(unbroken["epoch"] / "epoch_2.pth", tmp_path)
    with pytest.raises(CheckpointError, match=r"found epoch_2\.pth but no last_checkpoint: .*overwrite"):
        resume(tmp_path, None)


def test_a_dumped_config_with_weights_of_classes_loads_again(tmp_path):
    cfg = make_config(tmp_path, **{"model.nan_at": None})
    cfg.weights = {"of": torch.tensor([1.0, 5.0])}
    runner = Runner.from_cfg(cfg)
    runner.cfg.dump(tmp_path / "dumped.py")
    assert type(cfg).fromfile(tmp_path / "dumped.py").weights["of"] == [1.0, 5.0]

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import HOOKS
from mmengine.visualization import Visualizer

from pointsuite.engine import comparison
from pointsuite.engine.comparison import (
    Comparison,
    Run,
    collect_curves,
    format_curves,
    format_runs,
    read_runs,
    run_comparison,
    write_runs,
)
from pointsuite.engine.errors import UsageError

from .toy import write_config

OPTIONS = {"visualizer": None, "train_cfg.max_epochs": 2, "default_hooks.checkpoint.interval": 1}


class Killed(Exception):
    """Stands for the end of the process."""


@HOOKS.register_module(force=True)
class KillHook(Hook):
    """Ends a run after an iteration of training, or at the first batch of the validation after it."""

    priority = "VERY_HIGH"
    at, validating = None, False

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at and not self.validating:
            raise Killed

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at and self.validating:
            raise Killed


@pytest.fixture
def kill(monkeypatch):
    """Lets runs be killed after an iteration; None lets them live."""

    def after(iteration, validating=False):
        monkeypatch.setattr(KillHook, "at", iteration)
        monkeypatch.setattr(KillHook, "validating", validating)
        # another process would know nothing of the run
        for kind in (MessageHub, MMLogger, Visualizer):
            kind._instance_dict.clear()

    return after


@pytest.fixture
def config(tmp_path):
    path = write_config(tmp_path / "configs")
    with path.open("a") as file:
        file.write('custom_hooks = [dict(type="KillHook")]\n')
    return path


def compare(config, folder, seeds=(0,), options=OPTIONS):
    return run_comparison(Comparison(), [config], seeds, folder / "runs.json", folder / "work", options)


def results(run):
    return run.metrics, run.curves, run.parameters


@pytest.mark.parametrize("iteration, validating", [(3, False), (8, False), (5, True), (10, True)])
def test_a_killed_run_continues_to_the_same_results(config, tmp_path, kill, iteration, validating):
    (whole,) = compare(config, tmp_path / "whole")
    assert [step for step, _ in whole.curves["toy/accuracy"]] == [5, 10]
    kill(iteration, validating)
    with pytest.raises(Killed):
        compare(config, tmp_path / "parts")
    assert not (tmp_path / "parts/runs.json").exists()
    kill(None)
    (parts,) = compare(config, tmp_path / "parts")
    assert results(parts) == results(whole)
    assert len(list((tmp_path / "parts/work").iterdir())) == 1
    assert parts.train_seconds > 0 and parts.environment["threads"] >= 1


def test_finished_runs_are_kept_at_once_and_not_repeated(config, tmp_path, monkeypatch, kill):
    out = tmp_path / "runs.json"
    first = compare(config, tmp_path)
    trained = []
    train = comparison._train_and_test

    def count(*args):
        trained.append(args[1].seed)
        if trained[-1] == 2:
            assert [run.seed for run in read_runs(out)] == [0, 1]  # those before it are in the file
            raise Killed
        return train(*args)

    monkeypatch.setattr(comparison, "_train_and_test", count)
    with pytest.raises(Killed):
        compare(config, tmp_path, seeds=(0, 1, 2))
    assert trained == [1, 2] and read_runs(out)[0] == first[0]
    assert compare(config, tmp_path, seeds=(1,)) == read_runs(out)[1:]
    # where the data lie is no other run; another schedule is
    compare(config, tmp_path, options={**OPTIONS, "model.plain": True}, seeds=(5,))
    assert trained == [1, 2, 5] and read_runs(out)[-1].settings != first[0].settings


def test_place_of_data_says_nothing(config, tmp_path, monkeypatch):
    with config.open("a") as file:
        file.write('data_root = "here"\n')
    trained = []
    monkeypatch.setattr(comparison, "_train_and_test", lambda _, run, *args: trained.append(run) or run)
    for root in ("one", "two"):
        compare(config, tmp_path, options={"data_root": root})
    assert len(trained) == 1 and trained[0].settings["options"] == "{}"


class Twice(Comparison):
    variants = ("slow", "fast")

    def __init__(self):
        self.settings = {"budget": 1}

    def adapt(self, cfg, variant):
        cfg.train_cfg.max_epochs = 1
        cfg.optim_wrapper.optimizer.lr = 1e-3 if variant == "slow" else 1e-2

    def evaluate(self, runner, variant):
        return {f"lr of {variant}": runner.optim_wrapper.get_lr()["lr"][0], "said": "text", "list": [1.0]}


def test_variants_and_other_tests(config, tmp_path):
    out = tmp_path / "runs.json"
    runs = run_comparison(Twice(), [config], [0], out, tmp_path / "work", OPTIONS)
    assert [run.variant for run in runs] == ["slow", "fast"] and runs == read_runs(out)
    assert [list(run.metrics) for run in runs] == [["lr of slow"], ["lr of fast"]]
    assert runs[0].settings["budget"] == 1
    header, row = format_runs(runs).splitlines()[1:]
    assert header.split("  ")[0] == "config" and "lr of slow  lr of fast  seeds" in header
    assert row.split()[0] == "toy" and row.split()[-2] == "1"  # one seed


def test_without_a_test_the_last_validation_counts(config, tmp_path):
    without = {"test_cfg": None, "test_dataloader": None, "test_evaluator": None}
    (run,) = compare(config, tmp_path, options={**OPTIONS, **without})
    assert run.metrics == {"toy/accuracy": run.curves["toy/accuracy"][-1][1]}
    neither = {key.replace("test", "val"): None for key in without}
    with pytest.raises(UsageError, match=r"toy\.py: has neither test nor validation"):
        compare(config, tmp_path, options={**OPTIONS, **without, **neither})


def test_names_must_differ(config, tmp_path):
    with pytest.raises(UsageError, match="found 2 configs of 1 names"):
        run_comparison(Comparison(), [config, tmp_path / "other" / config.name], [0], tmp_path / "runs.json")


def test_table_by_hand():
    runs = [
        Run("a", 0, "", {"device": "CPU"}, 10, {"mIoU": 30.0, "AP": 0.1}, {}, 4.0, 1.0),
        Run("a", 1, "", {"device": "CPU"}, 10, {"mIoU": 32.0, "AP": 0.3}, {}, 3.0, 1.0),
        Run("b", 0, "", {"device": "CPU"}, 2000, {"mIoU": 5.0}, {}, 7.0, 1.0),
    ]
    said = format_runs(runs, references={"chance": {"mIoU": 2.5}}).splitlines()
    assert [line.split() for line in said[1:]] == [
        ["config", "parameters", "mIoU", "AP", "seeds", "seconds"],
        ["a", "10", "31.00", "+-", "1.41", "0.200", "+-", "0.141", "2", "4"],
        ["b", "2000", "5.00", "-", "1", "8"],
        ["chance", "0", "2.50", "-"],
    ]
    header = format_runs(runs, ["A*"]).splitlines()[1]
    assert header.split() == ["config", "parameters", "AP", "seeds", "seconds"]
    other = Run("a", 0, "", {"device": "GPU"}, 10, {"mIoU": 1.0})
    assert [line for line in format_runs([*runs, other]).splitlines() if "device" in line] == [
        "device CPU",
        "device GPU",
    ]


def test_curves_by_hand():
    runs = [
        Run("a", 0, curves={"AP": [(5, 0.1), (10, 0.2)]}),
        Run("a", 1, curves={"AP": [(5, 0.3), (10, 0.4)]}),
        Run("b", 0, curves={"AP": [(10, 0.9)]}),
    ]
    steps, values = collect_curves(runs, "AP")["a"]
    assert steps == [5, 10] and np.array_equal(values, [[0.1, 0.2], [0.3, 0.4]])
    assert [line.split() for line in format_curves(runs, "AP").splitlines()[1:]] == [
        ["iteration", "a", "b"],
        ["5", "0.200", "+-", "0.141", "-"],
        ["10", "0.300", "+-", "0.141", "0.900"],
    ]
    with pytest.raises(UsageError, match="a: its validations have no 'AR', they have AP"):
        format_curves(runs, "AR")
    runs[1].curves["AP"][0] = (6, 0.3)
    with pytest.raises(UsageError, match="a: its seeds were validated at different iterations"):
        format_curves(runs, "AP")


def test_files(tmp_path):
    path = tmp_path / "new" / "runs.json"
    assert read_runs(path) == []
    runs = [Run("a", 0, "z", {"device": "CPU"}, 3, {"x": 1.5}, {"x": [[1, 0.5]]}, 1.0, 2.0, {"torch": "2"})]
    write_runs(path, runs)
    assert read_runs(path) == runs
    for content in ('[{"network": "a"}]', "{", "[1]"):
        Path(path).write_text(content)
        with pytest.raises(
            UsageError, match=r"runs\.json: (not a file of compared runs|found .*, wanted JSON)"
        ):
            read_runs(path)
    assert json.loads(path.read_text() if content == "[1]" else "null") == [1]

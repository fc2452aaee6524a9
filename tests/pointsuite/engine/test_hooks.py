import io
import logging
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook

from pointsuite.engine.checkpoint import load_checkpoint
from pointsuite.engine.runner import Runner
from pointsuite.engine.runner.hooks import (
    NonFiniteLossError,
    ProgressBarHook,
    StopRequest,
    _describe_samples,
)

from .test_runner import BY_ITERATION
from .toy import ToyDataset, make_config


class Recorder(Hook):
    """Keeps the weights and the samples of the last iteration that began."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.weights = [parameter.detach().clone() for parameter in runner.model.parameters()]
        self.samples = [f"{sample.index} ({sample.name})" for sample in data_batch["data_samples"]]


def test_non_finite_loss_stops_before_the_weights_change(tmp_path):
    runner = Runner.from_cfg(make_config(tmp_path, **{"model.nan_at": 7}))
    recorder = Recorder()
    runner.register_hook(recorder)
    with pytest.raises(NonFiniteLossError) as error:
        runner.train()
    assert str(error.value) == (
        "the loss is not finite (loss = nan) at iteration 7 (epoch 2, batch 2) on the samples "
        f"{', '.join(recorder.samples)}; it did not change the weights; "
        f"last checkpoint: {tmp_path / 'epoch_1.pth'}"
    )
    assert all(map(torch.equal, recorder.weights, runner.model.parameters()))


def test_describe_samples():
    samples = [ToyDataset()[i]["data_samples"] for i in (3, 5)]
    batch = {"inputs": [torch.ones(2), torch.tensor([1, float("nan")])], "data_samples": samples}
    assert _describe_samples(batch) == "3 (shape-3), 5 (shape-5) with non-finite input"
    image = SimpleNamespace(img_id=8, img_path="a.jpg")
    assert _describe_samples({"data_sample": [image, object()]}) == "8 (a.jpg), #1 of the batch"
    assert _describe_samples([1]) == "of a list (no data samples)"


def test_first_signal_waits_and_second_interrupts(capfd):
    before = signal.getsignal(signal.SIGINT)
    request = StopRequest()
    with request:
        assert not request.agreed()
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.agreed() and request.signum == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "SIGTERM: saving after this iteration; once more stops at once" in capfd.readouterr().err


def test_old_checkpoints_outlive_a_failed_save(tmp_path, monkeypatch):
    options = {
        "default_hooks.checkpoint.max_keep_ckpts": 1,
        "default_hooks.checkpoint.save_best": "toy/accuracy",
        "default_hooks.checkpoint.rule": "greater",
    }
    abandoned = tmp_path / ".epoch_1.pth.123.tmp"
    abandoned.write_text("of a killed process")
    runner = Runner.from_cfg(make_config(tmp_path, **options))
    monkeypatch.setattr(runner.val_evaluator, "evaluate", lambda size: {"toy/accuracy": float(runner.epoch)})
    save, seen = runner.save_checkpoint, []

    def fail_later(out_dir, filename, *args, **kwargs):
        seen.append((filename, sorted(path.name for path in tmp_path.glob("*.pth"))))
        if filename == "best_toy_accuracy_epoch_3.pth":
            raise OSError("disk full")
        save(out_dir, filename, *args, **kwargs)

    monkeypatch.setattr(runner, "save_checkpoint", fail_later)
    with pytest.raises(OSError, match="disk full"):
        runner.train()
    assert not abandoned.exists()
    assert ("epoch_2.pth", ["best_toy_accuracy_epoch_1.pth", "epoch_1.pth"]) in seen
    assert seen[-1] == ("best_toy_accuracy_epoch_3.pth", ["best_toy_accuracy_epoch_2.pth", "epoch_3.pth"])
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == seen[-1][1]
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "epoch_3.pth")
    assert load_checkpoint(tmp_path / "epoch_3.pth")["meta"]["epoch"] == 3


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "200")
    bar = {"type": "pointsuite.ProgressBarHook", "interval": 0}
    Runner.from_cfg(make_config(tmp_path, **{"default_hooks.progress_bar": bar})).train()
    shown = sys.stdout.getvalue()
    assert "\r\033[Kepoch 2/3 [################........] 10/15  ETA 0:00:0" in shown
    assert "validation [########" in shown
    assert "Epoch(train)" not in shown and "Epoch(val) [3][3/3]    toy/accuracy: " in shown
    assert "Epoch(train) [3][5/5]" in next(Path(tmp_path).glob("*/*.log")).read_text()


def test_progress_bar_of_iterations(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "200")
    bar = {"type": "pointsuite.ProgressBarHook", "interval": 0}
    Runner.from_cfg(make_config(tmp_path, **BY_ITERATION, **{"default_hooks.progress_bar": bar})).train()
    assert "\r\033[Ktraining [################........] 10/15  ETA 0:00:0" in sys.stdout.getvalue()


def test_no_progress_bar_in_a_pipe(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    hook, logger = ProgressBarHook(), logging.Logger("test")
    logger.addHandler(logging.StreamHandler(sys.stdout))
    hook.before_run(SimpleNamespace(logger=logger))
    hook._draw("test", 1, 2, 3.0)
    assert sys.stdout.getvalue() == "" and not logger.handlers[0].filters

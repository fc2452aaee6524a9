"""Hooks that :class:`~pointsuite.engine.runner.Runner` gives to every run."""

import inspect
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import mmengine.hooks
import mmengine.runner
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_reduce, is_distributed, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import BatchSampler

from pointsuite.registry import HOOKS

from ..checkpoint import atomic_write, remove_abandoned
from ..errors import NonFiniteLossError, UsageError
from ..loader import Loader
from ..randomness import get_random_state, set_random_state

INTERRUPTED = "interrupted.pth"


# ------------------------------------------------------------------------------------------- checkpoints


def write_last_checkpoint(work_dir: str | os.PathLike, path: str | os.PathLike) -> None:
    """Note in ``work_dir/last_checkpoint`` which file ``--resume`` is to continue from."""
    with atomic_write(Path(work_dir) / "last_checkpoint") as file:
        file.write(str(path).encode())


class _LateRemoval(LocalBackend):
    """Remembers what to remove, until the files that replace it are complete."""

    def __init__(self):
        super().__init__()
        self.outdated: list[tuple[Path, int]] = []

    def remove(self, filepath: str | Path) -> None:
        self.outdated.append((Path(filepath), os.stat(filepath).st_ino))

    def remove_outdated(self) -> None:
        for path, inode in self.outdated:
            if path.exists() and path.stat().st_ino == inode:  # not a new file of the same name
                path.unlink()
        self.outdated.clear()


@HOOKS.register_module()
class CheckpointHook(mmengine.hooks.CheckpointHook):
    """MMEngine's, but an old checkpoint is removed only when the new one is on the disk.

    Options that it does not know are refused, where MMEngine's passes over them.
    """

    def __init__(self, *args, **kwargs):
        known = inspect.signature(mmengine.hooks.CheckpointHook.__init__).parameters
        for name in kwargs.keys() - known.keys():
            raise TypeError(f"CheckpointHook.__init__() got an unexpected keyword argument {name!r}")
        super().__init__(*args, **kwargs)

    def before_train(self, runner) -> None:
        work_dir = Path(runner.work_dir)
        self.out_dir = str(Path(self.out_dir) / work_dir.name if self.out_dir else work_dir)
        self.file_backend = _LateRemoval()
        known = runner.message_hub.runtime_info  # of the run that this one continues
        self.keep_ckpt_ids = deque(known.get("keep_ckpt_ids", []))
        if self.save_best and len(self.key_indicators) == 1:
            self.best_ckpt_path = known.get("best_ckpt")
        elif self.save_best:
            self.best_ckpt_path_dict = {key: known.get(f"best_ckpt_{key}") for key in self.key_indicators}
        if is_main_process():
            remove_abandoned(self.out_dir)

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        path = Path(self.out_dir) / self.filename_tmpl.format(step)
        self.last_ckpt = str(path)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        outdated = []
        if self.max_keep_ckpts > 0:
            kept = [other for other in self.keep_ckpt_ids if other != step] + [step]
            outdated, kept = kept[: -self.max_keep_ckpts], kept[-self.max_keep_ckpts :]
            self.keep_ckpt_ids = deque(kept)
            runner.message_hub.update_info("keep_ckpt_ids", kept)
        runner.save_checkpoint(
            self.out_dir,
            path.name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
        )
        if is_main_process():
            write_last_checkpoint(runner.work_dir, path)
            for old in outdated:
                (path.parent / self.filename_tmpl.format(old)).unlink(missing_ok=True)
            (Path(runner.work_dir) / INTERRUPTED).unlink(missing_ok=True)

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        super()._save_best_checkpoint(runner, metrics)
        self.file_backend.remove_outdated()


# ---------------------------------------------------------------------------------------------- stopping


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended training after a checkpoint was saved; the message says where training resumes."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum


class StopRequest:
    """While entered, keeps the first SIGINT or SIGTERM for a safe moment; a second one interrupts at once."""

    def __init__(self):
        self.signum: int | None = None

    def __enter__(self) -> "StopRequest":
        self.signum, self._pid, self._previous = None, os.getpid(), {}
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a forked data worker gets the terminal's Ctrl-C, too; the run's process ends it in time
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
        notice = f"\n{signal.Signals(signum).name}: saving after this iteration; once more stops at once\n"
        os.write(sys.__stderr__.fileno(), notice.encode())  # print and logging are unsafe in a handler

    def agreed(self) -> bool:
        """Whether any process of the run was asked to stop: the same answer in all of them."""
        if not is_distributed():
            return self.signum is not None
        signum = torch.tensor(self.signum or 0)
        all_reduce(signum, "max")
        self.signum = int(signum) or None
        return self.signum is not None


@HOOKS.register_module()
class InterruptHook(Hook):
    """Makes a stopped run resumable to the same weights as one that was never stopped.

    After Ctrl-C or SIGTERM, the run saves ``interrupted.pth`` at the end of the current iteration and ends.
    Validation leaves the random state as it finds it, because a resumed run does not repeat it.
    """

    priority = "LOWEST"

    def before_val(self, runner) -> None:
        self.random_state = get_random_state()

    def after_val(self, runner) -> None:
        set_random_state(self.random_state)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if runner.stop_request.agreed():
            self._stop(runner, runner.iter + 1)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # processes may validate different numbers of batches: they agree at the next training iteration
        if not is_distributed() and runner.stop_request.signum is not None:
            set_random_state(self.random_state)  # that of the last iteration
            for hook in runner.hooks:
                if isinstance(hook, mmengine.hooks.EMAHook):
                    hook.after_val_epoch(runner)  # validation is on averaged weights: the network's own back
            self._stop(runner, runner.iter)

    @staticmethod
    def _stop(runner, iteration: int) -> None:
        path = Path(runner.work_dir) / INTERRUPTED
        runner.save_checkpoint(runner.work_dir, path.name, meta={"iter": iteration}, by_epoch=False)
        if is_main_process():
            write_last_checkpoint(runner.work_dir, path)
        signum = runner.stop_request.signum
        raise TrainingInterrupted(
            f"{signal.Signals(signum).name}: stopped and saved {path}; --resume continues after iteration "
            f"{iteration} of {runner.max_iters} (epoch {runner.epoch + 1})",
            signum,
        )


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stops a run whose loss is not finite, before its gradient reaches the weights."""

    def before_train(self, runner) -> None:
        # MMEngine calls its hooks after the optimiser's step; a hook of the module sees the losses before it
        self._handle = runner.model.register_forward_hook(
            lambda model, args, losses: self._check(runner, losses) if model.training else None
        )

    def after_train(self, runner) -> None:
        self._handle.remove()

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self._batch_idx, self._data_batch = batch_idx, data_batch

    def _check(self, runner, losses: Any) -> None:
        if not isinstance(losses, Mapping):
            return
        values = {}
        for name, loss in losses.items():
            if "loss" in name:  # the terms that MMEngine sums
                terms = [loss] if isinstance(loss, Tensor) else loss
                values[name] = sum(term.detach().float().mean() for term in terms)
        if not values or torch.stack(list(values.values())).isfinite().all():
            return
        found = ", ".join(f"{name} = {value.item()}" for name, value in values.items())
        raise NonFiniteLossError(
            f"the loss is not finite ({found}) at iteration {runner.iter + 1} (epoch {runner.epoch + 1}, "
            f"batch {self._batch_idx + 1}) on the samples {_describe_samples(self._data_batch)}; it did not "
            f"change the weights; last checkpoint: {runner.message_hub.get_info('last_ckpt')}"
        )


@HOOKS.register_module()
class BatchOfOneHook(Hook):
    """Stops a run before its weights change, if a later batch has one sample that a batch norm fails on.

    That of maps can be trained on one picture, that of one vector a sample cannot: what each sees is known in
    the first batch.
    """

    def before_train(self, runner) -> None:
        self._handles = []
        loader = runner.train_loop.dataloader
        batches = loader.batch_sampler
        if (
            is_distributed()
            or type(batches) is not BatchSampler
            or isinstance(batches.sampler, InfiniteSampler)
        ):
            return
        count, size = len(batches.sampler), batches.batch_size
        if size > 1 and (batches.drop_last or count % size != 1):
            return
        which = "every batch" if size == 1 else "the last batch of an epoch"
        where = f"{runner.cfg.filename or 'config'}: train_dataloader"
        self._reason = f"{where}: {which} has one sample ({count} samples in batches of {size})"
        for name, module in runner.model.named_modules():
            if isinstance(module, _BatchNorm):
                self._handles.append(module.register_forward_pre_hook(partial(self._check, name)))

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        inputs = data_batch.get("inputs") if isinstance(data_batch, Mapping) else None
        self._count = len(inputs) if isinstance(inputs, (list, tuple, Tensor)) else -1

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _check(self, name: str, module: _BatchNorm, args: tuple) -> None:
        if module.training and args and args[0].numel() == self._count * args[0].shape[1]:
            raise UsageError(
                f"{self._reason}, which the batch norm {name} cannot be trained on; wanted drop_last=True, "
                "or another batch_size"
            )


def _describe_samples(data_batch: Any) -> str:
    """Index and name of every sample of a batch, and which of the inputs are themselves not finite."""
    if not isinstance(data_batch, Mapping):
        return f"of a {type(data_batch).__name__} (no data samples)"
    inputs = data_batch.get("inputs", [])
    described = []
    for i, sample in enumerate(data_batch.get("data_samples", data_batch.get("data_sample", []))):
        index = getattr(sample, "index", getattr(sample, "img_id", f"#{i} of the batch"))
        name = getattr(sample, "name", getattr(sample, "img_path", None))
        bad = i < len(inputs) and isinstance(inputs[i], Tensor) and not torch.isfinite(inputs[i]).all()
        described.append(f"{index}{f' ({name})' if name else ''}{' with non-finite input' if bad else ''}")
    return ", ".join(described)


# -------------------------------------------------------------------------------------------------- data


@HOOKS.register_module()
class SetEpochHook(Hook):
    """Tells the training :class:`~pointsuite.engine.loader.Loader` which pass over the data begins."""

    def before_train_epoch(self, runner) -> None:
        loop = runner.train_loop
        if isinstance(loop.dataloader, Loader):
            loop.dataloader.start(runner.epoch, getattr(loop, "batch", 0))


# ---------------------------------------------------------------------------------------------- progress


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """On a terminal, one line with a bar, the loss and the time left stands for the log's iteration lines.

    The time left counts validation and saving, as they have been so far. Elsewhere (a pipe, a process that is
    not the main one) nothing changes; the log file has every line in any case.
    """

    priority = "VERY_LOW"

    def __init__(self, width: int = 24, interval: float = 0.1):
        self.width, self.interval = width, interval

    def before_run(self, runner) -> None:
        self.active = is_main_process() and sys.stdout.isatty()
        if self.active:
            for handler in runner.logger.handlers:
                if getattr(handler, "stream", None) is sys.stdout:
                    handler.addFilter(self._make_room)

    @staticmethod
    def _make_room(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if " eta: " in message or message.startswith("Exp name: "):  # the bar says it
            return False
        _erase_line()
        return True

    def before_train(self, runner) -> None:
        self.began, self.first, self.drawn = time.monotonic(), runner.iter, 0.0

    def before_val(self, runner) -> None:
        self.val_began, self.drawn = time.monotonic(), 0.0

    before_test = before_val

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        done = runner.iter + 1
        left = (time.monotonic() - self.began) / (done - self.first) * (runner.max_iters - done)
        loss = runner.message_hub.get_scalar("train/loss").mean(10) if self.active else 0
        by_iteration = isinstance(runner.train_loop, mmengine.runner.IterBasedTrainLoop)
        title = "training" if by_iteration else f"epoch {runner.epoch + 1}/{runner.max_epochs}"
        self._draw(title, done, runner.max_iters, left, f"loss {loss:.4f}")

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._draw_evaluation("validation", batch_idx + 1, len(runner.val_dataloader))

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._draw_evaluation("test", batch_idx + 1, len(runner.test_dataloader))

    def _draw_evaluation(self, title: str, done: int, total: int) -> None:
        self._draw(title, done, total, (time.monotonic() - self.val_began) / done * (total - done))

    def _draw(self, title: str, done: int, total: int, left: float, note: str = "") -> None:
        now = time.monotonic()
        if not self.active or (now - self.drawn < self.interval and done < total):
            return
        self.drawn = now
        full = self.width * done // total
        line = f"{title} [{'#' * full}{'.' * (self.width - full)}] {done}/{total}  "
        line += f"ETA {timedelta(seconds=round(left))}  {note}"
        _erase_line()
        sys.stdout.write(line[: shutil.get_terminal_size().columns - 1])
        sys.stdout.flush()

    def after_run(self, runner) -> None:
        if self.active:
            _erase_line()


def _erase_line() -> None:
    sys.stdout.write("\r\033[K")
    sys.stdout.flush()


# ---------------------------------------------------------------------------------------------- schedules


@HOOKS.register_module()
class SetLearningRateHook(Hook):
    """Sets the learning rate when an epoch begins; schedulers that multiply it go on from there.

    Published schedules do so: "at epoch 300 back to 1e-3".

    Args:
        rates: the learning rate by the index of the epoch, from 0.
    """

    priority = "VERY_HIGH"

    def __init__(self, rates: Mapping[int, float]):
        self.rates = {int(epoch): rate for epoch, rate in rates.items()}

    def before_train_epoch(self, runner) -> None:
        if (rate := self.rates.get(runner.epoch)) is not None:
            for group in runner.optim_wrapper.param_groups:
                group["lr"] = rate


@HOOKS.register_module()
class BatchNormMomentumHook(Hook):
    """Gives all batch norms the momentum max(start * gamma ** (epoch // step), least) in each epoch."""

    def __init__(self, start: float = 0.1, gamma: float = 0.5, step: int = 20, least: float = 0.01):
        self.start, self.gamma, self.step, self.least = start, gamma, step, least

    def before_train_epoch(self, runner) -> None:
        momentum = max(self.start * self.gamma ** (runner.epoch // self.step), self.least)
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = momentum

"""Saving a run, and continuing it to the weights of an unbroken one."""

import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, all_reduce, is_main_process
from mmengine.hooks import EMAHook
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop
from torch import nn
from torch.distributed.tensor import DTensor

from ..checkpoint import (
    CheckpointError,
    check_tensors,
    find_latest_checkpoint,
    find_state_dict,
    keep_last_layers,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    to_plain,
)
from ..errors import one_line
from ..files import list_files
from ..randomness import get_random_state, set_random_state
from ..sharding import (
    Fsdp,
    check_optimizer,
    count_numbers,
    gather,
    split_like,
    split_model,
    split_optimizer,
    split_optimizer_state,
)
from .fingerprint import fingerprint
from .loops import EpochBasedTrainLoop


class Resumable:
    """Mixed into MMEngine's Runner: its checkpoints, how they are written, and how a run goes on from one."""

    _strategy: Fsdp | None = None  # by which the model is going to be split, or is
    _is_split = False

    @property
    def _bare_model(self) -> nn.Module:
        return self.model.module if is_model_wrapper(self.model) else self.model

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """See MMEngine; called in every process, writes in the main one, to the local file system only."""
        random_states = all_gather_object(to_plain(get_random_state()))
        gradients = self._accumulated_gradients()
        if not is_main_process() and not self._is_split:
            return
        loop = self.train_loop
        meta = dict(meta or {})
        meta.setdefault("epoch", self.epoch + by_epoch)  # the hooks after an epoch run before it is counted
        meta.setdefault("iter", self.iter + (not by_epoch))
        meta["batch"] = 0 if by_epoch else getattr(loop, "batch", 0)
        meta["epoch_length"] = len(loop.dataloader)
        meta["iter_offset"] = getattr(loop, "iter_offset", 0)
        meta["dataset_length"] = len(loop.dataloader.dataset)
        meta["data"] = self._data_fingerprint
        meta.update(
            cfg=self.cfg.pretty_text,
            **_describe_use(self.cfg.to_dict()),
            training=_describe_training(self.cfg.to_dict()),
            seed=self.seed,
            experiment_name=self.experiment_name,
            world_size=self.world_size,
            time=time.strftime("%Y%m%d_%H%M%S"),
            mmengine_version=mmengine.__version__,
            dataset_meta=getattr(loop.dataloader.dataset, "metainfo", None),
        )
        checkpoint = {
            "meta": meta,
            "state_dict": self._bare_model.state_dict(),
            "message_hub": self._message_hub_state(),
            "random_states": random_states,
        }
        if save_optimizer:
            checkpoint["optimizer"] = self.optim_wrapper.state_dict()
            checkpoint["gradients"] = gradients
        if save_param_scheduler and self.param_schedulers is not None:
            checkpoint["param_schedulers"] = _map_schedulers(
                lambda scheduler: scheduler.state_dict(), self.param_schedulers
            )
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        if self._is_split:
            checkpoint = gather(checkpoint, keep=is_main_process())
        if is_main_process():
            save_checkpoint(checkpoint, Path(out_dir) / filename)

    @cached_property
    def _data_fingerprint(self) -> dict[str, str]:
        return fingerprint(self.train_loop.dataloader.dataset)

    def _accumulated_gradients(self) -> dict[str, torch.Tensor]:
        """Gradients that wait for the optimiser's next step, by parameter: their mean over the processes."""
        gradients = {
            name: parameter.grad.clone()
            for name, parameter in self._bare_model.named_parameters()
            if parameter.grad is not None
        }
        for gradient in gradients.values():
            if not isinstance(gradient, DTensor):  # that of split parameters is the mean
                all_reduce(gradient, "mean")
        return gradients

    def _message_hub_state(self) -> dict[str, Any]:
        state = self.message_hub.state_dict()
        scalars = {
            key: {"history": buffer.data[0], "counts": buffer.data[1], "max_length": buffer.max_length}
            for key, buffer in state["log_scalars"].items()
        }
        info = {}
        for key, value in state["runtime_info"].items():
            try:
                info[key] = to_plain(value, key)
            except CheckpointError as error:
                self.logger.warning(f"The message hub's {error}; the checkpoint goes without it.")
        resumed = dict.fromkeys([*scalars, *info], True)
        return {"log_scalars": scalars, "runtime_info": info, "resumed_keys": resumed}

    def _load_message_hub(self, state: dict[str, Any]) -> None:
        scalars = {
            key: HistoryBuffer(buffer["history"].numpy(), buffer["counts"].numpy(), buffer["max_length"])
            for key, buffer in state["log_scalars"].items()
        }
        self.message_hub.load_state_dict({**state, "log_scalars": scalars})

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool = True, revise_keys: Any = None
    ) -> dict[str, Any]:
        """Load the weights of ``filename``, a path or a URL with its digest; returns all that is in it.

        Where training begins, and the config has ``new_classes=True``, last layers for another number of
        classes are left as they are initialised, and named.

        Raises:
            CheckpointError: the file is not safe or not whole, or its keys or shapes are not the model's.
        """
        checkpoint = load_checkpoint(filename, map_location)
        state = find_state_dict(checkpoint, str(filename))
        checkpoint = checkpoint if "state_dict" in checkpoint else {}
        checkpoint["state_dict"] = state
        if "ema_state_dict" in checkpoint and self._resume:
            _check_average(checkpoint, filename)
        with _continuing(filename, "ema_state_dict"):
            self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        state = checkpoint["state_dict"]
        begins = isinstance(self._train_loop, BaseLoop) and not self._resume
        others, left = keep_last_layers(self._bare_model, state) if begins else (state, [])
        if new_classes := begins and self.cfg.get("new_classes"):
            self.logger.warning(f"{filename}: left as initialised: {', '.join(left) or 'nothing'}")
        try:
            load_state_dict(self._bare_model, others if new_classes else state, strict, str(filename))
        except CheckpointError as error:
            if not left or new_classes:
                raise
            hint = "with --cfg-options new_classes=True, last layers for other classes stay as initialised"
            raise CheckpointError(f"{error}; {hint}") from error
        self._has_loaded = True
        self.logger.info(f"Loaded the weights of {filename}")
        return checkpoint

    def load_or_resume(self) -> None:
        if not self._has_loaded:
            self._load_or_resume()
        self._split()

    def _load_or_resume(self) -> None:
        if not self._resume:
            if self._load_from is not None:
                self.load_checkpoint(self._load_from)
            return
        path = self._load_from or find_latest_checkpoint(self.work_dir)
        if path is None:
            if found := [file.name for file in list_files(self.work_dir, "*.pth")]:
                raise CheckpointError(
                    f"{self.work_dir}: found {', '.join(found[:6])} but no last_checkpoint: a new training "
                    "would overwrite them; give --resume the checkpoint to continue, or another --work-dir"
                )
            self.logger.warning(f"{self.work_dir} holds no checkpoint to resume from: training starts anew.")
        else:
            self.resume(path)

    def _split(self) -> None:
        """Split model, averaged model and optimiser as ``strategy`` says, once the weights are in them."""
        if self._strategy is None or self._is_split:
            return
        device, uneven = get_device(), bool(self.cfg.get("find_unused_parameters"))
        if is_built := not isinstance(self.optim_wrapper, (dict, type(None))):
            check_optimizer(self.optim_wrapper)
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        split_model(self.model, self._strategy, device, uneven)
        for hook in self.hooks:
            if isinstance(hook, EMAHook):
                average = hook.ema_model
                split_model(average.module, self._strategy, device)
                split = average.module.state_dict() if average.update_buffers else None
                average.avg_parameters = split or dict(average.module.named_parameters())
        if is_built:
            split_optimizer(self.optim_wrapper, names, self.model, uneven)
        self._is_split = True
        held, total = count_numbers(list(self.model.parameters()))
        self.logger.info(f"strategy fsdp: this process holds {held:,} of {total:,} parameters")

    def resume(
        self,
        filename: str | os.PathLike,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = "cpu",
    ) -> None:
        """Continue the run that saved ``filename``.

        Weights, the optimiser's state, learning rates and schedule are the checkpoint's; data, number of
        epochs and hooks are the config's. With ``new_schedule=True`` in the config, learning rates and the
        schedule are the config's, too, at the place where the run is.

        Raises:
            CheckpointError: see :meth:`load_checkpoint`; or it holds weights only; or optimiser, schedule,
                data set or the length of an epoch are others.
        """
        checkpoint = self.load_checkpoint(filename, map_location)
        self._split()
        wanted = ["meta", "message_hub", "random_states"]
        wanted += ["optimizer"] * resume_optimizer
        wanted += ["param_schedulers"] * (resume_param_scheduler and self.param_schedulers is not None)
        if missing := [key for key in wanted if key not in checkpoint]:
            raise CheckpointError(
                f"{filename}: has no {', '.join(missing)}: training cannot continue from it, but it can "
                "start from its weights (load_from)"
            )
        for part in ("optimizer", "gradients"):
            _check_finite(checkpoint.get(part), f"{filename}: {part}")
        meta, loop = checkpoint["meta"], self.train_loop
        new_schedule = bool(self.cfg.get("new_schedule"))
        self._check_resumable(filename, meta, new_schedule)
        if meta["seed"] != self.seed:
            self.logger.warning(
                f"{filename} was trained with seed {meta['seed']} and this run has {self.seed}: it will "
                f"differ from an unbroken run (--seed {meta['seed']} makes them equal)."
            )
        with _continuing(filename, "message_hub"):
            for key, buffer in checkpoint["message_hub"]["log_scalars"].items():
                if "loss" in key.partition("train/")[2]:  # metrics and norms may be NaN
                    _check_finite(buffer, f"{filename}: message_hub: {key}")
            self._load_message_hub(checkpoint["message_hub"])
        loop._epoch, loop._iter = meta["epoch"], meta["iter"]
        if isinstance(loop, EpochBasedTrainLoop):  # other numbers of processes have epochs of other lengths
            loop.iter_offset = meta["iter"] - meta["epoch"] * len(loop.dataloader) - meta["batch"]
        if resume_optimizer:
            self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
            groups = [group for wrapper in _each(self.optim_wrapper) for group in wrapper.param_groups]
            given = [{key: value for key, value in group.items() if key != "params"} for group in groups]
            with _continuing(filename, "optimizer"):
                state = checkpoint["optimizer"]
                self.optim_wrapper.load_state_dict(
                    split_optimizer_state(state, self.optim_wrapper) if self._is_split else state
                )
                for name, gradient in checkpoint.get("gradients", {}).items():
                    parameter = self._bare_model.get_parameter(name)
                    parameter.grad = split_like(gradient.to(parameter.device), parameter)
            if new_schedule:
                groups = [group for wrapper in _each(self.optim_wrapper) for group in wrapper.param_groups]
                for group, options in zip(groups, given, strict=True):
                    group.pop("initial_lr", None)
                    group.update(options)
        if "param_schedulers" in wanted:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
            if new_schedule:
                self._follow_schedule()
            else:
                with _continuing(filename, "param_schedulers"):
                    _map_schedulers(
                        lambda scheduler, state: scheduler.load_state_dict(state),
                        self.param_schedulers,
                        checkpoint["param_schedulers"],
                    )
        with _continuing(filename, "random_states"):
            self._resume_random_state(filename, meta, checkpoint["random_states"])
        self.logger.info(f"Resumed after iteration {self.iter} of {self.max_iters} (epoch {self.epoch + 1})")

    def _check_resumable(self, filename: Any, meta: dict[str, Any], new_schedule: bool) -> None:
        """Raise a CheckpointError where the run is another one; say which changes have an effect."""
        for key in ("epoch", "iter", "batch"):
            if type(meta.get(key)) is not int or meta[key] < 0:
                found = one_line(repr(meta.get(key)))[:60]
                raise CheckpointError(f"{filename}: meta: {key}: found {found}, wanted a whole number")
        way_out = "--resume continues the same run; load_from starts from its weights"
        loader, same_processes = self.train_loop.dataloader, meta.get("world_size") in (None, self.world_size)
        length = meta.get("dataset_length")
        if length is not None and length != len(loader.dataset):
            raise CheckpointError(
                f"{filename}: its data set had {length} samples, and this one has {len(loader.dataset)}: "
                f"{way_out}"
            )
        before, now = meta.get("data"), self._data_fingerprint
        if isinstance(before, Mapping):
            changed = [str(name) for name in {**before, **now} if before.get(name) != now.get(name)]
            if changed:
                raise CheckpointError(
                    f"{filename}: the data have changed since: {', '.join(changed)} differs: {way_out}"
                )
        length, by_epoch = meta.get("epoch_length"), isinstance(self.train_loop, EpochBasedTrainLoop)
        if meta["batch"] and not (by_epoch and len(loader) == length):
            raise CheckpointError(
                f"{filename}: saved after batch {meta['batch']} of {length} of an epoch, which has "
                f"{len(loader)} now: the batch size, data or processes differ"
            )
        if by_epoch and type(length) is int:
            offset = meta.get("iter_offset", 0)
            wanted = meta["epoch"] * length + meta["batch"] + (offset if type(offset) is int else 0)
            if meta["iter"] != wanted:
                raise CheckpointError(
                    f"{filename}: meta: iter: found {meta['iter']}, wanted {wanted}: {meta['epoch']} epochs "
                    f"of {length} iterations and {meta['batch']} of the next"
                )
        if length not in (None, len(loader)) and not meta["batch"] and same_processes:
            raise CheckpointError(
                f"{filename}: its epochs had {length} iterations, and these have {len(loader)}: the batch "
                f"size differs; {way_out}"
            )
        before, now = meta.get("training"), _describe_training(self.cfg.to_dict())
        if not isinstance(before, Mapping):
            return
        for key, old, new in _difference(before.get("optim_wrapper"), now["optim_wrapper"], "optim_wrapper"):
            if key.endswith("optimizer.type"):
                raise CheckpointError(
                    f"{filename}: {key}: found {old!r}, and this run has {new!r}: {way_out}"
                )
        changed = [
            (key, f"{key} {old!r} -> {new!r}")
            for part in now
            for key, old, new in _difference(before.get(part), now[part], part)
        ]
        idle = [text for key, text in changed if not key.startswith("train_cfg") and not new_schedule]
        if idle:
            self.logger.warning(
                f"--resume takes the optimiser's options and the schedule from {filename}, the rest from the "
                f"config. Changed in the config, and without effect: {', '.join(idle)}; --new-schedule takes "
                "them."
            )
        if taken := [text for _, text in changed if text not in idle]:
            self.logger.warning(f"--resume takes from the config what has changed: {', '.join(taken)}.")

    def _follow_schedule(self) -> None:
        """Bring new schedulers to where the run is."""
        groups = self.param_schedulers
        schedulers = sum(groups.values(), []) if isinstance(groups, dict) else groups
        length = len(self.train_loop.dataloader)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they miss the optimiser's steps
            for i in range(self.iter):
                for scheduler in schedulers:
                    if not scheduler.by_epoch or (i + 1) % length == 0:
                        scheduler.step()

    def _resume_random_state(self, filename: Any, meta: dict[str, Any], states: list[dict[str, Any]]) -> None:
        loop = self.train_loop
        if len(states) != self.world_size:
            self.logger.warning(
                f"{filename} is of {len(states)} processes and this run has {self.world_size}: it will "
                "differ from an unbroken run."
            )
        state = states[self.rank % len(states)]
        set_random_state(state)
        if meta["batch"]:
            loop.batch, loop.random_state = meta["batch"], state


def _check_finite(value: Any, name: str) -> None:
    """Raise a CheckpointError that names the first number, also of a tensor, that is NaN or infinite."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_finite(item, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check_finite(item, f"{name}.{i}")
    elif isinstance(value, float) or isinstance(value, torch.Tensor) and value.dtype.is_floating_point:
        number = torch.as_tensor(value)
        if not number.isfinite().all():
            found = "NaN" if number.isnan().any() else "infinity"
            raise CheckpointError(f"{name}: found {found}, wanted finite numbers: training had failed before")


def _check_average(checkpoint: Mapping[str, Any], filename: Any) -> None:
    """The same of averaged weights, which may be infinite where the weights are: in constants."""
    average = checkpoint["ema_state_dict"]
    if not isinstance(average, Mapping):
        raise CheckpointError(f"{filename}: ema_state_dict: found a {type(average).__name__}, wanted weights")
    check_tensors(average, f"{filename}: ema_state_dict")
    for key, value in average.items():
        own = checkpoint["state_dict"].get(str(key).removeprefix("module."))
        if not (isinstance(own, torch.Tensor) and own.is_floating_point() and own.isinf().any()):
            _check_finite(value, f"{filename}: ema_state_dict: {key}")


@contextmanager
def _continuing(filename: Any, part: str) -> Iterator[None]:
    """Say which part of a checkpoint does not fit the run."""
    try:
        yield
    except CheckpointError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{filename}: its {part} does not fit this run ({type(error).__name__}: "
            f"{one_line(error)[:200]}); load_from starts from its weights"
        ) from error


def _each(wrapper: Any) -> list:
    """Optimiser wrappers, of which a run may have several."""
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def _difference(before: Any, now: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Key, old and new value of what differs in two nested values."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*before, *now)):
            yield from _difference(before.get(key), now.get(key), f"{path}.{key}")
    elif isinstance(before, (list, tuple)) and isinstance(now, (list, tuple)) and len(before) == len(now):
        for i, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _difference(old, new, f"{path}.{i}")
    elif before != now:
        yield path, before, now


def _describe_training(cfg: dict[str, Any]) -> dict[str, Any]:
    """What decides how a run's weights are changed, as plain data; None where a checkpoint cannot hold it."""
    described = {key: cfg.get(key) for key in ("optim_wrapper", "param_scheduler", "train_cfg")}
    for key, value in described.items():
        try:
            described[key] = to_plain(value)
        except CheckpointError:
            described[key] = None
    return described


def _describe_use(cfg: dict[str, Any]) -> dict[str, Any]:
    """``model`` and ``pipeline`` (of the test data) as plain data: how to use the weights, without running a
    config's text. None where the config has none, or where it holds what a checkpoint cannot.
    """
    described = {"model": cfg.get("model"), "pipeline": None}
    for name in ("val", "test"):
        match cfg.get(f"{name}_dataloader"):
            case {"dataset": {"pipeline": pipeline}}:
                described["pipeline"] = pipeline
    for key, value in described.items():
        try:
            described[key] = to_plain(value)
        except CheckpointError:  # objects that a caller put into the config
            described[key] = None
    return described


def _map_schedulers(function, *schedulers):
    """Apply ``function`` to parallel lists of schedulers, or to dicts of lists (of several optimisers)."""
    if isinstance(schedulers[0], dict):
        return {key: _map_schedulers(function, *(part[key] for part in schedulers)) for key in schedulers[0]}
    return [function(*group) for group in zip(*schedulers, strict=True)]

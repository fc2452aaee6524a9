"""MMEngine's Runner with checkpoints that are safe to read, to write and to continue from."""

import logging
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import mmengine
import mmengine.hooks
import mmengine.runner
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.device import get_device
from mmengine.dist import is_distributed, is_main_process, master_only
from mmengine.evaluator import DumpResults
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.registry import FUNCTIONS, HOOKS, LOOPS, OPTIMIZERS, Registry
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from torch.utils.data import DataLoader

from pointsuite.registry import RUNNERS

from ..checkpoint import atomic_write, load_checkpoint, naming
from ..errors import UsageError, nearest
from ..loader import Loader
from ..lock import find_holder, hold_folder
from ..randomness import seed_everything
from ..sharding import explain_split, read_strategy
from ..sync_batch_norm import allow_cpu, synchronize_batch_norms
from .hooks import StopRequest
from .loops import EndlessBatches, EpochBasedTrainLoop
from .preflight import describe_empty
from .resume import Resumable

DEFAULT_HOOKS = {
    "checkpoint": {"type": "pointsuite.CheckpointHook", "interval": 1},
    "preflight": {"type": "pointsuite.PreflightHook"},
    "set_epoch": {"type": "pointsuite.SetEpochHook"},
    "non_finite_loss": {"type": "pointsuite.NonFiniteLossHook"},
    "batch_of_one": {"type": "pointsuite.BatchOfOneHook"},
    "progress_bar": {"type": "pointsuite.ProgressBarHook"},
    "interrupt": {"type": "pointsuite.InterruptHook"},
    "report": {"type": "pointsuite.ReportHook"},
}

# long listings, which hide what matters on a terminal, and a warning that is wrong here
LOGGED_TO_FILE_ONLY = (
    "\n" + "-" * 60,
    "Config:\n",
    "Hooks will be executed",
    "Distributed training is not used",
    "paramwise_options",
    "Resumed iteration number is not divisible by",
)

TIMESTAMP = "%Y%m%d_%H%M%S"  # MMEngine's, of which it makes a run's name and folder
_began: set[str] = set()  # those of this process's runs

# whatever MMEngine loads by itself (as `init_cfg=dict(type="Pretrained", ...)`) is read as safely
for _scheme in list(CheckpointLoader._schemes):
    CheckpointLoader.register_scheme(_scheme, load_checkpoint, force=True)


@RUNNERS.register_module()
class Runner(Resumable, mmengine.runner.Runner):
    """A run that continues after ``--resume`` to the same weights as if it had never stopped.

    On the same hardware, with as many threads and processes, that is exact, at any iteration: the random
    numbers of a sample follow from seed, pass, index and turn alone, see
    :class:`~pointsuite.engine.loader.Loader`.
    Where several processes accumulate gradients, a checkpoint between two steps holds the gradients' mean
    over the processes, and the run continues to the same weights up to rounding.

    Checkpoints hold tensors and plain data only, also of the message hub, and the random states of every
    process. They are written atomically. Weights load strictly. Every run gets ``DEFAULT_HOOKS`` (None in the
    config's ``default_hooks`` leaves one out).

    Of the options that MMEngine reads from the config itself, these differ:

    - ``sync_bn="torch"``: batch norms see the rows of all processes, on any device and backend (see
      :mod:`~pointsuite.engine.sync_batch_norm`). Off by default.
    - ``strategy="fsdp"``: where there are several processes, parameters, gradients and the optimiser's state
      are split over them (see :mod:`~pointsuite.engine.sharding`). Checkpoints stay whole.
    - ``compile=True`` or ``compile=dict(backend=..., mode=...)``: ``torch.compile`` of the method
      ``forward_geometry`` of every module that has one; geometry before it stays as it is. A model without
      such modules is compiled whole, as in MMEngine. The default backend, inductor, calls a C++ compiler on
      the CPU; ``dict(backend="aot_eager")`` needs none.
    - ``env_cfg.dist_cfg``: without a GPU the backend is gloo, whatever is written there.
    """

    def __init__(self, *args, **kwargs):
        self.stop_request = StopRequest()
        super().__init__(*args, **kwargs)

    @classmethod
    def from_cfg(cls, cfg):
        """A runner as a config describes it; tensors in it become lists, so that it can be dumped."""
        return super().from_cfg(_list_numbers(deepcopy(cfg)))

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        hooks = {**DEFAULT_HOOKS, **(hooks or {})}
        if _find(HOOKS, hooks["checkpoint"]) is mmengine.hooks.CheckpointHook:
            hooks["checkpoint"] = {**hooks["checkpoint"], "type": "pointsuite.CheckpointHook"}
        mmengine_has = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")
        super().register_default_hooks(
            {name: hook for name, hook in hooks.items() if hook is not None or name in mmengine_has}
        )

    def set_randomness(
        self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False
    ) -> None:
        self._deterministic = deterministic
        self._seed = seed_everything(seed, deterministic, diff_rank_seed)

    def setup_env(self, env_cfg: dict) -> None:
        if self.distributed and not is_distributed() and get_device() == "cpu":
            timeout = env_cfg.get("dist_cfg", {}).get("timeout")
            torch.distributed.init_process_group("gloo", timeout=timeout and timedelta(seconds=timeout))
        super().setup_env(env_cfg)
        # MMEngine keeps logger, messages and visualizer by this name: runs of one second would share them
        began = datetime.strptime(self._timestamp, TIMESTAMP)
        while (name := began.strftime(TIMESTAMP)) in _began:
            began += timedelta(seconds=1)
        self._timestamp = name
        _began.add(name)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        strategy = read_strategy(self.cfg.get("strategy"))
        if not self.distributed or is_model_wrapper(model):
            if strategy is not None:
                self.logger.info("strategy fsdp: one process: nothing is split")
            return super().wrap_model(model_wrapper_cfg, model)
        sync_bn = self.cfg.get("sync_bn")
        if sync_bn == "torch":
            synchronize_batch_norms(model)
        elif sync_bn is not None:
            raise ValueError(f"sync_bn must be 'torch' or None, found {sync_bn!r}")
        if get_device() == "cpu":
            allow_cpu(model)
        if strategy is not None:
            self._check_strategy()
            self._strategy = strategy
            return model  # stays in the machine's memory until it is split
        if get_device() == "cpu":  # where DistributedDataParallel takes no device
            options = {"find_unused_parameters": self.cfg.get("find_unused_parameters", False)}
            options.update(device_ids=None, broadcast_buffers=False)
            model_wrapper_cfg = {**options, **(model_wrapper_cfg or {})}
        self.cfg.pop("sync_bn", None)  # it is done
        model = super().wrap_model(model_wrapper_cfg, model)
        if sync_bn is not None:
            self.cfg.sync_bn = sync_bn
        return model

    def _check_strategy(self) -> None:
        """Raise a UsageError where the config wants what cannot be had with ``strategy="fsdp"``."""
        for key in ("model_wrapper_cfg", "compile", "efficient_conv_bn_eval"):
            if self.cfg.get(key):
                raise UsageError(f"strategy 'fsdp': found {key}={self.cfg[key]!r}, wanted the config without")

    def _maybe_compile(self, target: str) -> None:
        options = self.cfg.get("compile")
        if not options:
            return
        options = {} if options is True else dict(options)
        if options.get("backend", "inductor") == "inductor" and get_device() == "cpu":
            compiler = os.environ.get("CXX", "g++")
            if shutil.which(compiler) is None:
                raise FileNotFoundError(
                    f"compile: PyTorch's inductor needs a C++ compiler on the CPU, found no {compiler!r}; "
                    "compile=dict(backend='aot_eager') needs none"
                )
        networks = [m for m in self._bare_model.modules() if hasattr(m, "forward_geometry")]
        for network in networks:
            network.forward_geometry = torch.compile(network.forward_geometry, **options)
        if not networks:
            super()._maybe_compile(target)

    def build_logger(self, *args, **kwargs) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if getattr(handler, "stream", None) is sys.stdout:
                handler.addFilter(lambda record: not record.getMessage().startswith(LOGGED_TO_FILE_ONLY))
            elif isinstance(handler, logging.FileHandler):
                handler.handleError = partial(_report_lost_lines, handler)
        logger.info(f"Log file, with environment, config and hooks: {logger.log_file}")
        return logger

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        if isinstance(dataloader, dict):
            dataloader = dict(dataloader)
            for key in ("collate_fn", "worker_init_fn"):  # MMEngine would call them with their `_scope_`
                if (function := _find(FUNCTIONS, dataloader.get(key))) is not None:
                    options = {k: v for k, v in dataloader[key].items() if k != "_scope_"}
                    dataloader[key] = {**options, "type": function}
        try:
            loader = mmengine.runner.Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        except ValueError as error:
            if "need at least one array to concatenate" in str(error):  # MMEngine, of no samples
                raise _LoaderError(describe_empty(dataloader["dataset"])) from error
            raise
        loader.generator = loader.generator or torch.Generator()  # else every epoch draws from the run's own
        if type(loader) is DataLoader:  # MMEngine builds no other
            loader.__class__, loader.seed = Loader, (seed or 0) % 2**32
        _check_loader(loader)
        return loader

    @master_only
    def dump_config(self) -> None:
        """See MMEngine; the config of another process that trains in the folder stays as it is."""
        if find_holder(self.work_dir) is None:
            with naming(self.work_dir):
                super().dump_config()

    def build_evaluator(self, evaluator):
        evaluator = super().build_evaluator(evaluator)
        for i, metric in enumerate(evaluator.metrics):
            if metric.collect_device == "cpu" and metric.collect_dir is None:  # else in the current folder
                metric.collect_dir = str(Path(self.work_dir) / f".results_{self.timestamp}_{i}")
            if isinstance(metric, DumpResults):
                metric.compute_metrics = partial(_dump_results, metric)
        return evaluator

    def build_optim_wrapper(self, optim_wrapper):
        for key, part in [("optim_wrapper", optim_wrapper), *_items(optim_wrapper, "optim_wrapper")]:
            match part:
                case {"optimizer": {"type": str(name)}} if _find(OPTIMIZERS, part["optimizer"]) is None:
                    hint = nearest(name, OPTIMIZERS.module_dict)
                    file = self.cfg.filename or "config"
                    raise UsageError(
                        f"{file}: {key}.optimizer.type: found {name!r}, wanted an optimizer{hint}"
                    )
        return super().build_optim_wrapper(optim_wrapper)

    def build_train_loop(self, loop):
        chosen = loop
        match loop:
            case {"by_epoch": by_epoch, **options} if "type" not in loop:
                chosen = {**options, "type": "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"}
        if _find(LOOPS, chosen) is mmengine.runner.EpochBasedTrainLoop:
            chosen = {**chosen, "type": EpochBasedTrainLoop}
        with self._naming_loader("train_dataloader"):
            loop = super().build_train_loop(chosen)
        if isinstance(loop.dataloader, Loader):
            loop.dataloader.counts_passes = True
            if hasattr(loop, "dataloader_iterator"):
                loop.dataloader_iterator = EndlessBatches(loop.dataloader)
        return loop

    def build_val_loop(self, loop):
        with self._naming_loader("val_dataloader"):
            return super().build_val_loop({"type": "ValLoop", **loop} if isinstance(loop, dict) else loop)

    def build_test_loop(self, loop):
        with self._naming_loader("test_dataloader"):
            return super().build_test_loop({"type": "TestLoop", **loop} if isinstance(loop, dict) else loop)

    @contextmanager
    def _naming_loader(self, key: str) -> Iterator[None]:
        """Say by which key of which file a loader without batches is described."""
        try:
            yield
        except _LoaderError as error:
            raise UsageError(f"{self.cfg.filename or 'config'}: {key}: {error}") from error

    def build_log_processor(self, log_processor):
        if isinstance(log_processor, dict):
            log_processor = {"type": "LogProcessor", **log_processor}
        return super().build_log_processor(log_processor)

    def train(self) -> nn.Module:
        only = hold_folder(self.work_dir) if is_main_process() else nullcontext()
        with only, self.stop_request:
            try:
                return super().train()
            except BaseException as error:
                self.visualizer.close()  # writes what is still in its buffers
                self.call_hook("after_failure")
                if str(error).startswith("Expected more than 1 value per channel when training"):
                    raise UsageError(
                        f"{self.cfg.filename or 'config'}: train_dataloader: the batch of iteration "
                        f"{self.iter + 1} (epoch {self.epoch + 1}) has one sample, which a batch norm cannot "
                        "be trained on; wanted drop_last=True, or another batch_size"
                    ) from error
                if self._is_split and (reason := explain_split(error)):
                    raise UsageError(reason) from error
                raise


class _LoaderError(UsageError):
    """A loader has no batch to give."""


def _report_lost_lines(handler: logging.FileHandler, record: logging.LogRecord) -> None:
    """Say once that a log cannot be written; the run goes on without its lines."""
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        logging.FileHandler.handleError(handler, record)
    elif not getattr(handler, "lost_lines", False):
        handler.lost_lines = True
        print(f"{handler.baseFilename}: {error.strerror}: the log lacks lines", file=sys.stderr)


def _dump_results(metric: DumpResults, results: list) -> dict:
    """What MMEngine's metric does, all or nothing."""
    with atomic_write(metric.out_file_path) as file:
        pickle.dump(results, file)
    MMLogger.get_current_instance().info(f"Results are saved in {metric.out_file_path}")
    return {}


def _list_numbers(value: Any) -> Any:
    """A config whose tensors and arrays are lists, changed in place."""
    items = value.items() if isinstance(value, (dict, Config)) else enumerate(value)
    for key, item in list(items):
        if isinstance(item, (torch.Tensor, np.ndarray)):
            value[key] = item.tolist()
        elif isinstance(item, (dict, list)):
            _list_numbers(item)
    return value


def _check_loader(loader: DataLoader) -> None:
    """Raise a _LoaderError where a loader has no batch to give."""
    name = type(loader.dataset).__name__
    try:
        count, batches = len(loader.dataset), len(loader)
    except TypeError:  # of data that are streamed
        return
    if count == 0:
        raise _LoaderError(f"the data set {name} is empty, wanted at least one sample")
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if batches == 0 and not isinstance(getattr(sampler, "sampler", sampler), InfiniteSampler):
        raise _LoaderError(
            f"the data set {name} has {count} samples, fewer than a batch of "
            f"{getattr(sampler, 'batch_size', '?')}, and drop_last=True leaves them out: no iteration is "
            "left; wanted a smaller batch_size, or drop_last=False"
        )


def _find(registry: Registry, cfg: Any) -> Any:
    """The class or function that ``cfg`` is to be built from, which MMEngine would find by name in the
    ``_scope_`` that it stamps on what a config inherits; None where ``cfg`` names none.
    """
    match cfg:
        case {"type": str(name)}:
            with registry.switch_scope_and_registry(cfg.get("_scope_")) as scoped:
                return scoped.get(name)
        case {"type": found}:
            return found


def _items(value: Any, path: str) -> list[tuple[str, Any]]:
    """What a dict holds, with the keys' paths."""
    return [(f"{path}.{key}", item) for key, item in value.items()] if isinstance(value, dict) else []

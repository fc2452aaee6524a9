"""The hook that leaves a report in the work dir of every run."""

import time
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, IterBasedTrainLoop
from torch import Tensor

from pointsuite.registry import HOOKS

from .findings import FOLDER, MOST, Collector
from .judging import judge
from .report import explain, show_worst, write_report

PAUSE = 60.0  # seconds, at least, from one report of a training that goes on to the next


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes ``WORK_DIR/report.html`` after training, a test, and validations (at most once a minute).

    Of the last validation and of a test it keeps what the page shows in ``WORK_DIR/report/data``: confusions,
    and the samples that came out worst, drawn. Nothing that goes wrong here stops a run: that is one line of
    the log. ``default_hooks = dict(report=None)`` leaves it out.

    Args:
        most: samples that are shown.
    """

    priority = "LOWEST"

    def __init__(self, most: int = MOST):
        self.most = most
        self.collector: Collector | None = None  # of the latest validation or test
        self.title, self.metrics = "", {}
        self.written = -PAUSE
        self.failed = False

    def before_train(self, runner) -> None:
        self.written = time.monotonic()
        if is_main_process() and not runner._resume:  # what an earlier training in this folder left
            for path in (Path(runner.work_dir) / FOLDER).glob("*.json"):
                path.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------- collecting

    def before_val_epoch(self, runner) -> None:
        self.collector, self.title = Collector(self.most), ""

    before_test_epoch = before_val_epoch

    def after_val_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._collect(runner, runner.val_dataloader.dataset, data_batch, outputs)

    def after_test_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._collect(runner, runner.test_dataloader.dataset, data_batch, outputs)

    def _collect(self, runner, dataset: Any, data_batch: Any, outputs: Any) -> None:
        if self.failed or self.collector is None:
            return
        try:
            inputs = data_batch["inputs"] if isinstance(data_batch, Mapping) else ()
            meta = getattr(dataset, "metainfo", {})
            size = len(dataset) if hasattr(dataset, "__len__") else inf
            for shown, sample in zip(inputs, outputs if isinstance(outputs, Sequence) else (), strict=True):
                place = get_rank() + get_world_size() * self.collector.samples
                if place >= size:  # repeated, so that all processes have as many
                    return
                verdict = judge(sample.to_dict(), meta)
                self.collector.add(place, verdict, lambda shown=shown, sample=sample: _keep(shown, sample))
                if "mse" in sample and "target_index" in sample:
                    errors = zip(sample.target_index.tolist(), sample.mse.tolist(), strict=True)
                    self.collector.timelines.setdefault(str(sample.get("video")), {}).update(errors)
        except Exception as error:  # a task that nobody foresaw: the run is worth more than its report
            self._fail(runner, error)

    # ---------------------------------------------------------------------------------------------- writing

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        loop = runner._train_loop
        self.metrics = dict(metrics or {})
        if not isinstance(loop, BaseLoop):  # validation alone
            self._finish(runner, "Validation", "val", runner.val_dataloader)
            self._write(runner)
            return
        by_epoch = not isinstance(loop, IterBasedTrainLoop)
        self.title = f"Validation after {f'epoch {loop.epoch}' if by_epoch else f'iteration {loop.iter}'}"
        if time.monotonic() - self.written > PAUSE:
            self._write(runner)

    def after_test_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        self.metrics = dict(metrics or {})
        title = f"Test of {Path(runner._load_from).name}" if runner._load_from else "Test"
        self._finish(runner, title, "test", runner.test_dataloader)
        self._write(runner)

    def after_train(self, runner) -> None:
        if self.title:
            self._finish(runner, self.title, "val", runner.val_dataloader)
        self._write(runner)

    def after_failure(self, runner) -> None:
        """Called by our Runner where training ends by an error or a signal."""
        if not any(Path(runner.work_dir).glob("*/vis_data/scalars.json")):
            return  # it ended before there was anything to tell
        if get_world_size() == 1:  # others may be gone, and never answer
            self.after_train(runner)
        else:
            self._write(runner)

    def _finish(self, runner, title: str, name: str, loader: Any) -> None:
        collectors = all_gather_object(None if self.failed else self.collector)  # reached by every process
        self.collector, self.title = None, ""
        if not is_main_process() or any(found is None for found in collectors):
            return
        try:
            first, *others = collectors
            first.merge(others)
            meta = getattr(loader.dataset, "metainfo", {})
            findings = first.findings(title, self.metrics, meta, show_worst(first, runner.cfg, meta))
            findings.save(runner.work_dir, name)
        except Exception as error:
            self._fail(runner, error)

    def _write(self, runner) -> None:
        if not is_main_process():
            return
        try:
            runner.logger.info(f"Report: {write_report(runner.work_dir)}")
            self.written = time.monotonic()
        except Exception as error:
            self._fail(runner, error)

    def _fail(self, runner, error: Exception) -> None:
        self.failed = True
        runner.logger.warning(explain(runner.work_dir, error))


def _keep(inputs: Any, sample: Any) -> tuple[Any, Any]:
    """What is needed to show a sample: copies on the CPU."""
    inputs = inputs.detach().cpu().clone() if isinstance(inputs, Tensor) else inputs
    return inputs, sample.cpu()

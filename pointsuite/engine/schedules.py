"""What a config's schedules make of learning rate and momentum."""

import os
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import ParamSchedulerHook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

SCHEDULING_HOOKS = ("SetLearningRateHook",)  # of a config's custom_hooks


class _OneWeight(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, *args, **kwargs):
        raise NotImplementedError("nothing is trained here")


def follow_schedule(
    cfg: Config, iters_per_epoch: int, folder: str | os.PathLike
) -> tuple[list[tuple[float, float]], bool]:
    """Learning rate and momentum at each iteration, and whether the run counts epochs.

    They are computed by MMEngine's schedulers and hooks as in the run, but without its data or model.

    Args:
        cfg: of a training run.
        iters_per_epoch: batches in an epoch.
        folder: where MMEngine's runner may write.
    """
    runner = Runner(
        model=_OneWeight(),
        work_dir=folder,
        train_dataloader={
            "batch_size": 1,
            "dataset": list(range(iters_per_epoch)),
            "sampler": {"type": "DefaultSampler", "shuffle": False},
        },
        train_cfg=cfg.train_cfg,
        optim_wrapper={"optimizer": cfg.optim_wrapper.optimizer},
        param_scheduler=cfg.get("param_scheduler"),
        default_scope=cfg.get("default_scope", "mmengine"),
        experiment_name=Path(folder).name,
        log_level="ERROR",
    )
    loop = runner.train_loop
    runner.optim_wrapper = optimizer = runner.build_optim_wrapper(runner.optim_wrapper)
    if runner.param_schedulers is not None:
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    hooks = [
        HOOKS.build(hook)
        for hook in cfg.get("custom_hooks") or []
        if hook["type"].split(".")[-1] in SCHEDULING_HOOKS
    ]
    scheduling = ParamSchedulerHook()
    by_epoch = not isinstance(loop, IterBasedTrainLoop)
    epochs, length = (loop.max_epochs, iters_per_epoch) if by_epoch else (1, loop.max_iters)
    values = []
    for epoch in range(epochs):
        loop._epoch = epoch
        for hook in hooks:
            hook.before_train_epoch(runner)
        for i in range(length):
            values.append((optimizer.get_lr()["lr"][0], optimizer.get_momentum()["momentum"][0]))
            scheduling.after_train_iter(runner, i)
        scheduling.after_train_epoch(runner)
    return values, by_epoch

"""Draw the learning rate and the momentum of a config's run, without its data or model.

    python tools/plot_schedule.py CONFIG [--iters-per-epoch N] [--out FILE.png]

They are those of parameters without multipliers of their own (paramwise_cfg), computed by MMEngine's
schedulers and hooks as in the run.
"""

import argparse
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import dense  # noqa: F401  before mmcv: it stands in for compiled operators
from pointsuite.engine import command

SCHEDULING_HOOKS = ("SetLearningRateHook",)  # of a config's custom_hooks


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--iters-per-epoch",
        type=int,
        default=100,
        metavar="N",
        help="batches in an epoch of the run (default: 100); of an effect where a schedule counts iterations",
    )
    parser.add_argument("--out", type=Path, help="picture to write (default: schedule.png in the work dir)")
    args = parser.parse_args(argv)
    if args.iters_per_epoch < 1:
        raise command.UsageError(f"--iters-per-epoch is {args.iters_per_epoch}, wanted at least 1")
    cfg = command.load_config(args)
    for key in ("train_cfg", "optim_wrapper"):
        if cfg.get(key) is None:
            raise command.UsageError(f"{args.config}: has no {key!r}, wanted the config of a training run")
    if cfg.optim_wrapper.get("optimizer") is None:
        raise command.UsageError(f"{args.config}: has no single optimizer, wanted one in 'optim_wrapper'")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # schedulers miss the optimiser's steps
        values, by_epoch = follow(cfg, args.iters_per_epoch, folder)
    step = args.iters_per_epoch if by_epoch else 1
    out = args.out or Path(cfg.work_dir) / "schedule.png"
    x = [i / step for i in range(len(values))]
    draw(x, values, "epoch" if by_epoch else "iteration", out, args.config)
    rates = [rate for rate, _ in values]
    print(
        f"{len(values)} iterations: learning rate {rates[0]:.3g} at first, {max(rates):.3g} at most (after "
        f"{rates.index(max(rates))}), {rates[-1]:.3g} at last\n{out}"
    )


def follow(cfg, iters_per_epoch: int, folder: str) -> tuple[list[tuple[float, float]], bool]:
    """Learning rate and momentum at each iteration, and whether the run counts epochs."""
    import torch
    from mmengine.hooks import ParamSchedulerHook
    from mmengine.model import BaseModel
    from mmengine.registry import HOOKS
    from mmengine.runner import IterBasedTrainLoop, Runner

    class OneWeight(BaseModel):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, *args, **kwargs):
            raise NotImplementedError("nothing is trained here")

    runner = Runner(
        model=OneWeight(),
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


def draw(x: Sequence[float], values: list, unit: str, out: Path, heading: str) -> None:
    from matplotlib.figure import Figure

    from pointsuite.visualization.png import write_png

    figure = Figure((8, 5), dpi=100, layout="constrained")
    panels = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    for axes, name, column in zip(
        panels, ("learning rate", "momentum"), zip(*values, strict=True), strict=True
    ):
        axes.plot(x, column)
        axes.set(ylabel=name)
        axes.grid(alpha=0.3)
    panels[1].set(xlabel=unit)
    figure.suptitle(heading, fontsize=10)
    write_png(figure, out)


if __name__ == "__main__":
    command.run(main)

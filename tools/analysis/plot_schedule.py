"""Draw the learning rate and the momentum of a config's run, without its data or model.

Example:
    python tools/analysis/plot_schedule.py configs/davit/davit-t_upernet_camvid.py --out schedule.png

They are those of parameters without multipliers of their own (paramwise_cfg), computed by MMEngine's
schedulers and hooks as in the run.
"""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.add_argument(
        "--iters-per-epoch",
        type=int,
        default=100,
        metavar="N",
        help="batches in an epoch of the run (default: 100); of an effect where a schedule counts iterations",
    )
    parser.add_argument("--out", type=Path, help="picture to write (default: schedule.png in the work dir)")
    args = parser.parse_args(argv)
    import dense  # noqa: F401  before mmcv: it stands in for compiled operators
    from pointsuite.engine.schedules import follow_schedule
    from pointsuite.visualization import draw_schedule

    if args.iters_per_epoch < 1:
        raise UsageError(f"--iters-per-epoch is {args.iters_per_epoch}, wanted at least 1")
    cfg = command.load_config(args)
    for key in ("train_cfg", "optim_wrapper"):
        if cfg.get(key) is None:
            raise UsageError(f"{args.config}: has no {key!r}, wanted the config of a training run")
    if cfg.optim_wrapper.get("optimizer") is None:
        raise UsageError(f"{args.config}: has no single optimizer, wanted one in 'optim_wrapper'")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # schedulers miss the optimiser's steps
        values, by_epoch = follow_schedule(cfg, args.iters_per_epoch, folder)
    step = args.iters_per_epoch if by_epoch else 1
    out = args.out or Path(cfg.work_dir) / "schedule.png"
    x = [i / step for i in range(len(values))]
    draw_schedule(x, values, "epoch" if by_epoch else "iteration", out, args.config)
    rates = [rate for rate, _ in values]
    print(
        f"{len(values)} iterations: learning rate {rates[0]:.3g} at first, {max(rates):.3g} at most (after "
        f"{rates.index(max(rates))}), {rates[-1]:.3g} at last\n{out}"
    )


if __name__ == "__main__":
    command.run(main)

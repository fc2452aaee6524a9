"""Train what a config describes.

Examples:
    python tools/train.py configs/risurconv/risurconv-s_kicad.py --work-dir work_dirs/mine
    python tools/train.py configs/risurconv/risurconv-s_kicad.py --work-dir work_dirs/mine --resume

On several GPUs or in several processes: tools/dist_train.sh.
"""

from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from a checkpoint (without a path, from the last one in the work dir): weights, "
        "optimiser and schedule are the checkpoint's, data, epochs and hooks the config's",
    )
    parser.add_argument(
        "--new-schedule",
        action="store_true",
        help="with --resume: learning rates and their schedule from the config, not from the checkpoint",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision in bfloat16, on GPU or CPU")
    parser.add_argument(
        "--strategy",
        choices=["ddp", "fsdp"],
        help="of several processes: each holds all (ddp, the default), or parameters, gradients and the "
        "optimiser's state are split over them (fsdp)",
    )
    command.add_report_option(parser)
    args = parser.parse_args(argv)
    if args.new_schedule and args.resume is None:
        raise UsageError("--new-schedule is for --resume, which is not there")
    import dense  # noqa: F401  before mmcv, mmdet and mmseg, which need its operators

    cfg = command.load_config(args)
    for key in ("train_cfg", "train_dataloader", "optim_wrapper"):
        if cfg.get(key) is None:
            raise UsageError(f"{args.config}: has no {key!r}, wanted the config of a training run")
    if args.amp:
        cfg.optim_wrapper.type = "pointsuite.AmpOptimWrapper"
    if args.strategy is not None:
        cfg.strategy = args.strategy
    if args.resume is not None:
        cfg.resume, cfg.new_schedule = True, args.new_schedule
        cfg.load_from = None if args.resume == "auto" else args.resume
        if cfg.load_from is not None and not Path(cfg.load_from).is_file():
            raise UsageError(
                f"--resume {cfg.load_from}: no such file; without a path, --resume takes the last"
            )
    command.build_runner(cfg).train()


if __name__ == "__main__":
    command.run(main)

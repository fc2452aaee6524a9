"""Train what a config describes: ``python tools/train.py CONFIG [--work-dir DIR] [--resume] ...``."""

from collections.abc import Sequence
from pathlib import Path

import dense  # noqa: F401  before mmcv, mmdet and mmseg, which need its operators
from pointsuite.datasets import DatasetError
from pointsuite.engine import command


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser("Train what a config describes.")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from a checkpoint (without a path, from the last one in the work dir)",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision in bfloat16, on GPU or CPU")
    args = parser.parse_args(argv)
    cfg = command.load_config(args)
    for key in ("train_cfg", "train_dataloader", "optim_wrapper"):
        if cfg.get(key) is None:
            raise command.UsageError(f"{args.config}: has no {key!r}, wanted the config of a training run")
    if args.amp:
        cfg.optim_wrapper.type = "pointsuite.AmpOptimWrapper"
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
        if cfg.load_from is not None and not Path(cfg.load_from).is_file():
            raise command.UsageError(
                f"--resume {cfg.load_from}: no such file; without a path, --resume takes the last"
            )
    command.build_runner(cfg).train()


if __name__ == "__main__":
    command.run(main, DatasetError)

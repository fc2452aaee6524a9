"""Count which classes a model takes for which, of classification and of segmentation.

Examples:
    python tools/analysis/confusion_matrix.py configs/risurconv/risurconv-s_kicad.py work_dirs/mine
    python tools/analysis/confusion_matrix.py predictions.npz --out confusion.png

A test counts images, clouds, points or pixels, whatever the model labels. An .npz file, as tools/test.py
--protocols writes it, has index, label and prediction (M,), numbers, and classes (C,), names. Prints recall,
precision and intersection over union of each class and the commonest confusions; writes
confusion_matrix.png and .json.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError

if TYPE_CHECKING:
    import numpy as np


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.add_argument("checkpoint", nargs="?", help="a path, or a work dir (its last checkpoint)")
    parser.add_argument("--out", type=Path, help="picture (default: confusion_matrix.png in the work dir)")
    parser.add_argument(
        "--most",
        type=command.whole(1),
        default=40,
        help="draw at most so many classes, those with most errors (default: 40)",
    )
    args = parser.parse_args(argv)
    import dense  # before PyTorch and mmcv  # noqa: F401  # isort: skip
    import numpy as np

    from pointsuite.engine.checkpoint import atomic_write
    from pointsuite.evaluation import format_confusion
    from pointsuite.visualization import draw_confusion_matrix

    if args.config.endswith(".npz"):
        matrix, classes = read_matrix(args.config)
        folder = Path(args.work_dir or Path(args.config).parent)
    elif args.checkpoint is None and not Path(args.config).is_dir():
        raise UsageError("found no CHECKPOINT, wanted one, a work dir, or an .npz file of predictions")
    else:
        matrix, classes, folder = test(args)
        if matrix is None:
            return
    print(format_confusion(matrix, classes))
    heading = f"{np.trace(matrix):,} of {matrix.sum():,} right"
    shown = np.arange(len(classes))
    if len(classes) > args.most:
        errors = matrix.sum(0) + matrix.sum(1) - 2 * np.diag(matrix)
        shown = np.sort(np.argsort(-errors, kind="stable")[: args.most])
        heading += f"; the {args.most} classes of {len(classes)} with most errors"
    out = args.out or folder / "confusion_matrix.png"
    draw_confusion_matrix(matrix[np.ix_(shown, shown)], [classes[i] for i in shown], out, heading=heading)
    with atomic_write(out.with_suffix(".json")) as file:
        report = {"source": args.config, "checkpoint": args.checkpoint, "classes": list(classes)}
        file.write(json.dumps({**report, "matrix": matrix.tolist()}).encode())
    print(f"{out} {out.with_suffix('.json')}")


def read_matrix(path: str) -> tuple["np.ndarray", list[str]]:
    from pointsuite.evaluation import confusion_matrix
    from pointsuite.visualization import read_predictions

    said = read_predictions(path)
    return confusion_matrix(said.label, said.prediction, len(said.classes)), said.classes


def test(args: argparse.Namespace) -> tuple["np.ndarray | None", Sequence[str], Path]:
    """Run the config's test, its own metrics too; no matrix in other processes than the main one."""
    from pointsuite.engine.checkpoint import find_checkpoint
    from pointsuite.evaluation import ConfusionMatrix

    cfg = command.load_config(args)
    command.check_test(cfg, args.config)
    cfg.load_from, cfg.resume = find_checkpoint(args.checkpoint), False
    runner = command.build_runner(cfg)
    loop = runner.test_loop
    metric = ConfusionMatrix(prefix="confusion", collect_dir=str(Path(cfg.work_dir) / ".confusion"))
    metric.dataset_meta = loop.dataloader.dataset.metainfo
    loop.evaluator.metrics.append(metric)
    runner.test()
    return metric.matrix, metric.classes, Path(cfg.work_dir)


if __name__ == "__main__":
    command.run(main)

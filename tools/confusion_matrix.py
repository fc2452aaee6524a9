"""Which classes are taken for which? Of classification and of segmentation, by a test or from its file.

    python tools/confusion_matrix.py CONFIG CHECKPOINT [--work-dir DIR]
    python tools/confusion_matrix.py predictions.npz --out confusion.png

A test counts images, clouds, points or pixels, whatever the model labels. An .npz file, as tools/test.py
--protocols writes it, has index, label and prediction (M,), numbers, and classes (C,), names. Prints recall,
precision and intersection over union of each class and the commonest confusions; writes
confusion_matrix.png and .json.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import dense  # before PyTorch and mmcv  # noqa: F401  # isort: skip
import numpy as np
from mmengine.evaluator import BaseMetric

from pointsuite.datasets import DatasetError
from pointsuite.engine import command
from pointsuite.engine.checkpoint import atomic_write
from pointsuite.evaluation import confusion_matrix
from pointsuite.visualization import draw_confusion_matrix

TRUTH_AND_PREDICTION = (("gt_sem_seg", "pred_sem_seg"), ("gt_part", "pred_part"), ("gt_label", "pred_label"))


class PairCounts(BaseMetric):
    """Counts pairs of true and predicted class; a test leaves the sum in `matrix`, in the main process.

    Where the truth is no class (as 255, which is not to be counted), nothing counts.
    """

    classes: Sequence[str] = ()
    matrix: np.ndarray | None = None

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            pair = find_pair(sample)
            kind = "part_classes" if "gt_part" in pair else "classes"
            self.classes = (self.dataset_meta or {}).get(kind) or ()
            if not self.classes:
                raise command.UsageError(f"the test data name no {kind}")
            truth, prediction = (as_labels(sample[key]) for key in pair)
            counted = (truth >= 0) & (truth < len(self.classes))
            matrix = confusion_matrix(truth[counted], prediction[counted], len(self.classes))
            places = np.argwhere(matrix)  # few: the matrices of 50,000 images would not fit
            self.results.append((places, matrix[tuple(places.T)]))

    def compute_metrics(self, results: list) -> dict:
        self.matrix = np.zeros((len(self.classes), len(self.classes)), np.int64)
        for places, counts in results:
            self.matrix[tuple(places.T)] += counts
        return {}


def find_pair(sample: dict) -> tuple[str, str]:
    for pair in TRUTH_AND_PREDICTION:
        if all(key in sample for key in pair):
            return pair
    raise command.UsageError(
        f"a tested sample has {', '.join(sample)}, wanted one of the pairs "
        f"{'; '.join(' and '.join(pair) for pair in TRUTH_AND_PREDICTION)}"
    )


def as_labels(value) -> np.ndarray:
    """A flat array of the labels in a tensor, or in mmseg's container of one."""
    return np.asarray((value["data"] if isinstance(value, dict) else value).cpu()).reshape(-1)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("checkpoint", nargs="?", help="a path, or a work dir (its last checkpoint)")
    parser.add_argument("--out", type=Path, help="picture (default: confusion_matrix.png in the work dir)")
    parser.add_argument(
        "--most",
        type=int,
        default=40,
        help="draw at most so many classes, those with most errors (default: 40)",
    )
    args = parser.parse_args(argv)
    if args.config.endswith(".npz"):
        matrix, classes = read_matrix(args.config)
        folder = Path(args.work_dir or Path(args.config).parent)
    elif args.checkpoint is None:
        raise command.UsageError("found no CHECKPOINT, wanted one, or an .npz file of predictions")
    else:
        matrix, classes, folder = test(args)
        if matrix is None:
            return
    print(table(matrix, classes))
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


def read_matrix(path: str) -> tuple[np.ndarray, list[str]]:
    from pointsuite.visualization import read_predictions

    said = read_predictions(path)
    return confusion_matrix(said.label, said.prediction, len(said.classes)), said.classes


def test(args: argparse.Namespace) -> tuple[np.ndarray | None, Sequence[str], Path]:
    """Run the config's test, its own metrics too; no matrix in other processes than the main one."""
    cfg = command.load_config(args)
    for key in ("test_cfg", "test_dataloader", "test_evaluator"):
        if cfg.get(key) is None:
            raise command.UsageError(f"{args.config}: has no {key!r}, wanted a config with a test")
    cfg.load_from, cfg.resume = command.find_checkpoint(args.checkpoint), False
    runner = command.build_runner(cfg)
    loop = runner.test_loop
    metric = PairCounts(prefix="confusion", collect_dir=str(Path(cfg.work_dir) / ".confusion"))
    metric.dataset_meta = loop.dataloader.dataset.metainfo
    loop.evaluator.metrics.append(metric)
    runner.test()
    return metric.matrix, metric.classes, Path(cfg.work_dir)


def table(matrix: np.ndarray, classes: Sequence[str], most: int = 10) -> str:
    """A row a class, in percent, then the commonest confusions."""
    right, true, said = np.diag(matrix), matrix.sum(1), matrix.sum(0)

    def percent(part, whole) -> list[str]:
        return [f"{100 * p / w:.2f}" if w else "-" for p, w in zip(part, whole, strict=True)]

    columns = [
        ["class", *map(str, classes)],
        ["true", *(f"{n:,}" for n in true)],
        ["recall", *percent(right, true)],
        ["precision", *percent(right, said)],
        ["IoU", *percent(right, true + said - right)],
    ]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in zip(*columns, strict=True)
    ]
    wrong = matrix - np.diag(right)
    lines.append("most often confused:")
    for place in np.argsort(-wrong, axis=None, kind="stable")[:most]:
        row, column = divmod(int(place), len(classes))
        if wrong[row, column]:
            share = 100 * wrong[row, column] / true[row]
            lines.append(f"  {classes[row]} -> {classes[column]}: {wrong[row, column]:,} ({share:.2f} %)")
    return "\n".join(lines)


if __name__ == "__main__":
    command.run(main, DatasetError)

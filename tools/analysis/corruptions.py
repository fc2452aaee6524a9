"""Test how robust a classifier of clouds or images is: its accuracy under corruptions, five severities each.

Example:
    python tools/analysis/corruptions.py configs/risurconv/risurconv-s_kicad.py work_dirs/mine --quick

Prints a table and writes corruptions.json and corruptions.png to the work dir. What severities mean stands in
pointsuite/transforms/corrupt.py, dense/classification/corruptions.py and in the JSON.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.add_argument(
        "checkpoint", help="a path, a work dir (its last checkpoint), or a URL with its digest (#sha256=...)"
    )
    parser.add_argument("--corruptions", nargs="+", metavar="NAME", help="only these (default: all)")
    parser.add_argument("--max-samples", type=int, help="spread over the test data (default: all)")
    parser.add_argument("--quick", action="store_true", help="severities 1 and 5 of at most 40 samples")
    args = parser.parse_args(argv)
    if args.max_samples is not None and args.max_samples < 1:
        raise UsageError(f"--max-samples is {args.max_samples}, wanted at least 1")
    from pointsuite.engine.checkpoint import atomic_write, find_checkpoint, sha256

    cfg = command.load_config(args)
    if cfg.get("test_dataloader") is None:
        raise UsageError(f"{args.config}: has no 'test_dataloader', wanted a config with a test")
    path = find_checkpoint(args.checkpoint)

    runner = command.build_runner(cfg)
    dataset = runner.build_dataloader(cfg.test_dataloader).dataset

    from pointsuite.datasets import PointCloudDataset
    from pointsuite.engine.corruptions import SEVERITIES, format_corruptions, report_corruptions
    from pointsuite.visualization import draw_corruptions

    options = {}
    if isinstance(dataset, PointCloudDataset):
        from pointsuite.evaluation import evaluate_corruptions
        from pointsuite.transforms import CORRUPTIONS

        options["device"] = next(runner.model.parameters()).device
    else:
        from dense.classification.corruptions import CORRUPTIONS, evaluate_corruptions
    names = args.corruptions or list(CORRUPTIONS)
    if unknown := [name for name in names if name not in CORRUPTIONS]:
        raise UsageError(f"--corruptions {unknown[0]!r}: wanted some of {', '.join(CORRUPTIONS)}")
    runner.load_checkpoint(path)
    results = evaluate_corruptions(
        runner.model,
        dataset,
        names,
        (SEVERITIES[0], SEVERITIES[-1]) if args.quick else SEVERITIES,
        max_samples=args.max_samples or (40 if args.quick else None),
        seed=args.seed or 0,
        **options,
    )
    print(format_corruptions(results))

    report = {
        "config": args.config,
        "checkpoint": path,
        "checkpoint_sha256": sha256(path) if Path(path).is_file() else None,
        "seed": args.seed or 0,
        **report_corruptions(results),
    }
    folder = Path(cfg.work_dir)
    with atomic_write(folder / "corruptions.json") as file:
        file.write(json.dumps(report, indent=2).encode())
    clean = report["clean"]["overall_accuracy"]
    lines = {n: (row["severities"], row["overall_accuracy"]) for n, row in report["corruptions"].items()}
    heading = f"{Path(args.config).stem}, {report['num_samples']} samples"
    picture = draw_corruptions(clean, lines, folder / "corruptions.png", heading=heading)
    print(f"{folder / 'corruptions.json'} {picture}")


if __name__ == "__main__":
    command.run(main)

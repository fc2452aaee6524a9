"""Test how robust a classifier of clouds is: its accuracy under nine corruptions, five severities each.

Example:
    python tools/analysis/corruptions.py configs/risurconv/risurconv-s_kicad.py work_dirs/mine --quick

Prints a table and writes corruptions.json and corruptions.png to the work dir. What severities mean stands in
pointsuite/transforms/corrupt.py and in the JSON.
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
    parser.add_argument("--max-shapes", type=int, help="spread over the test data (default: all)")
    parser.add_argument("--quick", action="store_true", help="severities 1 and 5 of at most 40 shapes")
    args = parser.parse_args(argv)
    if args.max_shapes is not None and args.max_shapes < 1:
        raise UsageError(f"--max-shapes is {args.max_shapes}, wanted at least 1")
    from pointsuite.engine.checkpoint import atomic_write, find_checkpoint, sha256

    cfg = command.load_config(args)
    if cfg.get("test_dataloader") is None:
        raise UsageError(f"{args.config}: has no 'test_dataloader', wanted a config with a test")
    path = find_checkpoint(args.checkpoint)

    from pointsuite.evaluation import evaluate_corruptions, format_corruptions, mean_accuracy
    from pointsuite.transforms import CORRUPTIONS, SEVERITIES
    from pointsuite.visualization import draw_corruptions

    names = args.corruptions or list(CORRUPTIONS)
    if unknown := [name for name in names if name not in CORRUPTIONS]:
        raise UsageError(f"--corruptions {unknown[0]!r}: wanted some of {', '.join(CORRUPTIONS)}")
    runner = command.build_runner(cfg)
    dataset = runner.build_dataloader(cfg.test_dataloader).dataset
    runner.load_checkpoint(path)
    results = evaluate_corruptions(
        runner.model,
        dataset,
        names,
        (SEVERITIES[0], SEVERITIES[-1]) if args.quick else SEVERITIES,
        max_shapes=args.max_shapes or (40 if args.quick else None),
        seed=args.seed or 0,
        device=next(runner.model.parameters()).device,
    )
    print(format_corruptions(results))

    clean = results.pop("clean")
    report = {
        "config": args.config,
        "checkpoint": path,
        "checkpoint_sha256": sha256(path) if Path(path).is_file() else None,
        "seed": args.seed or 0,
        "num_shapes": len(clean.labels),
        "clean": {
            "overall_accuracy": clean.overall_accuracy[0],
            "mean_class_accuracy": clean.mean_class_accuracy[0],
        },
        "mean_overall_accuracy": mean_accuracy(results),
        "corruptions": {
            name: {
                "severities": result.severities,
                "levels": result.levels,
                "unit": result.unit,
                "overall_accuracy": result.overall_accuracy.tolist(),
                "mean_class_accuracy": result.mean_class_accuracy.tolist(),
            }
            for name, result in results.items()
        },
    }
    folder = Path(cfg.work_dir)
    with atomic_write(folder / "corruptions.json") as file:
        file.write(json.dumps(report, indent=2).encode())
    lines = {name: (result.severities, result.overall_accuracy) for name, result in results.items()}
    heading = f"{Path(args.config).stem}, {len(clean.labels)} shapes"
    picture = draw_corruptions(clean.overall_accuracy[0], lines, folder / "corruptions.png", heading=heading)
    print(f"{folder / 'corruptions.json'} {picture}")


if __name__ == "__main__":
    command.run(main)

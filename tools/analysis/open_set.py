"""Test how well a classifier tells the classes that it knows from others: COSTARR and other scores beside it.

Examples:
    python tools/analysis/open_set.py configs/costarr/resnet-s_cifar10-6known.py work_dirs/mine
    python tools/analysis/open_set.py configs/shvit/shvit-s1_fashion-mnist.py work_dirs/mine --unknown DIR

Scores are fitted to the config's training data, as its test prepares them. Sets of unknown images are those
of the config's open_set, and folders of --unknown. Prints a table of all scores a set, writes open_set.json
and curves, open_set_NAME.png, to the work dir.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.add_argument("checkpoint", help="a path, or a work dir (its last checkpoint)")
    parser.add_argument("--unknown", nargs="+", type=Path, default=[], metavar="DIR", help="unknown images")
    parser.add_argument("--balanced", action="store_true", help="OSA weighs known and unknown ones equally")
    args = parser.parse_args(argv)
    import dense  # noqa: F401  before mmcv  # isort: skip
    from dense.classification.open_set_evaluation import evaluate_open_set, format_open_set
    from dense.classification.open_set_model import open_set_loaders
    from dense.classification.visualization import draw_open_set
    from pointsuite.engine.checkpoint import atomic_write, find_checkpoint

    cfg = command.load_config(args)
    command.check_test(cfg, args.config)
    path = find_checkpoint(args.checkpoint)
    runner = command.build_runner(cfg)
    loaders, names = open_set_loaders(runner, {folder.name: str(folder) for folder in args.unknown})
    runner.load_checkpoint(path)
    report = evaluate_open_set(runner.model, **loaders, names=names, balanced=args.balanced)
    print(format_open_set(report))
    folder = Path(cfg.work_dir)
    pictures = [
        draw_open_set(curves, folder / f"open_set_{name}.png", f"{Path(args.config).stem}: {name}")
        for name, curves in report.curves.items()
    ]
    with atomic_write(folder / "open_set.json") as file:
        facts = {"config": args.config, "checkpoint": path, "classes": names, "balanced": args.balanced}
        file.write(json.dumps({**facts, "samples": report.counts, **report.metrics}, indent=2).encode())
    print(folder / "open_set.json", *pictures)


if __name__ == "__main__":
    command.run(main)

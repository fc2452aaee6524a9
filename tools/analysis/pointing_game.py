"""Play the pointing game: how often the maximum of a map lies on the object of the class asked about.

Example:
    python tools/analysis/pointing_game.py configs/normgrad/resnet-xs_clutter-scenes.py work_dirs/scenes0 \\
        work_dirs/scenes1 work_dirs/scenes2 --layers backbone.stages.0 backbone.stages.1 backbone.stages.2

Every method plays at every layer, those that are meant for one of their own (as the image) there, beside the
centre of the image and random points, on the test data of the config. The table has mean and standard
deviation over the checkpoints. What is finished stands in --out and is not played again; so stop and start as
you like.
"""

from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="files, or work dirs for their last"
    )
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="(default: all)")
    parser.add_argument(
        "--layers", nargs="+", metavar="NAME", default=[], help="dotted names (default: each method's)"
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.0, help="pixels from the object (default: 0, on it)"
    )
    parser.add_argument("--sensitivity", action="store_true", help="also whether maps depend on the class")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/pointing_game.json"), metavar="FILE.json")
    args = parser.parse_args(argv)
    from dense.explain.comparison import all_games, format_games, play_pointing_games

    cfg = command.load_config(args)
    command.check_test(cfg, args.config)
    runner = command.build_runner(cfg)
    dataset = runner.build_dataloader(cfg.test_dataloader).dataset
    how = {"tolerance": args.tolerance, "sensitivity": args.sensitivity}
    games = all_games(args.layers, args.methods)
    print(format_games(play_pointing_games(runner, dataset, args.checkpoints, games, args.out, **how)))


if __name__ == "__main__":
    command.run(main)

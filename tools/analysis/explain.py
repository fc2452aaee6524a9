"""Draw what of an image the answer of a network rests on, by several methods side by side.

Examples:
    python tools/analysis/explain.py bird.png --config work_dirs/mine --method norm_grad grad_cam lrp
    python tools/analysis/explain.py --config work_dirs/scenes --samples 0 300 --out scenes.png

A cross marks the maximum of each map, a box the object where the data tell it. Layers are dotted names of the
model's modules, as backbone.stages.2; without --layer each method takes its own. Several make a panel each.
"""

from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("images", nargs="*", help="files, or folders of them")
    parser.add_argument("--config", required=True, help="a run's config or work dir, or a checkpoint")
    parser.add_argument("--checkpoint", help="weights for a config")
    parser.add_argument("--method", nargs="+", metavar="NAME", help="(default: all)")
    parser.add_argument("--layer", nargs="+", metavar="NAME", default=[], help="dotted names of modules")
    parser.add_argument("--target", help="class, by number or name (default: the sample's, or the answer)")
    parser.add_argument("--samples", nargs="+", type=int, default=[], help="of the test data, by number")
    for option, what in (
        ("--options", "of all methods, as smooth=0.02"),
        ("--cfg-options", "override the config"),
    ):
        parser.add_argument(
            option, nargs="+", action=command.KeyValue, default={}, metavar="KEY=VALUE", help=what
        )
    parser.add_argument("--device", help="as cpu or cuda:0")
    parser.add_argument("--out", type=Path, default=Path("explained.png"), help="picture to write")
    args = parser.parse_args(argv)
    if not args.images and not args.samples:
        raise UsageError("found no image, wanted files or --samples")
    from dense.explain.predictor import Explainer, as_row
    from dense.explain.visualization import draw_maps
    from pointsuite.engine.config import find_run_config

    config, checkpoint = args.config, args.checkpoint
    if args.cfg_options:
        if Path(config).is_dir():
            config, checkpoint = find_run_config(config), checkpoint or config
        config = command.read_config(config, args.cfg_options)
    explainer = Explainer(
        config,
        checkpoint,
        args.device,
        methods=args.method,
        layers=args.layer,
        target=args.target,
        options=args.options,
    )
    files = [
        path for name in args.images for path in (explainer.expand(name) if Path(name).is_dir() else [name])
    ]
    rows = [as_row(path, found) for path, found in zip(files, explainer.iterate(files), strict=True)]
    rows += [as_row(f"{i}", explainer.explain_sample(i)) for i in args.samples]
    print(draw_maps(rows, args.out))


if __name__ == "__main__":
    command.run(main)

"""Train configs by several seeds, and print what they reach side by side; what is finished is not repeated.

Examples:
    python tools/analysis/compare.py configs/*/*_fpn_camvid-small.py --kind segmentation --seeds 0
    python tools/analysis/compare.py configs/baselines/*.py --kind rotation --kind-args epochs=30 points=768
    python tools/analysis/compare.py --out work_dirs/comparison.json --curve coco/bbox_mAP

The configs should differ in one thing, as the network. Every finished run is added to --out at once. Stop and
start again as you like: what is there is not repeated, and a run that was stopped continues from its last
checkpoint. Without configs, all runs in --out are printed. Where the data lie (data_root) says nothing about
a run; other options make other runs, whose table is their own.

--kind says what is special: rotation trains classifiers of clouds under z and under SO(3) and tests them by
the protocols of rotation (--kind-args: epochs, points and rotations, by default 8, 256 and 3); segmentation
adds the class that training has most of; corruption tests classifiers of images on clean and corrupted ones
(--kind-args: images, all by default); open_set tells classes that they know from others by
several scores, and its seeds draw which are known (--kind-args: balanced); tuning adds how many parameters
were trained. --curve prints how a metric of the validations grows and draws it beside --out: a thin line for
each seed, a thick one for their mean.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError

if TYPE_CHECKING:
    from pointsuite.engine.comparison import Comparison

KINDS = {  # name -> module and class; only the one that is asked for is imported
    "test": ("pointsuite.engine.comparison", "Comparison"),
    "rotation": ("pointsuite.evaluation", "RotationComparison"),
    "segmentation": ("dense.segmentation.comparison", "SegmentationComparison"),
    "corruption": ("dense.classification.comparison", "CorruptionComparison"),
    "open_set": ("dense.classification.comparison", "OpenSetComparison"),
    "tuning": ("dense.adaptation.comparison", "TuningComparison"),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("configs", nargs="*", type=Path, metavar="CONFIG")
    parser.add_argument("--seeds", nargs="+", type=command.seed, default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="columns, as 'coco/*' (default: all)")
    parser.add_argument("--curve", metavar="NAME", help="metric of the validations to print and draw")
    parser.add_argument("--kind", choices=KINDS, default="test", help="of comparison (default: test)")
    for option, what in (("--kind-args", "of the kind"), ("--cfg-options", "override the configs")):
        parser.add_argument(
            option, nargs="+", action=command.KeyValue, default={}, metavar="KEY=VALUE", help=what
        )
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/comparison"))
    parser.add_argument("--out", type=Path, default=Path("work_dirs/comparison.json"), metavar="FILE.json")
    args = parser.parse_args(argv)
    import dense  # noqa: F401  before mmcv, mmdet and mmseg, which need its operators
    from pointsuite.engine.comparison import (
        collect_curves,
        format_curves,
        format_runs,
        read_runs,
        run_comparison,
    )

    references = {}
    if args.configs:
        comparison = build_comparison(args.kind, args.kind_args)
        runs = run_comparison(comparison, args.configs, args.seeds, args.out, args.work_dir, args.cfg_options)
        references = comparison.references(command.read_config(args.configs[0], args.cfg_options))
    else:
        runs = read_runs(args.out)
        if not runs:
            raise UsageError(f"{args.out}: holds no runs, wanted some, or a CONFIG to train")
    print(format_runs(runs, args.metrics, references))
    if args.curve:
        from pointsuite.visualization import draw_seeds

        print(f"\n{format_curves(runs, args.curve)}")
        print(draw_seeds(collect_curves(runs, args.curve), args.curve, args.out.with_suffix(".png")))


def build_comparison(kind: str, options: dict) -> "Comparison":
    module, name = KINDS[kind]
    try:
        return getattr(import_module(module), name)(**options)
    except TypeError as error:
        raise UsageError(f"--kind-args: {error}") from error


if __name__ == "__main__":
    command.run(main)

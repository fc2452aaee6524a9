"""How much do the boxes of an image say of each other? Of annotations in COCO's format, without images.

    python tools/macroscopic_correlation.py annotations/instances_train2017.json [MORE.json ...] --out mc.png

Prints, for each file, images and objects that are not alone, by class, and the mean and the strongest
absolute correlation of an object's box with the others of its image, each beside what chance gives: mean and
standard deviation when the same boxes are dealt anew to the images. Draws how images spread over the
macroscopic correlation (MC). The definition, which is our reading of the Relation-DETR paper, is in
dense/detection/correlation.py.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import dense  # noqa: F401  before mmcv
from dense.detection.correlation import correlate, deal_anew, format_table, read_coco_boxes, summarise
from pointsuite.engine import command


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", nargs="+", type=Path, help="files of COCO's format")
    parser.add_argument("--out", type=Path, help="picture to write (default: none)")
    parser.add_argument("--deals", type=int, default=20, help="how often boxes are dealt anew (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the first deal (default: 0)")
    args = parser.parse_args(argv)
    if args.deals < 1:
        raise command.UsageError(f"--deals is {args.deals}, wanted at least 1")
    curves = []
    for path in args.annotations:
        try:
            data = read_coco_boxes(path)
        except ValueError as error:
            raise command.UsageError(error) from error
        found = correlate(data)
        if not len(found.image):
            raise command.UsageError(f"{path}: no image has two boxes, wanted some to correlate")
        dealt = [correlate(deal_anew(data, args.seed + i)) for i in range(args.deals)]
        chance = np.stack([summarise(deal, len(data.classes)) for deal in dealt])
        print(
            f"{path}: {len(data.counts):,} images, {len(found.image):,} of them with two boxes or more; "
            f"{len(data.boxes):,} boxes\n{format_table(data, found, chance)}"
        )
        curves.append((path.stem, found.image, np.concatenate([deal.image for deal in dealt])))
    if args.out:
        draw(curves, args.out)
        print(args.out)


def draw(curves: Sequence[tuple], out: Path) -> None:
    """Histograms of images, for each file a solid line, and a dashed one of chance in the same colour."""
    from matplotlib.figure import Figure

    from pointsuite.visualization.png import write_png

    figure = Figure((8, 5), dpi=100, layout="constrained")
    axes = figure.subplots()
    for i, (name, image, reference) in enumerate(curves):
        for values, style, said in ((image, "-", name), (reference, "--", f"{name}, by chance")):
            share, edges = np.histogram(values, bins=40, range=(0, 1))
            label = f"{said}: mean {values.mean():.3f}"
            axes.stairs(100 * share / len(values), edges, color=f"C{i % 10}", linestyle=style, label=label)
    axes.set(xlabel="macroscopic correlation of an image", ylabel="percent of images", xlim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    try:
        write_png(figure, out)
    except ValueError as error:
        raise command.UsageError(error) from error


if __name__ == "__main__":
    command.run(main)

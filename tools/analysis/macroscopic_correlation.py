"""Measure how much the boxes of an image say of each other, from annotations in COCO's format alone.

Example:
    python tools/analysis/macroscopic_correlation.py annotations/instances_train2017.json --out mc.png

Prints, for each file, images and objects that are not alone, by class, and the mean and the strongest
absolute correlation of an object's box with the others of its image, each beside what chance gives: mean and
standard deviation when the same boxes are dealt anew to the images. Draws how images spread over the
macroscopic correlation (MC). The definition, which is our reading of the Relation-DETR paper, is in
dense/detection/box_correlation.py.
"""

from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("annotations", nargs="+", type=Path, help="files of COCO's format")
    parser.add_argument("--out", type=Path, help="picture to write (default: none)")
    parser.add_argument("--deals", type=int, default=20, help="how often boxes are dealt anew (default: 20)")
    parser.add_argument("--seed", type=command.seed, default=0, help="of the first deal (default: 0)")
    args = parser.parse_args(argv)
    import numpy as np

    from dense.detection.box_correlation import (
        correlate,
        deal_anew,
        format_table,
        read_coco_boxes,
        summarise,
    )
    from pointsuite.visualization import draw_beside_chance

    if args.deals < 1:
        raise UsageError(f"--deals is {args.deals}, wanted at least 1")
    curves = {}
    for path in args.annotations:
        data = read_coco_boxes(path)
        found = correlate(data)
        if not len(found.image):
            raise UsageError(f"{path}: no image has two boxes, wanted some to correlate")
        dealt = [correlate(deal_anew(data, args.seed + i)) for i in range(args.deals)]
        chance = np.stack([summarise(deal, len(data.classes)) for deal in dealt])
        print(
            f"{path}: {len(data.counts):,} images, {len(found.image):,} of them with two boxes or more; "
            f"{len(data.boxes):,} boxes\n{format_table(data, found, chance)}"
        )
        curves[path.stem] = found.image, np.concatenate([deal.image for deal in dealt])
    if args.out:
        labels = ("macroscopic correlation of an image", "percent of images")
        print(draw_beside_chance(curves, *labels, args.out))


if __name__ == "__main__":
    command.run(main)

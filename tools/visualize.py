"""Draw a point-cloud or mesh file, a shape of a data set, images, or predictions.

Examples:
    python tools/visualize.py bunny.ply --out bunny.png     # a file (h5 npz npy ply pcd off obj txt xyz csv)
    python tools/visualize.py data/kicad/kicad.h5:test:12   # a shape of a data set, in a window
    python tools/visualize.py data/kicad/kicad.h5 --predictions predictions.npz --out grid.png
    python tools/visualize.py part.ply --out part.html      # a page to turn it in a browser, offline
    python tools/visualize.py photographs --out all.html    # a page of images, to click through
    python tools/visualize.py found/predictions.json --out found.html    # of what tools/predict.py said
"""

import argparse
import sys
from pathlib import Path

from pointsuite.engine import command

NEIGHBOURS = 32  # of a point whose normal is estimated


def main(argv: list[str] | None = None) -> int:
    parser = command.Parser(description=__doc__)
    parser.add_argument(
        "input",
        help="a file; for an HDF5 data set also FILE.h5:SPLIT:INDEX; for a page also a folder of images, or "
        "the JSON file that tools/predict.py --out writes",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="write a picture (.png) or a page (.html); without it a window opens"
    )
    parser.add_argument("--split", default="test", help="of an HDF5 data set (default: test)")
    parser.add_argument("--index", type=int, default=0, help="of the shape in the split (default: 0)")
    parser.add_argument(
        "--color",
        help="normals, height, part or file; default: the file's own colours where it has them, else "
        "normals, else height",
    )
    parser.add_argument(
        "--num-points", type=int, help="sampled on a mesh (default: 20000) or kept of a cloud (default: all)"
    )
    parser.add_argument("--columns", metavar="'x y z ...'", help="of a text or npy file (nx r part _)")
    parser.add_argument("--drop-nan", action="store_true", help="leave out points that are NaN or infinite")
    parser.add_argument("--estimate-normals", action="store_true", help="also where the file has normals")
    parser.add_argument("--up", choices=("x", "y", "z"), help="axis (default: as the data set says, else z)")
    parser.add_argument("--seed", type=command.seed, default=0, help="of sampling, and of the shapes shown")
    parser.add_argument("--size", type=int, nargs=2, default=(960, 720), metavar=("W", "H"), help="in pixels")
    parser.add_argument("--point-size", type=command.positive, help="in pixels (default: covers the surface)")
    parser.add_argument(
        "--predictions",
        metavar="FILE.npz",
        help="index, label, prediction and classes about the data set INPUT: draws a grid of its shapes",
    )
    parser.add_argument("--confusion", metavar="FILE.png", help="with --predictions: the confusion matrix")
    parser.add_argument(
        "--limit", type=int, default=40, help="shapes in the grid, items in a page (default: 40)"
    )
    args = parser.parse_args(argv)
    if args.confusion and not args.predictions:
        parser.error(f"--confusion {args.confusion} is for --predictions, which is not there")
    try:
        if args.out and Path(args.out).suffix.lower() not in (".png", ".html", ".htm"):
            raise ValueError(
                f"--out {args.out}: found the suffix {Path(args.out).suffix!r}, wanted .png or .html"
            )
        if args.predictions:
            _predictions(args)
        elif _wants_items(args):
            _items(args)
        else:
            _cloud(args)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"visualize: {error}", file=sys.stderr)
        return 2
    return 0


def _cloud(args: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from pointsuite.io import read_points
    from pointsuite.ops import estimate_normals
    from pointsuite.visualization import Exhibit, draw_cloud, is_page, show_cloud, write_page

    if args.num_points is not None and args.num_points < 1:
        raise ValueError(f"--num-points is {args.num_points}, wanted 1 or more")
    reading = {"columns": args.columns, "drop_nan": args.drop_nan}
    place = {"split": args.split, "index": args.index}
    cloud = read_points(args.input, args.num_points or 20000, args.seed, **place, **reading)
    if args.estimate_normals:
        points = torch.from_numpy(cloud.points)
        normals = estimate_normals(points[None], min(NEIGHBOURS, len(points)))[0].numpy()
        cloud = cloud._replace(normals=normals)
    if args.num_points and args.num_points < len(cloud.points):
        kept = np.random.default_rng(args.seed).permutation(len(cloud.points))[: args.num_points]
        cloud = cloud._replace(**{k: v[kept] for k, v in cloud._asdict().items() if v is not None})
    if args.color == "file" and cloud.colors is None:
        raise ValueError(f"{args.input}: found no colours, wanted some for --color file")
    colors = args.color if args.color not in (None, "file") else cloud.colors
    if args.out is None:
        try:
            what = {"normals": cloud.normals, "part": cloud.part, "up": args.up or cloud.up}
            show_cloud(cloud.points, colors, **what, title=args.input)
        except RuntimeError as error:
            raise RuntimeError(f"{error}; --out FILE.png writes a picture") from None
        return
    if is_page(args.out):
        what = {"normals": cloud.normals, "part": cloud.part, "up": args.up or cloud.up}
        write_page(args.out, [Exhibit(cloud.points, str(args.input), colors, **what)], title=str(args.input))
        print(f"{args.out}: {len(cloud.points)} points of {args.input}")
        return
    draw_cloud(
        cloud.points,
        colors,
        args.out,
        normals=cloud.normals,
        part=cloud.part,
        size=tuple(args.size),
        point_size=args.point_size,
        up=args.up or cloud.up,
    )
    print(f"{args.out}: {len(cloud.points)} points of {args.input}")


def _wants_items(args: argparse.Namespace) -> bool:
    """Whether a page of images or of predictions is wanted."""
    path = Path(args.input)
    page = args.out and Path(args.out).suffix.lower() in (".html", ".htm")
    if not page:
        return False
    from pointsuite.report import is_image

    return path.is_dir() or path.suffix.lower() == ".json" or is_image(path)


def _items(args: argparse.Namespace) -> None:
    from pointsuite.report import write_images, write_predictions

    write = write_predictions if Path(args.input).suffix.lower() == ".json" else write_images
    print(f"{args.out}: {write(args.input, args.out, args.limit)} of {args.input}")


def _predictions(args: argparse.Namespace) -> None:
    if args.out is None and args.confusion is None:
        raise ValueError("--predictions found no file to write, wanted --out or --confusion")
    from pointsuite.visualization import draw_predictions

    said = draw_predictions(
        args.input,
        args.predictions,
        args.out,
        args.confusion,
        split=args.split,
        limit=args.limit,
        seed=args.seed,
    )
    right = (said.label == said.prediction).sum()
    for path in filter(None, (args.out, args.confusion)):
        print(f"{path}: {right} of {len(said.label)} right")


if __name__ == "__main__":
    command.run(main)

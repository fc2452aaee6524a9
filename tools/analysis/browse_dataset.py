"""Draw samples of a config's data as its pipeline makes them: clouds, images, masks, boxes.

Example:
    python tools/analysis/browse_dataset.py configs/davit/davit-t_upernet_camvid.py --num 16 --out samples.png

Samples are spread evenly over the data set. `--repeat 4` draws each four times, as four epochs see it.
"""

from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    parser.add_argument("--num", type=int, default=16, help="of samples (default: 16)")
    parser.add_argument("--repeat", type=int, default=1, help="draw each sample so often (default: 1)")
    parser.add_argument("--out", type=Path, help="picture to write (default: SPLIT.png in the work dir)")
    args = parser.parse_args(argv)
    import dense  # noqa: F401  before mmcv: it stands in for compiled operators  # isort: skip
    import numpy as np
    from mmengine.registry import DATASETS, init_default_scope

    from pointsuite.engine.randomness import drawing, seed_everything
    from pointsuite.visualization import build_drawer, draw_tiles

    if min(args.num, args.repeat) < 1:
        raise UsageError("--num and --repeat must be at least 1")
    cfg = command.load_config(args)
    if cfg.get(f"{args.split}_dataloader") is None:
        raise UsageError(f"{args.config}: has no '{args.split}_dataloader'")

    init_default_scope(cfg.get("default_scope", "mmengine"))
    seed_everything(args.seed or 0)
    dataset = DATASETS.build(cfg[f"{args.split}_dataloader"].dataset)
    draw_sample = build_drawer(cfg, getattr(dataset, "metainfo", {}))
    pictures, titles = [], []
    for index in np.linspace(0, len(dataset) - 1, min(args.num, len(dataset))).round().astype(int):
        for epoch in range(args.repeat):
            with drawing(args.seed or 0, epoch, int(index)):
                picture, title = draw_sample(dataset[int(index)])
            pictures.append(picture)
            titles.append(f"{index}: {title}" if title else f"{index}")
    out = args.out or Path(cfg.work_dir) / f"{args.split}.png"
    columns = args.repeat if args.repeat > 1 else int(np.ceil(len(pictures) ** 0.5))
    draw_tiles(pictures, titles, columns, out, f"{args.config}, {args.split}: {len(dataset)} samples")
    print(f"{out}: {len(pictures)} pictures of {len(dataset)} samples")


if __name__ == "__main__":
    command.run(main)

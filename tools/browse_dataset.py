"""Draw samples of a config's data as its pipeline makes them: clouds, images, masks, boxes.

    python tools/browse_dataset.py CONFIG [--split train] [--num 16] [--repeat 1] [--out FILE.png]

Samples are spread evenly over the data set. `--repeat 4` draws each four times, as four epochs see it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import dense  # noqa: F401  before mmcv: it stands in for compiled operators
from pointsuite.datasets import DatasetError
from pointsuite.engine import command

TILE = 240  # pixels of a cloud's picture


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    parser.add_argument("--num", type=int, default=16, help="of samples (default: 16)")
    parser.add_argument("--repeat", type=int, default=1, help="draw each sample so often (default: 1)")
    parser.add_argument("--out", type=Path, help="picture to write (default: SPLIT.png in the work dir)")
    args = parser.parse_args(argv)
    if min(args.num, args.repeat) < 1:
        raise command.UsageError("--num and --repeat must be at least 1")
    cfg = command.load_config(args)
    if cfg.get(f"{args.split}_dataloader") is None:
        raise command.UsageError(f"{args.config}: has no '{args.split}_dataloader'")

    from mmengine.registry import DATASETS, init_default_scope

    from pointsuite.engine.randomness import seed_everything

    init_default_scope(cfg.get("default_scope", "mmengine"))
    seed_everything(args.seed or 0)
    dataset = DATASETS.build(cfg[f"{args.split}_dataloader"].dataset)
    draw_sample = build_drawer(cfg, getattr(dataset, "metainfo", {}))
    pictures, titles = [], []
    for index in np.linspace(0, len(dataset) - 1, min(args.num, len(dataset))).round().astype(int):
        for epoch in range(args.repeat):
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(epoch)
            picture, title = draw_sample(dataset[int(index)])
            pictures.append(picture)
            titles.append(f"{index}: {title}" if title else f"{index}")
    out = args.out or Path(cfg.work_dir) / f"{args.split}.png"
    columns = args.repeat if args.repeat > 1 else int(np.ceil(len(pictures) ** 0.5))
    draw_tiles(pictures, titles, columns, out, f"{args.config}, {args.split}: {len(dataset)} samples")
    print(f"{out}: {len(pictures)} pictures of {len(dataset)} samples")


def build_drawer(cfg, metainfo: dict):
    """A function from what a pipeline returns to a picture (H, W, 3) uint8 and a title."""
    from mmengine.registry import VISUALIZERS
    from mmengine.visualization import Visualizer

    classes = metainfo.get("classes") or ()
    flipped = (cfg.model.get("data_preprocessor") or {}).get("bgr_to_rgb", False)
    options = {"type": "Visualizer", **(cfg.get("visualizer") or {}), "vis_backends": None}
    visualizer = VISUALIZERS.build({**options, "name": f"browse_{id(cfg)}"})  # it keeps one by each name
    visualizer.dataset_meta = metainfo
    # MMEngine's own draws nothing; mmseg's and mmdet's do
    draws_samples = type(visualizer).add_datasample is not Visualizer.add_datasample

    def draw(item: dict) -> tuple[np.ndarray, str]:
        inputs, sample = item["inputs"], item["data_samples"]
        label = sample.get("gt_label")
        title = str(classes[int(label)]) if label is not None and classes else ""
        array = inputs.numpy() if hasattr(inputs, "numpy") else None
        if array is not None and array.ndim == 4:  # images of a pair or a clip: side by side
            array = np.concatenate(array, axis=2)
        if array is None or array.ndim not in (2, 3):
            found = type(inputs).__name__ if array is None else f"an array {array.shape}"
            raise command.UsageError(
                f"a sample's inputs are {found}, wanted a cloud (N, C) or images (C, H, W)"
            )
        if array.ndim == 2:
            return draw_points(array, sample.get("gt_part")), title
        image = to_uint8(array.transpose(1, 2, 0)[..., :: -1 if flipped else 1])
        if draws_samples:
            boxes = getattr(sample.get("gt_instances"), "bboxes", None)
            if hasattr(boxes, "tensor"):  # mmdet draws plain tensors only
                sample.gt_instances.bboxes = boxes.tensor
            visualizer.add_datasample("sample", image, sample, draw_gt=True, draw_pred=False)
            image = visualizer.get_image()
        return image, title or Path(sample.get("img_path") or "").name

    return draw


def draw_points(points: np.ndarray, part) -> np.ndarray:
    from pointsuite.visualization import draw_cloud

    normals = points[:, 3:6] if points.shape[1] >= 6 else None
    if normals is not None and not np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-3):
        normals = None
    colors = None if part is None else "part"
    part = None if part is None else part.numpy()
    return draw_cloud(points[:, :3], colors, normals=normals, part=part, size=(TILE, TILE))


def to_uint8(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 1 or 3), bytes as they are, other numbers stretched to 0..255, with three channels."""
    if image.dtype != np.uint8:
        low, high = image.min(), image.max()
        image = ((image - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def draw_tiles(pictures: Sequence, titles: Sequence[str], columns: int, out: Path, heading: str) -> None:
    from matplotlib.figure import Figure

    from pointsuite.visualization.png import write_png

    rows = -(-len(pictures) // columns)
    aspect = np.median([picture.shape[0] / picture.shape[1] for picture in pictures])
    figure = Figure((2.6 * columns, (2.6 * aspect + 0.35) * rows + 0.4), dpi=110, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, picture, title in zip(panels, pictures, titles, strict=False):
        axes.imshow(picture)
        axes.set_title(title, fontsize=7)
    for axes in panels:
        axes.set_axis_off()
    figure.suptitle(heading, fontsize=9)
    write_png(figure, out)


if __name__ == "__main__":
    command.run(main, DatasetError)

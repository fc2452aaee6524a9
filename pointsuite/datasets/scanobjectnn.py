"""ScanObjectNN (Uy et al., ICCV 2019): scanned objects of 15 classes, 2048 points each, without normals.

The release ``h5_files`` has folders main_split and split1 to split4, each also without background
(main_split_nobg, ...), of pairs training_objectdataset{suffix}.h5 and test_objectdataset{suffix}.h5 with data
(M, 2048, 3) and label (M,); y is up.

RISurConv chooses 1024 points by farthest point sampling from the first on, keeps the coordinates as they are,
and estimates normals from the 32 nearest points with the eigensolver's sign (``--orient none``). Here they
point away from the centroid unless told otherwise.
"""

import argparse
from pathlib import Path

from . import convert
from .convert import Shape, Source
from .layout import DatasetError

HELP = "ScanObjectNN (h5_files), one variant"
# fmt: off
CLASSES = (
    "bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table",
    "bed", "pillow", "sink", "sofa", "toilet",
)
# fmt: on
SPLITS = ("main_split", "split1", "split2", "split3", "split4")
# PB: perturbed boxes, moved by up to 25 or 50 % of their size, rotated (R), scaled (S)
VARIANTS = {
    "PB_T50_RS": "_augmentedrot_scale75",
    "PB_T50_R": "_augmentedrot",
    "PB_T25_R": "_augmented25rot",
    "PB_T25": "_augmented25_norot",
    "OBJ_BG": "",
    "OBJ_ONLY": "",
}
# of the main split
COUNTS = {
    "PB_T50_RS": {"train": 11416, "test": 2882},
    "OBJ_BG": {"train": 2309, "test": 581},
    "OBJ_ONLY": {"train": 2309, "test": 581},
}
SOURCE = Source(
    name="ScanObjectNN",
    offered="https://hkust-vgd.github.io/scanobjectnn/ to who accepts its terms (h5_files.zip)",
    licence="terms of use of ScanObjectNN, https://hkust-vgd.github.io/scanobjectnn/",
    attribution="M. A. Uy et al., Revisiting point cloud classification, ICCV 2019; changed: points sampled, "
    "normals estimated",
)


def files_of(root: Path, variant: str, split: str = "main_split", background: bool = True) -> dict[str, Path]:
    """The files "train" and "test" of one variant.

    Raises:
        DatasetError: an unknown variant or split, OBJ_BG without its background, or no such file.
    """
    for what, value, known in (("variant", variant, VARIANTS), ("split", split, SPLITS)):
        if value not in known:
            raise DatasetError(f"ScanObjectNN has no {what} '{value}', wanted one of {', '.join(known)}")
    if variant == "OBJ_BG" and not background:
        raise DatasetError("OBJ_BG is the variant with background, wanted OBJ_ONLY for the one without")
    folder = f"{split}_nobg" if variant == "OBJ_ONLY" or not background else split
    if (root / "h5_files").is_dir():
        root = root / "h5_files"
    files = {}
    for name, prefix in (("train", "training"), ("test", "test")):
        files[name] = root / folder / f"{prefix}_objectdataset{VARIANTS[variant]}.h5"
        if not files[name].is_file():
            SOURCE.missing(f"{files[name]}: no such file")
    return files


def read_file(path: Path) -> list[Shape]:
    """The rows of one file."""
    rows = convert.read_rows(path, ("data", "label"))
    label = convert.indices(rows["label"], CLASSES, f"{path}, key 'label'")
    pairs = enumerate(zip(rows["data"], label, strict=True))
    return [Shape(points, int(i), f"{path.stem}:{row}") for row, (points, i) in pairs]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    convert.add_arguments(parser, "scanobjectnn", root="the folder h5_files, or the one it is in", up="y")
    parser.add_argument("--variant", default="PB_T50_RS", help=f"one of {', '.join(VARIANTS)}")
    parser.add_argument("--split", default="main_split", help=f"one of {', '.join(SPLITS)}")
    parser.add_argument(
        "--no-background", action="store_true", help="the perturbed variants without background"
    )


def prepare(args: argparse.Namespace) -> str:
    """Make the file that ``args`` asks for; returns a table of what is in it."""
    files = files_of(args.root, args.variant, args.split, not args.no_background)
    splits = {split: read_file(path) for split, path in files.items()}
    published = args.split == "main_split" and not args.no_background
    counts = COUNTS.get(args.variant) if published else None
    return convert.prepare(
        args, splits, convert.same, SOURCE, CLASSES, counts=counts, normalize="never", up="y"
    )

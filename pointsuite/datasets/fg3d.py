"""FG3D (Liu et al., "Fine-grained 3D shape classification", TIP 2021): subclasses of three categories.

Each category is a classification task of its own. Its folder holds meshes as in
:mod:`pointsuite.datasets.mesh_folder`, <subclass>/<split>/file or <split>/<subclass>/file. RISurConv draws a
Poisson disk of 1024 points with the normals of their triangles. y is up, as in ShapeNet.
"""

import argparse

from . import mesh_folder
from .convert import Source
from .layout import DatasetError

HELP = "FG3D, one category: airplane, car or chair"
NUM_CLASSES = {"airplane": 13, "car": 20, "chair": 33}
SOURCE = Source(
    name="FG3D",
    offered="https://github.com/liuxinhai/FG3D-Net",
    licence="for academic research; the models belong to their authors",
    attribution="X. Liu et al., FG3D-Net, IEEE TIP 2021; changed: points sampled from the surfaces",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    mesh_folder.add_sampling_arguments(
        parser, "fg3d", "the folder that holds the category's", ("poisson", "fps", "uniform"), up="y"
    )
    parser.add_argument("--category", required=True, help=f"one of {', '.join(NUM_CLASSES)}")


def prepare(args: argparse.Namespace) -> str:
    """Make the file that ``args`` asks for; returns a table of what is in it."""
    category = args.category.lower()
    if category not in NUM_CLASSES:
        raise DatasetError(f"--category is '{args.category}', wanted one of {', '.join(NUM_CLASSES)}")
    folders = [path for path in args.root.glob("*") if path.is_dir() and path.name.lower() == category]
    if not folders:
        SOURCE.missing(f"{args.root}: no folder of the category '{category}'")
    args.root = folders[0]
    _, classes = mesh_folder.find_files(args.root, mesh_folder.SUFFIXES, SOURCE)
    if len(classes) != NUM_CLASSES[category] and not args.allow_partial:
        SOURCE.missing(
            f"{args.root}: {len(classes)} classes, published are {NUM_CLASSES[category]} "
            "(--allow-partial takes what there is)"
        )
    return mesh_folder.prepare_meshes(args, SOURCE, up="y")

"""A data set of PyTorch Geometric, as ModelNet, ShapeNet or GeometricShapes, read from its own folder.

PyTorch Geometric reads, and where it can downloads, the data. Meshes are sampled as those of a folder are;
clouds come as :func:`~pointsuite.datasets.pyg.from_pyg` takes them. Its loaders turn nothing, so the axis
that points up is the release's own.
"""

import argparse
import difflib
from functools import lru_cache
from inspect import signature
from typing import Any, NamedTuple

import numpy as np

from pointsuite.engine.command import KeyValue
from pointsuite.io import sample_surface

from . import convert
from .convert import Shape, Source
from .layout import DatasetError
from .pyg import from_pyg

HELP = "a data set of PyTorch Geometric (ModelNet, ShapeNet, GeometricShapes, ...)"
SPLITS = {
    "train": {"train": {"train": True}, "test": {"train": False}},
    "split": {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}},
}


class Item(NamedTuple):
    """One shape of a data set, and how its surface is sampled where it is a mesh."""

    dataset: str
    root: str
    options: tuple[tuple[str, Any], ...]
    index: int
    normals: str
    num_points: int
    seed: int

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.options)
        return f"{self.dataset}({options})[{self.index}]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    convert.add_arguments(parser, "pyg", root="its folder, as PyTorch Geometric has it", up="z")
    parser.add_argument("--dataset", required=True, help="its class in torch_geometric.datasets")
    parser.add_argument(
        "--options", nargs="+", action=KeyValue, default={}, metavar="KEY=VALUE", help="of the class"
    )
    parser.add_argument("--normals", default="normal", help="the attribute with normals (ShapeNet: x)")


def prepare(args: argparse.Namespace) -> str:
    """Make the file that ``args`` asks for; returns a table of what is in it."""
    wanted = set(signature(find_class(args.dataset).__init__).parameters)
    if unknown := set(args.options) - wanted:
        raise DatasetError(f"{args.dataset} has no option {sorted(unknown)[0]!r}; it has {sorted(wanted)}")
    kinds = next((splits for key, splits in SPLITS.items() if key in wanted - set(args.options)), {"all": {}})
    shapes, classes, parts = {}, 0, 0
    for split, options in kinds.items():
        given = {**args.options, **options}.items()
        given = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in sorted(given))  # hashable
        dataset = open_dataset(args.dataset, str(args.root), given)
        how = args.normals, args.num_points, args.seed
        shapes[split] = [Item(args.dataset, str(args.root), given, i, *how) for i in range(len(dataset))]
        for item in shapes[split]:
            shape = describe(item)
            classes, parts = max(classes, shape["label"] + 1), max(parts, shape["parts"])
    source = Source(f"PyTorch Geometric's {args.dataset}", "its documentation", "as its owner says", "")
    names = _names(dataset, classes)
    return convert.prepare(args, shapes, read_item, source, names, [str(i) for i in range(parts)])


def find_class(name: str) -> type:
    """Raises DatasetError: torch_geometric.datasets has no such class."""
    from torch_geometric import datasets

    if not isinstance(found := getattr(datasets, name, None), type):
        near = difflib.get_close_matches(name, datasets.__all__, 3)
        raise DatasetError(f"torch_geometric.datasets has no {name!r}; near are {near or datasets.__all__}")
    return found


@lru_cache(maxsize=4)
def open_dataset(name: str, root: str, options: tuple[tuple[str, Any], ...]):
    """The data set, once in a process.

    Raises:
        DatasetError: PyTorch Geometric cannot read or download it.
    """
    try:
        return find_class(name)(root, **{k: list(v) if isinstance(v, tuple) else v for k, v in options})
    except DatasetError:
        raise
    except Exception as error:  # whatever its downloads and readers raise
        given = ", ".join(f"{key}={value!r}" for key, value in options)
        raise DatasetError(f"{name}({root!r}, {given}): {type(error).__name__}: {error}") from error


def describe(item: Item) -> dict[str, int]:
    """Label and number of parts of a shape."""
    data = open_dataset(*item[:3])[item.index]
    if getattr(data, "face", None) is not None:
        return {"label": _label(item, data), "parts": 0}
    sample = from_pyg(data, normals=item.normals)
    part = sample.get("part")
    return {"label": sample.get("label", 0), "parts": 0 if part is None else int(part.max()) + 1}


def read_item(item: Item) -> Shape:
    """Points, normals and parts of one shape; raises ValueError."""
    data, name = open_dataset(*item[:3])[item.index], f"{item.dataset}/{item.index}"
    if getattr(data, "face", None) is not None:
        vertices, faces = data.pos.double().numpy(), data.face.T.numpy()
        points, normals = sample_surface(vertices, faces, item.num_points, item.seed).values()
        return Shape(points, _label(item, data), name, normals)
    sample = from_pyg(data, normals=item.normals)
    part = sample.get("part")
    if part is not None and (part < 0).any():
        raise DatasetError(f"{np.count_nonzero(part < 0)} points have no part, wanted one for each")
    return Shape(sample["points"], sample.get("label", 0), name, sample.get("normals"), part)


def _label(item: Item, data) -> int:
    label = getattr(data, "y", None)
    if label is None:
        return 0
    if label.numel() != 1:
        raise DatasetError(f"{item}: label must hold 1 number, found shape {tuple(label.shape)}")
    return int(label)


def _names(dataset, count: int) -> list[str]:
    """Names of the classes, where the data set says them."""
    known = getattr(dataset, "category_ids", None)
    chosen = getattr(dataset, "categories", None) or list(known or ())
    return list(chosen) if len(chosen) == count else [str(i) for i in range(count)]

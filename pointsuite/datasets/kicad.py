"""KiCad's 3-D models of electronic parts as labelled point clouds.

Source: the packages3D library of KiCad 6 (VRML files), CC-BY-SA-4.0 with the KiCad libraries' exception;
Debian installs it with `kicad-packages3d` under /usr/share/kicad/3dmodels.

The models come in parametric series (one connector in 40 lengths), so a split at random would test on
near-copies of training shapes. Here a *family* is all models whose path differs in numbers only; families
that share an identical shape count as one, and no family is on both sides of the split.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pointsuite.engine.files import read_bytes, walk_files
from pointsuite.engine.workers import add_workers, run_workers
from pointsuite.io import PointFileError
from pointsuite.io.arrays import load_npz
from pointsuite.io.triangulate import triangulate

from .layout import Clouds, DatasetError, FileInfo, encode_normals, encode_points, write_clouds

HELP = "KiCad's models of electronic parts (VRML files, or a packed .npz of them)"
MAX_BYTES = 12_000_000
TEST_SHARE = 0.3  # of a class's shapes, before the limits per class
MIN_FAMILIES = 4  # with fewer, one side of the split would be a single series
# Coordinates are rounded to this many units of 1/32767: an error of 6e-5 of the shape's radius, far below
# the distance of neighbouring points, for a file a tenth smaller.
POINT_STEP = 4

# class -> pattern that the name "Folder/Model" begins with; the first that fits
CLASSES = {
    "pin_header": r"Connector_PinHeader",
    "pin_socket": r"Connector_PinSocket",
    "axial_tht": r"(Resistor_THT/R|Diode_THT/D|Capacitor_THT/CP?|Inductor_THT/L)_(Axial|DO|A-|T-|P600|5)",
    "capacitor_tht": r"Capacitor_THT",
    "chip_2term_smd": r"(Capacitor|Capacitor_Tantalum|Resistor|LED|Inductor|Diode)_SMD/"
    r"(?!.*(Trimmer|Bridge|RGB|PLCC|Array|Cat\d|Shunt|SOT))",  # these have more terminals, or other forms
    "dfn_qfn_lga": r"Package_(DFN_QFN|LGA|SON|DirectFET)",
    "standoff_mounting": r"Mounting_Wuerth",
    "dip": r"Package_DIP",
    "so": r"Package_SO/",
    "qfp": r"Package_QFP",
    "bga": r"Package_BGA",
    "pluggable_terminal": r"Connector_Phoenix",
    "terminal_block": r"TerminalBlock",
    "wire_connector": r"Connector_(JST|Molex|Stocko)",
    "dsub": r"Connector_Dsub",
    "ffc": r"Connector_FFC",
    "inductor_transformer": r"(Inductor_THT|Transformer)",
    "varistor": r"Varistor",
    "button_switch": r"Button_Switch",
    "to_package": r"Package_TO_SOT",
    "led_tht": r"LED_THT",
    "crystal": r"(Crystal|Oscillator)",
    "relay_dcdc": r"(Relay|Converter)",
    "display": r"Display",
    "opto": r"OptoDevice",
}
# Ten classes with many shapes that a person tells apart without knowing their size.
DEFAULT_CLASSES = (
    "pin_header",
    "pin_socket",
    "wire_connector",
    "pluggable_terminal",
    "dip",
    "so",
    "dfn_qfn_lga",
    "standoff_mounting",
    "axial_tht",
    "chip_2term_smd",
)
# part -> patterns that the material's name begins with; the first that fits, else "body"
PART_CLASSES = ("metal", "body", "marking_board_ceramic", "glass_led")
_PART_PATTERNS = {0: r"PIN|MET", 3: r"LED|GLASS", 2: r"IC-LABEL|BOARD|PLASTIC-WHITE|CAP-CERAMIC"}

_COORD_INDEX = re.compile(r"\bcoordIndex\s*\[([^\]]*)\]")
_POINT = re.compile(r"\bCoordinate\s*\{\s*point\s*\[([^\]]*)\]")
_MATERIAL = re.compile(r"\bmaterial\s+(?:USE|DEF)\s+([^\s{}]+)")


@dataclass(frozen=True)
class Mesh:
    """Triangles of one model: vertices float64 (V, 3), faces int64 (F, 3), material of each face (F,) str."""

    vertices: np.ndarray
    faces: np.ndarray
    material: np.ndarray


@dataclass(frozen=True)
class Shapes:
    """Sampled models: points int16 (M, N, 3), normals int8 (M, N, 3), part uint8 (M, N), name (M,) str."""

    points: np.ndarray
    normals: np.ndarray
    part: np.ndarray
    name: np.ndarray


def class_of(name: str) -> str | None:
    """Class of a model called "Folder/Model", None where it is in no class."""
    return next((key for key, pattern in CLASSES.items() if re.match(pattern, name)), None)


def family_of(name: str) -> str:
    """The name with its numbers replaced: equal for the members of a parametric series."""
    return re.sub(r"\d+(\.\d+)?", "#", name)


def part_of(material: str) -> int:
    """Index in ``PART_CLASSES`` of a material."""
    return next((part for part, pattern in _PART_PATTERNS.items() if re.match(pattern, material)), 1)


def name_of(path: str | Path) -> str:
    """ "Folder/Model" of a path ".../Folder.3dshapes/Model.wrl"."""
    path = Path(path)
    return f"{path.parent.name.removesuffix('.3dshapes')}/{path.stem}"


def parse_wrl(text: str) -> Mesh:
    """Triangles of a VRML file; polygons are cut into such, nodes that are no faces are passed over.

    Raises:
        ValueError: no faces, or a face that points at a vertex which is not there.
    """
    vertices, faces, material, offset = [], [], [], 0
    for shape in re.split(r"\bShape\b", text)[1:]:
        found = [pattern.search(shape) for pattern in (_COORD_INDEX, _POINT, _MATERIAL)]
        if not all(found):  # a shape that only defines a material
            continue
        index, point, name = (match.group(1) for match in found)
        points = np.array(point.replace(",", " ").split(), np.float64).reshape(-1, 3)
        triangles = _triangles(np.array(index.replace(",", " ").split(), np.int64), points)
        if len(triangles) and triangles.max() >= len(points):
            raise ValueError(f"a face uses vertex {triangles.max()}, the shape has {len(points)} vertices")
        vertices.append(points)
        faces.append(triangles + offset)
        material += [name] * len(triangles)
        offset += len(points)
    if not material:
        raise ValueError("no faces")
    return Mesh(np.concatenate(vertices), np.concatenate(faces), np.array(material))


def _triangles(index: np.ndarray, points: np.ndarray) -> np.ndarray:
    """VRML's face list (vertices of a polygon, then -1) -> (F, 3)."""
    if index.size % 4 == 0 and (index[3::4] == -1).all() and (index.reshape(-1, 4)[:, :3] >= 0).all():
        return index.reshape(-1, 4)[:, :3]
    ends = np.flatnonzero(np.r_[index, -1] < 0)
    return triangulate(points, np.diff(ends, prepend=-1) - 1, index[index >= 0])[0]


def sample_mesh(
    mesh: Mesh, num_points: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points spread evenly over the surface, centred, in the unit sphere.

    Returns:
        points (N, 3), normals of their faces (N, 3), faces (N,).

    Raises:
        ValueError: the surface has no area.
    """
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    double_area = np.linalg.norm(normals, axis=1)
    if not 0 < double_area.sum() < np.inf:
        raise ValueError(f"the surface has area {double_area.sum() / 2}")
    face = rng.choice(len(double_area), num_points, p=double_area / double_area.sum())
    u, w = rng.random((2, num_points, 1))
    u = np.sqrt(u)  # uniform in the triangle
    points = (1 - u) * a[face] + u * (1 - w) * b[face] + u * w * c[face]
    points -= points.mean(0)
    points /= np.linalg.norm(points, axis=1).max()
    return points, normals[face] / double_area[face, None], face


def _sample_file(path: Path, num_points: int, seed: int):
    """Points, normals and parts of one file as stored, or the reason why there are none."""
    try:
        mesh = parse_wrl(read_bytes(path).decode(errors="replace"))
        # every file starts the same stream: files with the same mesh give the same points
        points, normals, face = sample_mesh(mesh, num_points, np.random.default_rng(seed))
    except (ValueError, OverflowError) as error:
        return str(error)
    part = np.array([part_of(material) for material in mesh.material], np.uint8)[face]
    return encode_points(points), encode_normals(normals), part


def load_folder(
    root: Path, classes: Sequence[str], num_points: int, seed: int = 0, workers: int = 1
) -> tuple[Shapes, list[str]]:
    """Sample the models of ``classes`` among the .wrl files below ``root``.

    Returns:
        the shapes, and one line for each file that could not be used.
    """
    files = [
        path for path in walk_files(root) if path.suffix == ".wrl" and class_of(name_of(path)) in classes
    ]
    if not files:
        raise DatasetError(f"{root}: no .wrl file of a wanted class, wanted folders as in KiCad's 3dmodels")
    job = partial(_sample_file, num_points=num_points, seed=seed)
    sampled = list(run_workers(job, files, workers))
    good = {path: arrays for path, arrays in zip(files, sampled, strict=True) if not isinstance(arrays, str)}
    bad = [f"{path}: {why}" for path, why in zip(files, sampled, strict=True) if isinstance(why, str)]
    if not good:
        raise DatasetError(f"{root}: none of {len(files)} .wrl files can be used; the first: {bad[0]}")
    points, normals, part = (np.stack(column) for column in zip(*good.values(), strict=True))
    return Shapes(points, normals, part, np.array([name_of(path) for path in good])), bad


def load_packed(file: Path, classes: Sequence[str], num_points: int) -> Shapes:
    """The models of ``classes`` in a packed .npz.

    Its arrays: points int16 (M, P, 3), normals int8 (M, P, 3), material (M, P) that indexes materials, path
    (M,). The points of a cloud are in random order: its first ``num_points`` are an even sample.
    """
    try:
        packed = load_npz(read_bytes(file), ("path", "points", "normals", "material", "materials"))
        names = [name_of(str(path)) for path in packed["path"]]
        rows = [row for row, name in enumerate(names) if class_of(name) in classes]
        points, normals, material = (packed[key][rows] for key in ("points", "normals", "material"))
        part = np.array([part_of(str(name)) for name in packed["materials"]], np.uint8)[material]
        if not (points.shape == normals.shape == (*part.shape, 3) and part.ndim == 2):
            raise TypeError(f"arrays of shapes {points.shape}, {normals.shape}, {part.shape}")
    except (PointFileError, IndexError, TypeError, ValueError) as error:
        raise DatasetError(f"{file}: not a packed set of KiCad shapes ({error})") from error
    if points.shape[1] < num_points:
        raise DatasetError(f"{file}: {points.shape[1]} points a shape, wanted at least {num_points}")
    first = np.s_[:, :num_points]
    return Shapes(points[first], normals[first], part[first], np.array([names[row] for row in rows]))


def _unique(shapes: Shapes, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the different shapes, the first of each; and the family (str) of every row.

    A shape that appears in two classes is left out; families that share a shape become one.
    """
    copies = defaultdict(list)
    for row, points in enumerate(shapes.points):
        copies[points.tobytes()].append(row)
    parent = {family: family for family in map(family_of, shapes.name)}

    def root(family):
        while parent[family] != family:
            family = parent[family]
        return family

    keep = []
    for rows in copies.values():
        for row in rows[1:]:
            first, second = sorted(root(family_of(shapes.name[r])) for r in (rows[0], row))
            parent[second] = first
        if len(set(label[rows])) == 1:
            keep.append(rows[0])
    return np.array(keep, np.int64), np.array([root(family_of(name)) for name in shapes.name], str)


def split_class(
    family: np.ndarray, max_train: int, max_test: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split one class by family and take at most so many shapes of each side, spread over its families.

    Args:
        family: (M,) str.

    Returns:
        rows for training and rows for testing.

    Raises:
        ValueError: fewer than ``MIN_FAMILIES`` families.
    """
    names, index = np.unique(family, return_inverse=True)
    if len(names) < MIN_FAMILIES:
        raise ValueError(f"{len(names)} families, wanted at least {MIN_FAMILIES} for a split without leak")
    members = [rng.permutation(np.flatnonzero(index == i)) for i in range(len(names))]
    train, test, room = [], [], TEST_SHARE * len(family)
    for i in rng.permutation(len(names)):
        if len(members[i]) <= room and len(test) < len(names) // 2:
            room -= len(members[i])
            test.append(members[i])
        else:
            train.append(members[i])
    return _spread(train, max_train), _spread(test, max_test)


def _spread(groups: list[np.ndarray], count: int) -> np.ndarray:
    """``count`` rows taken from the groups in turn, one each; sorted."""
    turns = [(turn, i, row) for i, group in enumerate(groups) for turn, row in enumerate(group)]
    return np.sort([row for _, _, row in sorted(turns)[:count]]).astype(np.int64)


def check_disjoint(splits: dict[str, Clouds]) -> None:
    """Raise DatasetError where a family is in two splits."""
    train, test = (set(splits[split].family.tolist()) for split in ("train", "test"))
    if shared := sorted(train & test):
        raise DatasetError(f"{len(shared)} families are in train and in test, e.g. '{shared[0]}'")


def balanced_splits(
    shapes: Shapes, classes: Sequence[str], max_train: int, max_test: int, seed: int
) -> dict[str, Clouds]:
    """Splits "train" and "test", disjoint by family, with about the same number of shapes of every class."""
    label = np.array([classes.index(class_of(name)) for name in shapes.name], np.int64)
    unique, family = _unique(shapes, label)
    chosen = {"train": [], "test": []}
    for i, class_name in enumerate(classes):
        rows = unique[label[unique] == i]
        try:
            sides = split_class(family[rows], max_train, max_test, np.random.default_rng([seed, i]))
        except ValueError as error:
            raise DatasetError(f"class '{class_name}': {error}") from error
        for split, side in zip(chosen, sides, strict=True):
            if not len(side):
                raise DatasetError(f"class '{class_name}': no shape for {split}")
            chosen[split].append(rows[side])
    splits = {}
    for split, parts in chosen.items():
        rows = np.concatenate(parts)
        grid = np.round(shapes.points[rows] / POINT_STEP) * POINT_STEP
        largest = 32767 // POINT_STEP * POINT_STEP
        splits[split] = Clouds(
            points=grid.clip(-largest, largest).astype(np.int16),
            normals=shapes.normals[rows],
            label=label[rows].astype(np.uint8),
            part=shapes.part[rows],
            family=family[rows],
            name=shapes.name[rows],
        )
    check_disjoint(splits)
    return splits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", type=Path, required=True, help="folder with .wrl files, or a packed .npz")
    parser.add_argument("--out", type=Path, default=Path("data/kicad/kicad.h5"))
    parser.add_argument(
        "--classes",
        nargs="+",
        choices=CLASSES,
        default=DEFAULT_CLASSES,
        metavar="CLASS",
        help=f"out of {', '.join(CLASSES)} (default: {' '.join(DEFAULT_CLASSES)})",
    )
    parser.add_argument("--num-points", type=int, default=1024)
    parser.add_argument("--max-train-per-class", type=int, default=150)
    parser.add_argument("--max-test-per-class", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    add_workers(parser)


def prepare(args: argparse.Namespace) -> str:
    """Make the file that ``args`` asks for; returns a table of what is in it."""
    for option in ("num_points", "max_train_per_class", "max_test_per_class"):
        if getattr(args, option) < 1:
            raise DatasetError(f"--{option.replace('_', '-')} is {getattr(args, option)}, wanted at least 1")
    classes = list(dict.fromkeys(args.classes))
    if args.source.is_dir():
        shapes, bad = load_folder(args.source, classes, args.num_points, args.seed, args.workers)
    elif args.source.is_file():
        shapes, bad = load_packed(args.source, classes, args.num_points), []
    else:
        raise FileNotFoundError(f"{args.source}: no such folder or file")
    splits = balanced_splits(shapes, classes, args.max_train_per_class, args.max_test_per_class, args.seed)
    info = FileInfo(
        classes=tuple(classes),
        part_classes=PART_CLASSES,
        licence="CC-BY-SA-4.0 with the KiCad libraries' exception",
        attribution="KiCad Libraries contributors, https://gitlab.com/kicad/libraries/kicad-packages3D; "
        "changed: points sampled from the models' surfaces",
    )
    write_clouds(args.out, splits, info, max_bytes=MAX_BYTES)
    lines = [f"passed over {line}" for line in bad]
    lines.append(f"{'class':22} {'train':>6} {'families':>9} {'test':>6} {'families':>9}")
    for i, name in enumerate(classes):
        counts = []
        for clouds in splits.values():
            mine = clouds.label == i
            counts += [mine.sum(), len(np.unique(clouds.family[mine]))]
        lines.append("{:22} {:6} {:9} {:6} {:9}".format(name, *counts))
    totals = [len(clouds) for clouds in splits.values()]
    lines.append(f"{args.out}: {totals[0]} train, {totals[1]} test, {args.out.stat().st_size / 1e6:.2f} MB")
    return "\n".join(lines)

"""A file imports only from rooms below its own (docs/design.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TASKS = (
    "classification",
    "detection",
    "gaze",
    "matching",
    "restoration",
    "segmentation",
    "sequence",
    "video",
)
# from the lowest; rooms of one line do not know each other
FLOORS = [
    ["pointsuite.registry", "pointsuite.engine"],
    ["pointsuite.ops", "pointsuite.io"],
    ["pointsuite.layers", "pointsuite.datasets"],
    ["pointsuite.transforms"],
    ["pointsuite.visualization", "pointsuite.evaluation"],
    ["pointsuite.report"],
    ["pointsuite.models"],
    ["pointsuite.predictor", "pointsuite.export", "pointsuite.compat", "pointsuite.__main__"],
    ["dense.registry", "dense.ops"],
    ["dense.compat", "dense.layers"],
    ["dense.base"],
    ["dense.backbones"],
    [f"dense.{task}" for task in TASKS],
    ["dense.adaptation", "dense.explain"],
]
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
REGISTRIES = {"dense.registry", "pointsuite.registry"}  # the engine makes them and enters its own
LIBRARIES = {"mmdet", "mmseg"}
MAY_IMPORT_LIBRARIES = {"dense.compat", "dense.detection", "dense.segmentation"}
FILES = sorted(path for package in ("dense", "pointsuite") for path in (ROOT / package).rglob("*.py"))


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module):
    return ".".join(module.split(".")[:2])


def imports_of(path):
    """Dotted names that a file imports, wherever it does."""
    module = module_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{name}.{alias.name}" for alias in node.names)


def breaches(module, imports):
    room = room_of(module)
    for name in imports:
        top, other = name.partition(".")[0], room_of(name)
        if top in LIBRARIES and room not in MAY_IMPORT_LIBRARIES:
            yield f"{module} imports {name}: only {', '.join(sorted(MAY_IMPORT_LIBRARIES))} may"
        if top not in ("dense", "pointsuite") or other == room or room not in FLOOR:
            continue
        if module.startswith("pointsuite") and top == "dense":
            yield f"{module} imports {name}: pointsuite knows nothing of dense"
        elif module.startswith("dense") and top == "pointsuite" and other != "pointsuite.engine":
            yield f"{module} imports {name}: dense may import pointsuite.engine alone"
        elif FLOOR.get(other, -1) > FLOOR[room]:
            yield f"{module} imports {name}, which lies above it"
        elif FLOOR.get(other) == FLOOR[room] and not {room, other} & REGISTRIES:
            yield f"{module} imports {name}, which lies beside it"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_down(path):
    assert not list(breaches(module_of(path), imports_of(path)))


def test_every_room_has_a_floor():
    rooms = {room_of(module_of(path)) for path in FILES} - {"dense", "pointsuite"}
    assert rooms == set(FLOOR)


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("dense.layers.mlp", "dense.base.backbone"),
        ("dense.ops.linear", "pointsuite.ops.knn"),
        ("pointsuite.ops.knn", "dense.ops"),
        ("dense.base.backbone", "mmdet.models"),
        ("dense.video.model", "dense.matching.model"),
    ],
)
def test_breaches_are_found(module, imported):
    assert list(breaches(module, [imported]))

"""Prepare a data set: convert point clouds to the HDF5 layout of pointsuite, check images.

Examples:
    python tools/prepare_dataset.py kicad --source /usr/share/kicad/3dmodels --out data/kicad/kicad.h5
    python tools/prepare_dataset.py modelnet40 --root modelnet40_normal_resampled --out modelnet40.h5
    python tools/prepare_dataset.py camvid --root data/camvid
"""

import ast
import sys
from importlib import import_module
from pathlib import Path

from pointsuite.engine import command
from pointsuite.engine.errors import one_line

# name -> module with HELP, add_arguments(parser) and prepare(args) -> what to print
DATASETS = {
    "kicad": "pointsuite.datasets.kicad",
    "modelnet40": "pointsuite.datasets.modelnet40",
    "modelnet10": "pointsuite.datasets.modelnet10",
    "scanobjectnn": "pointsuite.datasets.scanobjectnn",
    "fg3d": "pointsuite.datasets.fg3d",
    "shapenetpart": "pointsuite.datasets.shapenetpart",
    "meshes": "pointsuite.datasets.mesh_folder",
    "clouds": "pointsuite.datasets.cloud_folder",
    "pyg": "pointsuite.datasets.pyg_dataset",
    "camvid": "dense.segmentation.datasets",
    "camvid-patches": "dense.segmentation.patches",
    "pennfudan": "dense.detection.datasets",
}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = command.Parser(description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    # only the one that is asked for is imported: libraries take seconds
    for name, module in DATASETS.items():
        text = read_help(module)
        options = commands.add_parser(name, help=text, description=text)
        if argv and argv[0] == name:
            import_module(module).add_arguments(options)
    args = parser.parse_args(argv)
    try:
        print(import_module(DATASETS[args.name]).prepare(args))
    except (OSError, ValueError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def read_help(module: str) -> str:
    """The text HELP of a module, which is not imported."""
    path = Path(__file__).parents[1].joinpath(*module.split("."))
    file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", None) == "HELP":
            return ast.literal_eval(statement.value)
    raise KeyError(f"{file}: found no HELP")


if __name__ == "__main__":
    command.run(main)

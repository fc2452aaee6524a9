"""Prepare a data set: convert point clouds to the HDF5 layout of pointsuite, check images.

python tools/prepare_dataset.py kicad --source /usr/share/kicad/3dmodels --out data/kicad/kicad.h5
python tools/prepare_dataset.py modelnet40 --root modelnet40_normal_resampled --out modelnet40.h5
python tools/prepare_dataset.py camvid --root data/camvid
"""

import argparse
import sys
from importlib import import_module

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
    "camvid": "dense.segmentation.camvid",
    "pennfudan": "dense.detection.pennfudan",
}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    # only the one that is asked for: some bring in libraries that take seconds to import
    for name in [argv[0]] if argv and argv[0] in DATASETS else DATASETS:
        module = import_module(DATASETS[name])
        module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))
    args = parser.parse_args(argv)
    try:
        print(import_module(DATASETS[args.name]).prepare(args))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Convert a data set to the HDF5 layout of pointsuite.

python tools/prepare_dataset.py kicad --source /usr/share/kicad/3dmodels --out data/kicad/kicad.h5
python tools/prepare_dataset.py modelnet40 --root modelnet40_normal_resampled --out modelnet40.h5
"""

import argparse
import sys

from pointsuite.datasets import (
    cloud_folder,
    fg3d,
    kicad,
    mesh_folder,
    modelnet10,
    modelnet40,
    scanobjectnn,
    shapenetpart,
)

# name -> module with HELP, add_arguments(parser) and prepare(args) -> what to print
DATASETS = {
    "kicad": kicad,
    "modelnet40": modelnet40,
    "modelnet10": modelnet10,
    "scanobjectnn": scanobjectnn,
    "fg3d": fg3d,
    "shapenetpart": shapenetpart,
    "meshes": mesh_folder,
    "clouds": cloud_folder,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, module in DATASETS.items():
        module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))
    args = parser.parse_args(argv)
    try:
        print(DATASETS[args.name].prepare(args))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

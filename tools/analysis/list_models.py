"""List the published systems, and write the tables that follow from them: docs/models.md and the README's.

Example:
    python tools/analysis/list_models.py --write
"""

from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError

ROOT = Path(__file__).parents[2]
MARKS = "<!-- systems: begin -->", "<!-- systems: end -->"


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write both files where they are stale")
    parser.add_argument("--check", action="store_true", help="fail where one of them is stale")
    parser.add_argument(
        "--keep-macs",
        action="store_true",
        help="take MACs from docs/models.md where it has them: counting takes a minute",
    )
    args = parser.parse_args(argv)
    from dense.registry import ZOO
    from pointsuite.engine import catalogue
    from pointsuite.engine.checkpoint import atomic_write
    from pointsuite.engine.zoo import ZOO as CLOUD_ZOO

    systems = catalogue.find_systems(ROOT, CLOUD_ZOO, ZOO)
    if not (args.write or args.check):
        print(catalogue.format_systems(systems, ROOT), end="")
        return
    models, readme = ROOT / "docs/models.md", ROOT / "README.md"
    macs = catalogue.read_macs(models.read_text()) if args.keep_macs and models.is_file() else None
    wanted = {
        models: "\n".join(catalogue.format_models(systems, ROOT, macs)) + "\n",
        readme: catalogue.replace_between(
            readme.read_text(), *MARKS, catalogue.format_systems(systems, ROOT)
        ),
    }
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        name = path.relative_to(ROOT)
        if args.check:
            raise UsageError(f"{name} is stale: python tools/analysis/list_models.py --write")
        with atomic_write(path) as file:
            file.write(wanted[path].encode())
        print(f"wrote {name}")


if __name__ == "__main__":
    command.run(main)

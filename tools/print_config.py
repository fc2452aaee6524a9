"""Print a config as a run sees it: bases merged, options applied.

Example:
    python tools/print_config.py configs/davit/davit-t_upernet_camvid.py --out whole.py
"""

from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.add_argument("--out", type=Path, help="also write it to this file (.py, .json or .yml)")
    args = parser.parse_args(argv)
    if args.out and args.out.suffix not in (".py", ".json", ".yml"):
        raise UsageError(f"--out {args.out}: found {args.out.suffix!r}, wanted .py, .json or .yml")
    cfg = command.load_config(args)
    print(cfg.pretty_text)
    if args.out:
        from pointsuite.engine.checkpoint import naming

        args.out.parent.mkdir(parents=True, exist_ok=True)
        with naming(args.out):
            cfg.dump(args.out)


if __name__ == "__main__":
    command.run(main)

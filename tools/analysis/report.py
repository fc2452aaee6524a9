"""Write the report of a run, one HTML file that needs nothing else; runs leave it by themselves, too.

Examples:
    python tools/analysis/report.py work_dirs/risurconv-s_kicad            # from what is in the work dir
    python tools/analysis/report.py work_dirs/risurconv-s_kicad --out mine.html

Curves come from the log, confusions and the wrong ones from the last validation or test, which
tools/train.py and tools/test.py keep in RUN_DIR/report/data (but not with --no-report).
"""

from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("run", metavar="RUN_DIR", help="work dir of a run")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="(default: RUN_DIR/report.html)")
    args = parser.parse_args(argv)
    from pointsuite.report import write_report

    print(write_report(args.run, args.out))


if __name__ == "__main__":
    command.run(main)

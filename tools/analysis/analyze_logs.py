"""Draw curves from the logs of runs, and say how long their iterations took.

Example:
    python tools/analysis/analyze_logs.py work_dirs/a work_dirs/b --keys loss accuracy/top1 --out curves.png

A run is a work dir (a resumed run's logs are put together) or a scalars.json. Without --keys, all losses of
training and all metrics of validation are drawn. Times are means of the iterations between two lines of the
log; they leave validation and saving out.
"""

from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a work dir, or a scalars.json")
    parser.add_argument("--keys", nargs="+", metavar="KEY", help="what to draw (default: losses and metrics)")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="picture to write (default: none)")
    args = parser.parse_args(argv)
    from pointsuite.engine.logs import format_logs, read_log

    logs = {run: read_log(Path(run)) for run in args.runs}
    known = list(dict.fromkeys(key for log in logs.values() for key in log.names()))
    for key in args.keys or []:
        if not any(log.curve(key)[0] for log in logs.values()):
            raise UsageError(f"--keys {key!r}: no log has it, there are {', '.join(known)}")
    print(format_logs(logs, args.keys or known))
    if args.out:
        from pointsuite.visualization import draw_logs

        print(draw_logs(logs, args.keys or known, args.out))


if __name__ == "__main__":
    command.run(main)

"""Every reader of points over a corpus of damaged, hostile and mistaken files, made by a seed."""

from pointsuite.engine.errors import UsageError

from .corpus import point_cases
from .harness import run_cases


def test_every_point_file_is_read_right_or_refused_in_one_line(tmp_path, capsys):
    """0 accepted wrongly, 0 tracebacks, 0 hangs, and at most 2 GB, over at least 500 files."""
    cases = point_cases(seed=0)
    assert len(cases) >= 500 and len({case.name for case in cases}) == len(cases)
    report = run_cases(cases, tmp_path, (UsageError,))
    with capsys.disabled():
        print("\n" + report.table("points"))
    assert not report.bad(), "\n".join(report.bad())

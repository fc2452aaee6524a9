"""Every reader of points over a corpus of damaged, hostile and mistaken files, made by a seed."""

import pytest

from pointsuite.engine.errors import UsageError

from .corpus import large_cases, point_cases
from .harness import run_cases


def test_every_point_file_is_read_right_or_refused_in_one_line(tmp_path, capsys):
    """0 accepted wrongly, 0 tracebacks, 0 hangs, and at most 2 GB, over at least 500 files."""
    cases = point_cases(seed=0)
    assert len(cases) >= 500 and len({case.name for case in cases}) == len(cases)
    report = run_cases(cases, tmp_path, (UsageError,))
    with capsys.disabled():
        print("\n" + report.table("points"))
    assert not report.bad(), "\n".join(report.bad())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_files_of_30_mb_need_at_most_2_gb(tmp_path, capsys):
    report = run_cases(large_cases(), tmp_path, (UsageError,), seconds=200)
    with capsys.disabled():
        print("\n" + report.table("large files of points"))
    assert not report.bad(), "\n".join(report.bad())

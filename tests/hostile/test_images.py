"""Readers of images and videos, data sets and predictors, over damaged, hostile and mistaken input."""

import pytest

from pointsuite.engine.errors import UsageError

from .harness import run_cases
from .image_corpus import folder_cases, image_cases, predictor_cases, video_cases

GROUPS = {
    "images": (lambda folder: image_cases(seed=0), 800, (OSError, UsageError)),
    "videos": (lambda folder: video_cases(0, folder), 200, (OSError, UsageError)),
    "folders and labels": (lambda folder: folder_cases(), 250, (OSError, UsageError)),
    "predictors": (lambda folder: predictor_cases(seed=0), 150, (OSError, ValueError)),  # of arguments, too
}


@pytest.mark.parametrize("group", GROUPS)
def test_every_image_file_is_read_right_or_refused_in_one_line(group, tmp_path, capsys):
    """0 accepted wrongly, 0 tracebacks, 0 hangs, and at most 2 GB."""
    make, least, errors = GROUPS[group]
    (tmp_path / "made").mkdir()
    (tmp_path / "cases").mkdir()
    cases = make(tmp_path / "made")
    assert len(cases) >= least and len({case.name for case in cases}) == len(cases)
    report = run_cases(cases, tmp_path / "cases", errors)
    with capsys.disabled():
        print("\n" + report.table(group))
    assert not report.bad(), "\n".join(report.bad())

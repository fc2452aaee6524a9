"""Data of detection and segmentation, and predictors of boxes, labels and clouds, over damaged input."""

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from pointsuite.engine.errors import UsageError

from .harness import run_cases
from .library_corpus import cloud_predictors, coco_cases, library_predictors, seg_cases

GROUPS = {
    "COCO": (coco_cases, 480, (OSError, UsageError)),
    "masks": (lambda seed, folder: seg_cases(seed), 220, (OSError, ValueError)),
    "predictors of boxes and labels": (library_predictors, 110, (OSError, ValueError)),
    "predictors of clouds": (
        lambda seed, folder: cloud_predictors(seed),
        180,
        (OSError, ValueError, TypeError),
    ),
}


@pytest.mark.parametrize("group", GROUPS)
def test_every_input_is_read_right_or_refused_in_one_line(group, tmp_path, capsys):
    make, least, errors = GROUPS[group]
    (tmp_path / "made").mkdir()
    (tmp_path / "cases").mkdir()
    cases = make(0, tmp_path / "made")
    assert len(cases) >= least and len({case.name for case in cases}) == len(cases)
    report = run_cases(cases, tmp_path / "cases", errors)
    with capsys.disabled():
        print("\n" + report.table(group))
    assert not report.bad(), "\n".join(report.bad())

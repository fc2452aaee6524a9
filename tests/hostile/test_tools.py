"""Every tool over damaged files, wrong options and wrong checkpoints: each is one line."""

from .harness import run_cases
from .tool_corpus import tool_cases


def test_every_command_line_is_right_or_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "made").mkdir()
    (tmp_path / "cases").mkdir()
    cases = tool_cases(0, tmp_path / "made")
    assert len(cases) >= 400 and len({case.name for case in cases}) == len(cases)
    report = run_cases(cases, tmp_path / "cases", ())
    with capsys.disabled():
        print("\n" + report.table("tools"))
    assert not report.bad(), "\n".join(report.bad())
    unforeseen = [f"{r.case}: {r.message}" for r in report if "--traceback shows it" in r.message]
    assert not unforeseen, "\n".join(unforeseen)

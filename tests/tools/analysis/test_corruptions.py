"""The report on corruptions, of random weights."""

import json

import pytest

from pointsuite.engine.errors import UsageError
from tests.tools.load import load_tool
from tests.tools.tiny import CONFIG, OPTIONS, random_checkpoint

main = load_tool("analysis/corruptions").main


def test_report(tmp_path, capsys):
    checkpoint = random_checkpoint(tmp_path / "tiny.pth")
    chosen = ["--corruptions", "jitter", "dropout, global", "--max-samples", "10"]
    main([CONFIG, str(checkpoint), "--work-dir", str(tmp_path), "--quick", *chosen, *OPTIONS])
    said = capsys.readouterr().out
    assert "severity 1  severity 5        mean" in said
    report = json.loads((tmp_path / "corruptions.json").read_text())
    assert report["num_samples"] == 10 and len(report["checkpoint_sha256"]) == 64
    assert list(report["corruptions"]) == ["jitter", "dropout, global"]
    jitter = report["corruptions"]["jitter"]
    assert jitter["severities"] == [1, 5] and jitter["levels"] == [0.01, 0.05] and "radii" in jitter["unit"]
    row = next(line for line in said.splitlines() if line.startswith("jitter"))
    assert [float(cell) for cell in row.split()[1:3]] == pytest.approx(jitter["overall_accuracy"], abs=0.01)
    assert 0 <= report["clean"]["overall_accuracy"] <= 100
    assert (tmp_path / "corruptions.png").stat().st_size > 10_000


def test_bad_requests(tmp_path):
    checkpoint = str(random_checkpoint(tmp_path / "tiny.pth"))
    for extra, message in (
        (["--corruptions", "rain"], "'rain': wanted some of jitter, dropout, global"),
        (["--max-samples", "0"], "--max-samples is 0, wanted at least 1"),
    ):
        with pytest.raises(UsageError, match=message):
            main([CONFIG, checkpoint, "--work-dir", str(tmp_path), *extra, *OPTIONS])
    with pytest.raises(UsageError, match="no such checkpoint"):
        main([CONFIG, str(tmp_path / "no.pth"), "--work-dir", str(tmp_path), *OPTIONS])

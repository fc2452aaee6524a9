import numpy as np
import pytest

from dense.classification.comparison import CorruptionComparison
from pointsuite.engine.comparison import run_comparison

from .toy import write_project


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_project(tmp_path)


def test_mean_of_severities(project):
    out = "runs.json"
    comparison = CorruptionComparison(images=6)
    (run,) = run_comparison(comparison, [project], [0], out, options={"train_cfg.max_epochs": 1})
    assert list(run.metrics) == ["clean", "noise", "blur", "contrast", "jpeg", "mean of corruptions"]
    corrupted = [value for name, value in run.metrics.items() if name not in ("clean", "mean of corruptions")]
    assert run.metrics["mean of corruptions"] == pytest.approx(np.mean(corrupted))
    assert run.settings["images"] == 6

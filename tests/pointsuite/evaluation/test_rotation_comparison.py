import pytest

from pointsuite.engine import command
from pointsuite.engine.comparison import run_comparison
from pointsuite.engine.errors import UsageError
from pointsuite.evaluation import RotationComparison
from tests.pointsuite.engine.toy import REPOSITORY

CONFIGS = sorted((REPOSITORY / "configs/baselines").glob("*.py"))
CONFIGS.append(REPOSITORY / "configs/risurconv/risurconv-s_kicad_z.py")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("epochs", [1, 8, 30])
def test_budget(path, epochs):
    cfg = command.read_config(path, seed=2)
    RotationComparison(epochs=epochs, points=200).adapt(cfg, "SO3")
    pipeline = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert pipeline["RandomRotate"].mode == "so3" and pipeline["SamplePoints"].num == 200
    assert cfg.test_dataloader.dataset.pipeline[0].num == 200 and cfg.train_dataloader.dataset.seed == 2
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_epochs == epochs
    assert all(scheduler.end > scheduler.begin for scheduler in cfg.param_scheduler)
    assert cfg.param_scheduler[-1].T_max == epochs - cfg.param_scheduler[-1].begin


def test_both_trainings_are_tested_by_their_protocols(tmp_path):
    few = {f"{split}_dataloader.dataset.classes": ["dip", "so"] for split in ("train", "test")}
    options = {
        **few,
        "model.network.num_classes": 2,
        "model.network.channels": (8, 8, 8, 8),
        "model.network.embed_channels": 16,
        "visualizer": None,
    }
    path = REPOSITORY / "configs/baselines/dgcnn_kicad.py"
    kind = RotationComparison(epochs=1, points=32, rotations=1)
    z, so3 = run_comparison(kind, [path], [0], tmp_path / "runs.json", tmp_path / "work", options)
    assert (z.variant, so3.variant) == ("z", "SO3") and z.settings["points"] == 32
    assert set(z.metrics) == {f"{m}/z/{t}" for m in ("accuracy", "mean_class_accuracy") for t in ("z", "SO3")}
    assert set(so3.metrics) == {"accuracy/SO3/SO3", "mean_class_accuracy/SO3/SO3"}
    assert all(0 < value <= 100 for run in (z, so3) for value in run.metrics.values())


def test_refusals():
    with pytest.raises(UsageError, match="must be at least 1, found .*'points': 0"):
        RotationComparison(points=0)
    unrotated = command.read_config(REPOSITORY / "configs/risurconv/risurconv-s_kicad.py")
    with pytest.raises(UsageError, match=r"risurconv-s_kicad\.py: its training pipeline has no RandomRotate"):
        RotationComparison().adapt(unrotated, "z")
    cfg = command.read_config(CONFIGS[0])
    cfg.param_scheduler = cfg.param_scheduler[1:]
    with pytest.raises(UsageError, match=r"its schedulers are \['CosineAnnealingLR'\], wanted a LinearLR"):
        RotationComparison().adapt(cfg, "z")

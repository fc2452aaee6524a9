from pathlib import Path

import pytest

from pointsuite.engine import command
from pointsuite.engine.schedules import follow_schedule

from .toy import REPOSITORY

CONFIGS = REPOSITORY / "configs/risurconv"
ITERATIONS = """
model = dict(type="NotBuilt")
train_dataloader = dict(dataset=dict(type="NotBuilt"))
train_cfg = dict(type="IterBasedTrainLoop", max_iters=40, val_interval=10)
optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="float16",
    optimizer=dict(type="SGD", lr=1.0, momentum=0.5),
    paramwise_cfg=dict(custom_keys=dict(norm=dict(lr_mult=0.1))),
)
param_scheduler = [
    dict(type="MultiStepLR", by_epoch=False, milestones=[20], gamma=0.1),
    dict(type="LinearMomentum", by_epoch=False, start_factor=0.5, end_factor=1.0, begin=0, end=10),
]
"""


def follow(config, length, tmp_path, *options):
    cfg = command.load_config(command.build_parser("").parse_args([str(config), *options]))
    return follow_schedule(cfg, length, tmp_path)


@pytest.mark.filterwarnings("ignore:Detected call of `scheduler.step")
def test_warm_up_and_cosine_by_iterations(tmp_path):
    values, by_epoch = follow(CONFIGS / "risurconv-s_kicad.py", 10, tmp_path)
    rates = [rate for rate, _ in values]
    assert by_epoch and len(rates) == 300
    assert rates[0] == pytest.approx(0.04 * 2e-3)
    assert rates[:40] == sorted(rates[:40]) and rates[39] == pytest.approx(2e-3)
    assert rates[40:] == sorted(rates[40:], reverse=True) and rates[-1] < 1e-7
    assert rates[40 + 130] == pytest.approx(1e-3, rel=1e-2)  # half of the cosine
    assert {momentum for _, momentum in values} == {0.9}


@pytest.mark.filterwarnings("ignore:Detected call of `scheduler.step")
def test_hooks_that_set_the_rate(tmp_path):
    values, _ = follow(CONFIGS / "risurconv_fg3d-car.py", 2, tmp_path)
    for epoch, rate in {0: 1e-3, 20: 7e-4, 299: 1e-3 * 0.7**14, 300: 1e-3, 600: 8e-4, 620: 5.6e-4}.items():
        assert values[2 * epoch][0] == values[2 * epoch + 1][0] == pytest.approx(rate), epoch


def test_iterations_and_momentum_without_data_or_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.py").write_text(ITERATIONS)
    values, by_epoch = follow("run.py", 7, tmp_path)
    assert not by_epoch and [rate for rate, _ in values] == pytest.approx([1.0] * 20 + [0.1] * 20)
    assert [m for _, m in values][:11:5] == pytest.approx([0.25, 0.375, 0.5], abs=0.03)

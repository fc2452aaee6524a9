"""The published recipes: their sizes and their schedules are the published ones."""

from pathlib import Path

import pytest
from mmengine.config import Config

from pointsuite.engine.runner import Runner

from .made import write_made_clouds

CONFIGS = Path(__file__).parents[2] / "configs/risurconv"
SIZES = {"modelnet40": 40, "scanobjectnn": 15, "fg3d-airplane": 13, "fg3d-car": 20, "fg3d-chair": 33}


def load(name, folder, classes, parts=0, count=4, points=1024, splits=("train", "test")):
    """The config on a file of made clouds, in small batches."""
    write_made_clouds(folder / "made.h5", classes, parts, count, points, splits)
    cfg = Config.fromfile(CONFIGS / f"risurconv_{name}.py")
    cfg.work_dir = str(folder)
    for loader in (cfg.train_dataloader, cfg.test_dataloader, cfg.val_dataloader):
        loader.dataset.data_file = str(folder / "made.h5")
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    return cfg


@pytest.mark.parametrize("name", SIZES)
def test_recipes(name):
    cfg = Config.fromfile(CONFIGS / f"risurconv_{name}.py")
    assert cfg.model.network.num_classes == SIZES[name]
    assert cfg.model.network.width == (1 if name == "scanobjectnn" else 2)
    assert cfg.train_dataloader.batch_size == (16 if name == "scanobjectnn" else 32)
    epochs = {"fg3d-airplane": 300, "fg3d-car": 900, "fg3d-chair": 900}.get(name, 450)
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.optim_wrapper.optimizer.weight_decay == (1e-2 if name == "fg3d-airplane" else 1e-4)


def learning_rates(cfg, epochs, tmp_path):
    """The rate in each epoch, by the runner's own hooks and schedulers around an empty epoch."""
    cfg.train_cfg.max_epochs = epochs
    cfg.experiment_name, cfg.visualizer = f"rates_{id(cfg)}", None
    runner = Runner.from_cfg(cfg)
    loop = runner._train_loop = runner.build_train_loop(cfg.train_cfg)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    wanted = ("SetLearningRateHook", "BatchNormMomentumHook")
    hooks = [hook for hook in runner.hooks if type(hook).__name__ in wanted]
    rates = []
    for epoch in range(epochs):
        loop._epoch = epoch
        for hook in hooks:
            hook.before_train_epoch(runner)
        rates.append(runner.optim_wrapper.param_groups[0]["lr"])
        for scheduler in runner.param_schedulers:
            scheduler.step()
    return rates, runner


@pytest.mark.filterwarnings("ignore:Detected call of `scheduler.step")
def test_the_rate_goes_back_and_steps_on(tmp_path):
    cfg = load("fg3d-car", tmp_path, [f"class {i}" for i in range(20)])
    rates, _ = learning_rates(cfg, 700, tmp_path)
    assert rates[0] == rates[19] == 1e-3
    for epoch, rate in {20: 7e-4, 299: 1e-3 * 0.7**14, 300: 1e-3, 320: 7e-4, 600: 8e-4, 620: 5.6e-4}.items():
        assert rates[epoch] == pytest.approx(rate), epoch


@pytest.mark.filterwarnings("ignore:Detected call of `scheduler.step")
def test_part_segmenter(tmp_path):
    names = list(Config.fromfile(CONFIGS / "risurconv_shapenetpart.py").test_evaluator.category_parts)
    made = {"parts": 50, "count": 2, "points": 2048, "splits": ("trainval", "test")}
    cfg = load("shapenetpart", tmp_path, names, **made)
    parts = sum(cfg.test_evaluator.category_parts.values(), [])
    assert parts == list(range(50))
    rates, runner = learning_rates(cfg, 250, tmp_path)
    wanted = [max(1e-3 * 0.5 ** (epoch // 20), 1e-5) for epoch in range(250)]
    assert rates == pytest.approx(wanted)
    assert {module.momentum for name, module in runner.model.named_modules() if name.endswith("norm1")} >= {
        0.01
    }

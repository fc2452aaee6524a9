"""What MMEngine stamps on an inherited config, ``_scope_`` in every outermost dict with a type."""

import mmengine.hooks
import mmengine.runner
import pytest
from mmengine.config import Config
from mmengine.registry import FUNCTIONS

from pointsuite.engine.runner import EpochBasedTrainLoop, Runner
from pointsuite.engine.runner.hooks import CheckpointHook

from .toy import make_config

BY_EPOCH = {"max_epochs": 2, "val_interval": 2}
BY_ITERATION = {"max_iters": 3, "val_interval": 3}


def inherit(cfg: Config) -> Config:
    """The config as one finds it that names it by ``_base_ = "mmengine::..."``."""
    return Config(Config._dict_to_config_dict(cfg._cfg_dict, scope="mmengine"))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"type": "EpochBasedTrainLoop", **BY_EPOCH}, EpochBasedTrainLoop),
        ({"type": "mmengine.EpochBasedTrainLoop", **BY_EPOCH}, EpochBasedTrainLoop),
        ({"type": mmengine.runner.EpochBasedTrainLoop, **BY_EPOCH}, EpochBasedTrainLoop),
        ({"by_epoch": True, "_scope_": "mmengine", **BY_EPOCH}, EpochBasedTrainLoop),
        ({"by_epoch": False, "_scope_": "mmengine", **BY_ITERATION}, mmengine.runner.IterBasedTrainLoop),
        ({"type": "IterBasedTrainLoop", **BY_ITERATION}, mmengine.runner.IterBasedTrainLoop),
    ],
)
@pytest.mark.parametrize("typed", [True, False])
def test_loops(options, wanted, typed, tmp_path):
    cfg = make_config(tmp_path)
    cfg.train_cfg = options
    for name in ("val", "test"):
        cfg[f"{name}_cfg"] = {"type": f"{name.title()}Loop"} if typed else {"_scope_": "mmengine"}
    cfg.log_processor = {"window_size": 5, **({"type": "LogProcessor"} if typed else {"_scope_": "mmengine"})}
    cfg = inherit(cfg)
    assert cfg.train_cfg._scope_ == cfg.optim_wrapper.optimizer._scope_ == "mmengine"
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert type(runner.train_loop) is wanted
    assert runner.iter == (10 if wanted is EpochBasedTrainLoop else 3)
    assert runner.message_hub.get_scalar("val/toy/accuracy").current() >= 0
    assert "toy/accuracy" in runner.test()
    assert runner.log_processor.window_size == 5


def test_one_of_type_and_by_epoch(tmp_path):
    runner = Runner.from_cfg(make_config(tmp_path))
    with pytest.raises(RuntimeError, match="Only one of `type` or `by_epoch`"):
        runner.build_train_loop({"type": "EpochBasedTrainLoop", "by_epoch": True, "max_epochs": 1})


@pytest.mark.parametrize("name", ["CheckpointHook", "mmengine.CheckpointHook", mmengine.hooks.CheckpointHook])
def test_checkpoints_are_ours(name, tmp_path):
    cfg = make_config(tmp_path)
    cfg.default_hooks = {"checkpoint": {"type": name, "interval": 7, "max_keep_ckpts": 2}}
    (hook,) = [
        hook
        for hook in Runner.from_cfg(inherit(cfg)).hooks
        if isinstance(hook, mmengine.hooks.CheckpointHook)
    ]
    assert isinstance(hook, CheckpointHook) and (hook.interval, hook.max_keep_ckpts) == (7, 2)


def test_functions_of_a_loader(tmp_path):
    started = []

    def collate(batch, times):
        return len(batch) * times

    def start(worker, seed):
        started.append((worker, seed))

    cfg = make_config(tmp_path)
    cfg.train_dataloader.update(
        collate_fn={"type": "toy_collate", "times": 10}, worker_init_fn={"type": "toy_start", "seed": 3}
    )
    loader = inherit(cfg).train_dataloader
    assert loader.collate_fn._scope_ == "mmengine"
    FUNCTIONS.register_module("toy_collate", module=collate)
    FUNCTIONS.register_module("toy_start", module=start)
    try:
        built = Runner.build_dataloader(loader)
    finally:
        del FUNCTIONS._module_dict["toy_collate"], FUNCTIONS._module_dict["toy_start"]
    assert list(built) == [40, 40, 40, 40, 20]
    built.worker_init_fn(1)
    assert started == [(1, 3)]
    assert loader.collate_fn._scope_ == "mmengine"  # nothing is taken from the config

"""Mixed precision in bfloat16 without a GPU."""

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError
from pointsuite.engine.runner import Runner

from .toy import REPOSITORY, make_config

AMP = {"optim_wrapper.type": "pointsuite.AmpOptimWrapper"}


def losses(cfg):
    Runner.from_cfg(cfg).train()
    return torch.tensor(MessageHub.get_current_instance().get_scalar("train/loss").data[0])


def kicad_config(work_dir, **options):
    """Three iterations of the config of `make train`, of 4 clouds of 256 points."""
    cfg = Config.fromfile(REPOSITORY / "configs" / "risurconv" / "risurconv-s_kicad.py")
    cfg.work_dir, cfg.experiment_name = str(work_dir), work_dir.name
    cfg.visualizer = cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.merge_from_dict(
        {
            "train_cfg": {"_delete_": True, "by_epoch": False, "max_iters": 3},
            "train_dataloader.batch_size": 4,
            "train_dataloader.dataset.pipeline.0.num": 256,
            "train_dataloader.sampler.type": "InfiniteSampler",
            "log_processor.by_epoch": False,
            "param_scheduler": None,
            "optim_wrapper.optimizer.lr": 1e-4,  # steps of Adam, taken by signs, would enlarge rounding
            **options,
        }
    )
    return cfg


@pytest.mark.parametrize("make, iterations", [(make_config, 15), (kicad_config, 3)])
def test_loss_follows_float32(tmp_path, make, iterations):
    wanted = losses(make(tmp_path / f"{make.__name__}_float32"))
    found = losses(make(tmp_path / f"{make.__name__}_amp", **AMP))
    assert len(found) == iterations and not found.equal(wanted)
    torch.testing.assert_close(found, wanted, atol=0.05, rtol=0.05)


def test_weights_and_gradients_stay_in_float32(tmp_path):
    runner = Runner.from_cfg(make_config(tmp_path, **AMP))
    runner.train()
    wrapper = runner.optim_wrapper
    assert {p.dtype for p in runner.model.parameters()} == {torch.float32}
    assert {s["exp_avg"].dtype for s in wrapper.optimizer.state.values()} == {torch.float32}
    assert wrapper.loss_scaler.get_scale() == 1
    with wrapper.optim_context(runner.model):
        assert runner.model.network[0](torch.ones(1, 4)).dtype == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_float16_needs_a_gpu(tmp_path):
    cfg = make_config(tmp_path, launcher="none", **AMP, **{"optim_wrapper.dtype": "float16"})
    with pytest.raises(UsageError, match="in float16 needs an NVIDIA GPU, found none; bfloat16"):
        command.build_runner(cfg)

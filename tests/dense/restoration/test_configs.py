"""The recipes: they build, and have the published numbers."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from dense.registry import DATASETS, METRICS, MODELS
from dense.restoration.model import ImageRestorer
from pointsuite.engine.checkpoint import save_checkpoint
from pointsuite.engine.schedules import follow_schedule

from .toy import write_images

CONFIGS = Path(__file__).parents[3] / "configs"
NAMES = sorted(
    f"{path.parent.name}/{path.stem}"
    for pattern in ("hat/*.py", "edsr/*.py", "weighted_conv/dncnn*.py", "weighted_conv/nafnet*.py")
    for path in CONFIGS.glob(pattern)
)


def read(name):
    return Config.fromfile(CONFIGS / f"{name}.py")


@pytest.mark.parametrize("name", NAMES)
def test_every_config_fits_together(name):
    cfg = read(name)
    with DefaultScope.overwrite_default_scope("dense"), torch.device("meta"):
        network = MODELS.build(cfg.model).network
        METRICS.build(cfg.test_evaluator)
    for loader, evaluator in (("val", cfg.val_evaluator), ("test", cfg.test_evaluator)):
        dataset = cfg[f"{loader}_dataloader"].dataset
        assert dataset.get("scale", 1) == network.scale and dataset.test_mode
        assert evaluator.get("crop_border", 0) == (network.scale if network.scale > 1 else 0)
        assert (cfg.train_dataloader.dataset.get("grey", False)) == (network.in_channels == 1)
    train = cfg.train_dataloader.dataset
    patch = next(t for t in train.pipeline if t.type == "RandomPatch").size
    assert train.get("scale", 1) == network.scale and patch % network.multiple == 0
    assert train.get("min_size", 1) in (1, patch * network.scale)
    assert f"x{network.scale}_" in name or network.scale == 1
    assert cfg.train_cfg.max_epochs % cfg.train_cfg.val_interval == 0
    if cfg.param_scheduler.type == "CosineAnnealingLR":
        assert cfg.param_scheduler.T_max == cfg.train_cfg.max_epochs
    if "-weighted" in name:
        plain = read(name.replace("-weighted", ""))
        del cfg.model.network["density"]
        assert cfg.to_dict() == plain.to_dict()  # the density is the only difference


@pytest.mark.parametrize("name", ["dncnn-s{}_t91-grey25", "nafnet-s{}_t91-grey25"])
def test_twins_start_from_the_same_weights(name):
    states = []
    for twin in ("", "-weighted"):
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope("dense"):
            model = MODELS.build(read(f"weighted_conv/{name.format(twin)}").model)
        states.append({key: value for key, value in model.state_dict().items() if "density" not in key})
    assert states[0].keys() == states[1].keys()
    assert all(value.equal(states[1][key]) for key, value in states[0].items())


@pytest.mark.filterwarnings("ignore:Detected call of `scheduler.step")
@pytest.mark.parametrize(
    ("name", "rate", "steps", "milestones"),
    [
        ("hat/hat_srx2_df2k", 2e-4, 500, (250, 400, 450, 475)),
        ("hat/hat-s_srx3_df2k", 2e-4, 500, (250, 400, 450, 475)),
        ("hat/hat_srx4_df2k", 1e-4, 250, (125, 200, 225, 240)),
        ("hat/hat-l_srx4_imagenet", 2e-4, 800, (300, 500, 650, 700, 750)),
        ("hat/hat-l_srx2_imagenet-df2k", 1e-5, 250, (125, 200, 225, 240)),
    ],
)
def test_published_schedules_of_hat(name, rate, steps, milestones, tmp_path):
    cfg = read(name)
    # 8 processes with 4 samples each
    length = cfg.train_dataloader.dataset.length // (8 * cfg.train_dataloader.batch_size)
    assert length == 5000 and cfg.train_cfg.max_epochs * length == steps * 1000
    assert cfg.param_scheduler.milestones == [1000 * m for m in milestones]
    assert (cfg.param_scheduler.gamma, cfg.param_scheduler.by_epoch) == (0.5, False)
    # followed a thousand times as fast
    cfg.param_scheduler.milestones = list(milestones)
    rates = [r for r, _ in follow_schedule(cfg, 5, str(tmp_path))[0]]
    assert rates[0] == pytest.approx(rate) and len(rates) == steps
    changes = [i for i in range(1, len(rates)) if rates[i] != rates[i - 1]]
    assert changes == list(milestones) and rates[-1] == pytest.approx(rate / 2 ** len(milestones))
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.betas) == ("Adam", (0.9, 0.99)) and "weight_decay" not in optimizer
    assert cfg.custom_hooks == [{"type": "EMAHook", "momentum": 1e-3}] and cfg.model.loss == "l1"
    patch = cfg.train_dataloader.dataset.pipeline[0]
    assert (patch.type, patch.size) == ("RandomPatch", 64)


def test_published_networks():
    arches = {
        name: read(f"hat/{name}").model.network.arch for name in ("hat_srx3_imagenet", "hat-s_srx4_df2k")
    }
    assert arches == {"hat_srx3_imagenet": "hat", "hat-s_srx4_df2k": "hat_s"}
    assert read("hat/hat-l_srx3_imagenet-df2k").model.network == {"type": "HAT", "arch": "hat_l", "scale": 3}
    for name in NAMES:
        cfg = read(name)
        if "init_cfg" in cfg.model:  # what it starts from is the last epoch of another config
            folder, epoch = Path(cfg.model.init_cfg.checkpoint).parts[-2:]
            before = read(f"hat/{folder}")
            assert epoch == f"epoch_{before.train_cfg.max_epochs}.pth"
            assert before.model.network.arch == cfg.model.network.arch


def test_x4_starts_from_the_weights_of_x2(tmp_path):
    small = {
        "embed_dims": 8,
        "depths": (2,),
        "num_heads": (2,),
        "compress_ratio": 2,
        "squeeze_factor": 4,
    }
    two = ImageRestorer({"type": "dense.HAT", "arch": small, "scale": 2, "window_size": 4})
    save_checkpoint({"state_dict": two.state_dict()}, tmp_path / "x2.pth")
    model = read("hat/hat_srx4_df2k").model
    model.network.update(arch=small, window_size=4)
    model.init_cfg.checkpoint = str(tmp_path / "x2.pth")
    with DefaultScope.overwrite_default_scope("dense"):
        four = MODELS.build(model)
    four.init_weights()
    state = four.state_dict()
    for key, value in two.state_dict().items():
        assert state[key].equal(value), key
    assert {key.split(".")[1] for key in set(state) - set(two.state_dict())} == {"upsample"}


def test_noise_and_jpeg_of_hat(tmp_path):
    write_images(tmp_path / "DIV2K_valid_HR", 1)
    for name, low, high in (("hat/hat_denoise25_df2k", 15, 35), ("hat/hat_jpeg10_df2k", 2, 30)):
        cfg = read(name).val_dataloader.dataset
        with DefaultScope.overwrite_default_scope("dense"):
            item = DATASETS.build({**cfg, "data_root": str(tmp_path)})[0]
        poor = item["inputs"] if item["inputs"].is_floating_point() else item["inputs"] / 255
        assert low < (poor - item["data_samples"].gt / 255).std() * 255 < high

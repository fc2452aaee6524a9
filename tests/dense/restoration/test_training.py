"""Training runs by the command lines: they learn, can be tested and drawn, continue as if never stopped."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dense.restoration import Restorer
from pointsuite.engine.checkpoint import load_checkpoint
from tests.pointsuite.engine.conftest import one_thread  # noqa: F401
from tests.tools.load import load_tool

from .toy import write_images

CONFIGS = Path(__file__).parents[3] / "configs"
train, test = load_tool("train"), load_tool("test")
SMALL_EDSR = f"""
_base_ = "{CONFIGS}/edsr/edsr-s_srx2_t91.py"
model = dict(network=dict(arch=dict(_delete_=True, channels=12, depth=1, scaling=1.0)))
custom_hooks = [dict(type="EMAHook", momentum=0.05)]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name, count in (("T91", 4), ("Set5", 2), ("Set14", 1)):
        write_images(root / name, count)
    for name in ("BSD68", "Set12"):
        write_images(root / name, 1, channels=1)
    return root


def run(tool, config, *arguments, name, options):
    argv = [str(config), *map(str, arguments), "--cfg-options", f"experiment_name={name}"]
    tool.main([*argv, *options])


def results(folder):
    return json.loads(next(Path(folder).glob("*/*.json")).read_text().splitlines()[-1])


def test_super_resolution(data, tmp_path):
    """Learns; resumes to the same weights with averages; tests; draws; restores a file."""
    config = tmp_path / "small.py"
    config.write_text(SMALL_EDSR)
    options = [
        "train_dataloader.dataset.pipeline.0.size=16",
        f"data_root={data}",
        "train_cfg.max_epochs=4",
        "train_cfg.val_interval=4",
        "param_scheduler.T_max=4",
        "optim_wrapper.optimizer.lr=0.003",
        "train_dataloader.dataset.length=160",
        "default_hooks.checkpoint.max_keep_ckpts=4",
        "visualizer.vis_backends=[]",
    ]
    run(train, config, "--work-dir", tmp_path / "whole", name="whole", options=options)
    weights = load_checkpoint(tmp_path / "whole/epoch_4.pth")
    losses = weights["message_hub"]["log_scalars"]["train/loss"]["history"]
    assert losses[-5:].mean() < 0.5 * losses[:5].mean()

    resume = ["--work-dir", tmp_path / "parts", "--resume", tmp_path / "whole/epoch_3.pth"]
    run(train, config, *resume, name="parts", options=[*options, "train_dataloader.num_workers=1"])
    parts = load_checkpoint(tmp_path / "parts/epoch_4.pth")
    for key in ("state_dict", "ema_state_dict"):
        assert all(value.equal(parts[key][name]) for name, value in weights[key].items())

    argv = [tmp_path / "whole", "--work-dir", tmp_path / "test", "--show-dir", tmp_path / "pictures"]
    run(test, config, *argv, name="test", options=[o for o in options if "vis_backends" not in o])
    found = results(tmp_path / "test")
    assert set(found) >= {f"{d}/{m}" for d in ("Set5", "Set14") for m in ("psnr", "ssim", "psnr_input")}
    assert found["Set5/psnr"] > 20 and found["Set5/psnr_input"] > 20
    pictures = sorted((tmp_path / "pictures").rglob("*.png"))
    assert len(pictures) == 3
    picture = np.asarray(Image.open(pictures[0]))
    assert picture.shape[0] > 40 and picture.shape[1:] == (3 * 52 + 2 * 4, 3)  # with headings
    np.testing.assert_array_equal(picture[-40:, -52:], np.asarray(Image.open(data / "Set5/0.png")))
    report = (tmp_path / "test/report.html").read_text()
    assert report.count("<img ") == 3 and "PSNR " in report

    restorer = Restorer(config, tmp_path / "whole/epoch_4.pth", device="cpu")
    restorer(data / "BSD68/0.png", tmp_path / "large.png")
    with Image.open(tmp_path / "large.png") as large, Image.open(data / "BSD68/0.png") as small:
        assert large.mode == "L" and large.size == (2 * small.width, 2 * small.height)


@pytest.mark.parametrize(
    ("config", "small"),
    [
        (
            "hat/hat-xs_srx4_t91",
            [
                "model.network.arch.embed_dims=8",
                "model.network.arch.depths=(2,)",
                "model.network.arch.num_heads=(2,)",
                "model.network.window_size=4",
                "model.tile=8",
                "model.overlap=4",
                "train_dataloader.dataset.pipeline.0.size=8",
            ],
        ),
        ("weighted_conv/dncnn-s-weighted_t91-grey25", ["model.network.depth=3", "model.network.channels=8"]),
        ("weighted_conv/nafnet-s_t91-grey25", ["model.network.width=4"]),
    ],
)
def test_other_recipes(data, tmp_path, config, small):
    options = [
        *small,
        f"data_root={data}",
        "train_cfg.max_epochs=1",
        "train_cfg.val_interval=1",
        "train_dataloader.batch_size=2",
        "train_dataloader.dataset.length=4",
        "visualizer.vis_backends=[]",
    ]
    path = CONFIGS / f"{config}.py"
    run(train, path, "--work-dir", tmp_path / "run", name=tmp_path.name, options=options)
    argv = [tmp_path / "run", "--work-dir", tmp_path / "test"]
    run(test, path, *argv, name=f"{tmp_path.name}_", options=options)
    found = results(tmp_path / "test")
    name = "Set5" if "hat" in config else "BSD68"
    assert found[f"{name}/psnr"] > 3 and np.isfinite(found[f"{name}/ssim"])
    if name == "BSD68":  # noise of sigma 25 has a PSNR of 20.17 dB, here a little more: levels are clipped
        assert found["BSD68/psnr_input"] == pytest.approx(20.2, abs=0.3)

"""Two processes against one with the same global batch; see distributed_worker.py for what each does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dense.backbones import ViT
from pointsuite.engine import command
from pointsuite.engine.checkpoint import load_checkpoint
from pointsuite.engine.runner import Runner
from tests.dense.classification.toy import write_project

from .test_runner import assert_same_run
from .tiny import make_config, write_config
from .toy import REPOSITORY

WORKER = Path(__file__).with_name("distributed_worker.py")
UNEVEN = [*range(3), *range(50, 56)]  # samples to validate with, not as many of either class
# gradients of the last iteration of an epoch wait for the next
IMAGES = """
_base_ = "toy.py"
model = dict(
    augments=[],
    backbone=dict(
        _delete_=True,
        type="ViT",
        arch=dict(ARCH, embed_dims=16, depth=3, num_heads=2, patch_size=4, img_size=16),
    ),
)
train_dataloader = dict(batch_size=2)
train_cfg = dict(max_epochs=2)
optim_wrapper = dict(
    _delete_=True,
    type="pointsuite.AmpOptimWrapper",
    accumulative_counts=3,
    clip_grad=dict(max_norm=0.5),
    optimizer=dict(type="AdamW", lr=0.003, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
custom_hooks = [dict(type="EMAHook", momentum=0.1)]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes trained ("two"), continued after their first epoch ("rest"; "split" by FSDP), and
    one trained ("one"); and two trained on images, with and without FSDP."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "images").mkdir()
    write_project(folder / "images")
    (folder / "images" / "vit.py").write_text(IMAGES.replace("ARCH", str(ViT.archs["tiny"])))
    config = write_config(folder)
    config.write_text(f"{config.read_text()}\nval_dataloader = dict(dataset=dict(two, indices={UNEVEN}))\n")
    command_line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*command_line, WORKER, config, "images/vit.py"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    Runner.from_cfg(make_config(folder / "one", **{"val_dataloader.dataset.indices": UNEVEN})).train()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return folder


def test_two_processes_equal_one(folder):
    for epoch in ("epoch_1.pth", "epoch_2.pth"):
        one, two = (load_checkpoint(folder / run / epoch) for run in ("one", "two"))
        # the learning rate is low: at 0.1, a relative change of 1e-6 of the first weights grows to 0.1
        torch.testing.assert_close(two["state_dict"], one["state_dict"], atol=1e-4, rtol=1e-4)
        assert len(two["random_states"]) == 2
    logs = (checkpoint["message_hub"]["log_scalars"] for checkpoint in (one, two))
    losses, both = (log["train/loss"]["history"] for log in logs)
    assert len(losses) == len(both) == 16  # as many steps


def test_metrics_are_those_of_one_process(folder):
    def history(run):
        lines = next((folder / run).glob("*/vis_data/scalars.json")).read_text().splitlines()
        return [line.split(', "data_time"')[0] for line in lines if "overall_accuracy" in line]

    assert history("two") == history("one")
    assert len(history("one")) == 2 and '"overall_accuracy": 50.0' not in history("one")[-1]


def test_resumed_run_equals_unbroken_run(folder):
    assert_same_run(folder / "two" / "epoch_2.pth", folder / "rest" / "epoch_2.pth")


def assert_close_run(found: Path, wanted: Path) -> None:
    """Two checkpoints have the same keys, shapes and dtypes, and numbers within 1e-6."""
    found, wanted = load_checkpoint(found), load_checkpoint(wanted)
    assert list(found) == list(wanted)
    for part in {"state_dict", "optimizer", "gradients", "ema_state_dict"} & wanted.keys():
        assert list(found[part]) == list(wanted[part])
        torch.testing.assert_close(found[part], wanted[part], atol=1e-6, rtol=0)


def test_split_run_equals_whole_run(folder):
    """By FSDP, points in the steps after a resumption and images from the first one on; and back."""
    assert_close_run(folder / "split" / "epoch_2.pth", folder / "two" / "epoch_2.pth")
    for epoch in ("epoch_1.pth", "epoch_2.pth"):
        assert_close_run(folder / "images_fsdp" / epoch, folder / "images_ddp" / epoch)
    checkpoint = load_checkpoint(folder / "images_fsdp" / "epoch_1.pth")
    assert checkpoint["gradients"] and checkpoint["optimizer"]["state"] and checkpoint["ema_state_dict"]
    for run in ("images_rest", "images_back"):
        assert_close_run(folder / run / "epoch_2.pth", folder / "images_ddp" / "epoch_2.pth")


def test_split_run_continues_in_one_process(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder / "images")
    cfg = command.read_config("vit.py", {"experiment_name": "one_image"}, work_dir=str(tmp_path))
    cfg.resume, cfg.load_from, cfg.strategy = True, str(folder / "images_fsdp" / "epoch_1.pth"), "fsdp"
    runner = command.build_runner(cfg)
    runner.train()
    assert runner.epoch == 2 and {p.device.type for p in runner.model.parameters()} == {"cpu"}
    said = next(tmp_path.glob("*/*.log")).read_text()
    assert "is of 2 processes and this run has 1" in said and "one process: nothing is split" in said


def test_processes_leave_nothing_behind(folder):
    images = {"images", "images_ddp", "images_fsdp", "images_rest", "images_back"}
    assert {path.name for path in folder.iterdir()} == {"one", "two", "rest", "split", "tiny.py", *images}
    assert not list((folder / "two").glob(".*"))


def test_dist_train_calls_torchrun(tmp_path):
    def run(*argv, **env):
        return subprocess.run(
            ["bash", REPOSITORY / "tools" / "dist_train.sh", *argv],
            env={**os.environ, "PYTHON": "echo", **env},
            capture_output=True,
            text=True,
        )

    script = REPOSITORY / "tools" / "train.py"
    assert run("a.py", "2", "--amp").stdout == (
        f"-m torch.distributed.run --standalone --nproc-per-node 2 {script} a.py --launcher pytorch --amp\n"
    )
    several = run("a.py", "8", NNODES="2", NODE_RANK="1", MASTER_ADDR="host")
    nodes = "--nnodes 2 --node-rank 1 --master-addr host --master-port 29500 --nproc-per-node 8"
    assert nodes in several.stdout
    usage = run("a.py")
    assert usage.returncode == 2 and "dist_train.sh CONFIG NPROC" in usage.stderr


def test_sync_bn_must_be_known(tmp_path, monkeypatch):
    runner = Runner.from_cfg(make_config(tmp_path, sync_bn="mmcv"))  # one process: nothing to synchronise
    monkeypatch.setattr(Runner, "distributed", True)
    with pytest.raises(ValueError, match="sync_bn must be 'torch' or None, found 'mmcv'"):
        runner.wrap_model(None, runner.model)

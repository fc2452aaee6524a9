"""Two processes against one with the same global batch; see distributed_worker.py for what each does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pointsuite.engine.checkpoint import load_checkpoint
from pointsuite.engine.runner import Runner

from .test_runner import assert_same_run
from .tiny import make_config, write_config
from .toy import REPOSITORY

WORKER = Path(__file__).with_name("distributed_worker.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes trained ("two"), continued after their first epoch ("rest"), and one trained
    ("one")."""
    folder = tmp_path_factory.mktemp("distributed")
    command_line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*command_line, WORKER, write_config(folder)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    Runner.from_cfg(make_config(folder / "one")).train()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return folder


def test_two_processes_equal_one(folder):
    for epoch in ("epoch_1.pth", "epoch_2.pth"):
        one, two = (load_checkpoint(folder / run / epoch) for run in ("one", "two"))
        torch.testing.assert_close(two["state_dict"], one["state_dict"], atol=1e-3, rtol=1e-3)
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


def test_processes_leave_nothing_behind(folder):
    assert {path.name for path in folder.iterdir()} == {"one", "two", "rest", "tiny.py"}
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

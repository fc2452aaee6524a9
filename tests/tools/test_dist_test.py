import os
import subprocess

from .load import TOOLS


def run(*argv, **env):
    return subprocess.run(
        ["bash", TOOLS / "dist_test.sh", *argv],
        env={**os.environ, "PYTHON": "echo", **env},
        capture_output=True,
        text=True,
    )


def test_calls_torchrun():
    assert run("a.py", "a b.pth", "2", "--seed", "1").stdout == (
        f"-m torch.distributed.run --standalone --nproc-per-node 2 {TOOLS}/test.py a.py --launcher pytorch "
        "a b.pth --seed 1\n"
    )
    several = run("a.py", "b.pth", "8", NNODES="2", NODE_RANK="1", MASTER_ADDR="host").stdout
    assert "--nnodes 2 --node-rank 1 --master-addr host --master-port 29500 --nproc-per-node 8" in several


def test_usage():
    usage = run("a.py", "b.pth")
    assert usage.returncode == 2 and "dist_test.sh CONFIG CHECKPOINT NPROC" in usage.stderr
    assert "#" not in usage.stderr

"""Two runs in one folder."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from pointsuite.engine.errors import UsageError
from pointsuite.engine.lock import NAME, find_holder, hold_folder, is_alive
from pointsuite.engine.runner import Runner

from .toy import REPOSITORY, make_config

HOLD = """
import sys
from pointsuite.engine.lock import hold_folder
with hold_folder(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that trains in the folder until its stdin ends."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], cwd=REPOSITORY, **pipes)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_in_the_folder_is_named(tmp_path, other):
    who = f"process {other.pid} on {socket.gethostname()} since 20"
    assert find_holder(tmp_path).startswith(who)
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "link"):
        with pytest.raises(UsageError, match=rf"{re.escape(who)}.* trains there.*another --work-dir"):
            hold_folder(folder).__enter__()
    (tmp_path / "toy.py").write_text("its = 1\n")
    own = tmp_path / "toy" / "toy.py"
    cfg = make_config(own.parent)
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    with pytest.raises(UsageError, match=re.escape(who)):
        runner.train()
    assert (tmp_path / "toy.py").read_text() == "its = 1\n" and not list(tmp_path.glob("*.pth"))
    runner.test()  # harms nothing

    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / NAME).exists() and find_holder(tmp_path) is None
    runner.train()
    assert (tmp_path / "epoch_3.pth").exists() and not (tmp_path / NAME).exists()


def test_the_lock_goes_when_its_holder_is_done(tmp_path, other):
    other.communicate("")
    assert not (tmp_path / NAME).exists()
    with pytest.raises(KeyError), hold_folder(tmp_path / "new"):
        assert json.loads((tmp_path / "new" / NAME).read_text())["pid"] == os.getpid()
        assert find_holder(tmp_path / "new") is None  # other than this process
        with hold_folder(tmp_path / "new"):
            pass
        assert (tmp_path / "new" / NAME).exists()
        raise KeyError
    assert not (tmp_path / "new" / NAME).exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch, other):
    def refuse(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with pytest.raises(UsageError, match=f"process {other.pid} on "):
        hold_folder(tmp_path).__enter__()
    other.kill()
    other.wait()
    with hold_folder(tmp_path):
        pass


def test_is_alive(other):
    assert is_alive(os.getpid()) and is_alive(other.pid) and is_alive(1)
    other.kill()
    other.wait()
    assert not is_alive(other.pid) and not is_alive(2**80)

"""An error is one line: of the user's with the way out, of ours with the place of the whole report."""

import errno
import logging
import os
import re
import signal
import sys

import mmengine
import numpy as np
import pytest
from mmengine.hooks import Hook
from mmengine.registry import Registry
from mmengine.visualization import LocalVisBackend
from torch.utils.data import DataLoader, Dataset

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError, explain, find_path
from pointsuite.engine.runner.runner import Runner

from .toy import make_config


class Faulty(Dataset):
    def __init__(self, fault):
        self.fault = fault

    def __len__(self):
        return 1

    def __getitem__(self, index):
        self.fault()


def refuse():
    raise UsageError("a.ply: found no vertex, wanted some")


def fail():
    return [][3]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("fault", "said", "complete"),
    [
        (refuse, "a.ply: found no vertex, wanted some", True),
        (fail, "IndexError in a worker of the data loader: list index out of range", False),
        (die, "was killed by the signal Killed; if memory ran out, fewer workers", True),
    ],
)
def test_an_error_in_a_loaders_worker(fault, said, complete):
    with pytest.raises(Exception) as error:
        next(iter(DataLoader(Faulty(fault), num_workers=1)))
    line, done = explain(error.value)
    assert said in line and "\n" not in line and done is complete


TOYS = Registry("toy")


@TOYS.register_module()
class Outer:
    def __init__(self, inner=None, size=1):
        self.inner = TOYS.build(inner) if inner else None


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "Outr"}, "my.py: model.0.head.type: found 'Outr', .*; did you mean Outer\\?"),
        (
            {"type": "Outer", "sise": 3},
            "my.py: model.0.head: found sise=3, which Outer .*; did you mean size",
        ),
        ({"type": "Outer", "inner": {"type": "Outer", "x": 1}}, "my.py: model.0.head.inner: found x=1"),
    ],
)
def test_what_cannot_be_built_is_named_by_its_key(part, said):
    config = {"other": {"type": "Else"}, "model": [{"head": part}]}
    with pytest.raises((KeyError, TypeError)) as error:
        TOYS.build(dict(part))
    line, complete = explain(error.value, config, "my.py")
    assert complete and re.match(said, line), line


def test_find_path_prefers_what_is_equal():
    config = {"a": {"type": "X", "n": 1}, "b": [{"type": "X", "n": 2}]}
    assert find_path(config, {"type": "X", "n": 2}) == "b.0"
    assert find_path(config, {"type": "X", "n": 3}) == "a"
    assert find_path(config, {"type": "Y"}) is None


def end(main, capsys):
    with pytest.raises(SystemExit) as stop:
        command.run(main)
    said = capsys.readouterr().err
    return stop.value.code, said


def test_what_nobody_foresaw_is_one_line_that_names_the_report(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(command, "_current", {})  # no run before this
    code, said = end(fail, capsys)
    (report,) = tmp_path.glob("error_*.txt")
    assert said == "" and "\n" not in code
    assert "error: IndexError: list index out of range" in code and str(report) in code
    assert "in fail" in report.read_text() and "--traceback shows it" in code


def test_the_whole_report_on_request(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["train.py", "--traceback"])
    code, said = end(fail, capsys)
    assert "Traceback" in said and "train.py: error: IndexError" in code


def test_ctrl_c_before_training_is_one_line(capsys):
    def interrupt():
        raise KeyboardInterrupt

    assert end(interrupt, capsys) == (130, "\ninterrupted\n")


def test_numbers_of_options(capsys):
    parser = command.build_parser("")
    for text in ("-1", "4294967296", "x"):
        with pytest.raises(SystemExit):
            parser.parse_args(["a.py", "--seed", text])
        assert f"--seed: found {text!r}, wanted a whole number from 0 to" in capsys.readouterr().err
    for text in ("nan", "-1", "0", "inf"):
        with pytest.raises(command.argparse.ArgumentTypeError, match="wanted a number above 0"):
            command.positive(text)
    assert command.positive("2.5") == 2.5 and command.whole(1)("3") == 3


needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")


@needs_full
@pytest.mark.parametrize("call", ["scalars", "json", "savez"])
def test_a_full_disk_is_one_line_with_the_file(tmp_path, call):
    """The system names no file where it refuses to write; libraries write, too."""
    backend = LocalVisBackend(tmp_path)
    backend._init_env()
    path = tmp_path / "scalars.json" if call == "scalars" else tmp_path / "a.json"
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/full")
    with pytest.raises(OSError) as error:
        if call == "scalars":
            backend.add_scalars({"loss": 1.0})
        elif call == "json":
            mmengine.dump(list(range(99999)), str(path))
        else:
            with open(path, "wb") as file:
                np.savez(file, np.zeros(99999))
    assert explain(error.value) == (f"{path}: No space left on device", True)


def write_to(handler):
    handler.stream.write("a")
    handler.stream.flush()


@needs_full
def test_a_log_that_cannot_be_written_does_not_stop_a_run(tmp_path, capsys):

    class Fill(Hook):
        def before_train_epoch(self, runner):
            self.handler = next(h for h in runner.logger.handlers if isinstance(h, logging.FileHandler))
            self.handler.setStream(open("/dev/full", "a")).close()  # noqa: SIM115

    runner = Runner.from_cfg(make_config(tmp_path, **{"train_cfg.max_epochs": 1}))
    fill = Fill()
    runner.register_hook(fill)
    runner.train()
    said = capsys.readouterr().err
    assert said.count(f"{runner.logger.log_file}: No space left on device: the log lacks lines") == 1
    assert "Traceback" not in said and (tmp_path / "epoch_1.pth").exists()
    with pytest.raises(OSError) as error:  # MMEngine writes to it, too
        write_to(fill.handler)
    assert explain(error.value) == (f"{runner.logger.log_file}: No space left on device", True)
    fill.handler.stream = open(os.devnull, "a")  # noqa: SIM115


def test_results_that_cannot_be_dumped_leave_nothing(tmp_path, monkeypatch):
    out = tmp_path / "results.pkl"
    metrics = [{"type": "ToyAccuracy"}, {"type": "DumpResults", "out_file_path": str(out)}]
    cfg = make_config(tmp_path)
    cfg.test_evaluator = metrics
    Runner.from_cfg(cfg).test()
    assert len(mmengine.load(out)) == 18
    whole = out.read_bytes()

    def fill(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cfg.experiment_name += "_again"
    runner = Runner.from_cfg(cfg)
    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(OSError, match=r"No space left on device: '.*results\.pkl'"):
        runner.test()
    assert out.read_bytes() == whole and not list(tmp_path.glob(".*"))

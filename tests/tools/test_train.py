"""The command lines of training and testing."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from pointsuite.engine import command
from pointsuite.engine.checkpoint import load_checkpoint, save_checkpoint
from tests.pointsuite.engine.conftest import one_thread  # noqa: F401
from tests.pointsuite.engine.toy import REPOSITORY, write_config

from .load import load_tool

train, test = load_tool("train"), load_tool("test")


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config in an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return str(write_config(tmp_path / "configs").relative_to(tmp_path))


def last_line(main, argv, capsys):
    """What ``main`` prints to stderr when it fails, without a traceback."""
    with pytest.raises(SystemExit) as stop:
        command.run(lambda: main(argv))
    message = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err.strip()
    assert stop.value.code not in (0, None) and "\n" not in message
    return message


def test_ctrl_c_then_resume_gives_the_weights_of_an_unbroken_run(config, tmp_path):
    train.main([config, "--work-dir", "whole", "--cfg-options", "experiment_name=whole"])
    assert list((tmp_path / "whole").glob("*/vis_data/events.out.tfevents.*"))

    options = ["num_workers=1", "persistent_workers=True", "dataset.delay=0.05"]
    options = ["--cfg-options", *(f"train_dataloader.{option}" for option in options)]
    process = subprocess.Popen(
        [sys.executable, "-u", REPOSITORY / "tools" / "train.py", config, "--work-dir", "parts", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        },
        start_new_session=True,
    )
    output = ""
    for line in process.stdout:
        output += line
        if "Epoch(val) [1]" in line:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the data worker gets it, too
    assert process.wait() == 130, output
    assert "--resume continues after iteration 6 of 15 (epoch 2)" in output and "Traceback" not in output
    assert output.count("saving after this iteration") == 1
    assert load_checkpoint("parts/interrupted.pth")["meta"]["batch"] == 1

    train.main([config, "--work-dir", "parts", "--resume", "--cfg-options", "experiment_name=parts"])
    whole, parts = (load_checkpoint(f"{folder}/epoch_3.pth")["state_dict"] for folder in ("whole", "parts"))
    assert all(value.equal(parts[key]) for key, value in whole.items())


def test_default_work_dir_and_testing(config, capfd):
    train.main([config, "--cfg-options", "train_cfg.max_epochs=1", "visualizer=None"])
    assert "Resumed" not in capfd.readouterr().out
    test.main([config, "work_dirs/toy/epoch_1.pth", "--cfg-options", "visualizer=None"])
    assert "toy/accuracy: 0." in capfd.readouterr().out


def test_seed_reaches_runner_and_dataset(config):
    args = command.build_parser("").parse_args([config, "--seed", "5", "--deterministic"])
    cfg = command.load_config(args)
    assert cfg.randomness == {"seed": 5, "deterministic": True}
    assert cfg.train_dataloader.dataset.seed == 5 and "seed" not in cfg.val_dataloader.dataset
    assert cfg.work_dir == "work_dirs/toy"


def test_a_new_text_at_the_top_goes_where_it_was_used(config):
    with open("configs/rooted.py", "w") as file:
        file.write(
            '_base_ = "toy.py"\n'
            'data_root = "old"\n'
            'part = dict(data_root=data_root, name="old")\n'
            'parts = [dict(inner=[part]), dict(data_root="own"), dict(data_root=data_root)]\n'
        )
    options = ["--cfg-options", "data_root=new", "parts.2.data_root=old"]
    cfg = command.load_config(command.build_parser("").parse_args(["configs/rooted.py", *options]))
    assert cfg.data_root == cfg.part.data_root == cfg.parts[0].inner[0].data_root == "new"
    assert cfg.part.name == "old" and cfg.parts[1].data_root == "own"
    assert cfg.parts[2].data_root == "old"  # the option that says so itself


@pytest.mark.parametrize(
    "argv, message",
    [
        (["configs/tox.py"], "error: configs/tox.py: no such config; did you mean configs/toy.py?"),
        (["zzzzzzzz.py"], "error: zzzzzzzz.py: no such config"),
        (["configs"], "error: configs: a folder"),
        (["configs/broken.py"], "error: configs/broken.py: not a config that can be read: "),
        (["configs/empty.py"], "error: configs/empty.py: has no 'model', wanted the config of a run"),
        (["configs/toy.py", "--cfg-options", "a"], "error: --cfg-options: found 'a', wanted KEY=VALUE"),
        (["configs/toy.py", "--cfg-options", "a=(1,[2)"], "error: --cfg-options: Imbalanced brackets"),
        (
            ["configs/toy.py", "--cfg-options", "modle.x=1"],
            "error: --cfg-options modle.x: the config has no 'modle'; did you mean model?",
        ),
        (
            ["configs/toy.py", "--cfg-options", "param_scheduler.7.type=StepLR"],
            "error: --cfg-options param_scheduler.7.type=StepLR: does not fit the config: ",
        ),
        (["configs/toy.py", "--resume", "no.pth"], "error: --resume no.pth: no such file"),
        (["configs/toy.py", "--cfg-options", "train_cfg=None"], "configs/toy.py: has no 'train_cfg'"),
        (
            ["configs/toy.py", "--cfg-options", "train_dataloader.dataset.data_file=a.h5", "visualizer=None"],
            "error: a.h5: no such file",
        ),
        (
            ["configs/toy.py", "--cfg-options", "model.nan_at=1", "visualizer=None"],
            "error: the loss is not finite",
        ),
    ],
)
def test_train_errors_are_one_line(config, capsys, argv, message):
    with open("configs/broken.py", "w") as broken, open("configs/empty.py", "w"):
        broken.write("model = dict(\n")
    assert message in last_line(train.main, argv, capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
@pytest.mark.parametrize(
    "options", [["--launcher", "slurm"], ["--amp", "--cfg-options", "optim_wrapper.dtype=float16"]]
)
def test_options_that_need_a_gpu(config, capsys, options):
    assert "needs an NVIDIA GPU, found none" in last_line(train.main, [config, *options], capsys)


def test_a_config_that_imports_what_is_missing(tmp_path, capsys):
    path = tmp_path / "lacking.py"
    path.write_text('custom_imports = dict(imports=["no_such_package"])\nmodel = dict(type="Toy")\n')
    assert "no_such_package" in (line := last_line(train.main, [str(path)], capsys))
    assert f"error: {path}: " in line and "pip install" in line


def test_amp(config, capfd):
    train.main([config, "--amp", "--cfg-options", "train_cfg.max_epochs=1", "visualizer=None"])
    assert load_checkpoint("work_dirs/toy/epoch_1.pth")["optimizer"]["loss_scaler"] == {}


def test_launcher_without_its_processes(config, capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    message = last_line(train.main, [config, "--launcher", "pytorch"], capsys)
    assert message.endswith("processes that torchrun starts: bash tools/dist_train.sh CONFIG NPROC")


def test_test_errors_are_one_line(config, capsys):
    assert "error: no.pth: no such checkpoint" in last_line(test.main, [config, "no.pth"], capsys)
    save_checkpoint({"weight": torch.ones(1)}, "other.pth")
    argv = [config, "other.pth", "--cfg-options", "visualizer=None", "experiment_name=other"]
    assert "other.pth does not fit ToyModel: " in last_line(test.main, argv, capsys)
    argv = [config, "other.pth", "--cfg-options", "test_cfg=None"]
    assert "configs/toy.py: has no 'test_cfg'" in last_line(test.main, argv, capsys)

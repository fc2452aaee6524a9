"""Configs are read with their options, and refused in one line that names file and place."""

import pytest

from pointsuite.engine.config import check, read_file
from pointsuite.engine.errors import UsageError

BASE = """
max_epochs = 30
data_file = "old.h5"
metainfo = dict(classes=("cat", "dog"))
model = dict(type="Toy", head=dict(size=max_epochs * 2))
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
param_scheduler = [dict(type="CosineAnnealingLR", T_max=max_epochs)]
train_dataloader = dict(batch_size=2, dataset=dict(data_file=data_file, metainfo=metainfo))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.py").write_text(BASE)
    (tmp_path / "child.py").write_text('_base_ = "base.py"\nval_epochs = {{_base_.max_epochs}}\n')
    return tmp_path


@pytest.mark.parametrize("name", ["base.py", "child.py"])
def test_an_option_that_others_were_derived_from_reaches_them(folder, name):
    cfg = read_file(name, {"max_epochs": 2, "metainfo.classes": ["fox"], "data_file": "new.h5"})
    assert cfg.max_epochs == cfg.train_cfg.max_epochs == cfg.param_scheduler[0].T_max == 2
    assert cfg.model.head["size"] == 4 and cfg.get("val_epochs", 2) == 2
    assert cfg.train_dataloader.dataset.metainfo.classes == ["fox"]
    assert cfg.train_dataloader.dataset.data_file == "new.h5"
    assert read_file(name).train_cfg.max_epochs == 30  # the next reading is its own


def test_a_child_that_assigns_a_name_anew_changes_what_its_base_made_of_it(folder):
    (folder / "own.py").write_text('_base_ = "base.py"\ndata_file = "own.h5"\nmax_epochs = 5\n')
    cfg = read_file("own.py")
    assert cfg.train_dataloader.dataset.data_file == "own.h5"
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[0].T_max == 5
    assert read_file("own.py", {"max_epochs": 2}).train_cfg.max_epochs == 2


def test_an_option_of_a_runs_own_key_changes_that_alone(folder):
    cfg = read_file("base.py", {"train_cfg.max_epochs": 2})
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[0].T_max) == (2, 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('_base_ = "bose.py"', "own.py: _base_: found no file .*bose.py; did you mean base.py"),
        ('_base_ = "own.py"', "own.py: _base_: inherits itself"),
        ('_base_ = "base.py"\nx = max_epoch', "own.py: line 2: NameError: name 'max_epoch' is not defined"),
        (
            '_base_ = "base.py"\nx = _base_.max_epoch',
            "own.py: line 2: AttributeError: .*did you mean max_epochs",
        ),
        ("model = dict(\n", "own.py: not a config that can be read: line 1: '\\(' was never closed"),
        ("x = 1 / 0", "own.py: line 1: ZeroDivisionError"),
        ("exit()", "own.py: line 1: SystemExit"),
        ('_base_ = "mmdet::no/such.py"', "own.py: _base_: .*no/such.py"),
    ],
)
def test_a_config_that_cannot_be_read_is_one_line(folder, text, message):
    (folder / "own.py").write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        read_file("own.py")
    assert "\n" not in str(error.value)


def test_a_config_in_utf_16(folder):
    (folder / "own.py").write_bytes(BASE.encode("utf-16"))
    with pytest.raises(UsageError, match="own.py: .*found the byte 0xff at 0, wanted text in UTF-8"):
        read_file("own.py")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("train_cfg.max_epochs", 0, "a whole number from 1"),
        ("train_cfg.max_epochs", -1, "a whole number from 1"),
        ("train_cfg.val_interval", -1, "a whole number from 1"),
        ("train_dataloader.batch_size", 0, "a whole number from 1"),
        ("train_dataloader.num_workers", -1, "a whole number from 0"),
        ("param_scheduler.0.T_max", 0, "a whole number from 1"),
        ("default_hooks", {"checkpoint": {"interval": 0}}, "a whole number from 1, or -1 for never"),
        ("optim_wrapper", {"clip_grad": {"max_norm": -1}}, "a number above 0"),
        ("optim_wrapper", {"optimizer": {"lr": float("nan")}}, "a number from 0"),
        ("randomness", {"seed": -1}, "a whole number from 0 to 4294967295"),
        ("model", 3, "a dict"),
        ("default_scope", "nosuch", "a package"),
    ],
)
def test_values_that_mean_nothing_are_refused_before_anything_is_built(folder, key, value, wanted):
    cfg = read_file("base.py", {key: value})
    with pytest.raises(UsageError, match=f"base.py: {key}.*: found .*, wanted {wanted}"):
        check(cfg, "base.py")


def test_values_that_mean_something(folder):
    options = {"optim_wrapper": {"clip_grad": {"max_norm": float("inf")}, "optimizer": {"lr": 0}}}
    check(read_file("base.py", {**options, "default_hooks": {"checkpoint": {"interval": -1}}}), "base.py")

"""Training by the command line over configs and options with mistakes, made by a seed: each is one line."""

import contextlib
import io
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from pointsuite.engine import command
from pointsuite.engine.errors import UsageError
from tests.pointsuite.engine.toy import write_config
from tests.tools.load import load_tool

from .harness import Case, Refusal, run_cases

train = load_tool("train")
VALUES = {  # key -> values that mean nothing there
    "train_cfg.max_epochs": ("0", "-1", "1.5", "two"),
    "train_cfg.val_interval": ("0", "-1"),
    "train_dataloader.batch_size": ("0", "-4", "None.", "32.5"),
    "train_dataloader.num_workers": ("-1", "x"),
    "val_dataloader.batch_size": ("0",),
    "param_scheduler.0.T_max": ("0", "-3"),
    "param_scheduler.1.step_size": ("0",),
    "optim_wrapper.clip_grad.max_norm": ("-1", "nan"),
    "optim_wrapper.optimizer.lr": ("-1", "nan", "fast"),
    "optim_wrapper.accumulative_counts": ("0",),
    "default_hooks.checkpoint.interval": ("0", "-2"),
    "randomness.seed": ("-1", "4294967296"),
    "default_scope": ("nosuch",),
    "log_level": ("LOUD",),
    "model": ("3",),
    "train_dataloader": ("x",),
}
TEXTS = {  # of a config that inherits the one that works
    "a name that is not defined": "x = y\n",
    "an open bracket": "x = dict(\n",
    "division by zero": "x = 1 / 0\n",
    "an exit": "import sys\nsys.exit()\n",
    "no such key of the base": "x = _base_.nosuch.key\n",
    "a loop of types": "x = 'a' + 1\n",
    "a zero byte": "x = 1\0\n",
    "a batch that is never full": "train_dataloader = dict(batch_size=32, drop_last=True)\n",
    "a last batch of one": "train_dataloader = dict(batch_size=17)\n",
    "hooks as a dict": "custom_hooks = dict(type='EMAHook')\n",
    "only half a validation": "val_cfg = None\n",
}


def types(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Keys of the dicts that have a type, and the type."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, dict) and isinstance(value.get("type"), str):
        yield path, value["type"]
    for key, item in items:
        yield from types(item, f"{path}.{key}" if path else str(key))


def misspell(name: str, rng: random.Random) -> str:
    """Another name: a letter is missing, double or exchanged for its neighbour."""
    i = rng.randrange(1, len(name) - 1)
    other = rng.choice([name[:i] + name[i + 1 :], name[:i] + name[i] + name[i:],
                        name[:i] + name[i + 1] + name[i] + name[i + 2 :]])  # fmt: skip
    return other if other != name else f"{name}x"


def run(arguments: list[str], text: str | bytes | None, folder: Path) -> str:
    """Train as the command line does; Refusal where it ends with an error."""
    torch.set_num_threads(1)
    config = write_config(folder)
    if text is not None:
        config = folder / "toy_child.py"
        config.write_bytes(text if isinstance(text, bytes) else text.encode())
    argv = [str(config), "--work-dir", str(folder / "run"), *arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            command.run(partial(train.main, argv))
    except SystemExit as end:
        if end.code:
            raise Refusal(end.code if isinstance(end.code, str) else said.getvalue()) from None
    return said.getvalue()


def make_cases(seed: int, folder: Path) -> list[Case]:
    rng = random.Random(seed)
    options = {}
    cfg = Config.fromfile(write_config(folder)).to_dict()
    for path, name in types({key: value for key, value in cfg.items() if key != "test_dataloader"}):
        if path.startswith(("visualizer", "test_")):
            continue
        options[f"{path}.type misspelt"] = f"{path}.type={misspell(name, rng)}"
        options[f"{path} with an unknown argument"] = f"{path}.{misspell('momentum', rng)}=1"
    for key, values in VALUES.items():
        options |= {f"{key}={value}": f"{key}={value}" for value in values}
    options["a misspelt key"] = "modle.x=1"
    cases = [
        Case(name, partial(run, ["--cfg-options", option, "visualizer=None"], None))
        for name, option in options.items()
    ]
    inherit = '_base_ = "toy.py"\nvisualizer = None\n'
    texts: dict[str, str | bytes] = {name: inherit + text for name, text in TEXTS.items()}
    texts["no such base"] = '_base_ = "tyo.py"\n'
    texts["a base of a library that is not there"] = '_base_ = "mmdet::no/such.py"\n'
    texts["its own base"] = '_base_ = "toy_child.py"\n'
    texts["UTF-16"] = inherit.encode("utf-16")
    texts["no text"] = rng.randbytes(300)
    texts["nothing"] = ""
    cases += [Case(name, partial(run, [], text)) for name, text in texts.items()]
    cases.append(Case("seed -1", partial(run, ["--seed", "-1"], None)))
    right = ["--cfg-options", "train_cfg.max_epochs=1", "visualizer=None"]
    cases.append(Case("no mistake", partial(run, right, None), check=lambda said: "Epoch(val) [1]" in said))
    return cases


def test_every_mistake_in_a_config_is_refused_in_one_line(tmp_path, capsys):
    cases = make_cases(0, tmp_path / "whole")
    assert len(cases) >= 75 and len({case.name for case in cases}) == len(cases)
    (tmp_path / "cases").mkdir()
    report = run_cases(cases, tmp_path / "cases", (UsageError,))
    with capsys.disabled():
        print("\n" + report.table("configs"))
    assert not report.bad(), "\n".join(report.bad())
    unforeseen = [result.case for result in report if "--traceback shows it" in result.message]
    assert len(unforeseen) <= len(cases) // 20, unforeseen

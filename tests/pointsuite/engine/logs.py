"""Logs of runs, as MMEngine writes them."""

import json


def train_line(step, loss, **kwargs):
    line = {"lr": 0.1, "data_time": 0.05, "loss": loss, "time": 0.2, "epoch": 1, "iter": step, "step": step}
    return {**line, **kwargs}


def write_log(run, stamp, lines):
    folder = run / stamp / "vis_data"
    folder.mkdir(parents=True)
    (folder / "scalars.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "scalars.json"


def write_resumed_run(folder):
    """A run that was stopped after iteration 40 and resumed from 20."""
    old = [train_line(step, 10 - step / 10) for step in (10, 20, 30, 40)]
    old.insert(2, {"top1": 50.0, "time": 0.1, "data_time": 0.0, "step": 1})
    write_log(folder, "20260101_000000", old)
    new = [train_line(step, 1.0, time=0.4) for step in (30, 60)]
    new.append({"top1": 75.0, "time": 0.1, "data_time": 0.0, "step": 2})
    write_log(folder, "20260102_000000", new)
    return folder

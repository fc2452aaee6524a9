"""Command lines with damaged files, wrong options and wrong checkpoints, made by a seed."""

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import dense
from dense.backbones import ConViT
from pointsuite.engine import command
from pointsuite.engine.checkpoint import save_checkpoint
from pointsuite.engine.comparison import Run, write_runs
from pointsuite.registry import MODELS
from tests.configs.made import write_made_clouds
from tests.dense.detection.coco_toy import write_coco
from tests.dense.segmentation.data import write_camvid
from tests.pointsuite.engine.logs import train_line, write_log
from tests.tools.load import REPOSITORY, load_tool

from .harness import Case, Refusal

tool = cache(load_tool)
NETWORK = {
    "type": "PointNetClassifier",
    "num_classes": 2,
    "channels": (8, 8),
    "global_channels": (8, 16),
    "transform_channels": (8, 8),
    "transform_hidden": (8,),
    "head_dims": (8,),
}
CONFIG = """
_base_ = ["{configs}/_base_/runtimes/default.py", "{configs}/_base_/datasets/kicad_z.py"]
data_file = "{data}"
model = dict(type="PointCloudClassifier", network={network})
train_dataloader = dict(batch_size=2)
train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=1)
val_cfg, test_cfg = dict(), dict()
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=0.001))
visualizer = None
"""
CONVIT = {**ConViT.archs["tiny"], "embed_dims": 16, "depth": 2, "patch_size": 32, "local_up_to_layer": 1}


def make_inputs(folder: Path) -> dict[str, str]:
    """Everything that a right command line names, by what it is."""
    torch.manual_seed(0)
    write_made_clouds(folder / "clouds.h5", ("box", "ball"), points=1024)
    words = {"configs": REPOSITORY / "configs", "data": folder / "clouds.h5", "network": NETWORK}
    (folder / "run.py").write_text(CONFIG.format(**words))
    model = MODELS.build({"type": "PointCloudClassifier", "network": NETWORK})
    save_checkpoint({"state_dict": model.state_dict()}, folder / "weights.pth")
    options = {"num_classes": 3, "arch": CONVIT}
    network = dense.create_model("convit_tiny", **options)
    meta = {"model": "convit_tiny", "model_args": options}
    save_checkpoint({"state_dict": network.state_dict(), "meta": meta}, folder / "convit.pth")
    published = dense.create_model("dncnn_17").state_dict()
    torch.save({"state_dict": published}, folder / "published.pth")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)).save(folder / "image.png")
    write_coco(folder, [3, 2, 4])
    write_log(folder / "log", "20260101_000000", [train_line(5, 3.0, loss_cls=1.0)])
    write_camvid(folder / "camvid")
    np.savetxt(folder / "cloud.xyz", rng.normal(size=(40, 3)))
    found = {"index": [0, 1], "label": [0, 1], "prediction": [1, 1], "classes": ["box", "ball"]}
    np.savez(folder / "found.npz", **found)
    write_runs(folder / "runs.json", [Run("run", 0, metrics={"accuracy": 0.5})])
    files = ("run.py", "weights.pth", "convit.pth", "published.pth", "image.png", "instances.json", "log")
    files += ("camvid", "cloud.xyz", "found.npz", "clouds.h5", "runs.json")
    return {name.partition(".")[0]: str(folder / name) for name in files}


# what a tool is called with: {NAME} is an input, {out} a folder to write into
RIGHT = {
    "train": "{run} --work-dir {out}",
    "test": "{run} {weights} --work-dir {out}",
    "visualize": "{cloud} --out {out}/a.png --size 60 40",
    "prepare_dataset": "camvid --root {camvid} --allow-partial",
    "convert_checkpoint": "dncnn_17 {published} {out}/a.pth",
    "export": "{run} {weights} --out {out}/a.pt2 --work-dir {out}",
    "print_config": "{run} --out {out}/a.py",
    "analysis/analyze_logs": "{log} --out {out}/a.png",
    "analysis/attention": "{convit} {image} --out {out}",
    "analysis/browse_dataset": "{run} --num 2 --out {out}/a.png",
    "analysis/compare": "{run} --seeds 0 --out {out}/a.json --work-dir {out}/runs",
    "analysis/confusion_matrix": "{run} {weights} --work-dir {out}",
    "analysis/corruptions": "{run} {weights} --quick --corruptions jitter --work-dir {out}",
    "analysis/get_flops": "{run} --points 64",
    "analysis/macroscopic_correlation": "{instances} --deals 2 --out {out}/a.png",
    "analysis/plot_schedule": "{run} --iters-per-epoch 3 --out {out}/a.png",
}
FORMS = {  # command lines of other inputs, whose files are damaged, too
    "analysis/confusion_matrix": "{found} --out {out}/a.png",
    "analysis/compare": "--out {runs}",
    "visualize": "{clouds} --predictions {found} --out {out}/a.png --size 60 40",
}
# tool -> words that are put behind a right command line
NUMBERS = ("0", "-1", "1.5", "x", "nan", "1e9", "", "9" * 30)
OPTIONS: dict[str, dict[str, Sequence[str]]] = {
    "train": {
        "--seed": ("-1", "4294967296", "x", ""),
        "--resume": ("none.pth", ""),
        "--launcher": ("mpi", "x"),
        "--new-schedule": ("",),
    },
    "test": {
        "--num-rotations": NUMBERS[:5],
        "--weights": ("random", "none.pth"),
        "--so3-checkpoint": ("none.pth",),
        "--show-dir": ("pictures",),
    },
    "visualize": {
        "--num-points": ("0", "-1", "x"),
        "--size": ("0 0", "-3 4", "5", "1000000 1000000", "x y"),
        "--point-size": ("nan", "0", "-1", "inf", "x"),
        "--up": ("w",),
        "--color": ("part", "file", "red"),
        "--columns": ("x y", "x x z", "a b c", "x y z nx", ""),
        "--seed": ("-1", "x"),
        "--predictions": ("none.npz",),
        "--confusion": ("a.png",),
    },
    "prepare_dataset": {"--root": ("none", ""), "--out": ("a.h5",)},
    "convert_checkpoint": {"--model-args": ("depth", "=3", "nosuch=1", "depth=[", "depth=-1", "depth=x")},
    "export": {"--size": ("0", "-1", "x", "1 2 3"), "--out": ("a.bin", "a", "")},
    "print_config": {"--out": ("a.txt", "a"), "--cfg-options": ("x", "=1", "model=")},
    "analysis/analyze_logs": {"--keys": ("nosuch", ""), "--out": ("a.nosuch",)},
    "analysis/attention": {"--device": ("tpu", "cuda:99", ""), "--checkpoint": ("none.pth",)},
    "analysis/browse_dataset": {"--num": NUMBERS[:5], "--repeat": ("0", "-1"), "--split": ("none",)},
    "analysis/compare": {"--seeds": ("-1", "x", "4294967296"), "--kind": ("none",), "--metrics": ("nosuch",),
                         "--kind-args": ("epochs=1",), "--curve": ("nosuch",)},
    "analysis/confusion_matrix": {"--most": ("0", "-1", "x")},
    "analysis/corruptions": {"--max-samples": ("0", "-1", "x"), "--corruptions": ("none", "")},
    "analysis/get_flops": {"--size": ("0", "1 2 3", "x"), "--points": ("0", "-1", "x"), "--depth": ("-1",),
                           "--batch": ("0", "-1"), "--model-args": ("=", "num_classes=3"),
                           "--cfg-options": ("x", "model.network.nosuch=1")},
    "analysis/macroscopic_correlation": {"--deals": ("0", "-1", "x"), "--seed": ("-1", "x"),
                                         "--out": ("a.no",)},
    "analysis/plot_schedule": {"--iters-per-epoch": ("0", "-1", "x"), "--out": ("a.nosuch",)},
    "analysis/list_models": {"--nosuch": ("",)},
}  # fmt: skip


def call(name: str, arguments: Sequence[str]) -> str:
    """What a tool prints; Refusal where it ends with an error."""
    torch.set_num_threads(1)
    said, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            command.run(partial(tool(name).main, list(arguments)))
    except SystemExit as end:
        if end.code:
            raise Refusal(end.code if isinstance(end.code, str) else errors.getvalue()) from None
    return said.getvalue()


def line(name: str, words: str, inputs: dict[str, str], *more: str) -> Callable[[Path], str]:
    """A call of a tool in a folder of its own."""

    def run(place: Path) -> str:
        with contextlib.chdir(place):
            return call(name, [*words.format(out=place / "out", **inputs).split(), *more])

    return run


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
CONTENTS = {  # of a file that should be another
    "an empty file": b"",
    "text": b"no such thing\n",
    "bytes": bytes(range(256)) * 9,
    "a page": b"<!DOCTYPE html><html>404</html>",
    "a pointer": POINTER.encode(),
    "UTF-16": "a, b = 1, 2\n".encode("utf-16"),
}
LISTS = ("null", "3", "{", "[1]", "[[]]", "[{}]", '{"a": 1, "a": 2}', "[" * 50_000, '[{"x": 1}]', "1" * 5000)
RUNS = (  # what a file of compared runs must not hold
    '{"config": 3, "seed": 0}',
    '{"config": "a", "seed": "x"}',
    '{"config": "a", "seed": 0, "metrics": 5}',
    '{"config": "a", "seed": 0, "metrics": {"b": "c"}}',
    '{"config": "a", "seed": 0, "train_seconds": null}',
    '{"config": "a"}',
)


def damages(rng: np.random.Generator, path: str) -> dict[str, Callable[[Path], object]]:
    """What may stand in the place of a file or folder."""

    def of_bytes(data: bytes) -> Callable[[Path], object]:
        return lambda file: file.write_bytes(data)

    found = {
        "nothing": lambda file: None,
        "a folder": lambda file: file.mkdir(),
        "a FIFO": os.mkfifo,
        "a link to itself": lambda file: file.symlink_to(file.name),
        "a device": lambda file: file.symlink_to("/dev/zero"),
    }
    found |= {what: of_bytes(data) for what, data in CONTENTS.items()}
    suffix = Path(path).suffix
    if suffix == ".json":
        found |= {f"{text[:16]} of {len(text)}": of_bytes(text.encode()) for text in LISTS}
    if path.endswith("runs.json"):
        found |= {f"a run {text}": of_bytes(f"[{text}]".encode()) for text in RUNS}
    if suffix in (".pth", ".npz", ".h5", ".json", ".png"):
        data = Path(path).read_bytes()
        found |= {
            f"a part {i}": of_bytes(data[:end]) for i, end in enumerate(rng.integers(1, len(data) - 1, 3))
        }
    if suffix == ".pth":
        state = torch.load(path, weights_only=True)["state_dict"]
        first = next(iter(state))
        changes = {
            "nan": {**state, first: state[first] / 0 * 0},
            "another shape": {**state, first: state[first][:1]},
            "one key less": {key: value for key, value in state.items() if key != first},
            "complex weights": {**state, first: state[first].to(torch.complex64)},
            "words": {**state, first: "weights"},
            "none": {},
        }
        if path.endswith("published.pth"):  # of a run, more keys may be the loss's
            changes["one key more"] = {**state, "nosuch.weight": torch.zeros(3)}
        for what, changed in changes.items():
            found[f"weights with {what}"] = partial(torch.save, {"state_dict": changed})
        found["a list"] = partial(torch.save, [1, 2])
        found["a model"] = partial(torch.save, torch.nn.Linear(3, 3))
    return found


def tool_cases(seed: int, folder: Path) -> list[Case]:
    """Each tool with right words, damaged files, wrong options, and where it cannot write."""
    rng, cases, inputs = np.random.default_rng(seed), [], make_inputs(folder)

    def add(name: str, what: str, run: Callable, check=None, may_refuse=False, names: str = ""):
        cases.append(Case(f"{name}: {what}", run, check, may_refuse, names))

    forms = [*RIGHT.items(), *FORMS.items()]
    for i, (name, words) in enumerate(forms):
        form = "" if i < len(RIGHT) else ", otherwise"
        add(name, f"right{form}", line(name, words, inputs), lambda said: True)
        for key, path in inputs.items():
            if f"{{{key}}}" not in words:
                continue
            for what, make in damages(rng, path).items():
                file = f"wrong_{Path(path).name}"

                def run(place: Path, make=make, key=key, file=file, name=name, words=words):
                    make(place / file)
                    return line(name, words, {**inputs, key: str(place / file)})(place)

                add(name, f"{what} as {key}{form}", run, names=file)
    for name, options in OPTIONS.items():
        for option, values in options.items():
            for value in values:
                what = f"{option} {value[:12]!r} of {len(value)}"
                words = RIGHT.get(name, "")
                add(name, what, line(name, words, inputs, option, *(value.split() or [""])))
        add(name, "--nosuch 3", line(name, RIGHT.get(name, ""), inputs, "--nosuch", "3"), names="--nosuch")
        if RIGHT.get(name):
            add(name, "no word", line(name, "", inputs))
    for name, words in forms:
        if "{out}" in words:

            def blocked(place: Path, name=name, words=words):
                (place / "out").write_text("a file where a folder should be")
                return line(name, words, inputs)(place)

            add(name, f"a file as the folder to write into ({len(words)})", blocked)
    return cases

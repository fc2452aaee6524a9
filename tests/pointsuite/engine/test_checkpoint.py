import errno
import os
import signal
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from pointsuite.engine.checkpoint import (
    CheckpointError,
    atomic_write,
    download,
    find_checkpoint,
    find_latest_checkpoint,
    find_state_dict,
    load_checkpoint,
    load_state_dict,
    remove_abandoned,
    rename_keys,
    save_checkpoint,
    sha256,
)
from pointsuite.engine.errors import UsageError


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_plain_data_comes_back(tmp_path):
    saved = {
        "weights": OrderedDict(a=torch.arange(3), b=nn.Parameter(torch.ones(2))),
        "numbers": [1, 2.5, True, None, "text", (3, b"bytes")],
        "numpy": {"accuracy": np.float64(0.5), "count": np.int64(7), "rows": np.arange(4.0)},
    }
    save_checkpoint(saved, tmp_path / "new" / "a.pth")
    loaded = load_checkpoint(tmp_path / "new" / "a.pth")
    assert loaded["numbers"] == saved["numbers"]
    assert loaded["weights"]["a"].equal(torch.arange(3)) and loaded["weights"]["b"].equal(torch.ones(2))
    assert (loaded["numpy"]["accuracy"], loaded["numpy"]["count"]) == (0.5, 7)
    assert type(loaded["numpy"]["accuracy"]) is float
    assert loaded["numpy"]["rows"].equal(torch.arange(4.0, dtype=torch.float64))
    assert os.listdir(tmp_path / "new") == ["a.pth"]


def test_state_dict_keeps_versions_of_modules(tmp_path):
    save_checkpoint(nn.BatchNorm1d(2).state_dict(), tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth")._metadata[""] == {"version": 2}


def test_save_refuses_objects_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.pth"
    save_checkpoint({"epoch": 1}, path)
    with pytest.raises(CheckpointError, match=r"checkpoint\['meta'\]\[1\] is a .*HistoryBuffer"):
        save_checkpoint({"meta": [0, HistoryBuffer([1], [1])]}, path)
    assert load_checkpoint(path) == {"epoch": 1}


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_write(path) as file:
        file.write(b"new")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


KILLED_WHILE_SAVING = """
import os, sys, time, torch
from pointsuite.engine import checkpoint
checkpoint.save_checkpoint({"epoch": 1, "weights": torch.ones(1000)}, sys.argv[1])
def wait(descriptor):
    print("writing", flush=True)
    time.sleep(60)
os.fsync = wait
checkpoint.save_checkpoint({"epoch": 2, "weights": torch.zeros(1000)}, sys.argv[1])
"""


def test_kill_during_a_save_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "a.pth"
    process = subprocess.Popen([sys.executable, "-c", KILLED_WHILE_SAVING, path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(os.listdir(tmp_path)) == 2  # the new one was being written
    loaded = load_checkpoint(path)
    assert loaded["epoch"] == 1 and loaded["weights"].sum() == 1000


@pytest.mark.parametrize("zipped", [True, False])
def test_load_refuses_code_without_running_it(tmp_path, zipped):
    path, marker = tmp_path / "a.pth", tmp_path / "ran"
    torch.save({"w": torch.ones(1), "x": Touch(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=r"a\.pth: holds (posix|nt)\.mkdir, wanted tensors and plain"
    ) as error:
        load_checkpoint(path)
    assert not marker.exists()
    assert "\n" not in str(error.value)


def test_temporary_files_of_living_processes_stay(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {pid: f".epoch_1.pth.{pid}.tmp" for pid in (ended.pid, os.getpid(), os.getppid())}
    for name in (*names.values(), ".notes.tmp", "a.1.tmp"):
        (tmp_path / name).touch()
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {names[os.getppid()], ".notes.tmp", "a.1.tmp"}


def fill_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "torch.save"])
def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, monkeypatch, call):
    path = tmp_path / "a.pth"
    save_checkpoint({"a": 1}, path)
    monkeypatch.setattr(call, fill_disk)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.pth'"):
        save_checkpoint({"a": 2}, path)
    monkeypatch.undo()
    assert load_checkpoint(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]


LIMITED = """
import resource, signal, sys
import numpy as np, torch
from pointsuite.datasets import Clouds, FileInfo, write_clouds
from pointsuite.engine.checkpoint import atomic_write, save_checkpoint
from pointsuite.engine.errors import explain

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # as a disk with 20 kB left
rng = np.random.default_rng(0)
points = rng.integers(-999, 999, (9, 999, 3)).astype(np.int16)
clouds = Clouds(points, np.tile(np.array([0, 0, 127], np.int8), (9, 999, 1)), np.zeros(9, int))

def archive(path):
    with atomic_write(path) as file:
        np.savez(file, points)

def text(path):
    with open(path, "w") as file:
        file.write("0" * 99999)

for name, write in {
    "a.pth": lambda path: save_checkpoint({"w": torch.zeros(9999)}, path),
    "a.h5": lambda path: write_clouds(path, {"train": clouds}, FileInfo(("box",))),
    "a.npz": archive,
    "a.json": text,
}.items():
    try:
        write(f"{sys.argv[1]}/{name}")
    except OSError as error:
        print(explain(error))
"""


def test_the_system_refuses_to_write_more(tmp_path):
    run = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 4, run.stdout + run.stderr
    for line, name in zip(lines, ("a.pth", "a.h5", "a.npz", "a.json"), strict=True):
        assert "File too large" in line and f"{tmp_path}/{name}" in line and line.endswith("True)")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]  # written by Python's own hand


def test_load_refuses_classes_by_name(tmp_path):
    torch.save({"log": HistoryBuffer([1], [1])}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds .*mmengine.logging.history_buffer.HistoryBuffer"):
        load_checkpoint(tmp_path / "a.pth")


def test_numpy_numbers_are_read_on_request_only(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"accuracy": np.float64(0.25), "epoch": np.int64(3)}, path)
    with pytest.raises(CheckpointError, match=r"numpy\._core\.multiarray\.scalar"):
        load_checkpoint(path)
    assert load_checkpoint(path, numpy_numbers=True) == {"accuracy": 0.25, "epoch": 3}
    torch.save({"x": Touch(tmp_path / "ran")}, path)
    with pytest.raises(CheckpointError, match="mkdir"):
        load_checkpoint(path, numpy_numbers=True)


def test_load_names_what_is_wrong_with_the_file(tmp_path):
    path = tmp_path / "a.pth"
    for missing, message in ((path, "no such file"), (tmp_path, "a folder")):
        with pytest.raises(CheckpointError, match=f"{missing}: {message}"):
            load_checkpoint(missing)
    torch.save({"w": torch.ones(1000)}, path)
    whole = path.read_bytes()
    torch.save({"w": torch.ones(1000)}, path, _use_new_zipfile_serialization=False)
    old = path.read_bytes()
    damaged = [
        whole[:1],
        whole[:50],
        whole[: len(whole) // 2],
        whole[:-1],
        old[: len(old) // 2],
        b"text\n" * 20,
    ]
    for content in [b"", *damaged, np.random.default_rng(0).bytes(500)]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"a\.pth: (the file is empty|truncated, or not)") as error:
            load_checkpoint(path)
        assert "\n" not in str(error.value)


def test_load_state_dict_lists_what_differs():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = model.state_dict()
    state["0.weight"] = torch.ones(4, 2)
    state["extra"] = state.pop("1.bias")
    with pytest.raises(CheckpointError) as error:
        load_state_dict(model, state, name="a.pth")
    assert str(error.value) == (
        "a.pth does not fit Sequential: 1 missing: 1.bias; 1 unexpected: extra; "
        "1 of another shape: 0.weight (4, 2), wanted (3, 2)"
    )
    del state["0.weight"]
    assert load_state_dict(model, state, strict=False) == (["0.weight", "1.bias"], ["extra"])


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"epoch": 3, "model_state_dict": s}, lambda s: {"model": s}]
)
def test_find_state_dict(wrap):
    state = {"module.a": torch.ones(1), "module.b": torch.ones(2)}
    assert list(find_state_dict(wrap(state))) == ["a", "b"]


def test_find_state_dict_wants_tensors():
    for checkpoint, found in (({"epoch": 3}, r"keys \['epoch'\]"), ([1], "a list"), ({}, r"keys \[\]")):
        with pytest.raises(CheckpointError, match=f"a.pth: holds (the )?{found}"):
            find_state_dict(checkpoint, "a.pth")


def test_rename_keys():
    state = {"sa1.w": torch.ones(1), "sa2.w": torch.zeros(1), "fc.bias": torch.ones(2)}
    rules = [(r"sa(\d)\.(.*)", r"stages.\1.\2"), (r"fc\..*", None)]
    renamed = rename_keys(state, rules)
    assert list(renamed) == ["stages.1.w", "stages.2.w"] and renamed["stages.2.w"] is state["sa2.w"]
    with pytest.raises(CheckpointError, match=r"1 keys that no rule names: fc\.bias"):
        rename_keys(state, rules[:1])
    with pytest.raises(CheckpointError, match=r"'sa1.w' and 'sa2.w' both become 'same'"):
        rename_keys(state, [(r"sa.*", "same"), *rules])


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A published file, its URL and an empty download cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    path = tmp_path / "weights.pth"
    save_checkpoint({"w": torch.ones(3)}, path)
    return path, path.as_uri()


def test_download_once(published):
    path, url = published
    url += f"#sha256={sha256(path)}"
    assert load_checkpoint(url)["w"].equal(torch.ones(3))
    path.unlink()
    assert load_checkpoint(url)["w"].equal(torch.ones(3))  # from the cache
    cached = download(url)
    cached.write_bytes(b"damaged")
    with pytest.raises(
        CheckpointError, match=r"its sha256 is [0-9a-f]{64}, wanted [0-9a-f]{64}; the file was"
    ):
        download(url)
    assert not cached.exists()
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        download(url)


def test_download_wants_the_right_digest(published, tmp_path):
    _, url = published
    with pytest.raises(CheckpointError, match="wanted URL#sha256=<64 hex digits>"):
        download(url)
    with pytest.raises(CheckpointError, match=f"wanted {'0' * 64}"):
        download(f"{url}#sha256={'0' * 64}")
    assert os.listdir(tmp_path / "hub" / "checkpoints") == []


def test_find_latest_checkpoint(tmp_path):
    assert find_latest_checkpoint(tmp_path) is None
    (tmp_path / "last_checkpoint").write_text("/elsewhere/epoch_1.pth")
    with pytest.raises(CheckpointError, match="last_checkpoint names /elsewhere/epoch_1.pth, which does not"):
        find_latest_checkpoint(tmp_path)
    (tmp_path / "epoch_1.pth").touch()
    assert find_latest_checkpoint(tmp_path) == tmp_path / "epoch_1.pth"


def test_find_checkpoint(tmp_path):
    file = tmp_path / "epoch_1.pth"
    with pytest.raises(UsageError, match=r"epoch_1\.pth: no such checkpoint"):
        find_checkpoint(str(file))
    with pytest.raises(UsageError, match="no such checkpoint"):
        find_checkpoint(str(tmp_path))  # no work dir
    file.touch()
    (tmp_path / "last_checkpoint").write_text("/elsewhere/epoch_1.pth")
    assert find_checkpoint(str(file)) == find_checkpoint(str(tmp_path)) == str(file)
    assert find_checkpoint("https://host/a.pth#sha256=0") == "https://host/a.pth#sha256=0"


@pytest.mark.parametrize("content", [b"", b".", b"/", b"\xff\xfe\x80", b"a\0b", b"x" * 5000, b"a.pth\nb.pth"])
def test_a_pointer_that_names_no_file_is_one_line(tmp_path, content):
    (tmp_path / "last_checkpoint").write_bytes(content)
    with pytest.raises(CheckpointError, match="last_checkpoint.*give --resume the checkpoint") as error:
        find_latest_checkpoint(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_flipped_bits_are_found_by_the_archives_checksums(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.ones(1000)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.ones(8).numpy().tobytes()) + 402] ^= 64
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.pth: damaged: .*data/0 does not fit its checksum"):
        load_checkpoint(path)


@pytest.mark.parametrize("meta", [[1], "text", {3: 4}])
def test_malformed_meta(tmp_path, meta):
    save_checkpoint({"state_dict": {"w": torch.ones(1)}, "meta": meta}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="meta: found a .*, wanted a dict of names"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (3, torch.ones(2), "found the key 3"),
        ("weight", torch.tensor([1.0, float("nan")]), "weight: found NaN"),
        ("weight", torch.tensor([1.0, float("inf")]), "weight: found infinity"),
        ("running_var", torch.tensor([1.0, -1.0]), "running_var: found -1, wanted variances from 0"),
        ("weight", torch.ones(2, dtype=torch.bool), "weight: found bool, wanted float32"),
        ("weight", torch.ones(2, dtype=torch.complex64), "weight: found complex64, wanted float32"),
        ("weight", torch.ones(2, dtype=torch.int64), "weight: found int64, wanted float32"),
        ("weight", torch.ones(2).to_sparse(), "weight: found a tensor that is sparse"),
        ("weight", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8), "that is quantised"),
        ("weight", torch.ones(2, device="meta"), "that is without data"),
    ],
)
def test_what_no_weights_are_is_refused_by_its_key(key, value, message):
    model = nn.BatchNorm1d(2)
    with pytest.raises(CheckpointError, match=f"a.pth: {message}" if key == 3 else message):
        load_state_dict(model, {**model.state_dict(), key: value}, name="a.pth")


def test_half_precision_and_infinite_constants_load():
    model = nn.BatchNorm1d(2)
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    load_state_dict(model, {key: value.half() if value.is_floating_point() else value for key, value in
                            model.state_dict().items()})  # fmt: skip
    assert model.mask.isinf().any()

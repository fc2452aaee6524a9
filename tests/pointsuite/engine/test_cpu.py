"""What `import pointsuite` sets, seen from a process of its own."""

import os
import subprocess
import sys
import warnings

import pytest

from pointsuite.engine.cpu import prepare_process

PROGRAM = """
import os, time, pointsuite, torch
print(os.environ.get("GOMP_SPINCOUNT"))
before = open("/proc/self/statm").read().split()[1]
block = torch.ones(2**25)  # 128 MiB
del block
kept = int(open("/proc/self/statm").read().split()[1]) - int(before)
print(kept * os.sysconf("SC_PAGE_SIZE") >= 2**26)
"""


def run_alone(program, **environment):
    """Output of a process of its own, without this one's settings of threads and memory."""
    names = ("MALLOC_", "GOMP_", "OMP_", "POINTSUITE")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(names)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, env=kept | environment, check=True)


@pytest.mark.skipif("glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="the C library is not glibc")
@pytest.mark.parametrize(
    ("environment", "wanted"),
    [({}, ["1000", "True"]), ({"POINTSUITE_CPU": "system"}, ["None", "False"])],
)
def test_import(environment, wanted):
    assert run_alone(PROGRAM, **environment).stdout.split() == wanted


ORDERS = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch finds", os.environ.get("GOMP_SPINCOUNT"))
sys.meta_path.insert(0, Watch())
"""


@pytest.mark.parametrize("first", ["pointsuite", "dense"])
def test_threads_wait_politely_where_ours_is_imported_first(first):
    run = run_alone(f"{ORDERS}import {first}, torch")
    assert run.stdout.split() == ["torch", "finds", "1000"] and "spin" not in run.stderr


def test_a_line_says_where_pytorch_was_first():
    run = run_alone(f"{ORDERS}import torch, dense")  # which imports pointsuite
    assert run.stdout.split() == ["torch", "finds", "None"]
    assert run.stderr.count("torch was imported before pointsuite, so its threads spin") == 1


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1),
        ({"GOMP_SPINCOUNT": "5"}, 0),
        ({"OMP_WAIT_POLICY": "passive"}, 0),
        ({"POINTSUITE_CPU": "system"}, 0),
        ({"OMP_NUM_THREADS": "1"}, 0),
    ],
)
def test_the_line_is_for_whom_it_concerns(environment, count, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "POINTSUITE_CPU", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # restored afterwards, though it is set meanwhile
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        prepare_process()
        prepare_process()
    assert len(found) == count

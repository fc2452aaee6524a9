"""What `import pointsuite` sets, seen from a process of its own."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, time, pointsuite, torch
print(os.environ.get("GOMP_SPINCOUNT"))
before = open("/proc/self/statm").read().split()[1]
block = torch.ones(2**25)  # 128 MiB
del block
kept = int(open("/proc/self/statm").read().split()[1]) - int(before)
print(kept * os.sysconf("SC_PAGE_SIZE") >= 2**26)
"""


@pytest.mark.skipif("glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="the C library is not glibc")
@pytest.mark.parametrize(
    ("environment", "wanted"),
    [({}, ["1000", "True"]), ({"POINTSUITE_CPU": "system"}, ["None", "False"])],
)
def test_import(environment, wanted):
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GOMP_", "OMP_", "POINTSUITE"))
    }
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=kept | environment, check=True
    )
    assert run.stdout.split() == wanted

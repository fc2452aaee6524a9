"""Two settings of the process that decide how fast PyTorch is on a CPU; POINTSUITE_CPU=system keeps both off.

Memory: glibc gives blocks above 32 MiB straight back to the kernel, so every large temporary of a training
step is mapped and zeroed page by page again: adding a number to a 33 MB tensor then takes up to forty times
as long. Raising two thresholds makes such blocks reusable; the process keeps its peak memory in return.

Waiting: OpenMP's threads spin while they wait for each other. Where another program wants the cores, they
wait for a thread that is not running, thousands of times a training step. Short spins cost little on a
quiet machine and keep a busy one usable. GNU's OpenMP reads how long once, when PyTorch loads it: where that
was imported before, a warning says so.
"""

import ctypes
import os
import sys
import warnings

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**30


def prepare_process() -> None:
    """Apply both settings, the second to this process or, if PyTorch is there already, to those it starts."""
    if os.environ.get("POINTSUITE_CPU") == "system":
        return
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"
        if "torch" in sys.modules and os.environ.get("OMP_NUM_THREADS") != "1":
            warnings.warn(
                "torch was imported before pointsuite, so its threads spin while they wait, which may take "
                "ten times as long on a busy machine: import pointsuite or dense first, or set "
                "GOMP_SPINCOUNT=1000 (POINTSUITE_CPU=system leaves it as it is)",
                stacklevel=3,
            )
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds to 1 GiB; returns whether it was done.

    Left alone: other C libraries, a preloaded allocator, glibc's own MALLOC_ variables.
    """
    if "LD_PRELOAD" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, 2 * LARGEST - 1))

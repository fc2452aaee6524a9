"""Keep freed memory of the CPU for the next tensor instead of returning it to the system.

glibc gives blocks above 32 MiB straight back to the kernel, so every large temporary of a training step is
mapped and zeroed page by page again: adding a number to a 33 MB tensor then takes up to forty times as
long. Raising two thresholds makes such blocks reusable. The process holds on to its peak memory in return.
"""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**30


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds to 1 GiB; returns whether it was done.

    Left alone: other C libraries, a preloaded allocator, processes whose environment sets
    POINTSUITE_ALLOCATOR=system or glibc's own MALLOC_ variables.
    """
    chosen = os.environ.get("POINTSUITE_ALLOCATOR") == "system" or "LD_PRELOAD" in os.environ
    if chosen or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, 2 * LARGEST - 1))

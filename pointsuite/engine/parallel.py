"""Split work on the CPU: rows over threads, batches into parts that fit the cache.

The numba kernels release the GIL, so a thread pool of PyTorch's own thread count is all it takes. numba's
`parallel=True` is left alone on purpose: its OpenMP layer dies in forked DataLoader workers.
"""

import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numba
import torch

# No reassociation and no contraction: sums stay in the written order, on every backend. The flags given
# only promise the absence of NaN (checked before), so that minima and maxima vectorise.
jit = numba.njit(nogil=True, cache=True, boundscheck=False, fastmath={"nnan", "nsz"})
# Where nothing has checked, and NaN must come out as NaN.
jit_nan = numba.njit(nogil=True, cache=True, boundscheck=False)


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="pointsuite")


def run_rows(kernel, rows: int, *args, grain: int = 1) -> None:
    """Call kernel(*args, start, stop) over all rows, at least `grain` rows a call."""
    threads = torch.get_num_threads()
    parts = min(4 * threads, rows // grain)  # four parts a thread even out their cost
    if threads == 1 or parts <= 1:
        kernel(*args, 0, rows)
        return
    bounds = [rows * i // parts for i in range(parts + 1)]
    left = zip(bounds[:-1], bounds[1:], strict=True)

    def work():
        for start, stop in left:
            kernel(*args, start, stop)

    pool = _pool(os.getpid(), threads)  # a forked worker gets its own pool
    others = [pool.submit(work) for _ in range(threads - 1)]
    work()  # this thread need not wait for another to wake
    for other in others:
        other.result()


def cache_sized(batch: torch.Tensor, numbers: int) -> Iterator[slice]:
    """Slices of a batch of clouds, each of about 2**20 numbers where a cloud's temporary has `numbers`."""
    step = max(1, 2**20 // max(numbers, 1))
    for first in range(0, len(batch), step):
        yield slice(first, first + step)

"""A function over many files in several processes, with what one process would give."""

import argparse
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from .command import whole
from .errors import UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """The option ``--workers`` of a command that reads many files."""
    text = "processes that read files, which changes nothing in the result (default: %(default)s)"
    parser.add_argument("--workers", type=whole(1), default=os.cpu_count() or 1, metavar="N", help=text)


def run_workers(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """``map(function, items)`` in ``workers`` processes; results, and the first error, come in order.

    Args:
        function: of a module, or a ``partial`` of one: processes get it by name.
        workers: 1 calls it in this process, as does any number in a daemon.

    Raises:
        UsageError: the system ended a process; any error of ``function``.
    """
    workers = min(workers, len(items))
    if workers <= 1 or multiprocessing.current_process().daemon:  # which may have no children
        yield from map(function, items)
        return
    # forked on each Python, where what is imported is there at once
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, initializer=_one_thread) as pool:
        try:
            yield from pool.map(function, items, chunksize=max(1, min(16, len(items) // (4 * workers))))
        except BrokenProcessPool as error:
            raise UsageError(
                f"--workers {workers}: a process was ended from outside, as the system does where memory is "
                "short; wanted fewer"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)  # after an error nobody waits for the others


def _one_thread() -> None:
    """A worker is a thread's worth of work, and OpenMP's threads do not survive a fork."""
    import torch

    torch.set_num_threads(1)

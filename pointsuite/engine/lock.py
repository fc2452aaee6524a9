"""One training in a folder: a lock that names its holder and ends with the holder's process."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UsageError

NAME = ".lock"
_held: set[Path] = set()  # by this process, which the system would let lock a file twice


@contextmanager
def hold_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Be the only process that trains in ``folder``; the file ``.lock`` in it says who it is.

    The system frees the lock of a process that ends, however it ends: the next one takes it over.

    Raises:
        UsageError: another process holds it; the message names it.
    """
    path = Path(os.path.realpath(folder)) / NAME
    if path in _held:
        yield
        return
    handle = _acquire(path)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        path.unlink(missing_ok=True)  # while nobody else can hold it
        os.close(handle)


def find_holder(folder: str | os.PathLike) -> str | None:
    """Which other process trains in ``folder``, as "process 7 on HOST since DATE"; None if none does."""
    path = Path(os.path.realpath(folder)) / NAME
    if path in _held:  # and closing the file would free it
        return None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _describe(handle) if not _try_lock(handle, fcntl.LOCK_SH) else None
    finally:
        os.close(handle)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has the number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _acquire(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    attempts = 0
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _try_lock(handle, fcntl.LOCK_EX):
            holder = _describe(handle)
            os.close(handle)
            attempts += 1
            if attempts < 3:  # somebody may only be looking who holds it
                time.sleep(0.05)
                continue
            raise UsageError(
                f"{path.parent}: {holder} trains there, and two would destroy each other's files; wanted "
                "another --work-dir, or that process ended"
            )
        try:
            if os.path.samestat(os.stat(path), os.fstat(handle)):
                break
        except FileNotFoundError:  # its holder has just removed it
            pass
        os.close(handle)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    os.ftruncate(handle, 0)
    os.pwrite(
        handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode(), 0
    )
    return handle


def _try_lock(handle: int, kind: int) -> bool:
    """Whether the lock was free; POSIX's, which processes that are forked, as workers, do not share."""
    try:
        fcntl.lockf(handle, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks: what the file says must do
        holder = _read(handle)
        here = holder.get("host") == socket.gethostname()
        return not (here and holder["pid"] != os.getpid() and is_alive(holder["pid"]))
    return True


def _read(handle: int) -> dict:
    try:
        found = json.loads(os.pread(handle, 4096, 0))
        return {"pid": int(found["pid"]), "host": str(found["host"]), "since": str(found["since"])}
    except (ValueError, KeyError, TypeError):  # just made
        return {}


def _describe(handle: int) -> str:
    holder = _read(handle)
    return "process {pid} on {host} since {since}".format(**holder) if holder else "another process"

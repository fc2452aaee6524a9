"""The door for files: only regular ones are opened, text and JSON are read whole and checked."""

import codecs
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .errors import UsageError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class FileError(UsageError, OSError):
    """A file that cannot be read: `path`, and in `reason` what was found and what was wanted."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason


class MissingFileError(FileError, FileNotFoundError):
    """There is no such file."""


def open_regular(path: str | os.PathLike, wanted: str = "a regular file") -> BinaryIO:
    """Open a regular file to read its bytes; a FIFO or a device is refused at once, as it may never end.

    Raises:
        FileError: another kind of file, or no right to read it; MissingFileError: no such file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(path, f"found no such file, wanted {wanted}") from None
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise FileError(path, f"found {getattr(error, 'strerror', None) or error}, wanted {wanted}") from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
        raise FileError(path, f"found no regular file but {kind}, wanted {wanted}")
    return os.fdopen(handle, "rb")


def read_bytes(path: str | os.PathLike, wanted: str = "a regular file") -> bytes:
    """All bytes of a regular file; raises FileError."""
    with open_regular(path, wanted) as file:
        try:
            return file.read()
        except OSError as error:
            raise FileError(path, f"found {error.strerror or error}, wanted {wanted}") from None


def decode_text(data: bytes) -> str:
    """Text in UTF-8, or in UTF-16 where a byte order mark says so; the mark is left out.

    Raises:
        ValueError: bytes that are neither, or zero bytes: what was found and wanted.
    """
    encoding = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8"
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"found the byte {error.object[error.start]:#04x} at {error.start}, wanted text in "
                         f"{encoding.upper()}") from None  # fmt: skip
    if "\0" in text:
        raise ValueError(f"found a zero byte at {text.index(chr(0))}, wanted text")
    return text


def read_text(path: str | os.PathLike) -> str:
    """A text file, as :func:`decode_text` reads it; raises FileError."""
    try:
        return decode_text(read_bytes(path, "a text file"))
    except FileError:
        raise
    except ValueError as error:
        raise FileError(path, str(error)) from None


def read_json(path: str | os.PathLike) -> Any:
    """A JSON file whose keys are different ones.

    Raises:
        FileError: it cannot be read, is no JSON, is nested too deeply, or has a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for i, key in enumerate(keys) if key in keys[:i])
            raise ValueError(f"the key {twice!r} twice")
        return found

    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise FileError(path, "found JSON that is nested too deeply, wanted fewer levels") from None
    except json.JSONDecodeError as error:
        raise FileError(path, f"found {error}, wanted JSON") from None
    except ValueError as error:  # a key twice, or a number of too many digits
        raise FileError(path, f"found {str(error)[:80]}, wanted JSON") from None


def list_files(folder: str | os.PathLike, pattern: str) -> list[Path]:
    """What a folder holds under names that match ``pattern``, sorted, without hidden ones (``._1.png``)."""
    return sorted(path for path in Path(folder).glob(pattern) if path.name[0] != ".")


def walk_files(root: str | os.PathLike) -> Iterator[Path]:
    """All files below a folder, sorted by name in each.

    Links to folders are followed, each folder once; one above the first, where it would begin anew, not at
    all.
    """
    seen, start = set(), os.path.realpath(root)

    def walk(folder: Path) -> Iterator[Path]:
        real = os.path.realpath(folder)
        if real in seen or (start != real and start.startswith(os.path.join(real, ""))):
            return
        seen.add(real)
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                yield from walk(path)
            else:
                yield path

    yield from walk(Path(root))

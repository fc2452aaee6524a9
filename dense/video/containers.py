"""Whether a video file has all that it says it has: what a decoder passes over in silence."""

import mmap
from collections.abc import Iterator
from typing import BinaryIO

EBML, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
ANYWHERE = {0xBF, 0xEC}  # checksum, void
SEGMENT_PARTS = {
    CLUSTER,
    0x1043A770,
    0x114D9B74,
    0x1254C367,
    0x1549A966,
    0x1654AE6B,
    0x1941A469,
    0x1C53BB6B,
}
CLUSTER_PARTS = {0xA0, 0xA3, 0xA7, 0xAB, 0xAF, 0xE7, 0x5854}
BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


def check_whole(file: BinaryIO) -> None:
    """Walk over the parts of AVI, MP4, QuickTime, Matroska and WebM, as their lengths say.

    MPEG streams have no lengths: where one was cut cannot be told from the file.

    Raises:
        ValueError: the file ends too early, or something else stands where a part must begin.
    """
    if not file.seek(0, 2):
        raise ValueError("it is empty")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
            _check_riff(data)
        elif data[4:8] in BOXES:
            _check_boxes(data)
        elif data[:4] == EBML.to_bytes(4):
            _check_ebml(data)
    file.seek(0)


def _check_end(data: mmap.mmap, end: int, part: str) -> None:
    if end > len(data):
        raise ValueError(f"it ends {end - len(data)} bytes before the end of its part {part}")


def _check_riff(data: mmap.mmap) -> None:
    place = 0
    while data[place : place + 4] == b"RIFF":  # several beyond 1 GB
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        if size in (0, 2**32 - 1):  # a recording that was not closed
            return
        _check_end(data, place + 8 + size, "RIFF")
        place += 8 + size + size % 2


def _check_boxes(data: mmap.mmap) -> None:
    place = 0
    while place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16])
        if size == 0:  # to the end
            return
        if size < 8:
            raise ValueError(f"found a part {kind!r} of {size} bytes, wanted at least 8")
        _check_end(data, place + size, repr(kind))
        place += size


def _check_ebml(data: mmap.mmap) -> None:
    for kind, start, end in _elements(data, 0, len(data), {EBML, SEGMENT}):
        for inner, first, last in _elements(data, start, end, SEGMENT_PARTS) if kind == SEGMENT else ():
            for _ in _elements(data, first, last, CLUSTER_PARTS) if inner == CLUSTER else ():
                pass


def _elements(data: mmap.mmap, place: int, end: int, known: set[int]) -> Iterator[tuple[int, int, int]]:
    """Kinds of the elements between two places, with where they begin and end; up to one of unknown size,
    as recordings have it that were not closed."""
    while place < end:
        width = 9 - data[place].bit_length()
        kind = int.from_bytes(data[place : place + width])
        if width > 4 or kind not in known | ANYWHERE:
            raise ValueError(f"found {data[place : place + 4].hex(' ')} at its byte {place}, wanted a part")
        place += width
        width = 9 - data[place].bit_length() if place < end else 9
        if width > 8 or place + width > end:
            raise ValueError("it ends within the head of a part")
        size = int.from_bytes(data[place : place + width]) & (1 << 7 * width) - 1
        place += width
        if size == (1 << 7 * width) - 1:
            return
        _check_end(data, place + size, hex(kind))
        if place + size > end:
            raise ValueError(f"a part {kind:#x} is longer than what it is in")
        yield kind, place, place + size
        place += size

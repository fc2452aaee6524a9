"""Whether the data of a JPEG are whole: decoders make up what is missing, or go on behind an error.

The walk follows ITU-T T.81: sequential and progressive, with Huffman codes. Damage is found where a code does
not exist, or the codes do not use up a scan to its last byte; a changed bit that gives other codes of the
same length cannot be told. It takes about as long as decoding.
"""

import struct
from dataclasses import dataclass, field

import numpy as np
from numba import njit

BAD_CODE, EARLY, LEFT, RESTART = 1, 2, 3, 4
REASONS = {
    BAD_CODE: "a scan has a code that is none",
    EARLY: "a scan ends before its last block",
    LEFT: "a scan has bytes behind its last block",
    RESTART: "a marker of a restart is missing",
}
WALKED, OTHER_FRAMES = (0xC0, 0xC1, 0xC2), (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))


@dataclass
class _Component:
    """Of a frame: factors, sides in blocks, for progressive scans which coefficients are not 0, and whether
    a scan has its means."""

    h: int
    v: int
    columns: int
    rows: int
    nonzero: np.ndarray
    seen: bool = False


@dataclass
class _Frame:
    progressive: bool
    mcus: int
    components: dict[int, _Component] = field(default_factory=dict)


def check_jpeg(data: bytes) -> None:
    """Walk over segments and scans up to the marker of the end; what lies behind it does not matter.

    Scans that are lossless or coded arithmetically are passed over.

    Raises:
        ValueError: it ends too early, or a scan is damaged.
    """
    codes = np.zeros((8, 1 << 16), np.uint16)  # by the next 16 bits: length << 8 | symbol; DC, AC
    frame, interval, place = None, 0, 2
    array = np.frombuffer(data, np.uint8)
    try:
        while True:
            if data[place] != 0xFF:
                raise ValueError(f"found {data[place]:#04x} at its byte {place}, wanted a marker")
            while data[place] == 0xFF:
                place += 1
            marker, place = data[place], place + 1
            if marker == 0xD9:
                break
            if marker == 0x01 or 0xD0 <= marker <= 0xD7:
                continue
            (length,) = struct.unpack_from(">H", data, place)
            part, end = data[place + 2 : place + length], place + length
            if len(part) != length - 2:
                break
            if marker in WALKED:
                frame = _read_frame(marker, part)
            elif marker in OTHER_FRAMES:
                frame = None
            elif marker == 0xC4:
                _read_codes(part, codes)
            elif marker == 0xDD:
                (interval,) = struct.unpack(">H", part)
            elif marker == 0xDA:
                end = (
                    _check_scan(array, end, part, frame, codes, interval) if frame else _skip_scan(data, end)
                )
            place = end
    except (IndexError, struct.error) as error:
        raise ValueError("it ends before its marker of the end") from error
    if marker != 0xD9:
        raise ValueError("it ends before its marker of the end")
    if frame and not all(component.seen for component in frame.components.values()):
        raise ValueError("it has no scan of one of its components")


def _read_frame(marker: int, part: bytes) -> _Frame:
    _, height, width, count = struct.unpack_from(">BHHB", part)
    listed = [(part[6 + 3 * i], part[7 + 3 * i] >> 4, part[7 + 3 * i] & 15) for i in range(count)]
    most = [max((entry[i] for entry in listed), default=0) for i in (1, 2)]
    if not (height and width and all(0 < h < 5 and 0 < v < 5 for _, h, v in listed)):
        raise ValueError(f"found a frame of {width} x {height} pixels in {count} components")
    progressive = marker == 0xC2
    frame = _Frame(progressive, _ceil(width, 8 * most[0]) * _ceil(height, 8 * most[1]))
    for name, h, v in listed:
        columns = _ceil(_ceil(width * h, most[0]), 8)
        rows = _ceil(_ceil(height * v, most[1]), 8)
        nonzero = np.zeros((columns * rows if progressive else 0, 64), np.bool_)
        frame.components[name] = _Component(h, v, columns, rows, nonzero)
    return frame


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _read_codes(part: bytes, codes: np.ndarray) -> None:
    place = 0
    while place < len(part):
        kind, number = part[place] >> 4, part[place] & 15
        counts = np.frombuffer(part, np.uint8, 16, place + 1).astype(int)
        symbols = part[place + 17 : place + 17 + counts.sum()]
        if kind > 1 or number > 3 or len(symbols) != counts.sum():
            raise ValueError("found a table of codes that is none")
        lengths = np.repeat(np.arange(1, 17), counts)
        spread = np.repeat(lengths << 8 | np.frombuffer(symbols, np.uint8), 1 << 16 - lengths)
        if len(spread) > 1 << 16:
            raise ValueError("found a table of codes that is none")
        codes[4 * kind + number] = 0
        codes[4 * kind + number, : len(spread)] = spread
        place += 17 + len(symbols)


def _skip_scan(data: bytes, place: int) -> int:
    while data[place] != 0xFF or data[place + 1] in (0, *range(0xD0, 0xD8)):
        place += 1
    return place


def _check_scan(
    data: np.ndarray, place: int, part: bytes, frame: _Frame, codes: np.ndarray, interval: int
) -> int:
    """Where a scan ends."""
    count = part[0]
    first, last, approximation = part[1 + 2 * count : 4 + 2 * count]
    high = approximation >> 4
    try:
        parts = [frame.components[part[1 + 2 * i]] for i in range(count)]
    except KeyError:
        raise ValueError("a scan is of no component of the frame") from None
    if not parts or (frame.progressive and (first > last or last > 63 or (first and count > 1))):
        raise ValueError("a scan has a head that is none")
    tables = [part[2 + 2 * i] for i in range(count)]
    if any(table >> 4 > 3 or table & 15 > 3 for table in tables):
        raise ValueError("a scan has a head that is none")
    mcus = frame.mcus if count > 1 else parts[0].columns * parts[0].rows
    blocks = np.array([c.h * c.v if count > 1 else 1 for c in parts])
    dc, ac = np.array([t >> 4 for t in tables]), np.array([t & 15 for t in tables])
    if frame.progressive:
        reason, end = _walk_progressive(
            data, place, codes, dc, ac, blocks, mcus, interval, first, last, high > 0, parts[0].nonzero
        )
    else:
        reason, end = _walk_sequential(data, place, codes.reshape(-1), dc, ac, blocks, mcus, interval)
    if reason:
        raise ValueError(REASONS[reason])
    for component in parts:
        component.seen |= not frame.progressive or (first == 0 and high == 0)
    return end


@njit(cache=True)
def _fill(data, state):
    """Take bytes up to a marker; state: place of the next byte, bits at hand, and how many."""
    place, bits, count = state[0], state[1], state[2]
    while count <= 48 and place < len(data):
        byte = data[place]
        if byte == 0xFF:
            after = place + 1
            while after < len(data) and data[after] == 0xFF:
                after += 1
            if after >= len(data) or data[after] != 0:
                break
            place = after
        place += 1
        bits = bits << 8 | byte
        count += 8
    state[0], state[1], state[2] = place, bits, count


@njit(cache=True)
def _take(data, state, count):
    """So many bits as a number, or -EARLY."""
    if state[2] < count:
        _fill(data, state)
        if state[2] < count:
            return -EARLY
    left = state[2] - count
    value = state[1] >> left
    state[1] &= (1 << left) - 1
    state[2] = left
    return value


@njit(cache=True)
def _symbol(data, state, codes):
    """The next symbol, or -BAD_CODE or -EARLY."""
    if state[2] < 16:
        _fill(data, state)
    count = state[2]
    ahead = state[1] >> count - 16 if count >= 16 else state[1] << 16 - count
    entry = codes[ahead]
    length = entry >> 8
    if length == 0:
        return -BAD_CODE if count >= 16 else -EARLY
    if length > count:
        return -EARLY
    state[2] = count - length
    state[1] &= (1 << state[2]) - 1
    return np.int64(entry & 255)


@njit(cache=True)
def _first_dc(data, state, codes):
    size = _symbol(data, state, codes)
    if size > 15:
        return -BAD_CODE
    return size if size < 0 else min(_take(data, state, size), 0)


@njit(cache=True)
def _first_ac(data, state, codes, first, last, ends, nonzero):
    """Coefficients of a block; ends: of how many blocks from this one it is known that they end."""
    if ends > 0:
        return ends - 1
    k = first
    while k <= last:
        symbol = _symbol(data, state, codes)
        if symbol < 0:
            return symbol
        run, size = symbol >> 4, symbol & 15
        if size == 0 and run < 15:
            more = _take(data, state, run)
            return more if more < 0 else (1 << run) + more - 1
        k += run + 1
        if k > last + 1:
            return -BAD_CODE
        if size:
            nonzero[k - 1] = True
            if _take(data, state, size) < 0:
                return -EARLY
    return 0


@njit(cache=True)
def _refine_ac(data, state, codes, first, last, ends, nonzero):
    k = first
    while k <= last and ends == 0:
        symbol = _symbol(data, state, codes)
        if symbol < 0:
            return symbol
        run, size = symbol >> 4, symbol & 15
        if size > 1:
            return -BAD_CODE
        if size == 0 and run < 15:
            more = _take(data, state, run)
            if more < 0:
                return more
            ends = (1 << run) + more
            break
        if size and _take(data, state, 1) < 0:
            return -EARLY
        while k <= last:
            if nonzero[k]:
                if _take(data, state, 1) < 0:
                    return -EARLY
            elif run == 0:
                break
            else:
                run -= 1
            k += 1
        if size:
            if k > last:
                return -BAD_CODE
            nonzero[k] = True
        k += 1
    if ends == 0:
        return 0
    while k <= last:
        if nonzero[k] and _take(data, state, 1) < 0:
            return -EARLY
        k += 1
    return ends - 1


@njit(cache=True)
def _restart(data, state, number):
    """Over the marker of a restart; 0, or a number of REASONS."""
    _fill(data, state)
    if state[2] >= 8:
        return LEFT
    place = state[0]
    while place < len(data) and data[place] == 0xFF:
        place += 1
    if place == state[0] or place >= len(data) or data[place] != 0xD0 + number % 8:
        return RESTART
    state[0], state[1], state[2] = place + 1, 0, 0
    return 0


@njit(cache=True)
def _finish(data, state):
    _fill(data, state)
    return (LEFT if state[2] >= 8 else 0), state[0]


@njit(cache=True)
def _walk_progressive(data, place, codes, dc, ac, blocks, mcus, interval, first, last, refine, nonzero):
    """A number of REASONS or 0, and where the scan ends."""
    state = np.array([place, 0, 0], np.int64)
    ends = 0
    for mcu in range(mcus):
        if interval and mcu and mcu % interval == 0:
            ends = 0
            reason = _restart(data, state, mcu // interval - 1)
            if reason:
                return reason, place
        for i in range(len(blocks)):
            for _ in range(blocks[i]):
                found = 0
                if first == 0:
                    found = _take(data, state, 1) if refine else _first_dc(data, state, codes[dc[i]])
                elif refine:
                    found = ends = _refine_ac(data, state, codes[4 + ac[i]], first, last, ends, nonzero[mcu])
                else:
                    found = ends = _first_ac(data, state, codes[4 + ac[i]], first, last, ends, nonzero[mcu])
                if found < 0:
                    return -found, place
    return _finish(data, state)


@njit(cache=True)
def _walk_sequential(data, place, codes, dc, ac, blocks, mcus, interval):
    """The same; with the bits at hand in variables, since most photographs come this way."""
    state = np.array([place, 0, 0], np.int64)
    bits, count = np.uint64(0), 0
    for mcu in range(mcus):
        if interval and mcu and mcu % interval == 0:
            state[0], state[1], state[2] = place, 0, count
            reason = _restart(data, state, mcu // interval - 1)
            if reason:
                return reason, place
            place, count = state[0], 0
        for i in range(len(blocks)):
            for _ in range(blocks[i]):
                k, table = 0, dc[i] << 16
                while k < 64:
                    while count < 32 and place < len(data):
                        byte = data[place]
                        if byte == 0xFF:
                            after = place + 1
                            while after < len(data) and data[after] == 0xFF:
                                after += 1
                            if after >= len(data) or data[after] != 0:
                                break
                            place = after
                        place += 1
                        bits = bits << np.uint64(8) | np.uint64(byte)
                        count += 8
                    if count >= 16:
                        ahead = np.int64(bits >> np.uint64(count - 16)) & 0xFFFF
                    else:
                        ahead = np.int64(bits << np.uint64(16 - count)) & 0xFFFF
                    entry = np.int64(codes[table | ahead])
                    length, run, size = entry >> 8, entry >> 4 & 15, entry & 15
                    if length == 0 or length + size > count:
                        return (BAD_CODE if length == 0 and count >= 16 else EARLY), place
                    count -= length + size
                    if k == 0:
                        if run:
                            return BAD_CODE, place
                        k, table = 1, 4 + ac[i] << 16
                    elif size or run == 15:
                        k += run + 1
                        if k > 64:
                            return BAD_CODE, place
                    elif run:
                        return BAD_CODE, place
                    else:
                        break
    state[0], state[1], state[2] = place, 0, count
    return _finish(data, state)

"""Damaged, hostile and mistaken images, videos, labels and folders, made by a seed."""

import gzip
import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import scipy.io
import torch
from PIL import Image, ImageCms
from torch import nn

from dense.base.images import LoadImage
from dense.classification import Classifier
from dense.classification.datasets import CIFAR, FashionMNIST, ImageFolder
from dense.matching import Matcher
from dense.matching.datasets import ImageFiles, PFPascal, PFWillow, SPair71k
from dense.restoration import Restorer
from dense.restoration.datasets import RestorationDataset
from dense.restoration.images import read_image
from dense.video import AnomalyScorer
from dense.video.datasets import Avenue, ShanghaiTech, UCSDPed, VideoClips
from dense.video.datasets import read_labels as read_frame_labels
from dense.video.frames import Video
from dense.video.scoring import load_scores
from pointsuite.engine.images import open_image, read_array
from tests.dense.restoration.toy import ToyUpscaler
from tests.dense.video.toy import ToyPredictor, encode_file, make_frames

from .harness import Case

SHAPE = (24, 20, 3)
FRAMES = 40
READERS = {
    "LoadImage": lambda path: LoadImage()({"img_path": path})["img"],
    "read_image": lambda path: read_image(path).pixels,
    "open_image": lambda path: np.asarray(open_image(path)),
}
KINDS = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP", "gif": "GIF", "ppm": "PPM"}


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def equals(right: np.ndarray) -> Callable:
    return lambda found: np.array_equal(found, right)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


def flip(rng: np.random.Generator, data: bytes, first: int = 0, last: int = 0) -> bytes:
    """The same with one bit changed between two places."""
    flipped = bytearray(data)
    flipped[rng.integers(first, len(data) - last)] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def cuts(rng: np.random.Generator, data: bytes, count: int, last: int = 8) -> list[bytes]:
    return [data[:end] for end in rng.integers(1, len(data) - last, count)]


# -------------------------------------------------------------------------------------------------- images


def image_files(seed: int) -> dict[str, tuple[bytes, np.ndarray | None]]:
    """Names, contents, and what is right (None: refused)."""
    rng, files = np.random.default_rng(seed), {}
    pixels = rng.integers(0, 256, SHAPE).astype(np.uint8)
    image = Image.fromarray(pixels)
    for suffix, kind in KINDS.items():
        data = encode(image, kind)
        if suffix != "gif":  # a palette, which open_image leaves as it is
            files[f"whole.{suffix}"] = data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        files |= {f"cut{i}.{suffix}": (part, None) for i, part in enumerate(cuts(rng, data, 12))}
    data = encode(image, "PNG")
    files |= {f"flipped{i}.png": (flip(rng, data, 33, 12), None) for i in range(12)}
    files["no_end.png"] = data[:-12], None
    more = [Image.fromarray(255 - pixels)]
    for name, kind in (
        ("pages.tif", "TIFF"),
        ("frames.gif", "GIF"),
        ("frames.png", "PNG"),
        ("frames.webp", "WEBP"),
    ):
        files[name] = encode(image, kind, save_all=True, append_images=more), None
    files["photo.jpg"] = (
        encode(image, "MPO", save_all=True, append_images=more),
        np.asarray(Image.open(io.BytesIO(encode(image, "JPEG")))),
    )
    files |= {f"jpeg {name}": found for name, found in jpeg_files(rng, image).items()}
    files |= {f"tiff {name}": found for name, found in tiff_files(rng, image).items()}
    files |= {f"netpbm {name}": found for name, found in netpbm_files(rng).items()}
    files |= {f"odd {name}": found for name, found in odd_files(pixels).items()}
    return files


def jpeg_files(rng: np.random.Generator, image: Image.Image) -> dict[str, tuple[bytes, np.ndarray | None]]:
    files = {}
    smooth = Image.fromarray(cv2.GaussianBlur(np.asarray(image.resize((64, 48))), (7, 7), 2))
    kinds = {
        "sequential": {},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_blocks": 2},
        "fine": {"subsampling": "4:4:4", "quality": 98, "optimize": True},
    }
    for kind, options in kinds.items():
        data = encode(smooth, "JPEG", **options)
        files[f"{kind}.jpg"] = data, np.asarray(Image.open(io.BytesIO(data)))
        start = data.index(b"\xff\xda") + 14
        for i, end in enumerate(rng.integers(start + 20, len(data) - 40, 5)):
            files[f"{kind} cut {i}.jpg"] = data[:end], None
            files[f"{kind} cut {i} with an end.jpg"] = data[:end].rstrip(b"\xff") + b"\xff\xd9", None
        files[f"{kind} without an end.jpg"] = data[:-2], None
        files[f"{kind} with bytes left.jpg"] = (
            data[:-2] + rng.bytes(30).replace(b"\xff", b"x") + b"\xff\xd9",
            None,
        )
        files[f"{kind} with bytes behind.jpg"] = data + rng.bytes(30), files[f"{kind}.jpg"][1]
        half = len(data) // 2
        files[f"{kind} with a hole.jpg"] = data[: half - 60] + data[half + 60 :], None
        files[f"{kind} with bytes between.jpg"] = data[:20] + b"\0\0\0\0" + data[20:], None
    return files


def tiff_files(rng: np.random.Generator, image: Image.Image) -> dict[str, tuple[bytes, np.ndarray | None]]:
    files = {}
    for packing in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "tiff_adobe_deflate"):
        data = encode(image, "TIFF", compression=packing)
        files[f"{packing}.tif"] = data, np.asarray(Image.open(io.BytesIO(data)))
        files |= {f"{packing} cut {i}.tif": (part, None) for i, part in enumerate(cuts(rng, data, 5, 40))}
    numbers = np.asarray(image)[..., 0].astype(np.float32)
    files["fractions.tif"] = encode(Image.fromarray(numbers), "TIFF"), None
    files["too high.tif"] = encode(Image.fromarray(numbers.astype(np.int32) + 70_000), "TIFF"), None
    files["negative.tif"] = encode(Image.fromarray(numbers.astype(np.int32) - 200), "TIFF"), None
    files["huge.tif"] = huge_tiff(20_000), None
    return files


def huge_tiff(side: int) -> bytes:
    tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, side), (279, 1)]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + table + bytes(4)


def netpbm_files(rng: np.random.Generator) -> dict[str, tuple[bytes, np.ndarray | None]]:
    levels = rng.integers(0, 256, SHAPE).astype(np.uint8)
    words = " ".join(map(str, levels.ravel())).encode()
    size = b"%d %d" % SHAPE[1::-1]
    files = {
        "words.ppm": (b"P3\n" + size + b"\n255\n" + words, levels),
        "comments.ppm": (b"P6\n# made by hand\n" + size + b"\n255\n" + levels.tobytes(), levels),
        "too few words.ppm": (b"P3\n" + size + b"\n255\n" + words.rpartition(b" ")[0], None),
        "too high.ppm": (b"P3\n" + size + b"\n100\n" + words, None),
        "letters.ppm": (b"P3\n" + size + b"\n255\n" + words.replace(b" ", b" x ", 1), None),
        "deep cut.ppm": (b"P6\n" + size + b"\n65535\n" + levels.tobytes(), None),
        "deep cut.pgm": (b"P5\n" + size + b"\n65535\n" + levels.tobytes()[:100], None),
    }
    for number in (b"0", b"-1", b"1_0", b"99999", b"9" * 400, b"x", b""):
        files[f"{len(number)} times {number[:1].decode()} wide.ppm"] = (
            b"P6\n" + number + b" 24\n255\n" + levels.tobytes(),
            None,
        )
    for top in (b"0", b"65536", b"-5", b"x"):
        files[f"top {top.decode()}.ppm"] = b"P6\n" + size + b"\n" + top + b"\n" + levels.tobytes(), None
    return files


def odd_files(pixels: np.ndarray) -> dict[str, tuple[bytes, np.ndarray | None]]:
    """What is no image, or not the one that it says, or asks for too much."""
    height, width = pixels.shape[:2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], 1).tobytes()
    bomb = zlib.compress(bytes(300_000_000), 9)
    run = b"".join(bytes([width, r]) + b"\0\0" for r in range(height)) + b"\0\1"
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(run), 0, 0, 256, 0)
    packed = b"BM" + struct.pack("<IHHI", 1078 + len(run), 0, 0, 1078) + head + palette + run
    levels = np.arange(height - 1, -1, -1, dtype=np.uint8)[:, None, None]
    return {
        "by hand.png": (png(width, height, 8, 2, rows), pixels),
        "rows missing.png": (png(width, height, 8, 2, rows[:-100]), None),
        "taller.png": (png(width, height + 9, 8, 2, rows), None),
        "no pixels.png": (png(0, 0, 8, 2, b""), None),
        "depth of 3.png": (png(width, height, 3, 2, rows), None),
        "filter of 9.png": (png(width, height, 8, 2, b"\x09" + rows[1:]), None),
        "without a palette.png": (png(width, height, 8, 3, rows), None),
        "huge.png": (png(13_000, 13_000, 8, 0, b"\0"), None),
        "long text.png": (png(width, height, 8, 2, rows, chunk(b"zTXt", b"a\0\0" + bomb)), None),
        "long profile.png": (png(width, height, 8, 2, rows, chunk(b"iCCP", b"a\0\0" + bomb)), None),
        "huge.bmp": (
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0),
            None,
        ),
        "huge.gif": (
            b"GIF89a"
            + struct.pack("<HH", 60000, 60000)
            + b"\0\0\0"
            + b",\0\0\0\0"
            + struct.pack("<HH", 60000, 60000)
            + b"\0\x02\x01\0\0;",
            None,
        ),
        "packed.bmp": (packed, np.broadcast_to(levels, pixels.shape)),
        "packed cut.bmp": (packed[:-30], None),
        "packed without an end.bmp": (packed[:-2], None),
        "empty.png": (b"", None),
        "zeros.jpg": (bytes(500), None),
        "text.jpg": (b"no image", None),
        "page.png": (b"<!DOCTYPE html><html><body>404</body></html>", None),
        "program.png": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\nshowpage\n",
            None,
        ),
        "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", None),
        "paper.jpg": (b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n", None),
        "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n", None),
        "photo.png": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300), None),
        "packed.png": (gzip.compress(png(width, height, 8, 2, rows)), None),
        "photo named otherwise.png": (encode(Image.fromarray(pixels), "BMP"), pixels),
    }


def places(run: Callable[[Path], object], name: str, file: str) -> list[Case]:
    """What stands where a file should: nothing, a folder, a FIFO, links that lead nowhere."""
    makers = {
        "nothing": lambda path: None,
        "a folder": lambda path: path.mkdir(),
        "a FIFO": os.mkfifo,
        "a link to nothing": lambda path: path.symlink_to("nowhere"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    }

    def case(make: Callable[[Path], object]) -> Callable[[Path], object]:
        def go(place: Path):
            make(place / file)
            return run(place / file)

        return go

    return [Case(f"{name}: {what}: {file}", case(make), names=file) for what, make in makers.items()]


def reading(run: Callable[[Path], object], file: str, data: bytes) -> Callable[[Path], object]:
    def go(place: Path):
        (place / file).write_bytes(data)
        return run(place / file)

    return go


def image_cases(seed: int) -> list[Case]:
    """Each reader of images, on each file."""
    cases = []
    for name, (data, right) in image_files(seed).items():
        for which, reader in READERS.items():
            as_stored = which == "open_image"
            if as_stored and any(
                word in name for word in ("packed.bmp", "fractions", "too high", "negative")
            ):
                continue  # a palette, or numbers of which the others make levels
            good = right[..., :1] if which == "read_image" and "packed.bmp" in name else right
            check = None if good is None else equals(good)
            cases.append(Case(f"{which}: {name}", reading(reader, name, data), check, names=name))
    for which, reader in READERS.items():
        cases += places(reader, which, "a.png")
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, SHAPE).astype(np.uint8))
    for suffix, kind in (*KINDS.items(), ("progressive.jpg", "JPEG"), ("lzw.tif", "TIFF")):
        options = {"progressive.jpg": {"progressive": True}, "lzw.tif": {"compression": "tiff_lzw"}}
        data = encode(image, kind, **options.get(suffix, {}))
        for i in range(8):  # most of which no format but PNG can tell

            def sane(found: tuple) -> bool:
                return found[0].dtype in (np.uint8, np.uint16) and found[0].shape[2] in (1, 2, 3, 4)

            name = f"flip {i}.{suffix}"
            cases.append(
                Case(f"read_array: {name}", reading(read_array, name, flip(rng, data)), sane, True, name)
            )
    return cases


# -------------------------------------------------------------------------------------------------- videos


def in_order(path: Path) -> list[np.ndarray]:
    video = Video(path, size=16)
    return [video[i] for i in range(len(video))]


def video_cases(seed: int, folder: Path) -> list[Case]:
    """Videos in order: whole, cut, with changed bits, with holes; made in a folder."""
    rng, cases = np.random.default_rng(seed), []
    frames = make_frames(FRAMES, side=32)
    steps = np.cumsum(rng.choice([17, 33, 66, 100], FRAMES))
    kinds = (
        ("a.avi", "mjpeg", None, None),
        ("b.avi", "mpeg4", None, None),
        ("c.mp4", "libx264", steps, None),
        ("d.mov", "libx264", None, None),
        ("e.mkv", "libx264", steps, None),
        ("f.webm", "libvpx-vp9", steps, None),
        ("g.mpg", "mpeg2video", None, None),
        ("h.mpg", "libx264", None, "mpegts"),
    )
    for name, codec, times, form in kinds:
        encode_file(folder / name, frames, codec, times, form=form)
        data = (folder / name).read_bytes()
        stream = name.endswith("mpg")

        def whole(found: list) -> bool:
            return len(found) == FRAMES

        def sane(found: list) -> bool:
            return 0 < len(found) <= FRAMES + 1 and all(frame.shape == (1, 16, 16) for frame in found)

        def add(kind: str, data: bytes, check=None, may_refuse=False, name=name):
            cases.append(
                Case(f"video: {kind}: {name}", reading(in_order, name, data), check, may_refuse, name)
            )

        add("whole", data, whole)
        for i, part in enumerate(cuts(rng, data, 8, 200)):
            add(f"cut {i}", part, sane if stream else None, stream)
        for i in range(10):
            add(f"flip {i}", flip(rng, data), sane, True)
        for i, at in enumerate(rng.integers(len(data) // 4, len(data) // 2, 3)):
            add(f"hole {i}", data[:at] + bytes(len(data) // 4) + data[at + len(data) // 4 :], sane, True)
        add("empty", b"")
        add("zeros", bytes(4000))
        add("text", b"no video " * 50)
    lists = {
        "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "playlist": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n",
        "manifest": b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
        "session": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
        "a picture": encode(Image.fromarray(frames[0]), "PNG"),
        "an archive": b"PK\3\4" + bytes(200),
    }
    for what, data in lists.items():
        for name in ("x.mp4", "x.avi"):
            cases.append(Case(f"video: {what}: {name}", reading(in_order, name, data), names=name))
    head = bytearray((folder / "a.avi").read_bytes())
    for key in (b"avih", b"strh"):
        place = head.index(key) + 8 + (16 if key == b"avih" else 32)
        head[place : place + 4] = struct.pack("<I", 10**9)  # frames
    cases.append(Case("video: a billion frames: a.avi", reading(in_order, "a.avi", bytes(head)),
                      lambda found: len(found) == FRAMES, True, "a.avi"))  # fmt: skip
    return cases + places(in_order, "video", "a.mp4") + places(in_order, "video", "b.avi")


# ------------------------------------------------------------------------------------------------- folders


def write_image(path: Path, level: int = 90, side: tuple[int, int] = (24, 20), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, side, level if mode != "RGB" else (level, 9, 9)).save(path)


def clutter(folder: Path) -> None:
    """What other systems leave in folders: not one of them is an image."""
    (folder / "._1.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (folder / ".DS_Store").write_bytes(bytes(8))
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / ".ipynb_checkpoints").mkdir()
    write_image(folder / ".ipynb_checkpoints" / "1.png")
    (folder / "again").symlink_to(folder)


def folder_cases() -> list[Case]:
    """Data sets of images on folders with more, or less, than images."""

    def classes(place: Path) -> Path:
        for name in ("cat", "dog"):
            for i in range(2):
                write_image(place / "train" / name / f"{i}.png")
        return place

    def whole(dataset) -> list:
        return [dataset[i] for i in range(len(dataset))]

    def image_folder(place: Path, **options) -> list:
        return whole(ImageFolder(place, "train", pipeline=[{"type": "LoadImage"}], **options))

    def image_files(place: Path, **options) -> list:
        return whole(ImageFiles(place / "train", pipeline=[{"type": "LoadImage"}], **options))

    def restoration(place: Path, **options) -> list:
        return whole(RestorationDataset(place, **{"gt": "train", **options}))

    def frames(place: Path, **options) -> list:
        return whole(VideoClips(place, **{"size": 8, "offsets": [0], **options}))

    sets = {"ImageFolder": image_folder, "ImageFiles": image_files, "RestorationDataset": restoration}
    changes: dict[str, tuple[Callable[[Path], object], int | None, str]] = {
        "as it is": (lambda f: None, 4, ""),
        "clutter": (lambda f: clutter(f / "cat"), 4, ""),
        "letters of any case": (lambda f: write_image(f / "cat" / "A.JPG"), 5, ""),
        "a damaged image": (lambda f: (f / "cat/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n"), None, "bad.png"),
        "an empty image": (lambda f: (f / "cat/bad.jpg").touch(), None, "bad.jpg"),
        "a FIFO": (lambda f: os.mkfifo(f / "cat/a.png"), 4, ""),
        "a link to nothing": (lambda f: (f / "cat/bad.png").symlink_to("nowhere"), None, "bad.png"),
        "a link to a folder above": (lambda f: (f / "cat/up").symlink_to(f), None, ""),
        "two pages": (
            lambda f: Image.new("L", (9, 9)).save(
                f / "dog/bad.tif", save_all=True, append_images=[Image.new("L", (9, 9))]
            ),
            None,
            "bad.tif",
        ),
    }
    cases = []
    for which, run in sets.items():
        for what, (change, count, named) in changes.items():

            def go(place: Path, run=run, change=change) -> list:
                change(classes(place) / "train")
                return run(place)

            linked = what == "a link to a folder above"
            check = (lambda found: len(found) == 4) if linked else None
            if count is not None:
                check = lambda found, count=count: len(found) == count  # noqa: E731
            cases.append(Case(f"{which}: {what}", go, check, linked, named))
        cases.append(Case(f"{which}: no folder", lambda place, run=run: run(place), names="train"))
        cases.append(
            Case(f"{which}: nothing in it", lambda p, run=run: ((p / "train").mkdir(), run(p)), names="train")
        )
    lists = {
        "good": (b"cat/0.png 0\ndog/1.png 1\n", 2),
        "an empty list": (b"", None),
        "no label": (b"cat/0.png\n", None),
        "a label of 10^9": (b"cat/0.png 999999999\n", None),
        "a label of 5,000 digits": (b"cat/0.png " + b"9" * 5000 + b"\n", None),
        "a file that is not there": (b"cat/7.png 0\n", None),
        "zero bytes": (b"cat/0.png\0 0\n", None),
        "UTF-16": ("cat/0.png 0\n".encode("utf-16"), 1),
        "no text": (b"\xff\x00\xfe cat 0\n", None),
    }
    for what, (text, count) in lists.items():

        def listed(place: Path, text=text) -> list:
            (classes(place) / "list.txt").write_bytes(text)
            return image_folder(place, list_file=place / "list.txt")

        check = None if count is None else lambda found, count=count: len(found) == count
        cases.append(Case(f"ImageFolder: {what}: list.txt", listed, check))
    cases += places(
        lambda p: (classes(p.parent), image_folder(p.parent, list_file=p))[1], "ImageFolder", "list.txt"
    )

    def pairs(place: Path, gt: tuple, lq: tuple, name: str = "0.png") -> list:
        write_image(place / "gt/0.png", side=gt)
        write_image(place / "lq" / name, side=lq)
        return restoration(place, gt="gt", lq="lq", scale=2)

    for what, gt, lq, name, good in (
        ("a pair", (24, 20), (12, 10), "0.png", True),
        ("a pair of other endings", (24, 20), (12, 10), "0x2.jpg", True),
        ("exchanged", (12, 10), (24, 20), "0.png", False),
        ("of one size", (24, 20), (24, 20), "0.png", False),
        ("of another scale", (24, 20), (8, 7), "0.png", False),
        ("without the poor one", (24, 20), (12, 10), "1.png", False),
    ):
        check = (lambda found: len(found) == 1) if good else None
        cases.append(
            Case(f"RestorationDataset: {what}", lambda p, a=(gt, lq, name): pairs(p, *a), check, names="0")
        )

    def numbered(place: Path, names: list[str]) -> list:
        for name in names:
            write_image(place / "v" / name)
        return frames(place / "v")

    for what, names, count in (
        ("one by one", ["1.png", "2.png", "10.png"][:2], 2),
        ("natural order", [f"{i}.png" for i in range(1, 13)], 12),
        ("letters of any case", ["A1.PNG", "A2.JPG", "A3.Tif"], 3),
        ("one in three", ["000.png", "003.png", "006.png"], 3),
        ("a gap", ["1.png", "2.png", "4.png", "5.png"], None),
        ("a gap before the last letters", ["f1_l.png", "f2_l.png", "f4_l.png", "f5_l.png"], None),
        ("two of one frame", ["030.jpg", "030.png", "031.png"], None),
        ("two spellings of one frame", ["30.png", "030.png", "031.png"], None),
        ("two of one name", ["left.jpg", "left.png"], None),
        ("hidden ones", ["1.png", "2.png", "._3.png"], 2),
    ):
        check = None if count is None else lambda found, count=count: len(found) == count
        cases.append(Case(f"VideoClips: {what}", lambda p, n=names: numbered(p, n), check))

    def cluttered(place: Path) -> list:
        numbered(place, ["1.png", "2.png"])
        clutter(place / "v")
        return frames(place / "v")

    cases.append(Case("VideoClips: clutter", cluttered, lambda found: len(found) == 2))
    cases.append(
        Case("VideoClips: too short", lambda p: (write_image(p / "v/1.png"), frames(p / "v", offsets=[0, 3])))
    )
    for which in (UCSDPed, Avenue, ShanghaiTech):
        for split in ("train", "test"):
            run = lambda p, which=which, split=split: which(p, split, size=8, offsets=[0])  # noqa: E731
            cases.append(Case(f"{which.__name__}: nothing there: {split}", run))
    return cases + label_cases() + matching_cases() + packed_cases()


def label_cases() -> list[Case]:
    """Labels of the frames of one video, a, of 12."""

    def labels(path: Path):
        return read_frame_labels(path, {"a": 12})["a"]

    def m(text: str) -> bytes:
        return f"TestVideoFile{{end+1}}.gt_frame = {text};\n".encode()

    def ones(*frames: int) -> Callable:
        return lambda found: [i + 1 for i, value in enumerate(found) if value] == list(frames)

    cases = []
    for text, frames in {
        "[2 3 4]": (2, 3, 4),
        "[2,3,4]": (2, 3, 4),
        "[2:2:6]": (2, 4, 6),
        "[7, 9:10]": (7, 9, 10),
        "[ 1 : 3 , 5 ]": (1, 2, 3, 5),
        "[2;3;4]": (2, 3, 4),
        "[2:3\n7:8]": (2, 3, 7, 8),
        "[6:-2:2]": (2, 4, 6),
        "2:4": (2, 3, 4),
        "[]": (),
    }.items():
        cases.append(Case(f"labels: {text}: a.m", reading(labels, "a.m", m(text)), ones(*frames)))
    wrong = ["[x]", "[3:1]", "[0:2]", "[9:13]", "[1:0:3]", "[1.5]", "[-1:2]", "[1:9999999999]"]
    wrong += ["[1", "{1:2}", "[1e0]", "[1:999999999]", "[end]"]
    for text in (*wrong, "[1:2]; x.gt_frame = [3]", "[" + "9" * 5000 + "]"):
        cases.append(Case(f"labels: {text[:20]}: a.m", reading(labels, "a.m", m(text)), names="a.m"))
    for what, data in {
        "a key twice": b'{"a": [0], "a": [1]}',
        "no list": b'{"a": 3}',
        "words": b'{"a": ["x"]}',
        "nan": b'{"a": [' + b"NaN, " * 11 + b"0]}",
        "too few": b'{"a": [0, 1]}',
        "twos": json.dumps({"a": [2] * 12}).encode(),
        "null": json.dumps({"a": [None] * 12}).encode(),
        "ragged": b'{"a": [[0, 1], [0]]}',
        "another video": b'{"b": [0]}',
        "a list": b"[1, 2]",
        "cut": b'{"a": [0, 1',
        "deep": b'{"a":' + b"[" * 100_000,
        "digits": b'{"a": [' + b"9" * 5000 + b"]}",
        "UTF-16 cut": "{".encode("utf-16")[:-1],
        "bytes": bytes(range(256)),
        "empty": b"",
    }.items():
        cases.append(Case(f"labels: {what}: a.json", reading(labels, "a.json", data), names="a.json"))
        if what not in (
            "twos",
            "too few",
            "no list",
            "another video",
            "a list",
            "nan",
            "null",
            "ragged",
            "words",
        ):
            cases.append(
                Case(f"scores: {what}: a.json", reading(load_scores, "a.json", data), names="a.json")
            )
    for what, content in {
        "no dict": [1],
        "no arrays": {"a": 3},
        "words": {"a": {"score": ["x"]}},
        "no score": {"a": {}},
    }.items():
        data = json.dumps(content).encode()
        cases.append(Case(f"scores: {what}: b.json", reading(load_scores, "b.json", data), names="b.json"))
    for file in ("a.m", "a.json"):
        cases += places(labels, "labels", file)

    def stored(array, **options) -> bytes:
        file = io.BytesIO()
        np.save(file, array, **options)
        return file.getvalue()

    good = stored(np.arange(12) % 2)
    arrays = {
        "good": (good, True),
        "code": (stored(np.array([{}] * 12, object), allow_pickle=True), False),
        "words": (stored(np.full(12, "x")), False),
        "halves": (stored(np.full(12, 0.5)), False),
        "complex": (stored(np.zeros(12, complex)), False),
        "too many": (stored(np.zeros(13)), False),
        "cut": (good[:-5], False),
        "a billion": (good.replace(b"(12,)", b"(1000000000,)").replace(b"          \n", b" \n"), False),
        "text": (b"0 1 0 1", False),
        "empty": (b"", False),
    }
    for what, (data, fine) in arrays.items():
        run = reading(lambda path: labels(path.parent), "a.npy", data)
        check = (lambda found: found == [0, 1] * 6) if fine else None
        cases.append(Case(f"labels: {what}: a.npy", run, check, names="" if fine else "a.npy"))

    def matlab(**content) -> bytes:
        file = io.BytesIO()
        scipy.io.savemat(file, content, do_compression=True)
        return file.getvalue()

    masks = np.empty(12, object)
    masks[:] = [np.full((4, 4), i % 2, np.uint8) for i in range(12)]
    good = matlab(volLabel=masks)
    for what, (data, fine) in {
        "good": (good, True),
        "no masks": (matlab(other=1), False),
        "one array": (matlab(volLabel=np.zeros((12, 4))), False),
        "too few": (matlab(volLabel=masks[:5]), False),
        "cut": (good[: len(good) // 2], False),
        "text": (b"no matrix", False),
        "empty": (b"", False),
        "unpacks to 4 GB": (good[:128] + packed_matlab(1 << 32 - 1), False),
    }.items():
        run = reading(lambda path: labels(path.parent), "a_label.mat", data)
        check = (lambda found: found == [0, 1] * 6) if fine else None
        cases.append(Case(f"labels: {what}: a_label.mat", run, check, names="" if fine else "a_label.mat"))
    return cases


def packed_matlab(size: int) -> bytes:
    """A packed variable that says it is so large, and is not."""
    data = zlib.compress(struct.pack("<II", 14, size) + bytes(1000))
    return struct.pack("<II", 15, len(data)) + data


def matching_cases() -> list[Case]:
    def pascal(place: Path, table: bytes = b"source,target,class\na.jpg,b.jpg,1\n", mat: bytes | None = None):
        for name in "ab":
            write_image(place / f"JPEGImages/{name}.jpg")
            file = io.BytesIO()
            scipy.io.savemat(file, {"kps": np.ones((3, 2)), "bbox": np.array([0, 0, 9, 9])})
            path = place / f"Annotations/aeroplane/{name}.mat"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.getvalue() if mat is None or name == "a" else mat)
        (place / "test_pairs.csv").write_bytes(table)
        return PFPascal(place, "test", pipeline=[{"type": "LoadPair"}])[0]

    def saved(**content) -> bytes:
        file = io.BytesIO()
        scipy.io.savemat(file, content)
        return file.getvalue()

    head = b"source,target,class\n"
    cases = [Case("PFPascal: good", pascal, lambda found: found["category"] == "aeroplane")]
    for what, table in {
        "empty": b"",
        "only a head": head,
        "class 0": head + b"a.jpg,b.jpg,0\n",
        "class 21": head + b"a.jpg,b.jpg,21\n",
        "class x": head + b"a.jpg,b.jpg,x\n",
        "class of 5,000 digits": head + b"a.jpg,b.jpg," + b"1" * 5000 + b"\n",
        "too short": head + b"a.jpg,b.jpg\n",
        "no text": head + b"\xff\xfe\x00,b,1\n",
        "zero bytes": head + b"a.jpg,b\0.jpg,1\n",
        "mirrored by word": head.replace(b"class", b"class,flip") + b"a.jpg,b.jpg,1,yes\n",
    }.items():
        cases.append(Case(f"PFPascal: {what}", lambda p, t=table: pascal(p, t), names="test_pairs.csv"))
    for what, mat in {
        "text": b"no matrix",
        "an empty matrix": b"",
        "no points": saved(bbox=np.arange(4)),
        "words": saved(kps=np.full((3, 2), "x"), bbox=np.arange(4)),
        "flat points": saved(kps=np.ones(6), bbox=np.arange(4)),
        "a box of three": saved(kps=np.ones((3, 2)), bbox=np.arange(3)),
        "a box of nan": saved(kps=np.ones((3, 2)), bbox=np.full(4, np.nan)),
        "other points": saved(kps=np.ones((5, 2)), bbox=np.arange(4)),
        "hidden points": saved(kps=np.full((3, 2), np.nan), bbox=np.arange(4)),
    }.items():
        cases.append(Case(f"PFPascal: {what}", lambda p, m=mat: pascal(p, mat=m), names="b."))

    def willow(place: Path, listing: bytes):
        for name in "ab":
            write_image(place / f"cup/{name}.png")
        (place / "keypoints.json").write_bytes(listing)
        return PFWillow(place, "test", pipeline=[{"type": "LoadPair"}])[0]

    def listed(points) -> bytes:
        return json.dumps(
            {"images": {f"cup/{n}.png": {"kps": p} for n, p in zip("ab", points, strict=True)}}
        ).encode()

    square = [[1, 1], [5, 5]]
    cases.append(Case("PFWillow: good", lambda p: willow(p, listed([square, square])), lambda found: True))
    for what, listing in {
        "empty": b"",
        "cut": b'{"images": {',
        "a list": b"[]",
        "no images": b"{}",
        "one image": json.dumps({"images": {"cup/a.png": {"kps": square}}}).encode(),
        "a key twice": b'{"images": {}, "images": {}}',
        "deep": b'{"images":' * 50_000,
        "other numbers of points": listed([square, square[:1]]),
        "ragged points": listed([square, [[1, 1], [5]]]),
        "words": listed([square, [["x", 1], [5, 5]]]),
        "infinite": listed([square, [[float("inf"), 1], [5, 5]]]),
        "none": listed([[], []]),
    }.items():
        cases.append(Case(f"PFWillow: {what}", lambda p, t=listing: willow(p, t)))

    def spair(place: Path, **change):
        for name in "ab":
            write_image(place / f"JPEGImages/cat/{name}.jpg")
        pair = {"src_imname": "a.jpg", "trg_imname": "b.jpg", "category": "cat"}
        for side in ("src", "trg"):
            pair |= {f"{side}_kps": square, f"{side}_bndbox": [0, 0, 9, 9]}
        pair |= change
        folder = place / "PairAnnotation/test"
        folder.mkdir(parents=True)
        (folder / "1.json").write_text(json.dumps({k: v for k, v in pair.items() if v != "missing"}))
        return SPair71k(place, "test", pipeline=[{"type": "LoadPair"}])[0]

    cases.append(Case("SPair71k: good", spair, lambda found: found["category"] == "cat"))
    for key in ("src_imname", "category", "src_kps", "trg_bndbox"):
        for value in ("missing", None, 3, [], "x", [[1, "x"]], [float("nan")] * 4, {"a": 1}):
            cases.append(Case(f"SPair71k: {key} {value}", lambda p, c={key: value}: spair(p, **c)))
    return cases


def packed_cases() -> list[Case]:
    """Fashion-MNIST and CIFAR, whose files hold all images."""
    rng = np.random.default_rng(0)

    def idx(array: np.ndarray) -> bytes:
        return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()

    images, labels = (
        idx(rng.integers(0, 256, (3, 28, 28)).astype(np.uint8)),
        idx(np.arange(3, dtype=np.uint8)),
    )

    def mnist(place: Path, images: bytes = images, labels: bytes = labels, suffix: str = ""):
        (place / f"t10k-images-idx3-ubyte{suffix}").write_bytes(images)
        (place / "t10k-labels-idx1-ubyte").write_bytes(labels)
        return len(FashionMNIST(place, "test"))

    cases = [
        Case("FashionMNIST: good", mnist, lambda found: found == 3),
        Case(
            "FashionMNIST: packed",
            lambda p: mnist(p, gzip.compress(images), suffix=".gz"),
            lambda found: found == 3,
        ),
    ]
    for what, data in {
        "empty": b"",
        "cut": images[:-9],
        "more": images + b"x",
        "no images": bytes((0, 0, 8, 3)) + struct.pack(">3I", 0, 28, 28),
        "a billion": bytes((0, 0, 8, 3)) + struct.pack(">3I", 10**6, 28, 28),
        "all there is": bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**31 - 1, 2**31 - 1, 2**31 - 1),
        "negative": bytes((0, 0, 8, 3)) + struct.pack(">3i", -3, 28, 28),
        "floats": bytes((0, 0, 13, 3)) + images[4:],
    }.items():
        cases.append(Case(f"FashionMNIST: {what}", lambda p, d=data: mnist(p, d), names="t10k-images"))
        packed = gzip.compress(data)
        cases.append(
            Case(
                f"FashionMNIST: {what}, packed",
                lambda p, d=packed: mnist(p, d, suffix=".gz"),
                names="t10k-images",
            )
        )
    bomb = gzip.compress(images + bytes(50_000_000))
    cases.append(
        Case("FashionMNIST: 50 MB more, packed", lambda p: mnist(p, bomb, suffix=".gz"), names="t10k-images")
    )
    for what, data in {
        "label 10": idx(np.full(3, 10, np.uint8)),
        "too few": idx(np.zeros(2, np.uint8)),
        "none": b"",
    }.items():
        cases.append(Case(f"FashionMNIST: {what}", lambda p, d=data: mnist(p, labels=d), names="t10k-labels"))
    cases += places(lambda path: FashionMNIST(path.parent, "test"), "FashionMNIST", "t10k-images-idx3-ubyte")

    record = bytes([3, *rng.integers(0, 256, 3072).tolist()])
    names = b"".join(b"class%d\n" % i for i in range(10))

    def cifar(place: Path, batch: bytes = record, names: bytes = names, archive: bool = False):
        files = {"batches.meta.txt": names, "test_batch.bin": batch}
        if not archive:
            for name, data in files.items():
                (place / name).write_bytes(data)
            return len(CIFAR(place, 10, "test"))
        with tarfile.open(place / "cifar-10-binary.tar.gz", "w:gz") as file:
            for name, data in files.items():
                info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
        return len(CIFAR(place, 10, "test"))

    for archive in (False, True):
        where = ", in an archive" if archive else ""
        cases.append(
            Case(f"CIFAR: good{where}", lambda p, a=archive: cifar(p, archive=a), lambda found: found == 1)
        )
        for what, change in {
            "cut": {"batch": record[:-1]},
            "empty": {"batch": b""},
            "label 10": {"batch": b"\x0a" + record[1:]},
            "nine names": {"names": names[7:]},
            "names of bytes": {"names": b"\xff\xfe\xfa"},
            "two and a byte": {"batch": record * 2 + b"x"},
        }.items():
            cases.append(
                Case(f"CIFAR: {what}{where}", lambda p, a=archive, c=change: cifar(p, archive=a, **c))
            )
    for what, data in {
        "no archive": b"text",
        "an empty archive": b"",
        "gzip of nothing": gzip.compress(b""),
    }.items():
        run = reading(lambda path: CIFAR(path.parent, 10, "test"), "cifar-10-binary.tar.gz", data)
        cases.append(Case(f"CIFAR: {what}", run, names="cifar-10-binary.tar.gz"))
    return cases


# ---------------------------------------------------------------------------------------------- predictors


class Still(nn.Module):
    """A matcher that finds everything where it was."""

    def match(self, source: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return source.new_zeros(len(source), 2, 8, 8), source.new_ones(len(source), 8, 8)


def predicting(which: str, run: Callable, check: Callable, seed: int) -> list[Case]:
    """What every predictor of images may be given: `run` calls it, `check` judges what it finds."""
    files = image_files(seed)
    chosen = [
        name for name in files if name.startswith(("whole", "no_end", "pages", "frames", "photo", "odd"))
    ]
    chosen += [f"cut{i}.{suffix}" for i, suffix in enumerate(("jpg", "png", "tif", "webp", "gif"))]
    chosen += [
        "flipped0.png",
        "jpeg sequential with bytes left.jpg",
        "jpeg progressive cut 1 with an end.jpg",
    ]
    chosen += ["tiff fractions.tif", "netpbm deep cut.ppm"]
    cases = []
    for name in chosen:
        data, right = files[name]
        if right is None:
            cases.append(Case(f"{which}: {name}", reading(run, name, data), names=name))
        else:
            cases.append(Case(f"{which}: {name}", reading(run, name, data), check))
    cases += [case for case in places(run, which, "a.png") if "a folder" not in case.name]
    cases.append(
        Case(
            f"{which}: an empty folder",
            lambda p, run=run: run((p / "in").mkdir() or p / "in"),
            names="in",
        )
    )
    for what, array in {
        "no pixels": np.zeros((0, 4, 3), np.uint8),
        "numbers": np.zeros((9, 9, 3)),
        "two channels": np.zeros((9, 9, 2), np.uint8),
        "one axis": np.zeros(9, np.uint8),
        "truths": np.zeros((9, 9, 3), bool),
    }.items():
        cases.append(Case(f"{which}: {what}", lambda p, run=run, a=array: run(a)))
    return cases


def predictor_cases(seed: int) -> list[Case]:
    """Each predictor on files, arrays, folders and names that do not fit."""
    classify = Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)), device="cpu")
    restore = Restorer(ToyUpscaler(), device="cpu", tile=16, overlap=4)
    match = Matcher(Still(), device="cpu", size=16)
    score = AnomalyScorer(ToyPredictor(), device="cpu", size=16, offsets=range(9))
    target = np.zeros(SHAPE, np.uint8)
    runs: dict[str, tuple[Callable, Callable]] = {
        "Classifier": (classify, lambda found: len(found.probabilities) == 4),
        "Restorer": (restore, lambda found: found.pixels.shape[2] in (1, 3)),
        "Matcher": (lambda path: match(path, target), lambda found: found.warped.shape == SHAPE),
    }
    cases = [case for name, (run, check) in runs.items() for case in predicting(name, run, check, seed)]

    def kept(place: Path, name: str, **options) -> bytes:
        image = Image.new(options.pop("mode", "RGB"), (8, 8))
        image.save(place / "in.png", **options)
        restore(place / "in.png", place / name)
        return read_image(place / name)

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for suffix in ("png", "tif", "jpg", "webp"):
        run = lambda p, s=suffix: kept(p, f"out.{s}", icc_profile=profile)  # noqa: E731
        cases.append(
            Case(f"Restorer: a profile to .{suffix}", run, lambda found: found.icc_profile == profile)
        )
    for mode, suffix in (
        ("I;16", "jpg"),
        ("I;16", "webp"),
        ("I;16", "bmp"),
        ("RGBA", "jpg"),
        ("RGBA", "bmp"),
        ("RGB", "gif"),
        ("RGB", "xyz"),
    ):
        run = lambda p, m=mode, s=suffix: kept(p, f"out.{s}", mode=m)  # noqa: E731
        cases.append(Case(f"Restorer: {mode} to .{suffix}", run, names=f"out.{suffix}"))

    def scored(path: Path):
        return score(path)

    def clip(place: Path, change: Callable[[Path], object] = lambda folder: None, count: int = 12):
        for i in range(count):
            write_image(place / "v" / f"{i:03}.png", 20 * i)
        change(place / "v")
        return score(place / "v")

    fine = lambda found: len(found.score) == 12  # noqa: E731
    cases.append(Case("AnomalyScorer: good", clip, fine))
    cases.append(Case("AnomalyScorer: clutter", lambda p: clip(p, clutter), fine))
    for what, change in {
        "a gap": lambda f: (f / "005.png").unlink(),
        "two of one frame": lambda f: write_image(f / "005.jpg"),
        "a damaged frame": lambda f: (f / "005.png").write_bytes(b"\x89PNG"),
        "a frame of another size": lambda f: write_image(f / "005.png", side=(9, 9)),
        "a FIFO": lambda f: ((f / "005.png").unlink(), os.mkfifo(f / "005.png")),
        "two pages": lambda f: Image.new("L", (24, 20)).save(
            f / "012.tif", save_all=True, append_images=[Image.new("L", (24, 20))]
        ),
    }.items():
        cases.append(Case(f"AnomalyScorer: {what}", lambda p, c=change: clip(p, c)))
    cases.append(Case("AnomalyScorer: too short", lambda p: clip(p, count=5), names="v"))
    cases.append(Case("AnomalyScorer: text", reading(scored, "a.mp4", b"no video"), names="a.mp4"))
    return cases + [case for case in places(scored, "AnomalyScorer", "a.mp4") if "a folder" not in case.name]

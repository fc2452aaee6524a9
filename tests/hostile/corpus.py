"""Damaged, hostile and mistaken files, made by a seed: what is to be refused, and what has a right answer."""

import io
import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import torch

from pointsuite.datasets import Clouds, FileInfo, PointCloudDataset, read_clouds, write_clouds
from pointsuite.datasets.layout import encode_normals, encode_points
from pointsuite.datasets.pyg import from_pyg
from pointsuite.io import read_mesh, read_points
from tests.tools.load import load_tool

from .harness import Case, Refusal

COUNT = 24  # points of a cloud
XYZ, NORMAL, COLOR = ("x", "y", "z"), ("nx", "ny", "nz"), ("red", "green", "blue")
SPELLINGS = {
    "points": [
        XYZ,
        ("X", "Y", "Z"),
        ("px", "py", "pz"),
        ("pos_x", "pos_y", "pos_z"),
        ("Points:0", "Points:1", "Points:2"),
    ],
    "normals": [
        NORMAL,
        ("Nx", "Ny", "Nz"),
        ("normal_x", "normal_y", "normal_z"),
        ("NX", "NY", "NZ"),
        ("scalar_Nx", "scalar_Ny", "scalar_Nz"),
    ],
    "colors": [COLOR, ("r", "g", "b"), ("R", "G", "B"), ("diffuse_red", "diffuse_green", "diffuse_blue")],
    "part": [("part",), ("label",), ("scalar_Label",), ("class",), ("Classification",)],
}
OTHERS = ("intensity", "gps_time", "id", "curvature", "alpha")
TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
}


class Cloud(SimpleNamespace):
    """points float32 (N, 3), normals of length 1, colors uint8, part."""


def make_cloud(rng: np.random.Generator, count: int = COUNT) -> Cloud:
    normals = rng.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Cloud(
        points=(rng.uniform(0.5, 3) * normals + rng.uniform(-2, 2, 3)).astype(np.float32),
        normals=normals.astype(np.float32),
        colors=rng.integers(0, 256, (count, 3)).astype(np.uint8),
        part=rng.integers(0, 5, count).astype(np.uint8),
    )


def is_cloud(cloud: Cloud, *names: str, rows=slice(None), atol: float = 2e-6) -> Callable:
    """A check: the points and the other arrays called are those of the cloud, and there are no others."""

    def check(found) -> bool:
        good = np.allclose(found.points + found.offset, cloud.points[rows], rtol=0, atol=atol)
        for name, array in zip(("normals", "colors", "part"), found[1:], strict=True):
            if name not in names:
                good = good and array is None
                continue
            wanted = getattr(cloud, name)[rows] / (255 if name == "colors" else 1)
            good = good and array is not None and np.allclose(array, wanted, rtol=0, atol=2e-6)
        return good

    return check


def is_sane(found) -> bool:
    """Numbers in their ranges: all that can be asked where a file cannot tell the fault."""
    good = np.isfinite(found.points).all() and found.points.dtype == np.float32 and len(found.points) > 0
    if found.normals is not None:
        length = np.linalg.norm(found.normals, axis=1)
        good = good and ((abs(length - 1) < 1e-4) | (length == 0)).all()
    if found.colors is not None:
        good = good and ((found.colors >= 0) & (found.colors <= 1)).all()
    return bool(good)


# ------------------------------------------------------------------------------------------------- writers


def columns_of(
    cloud: Cloud, quantities: Sequence[str] = ("points", "normals", "colors")
) -> dict[str, np.ndarray]:
    names = {"points": XYZ, "normals": NORMAL, "colors": COLOR, "part": ("part",)}
    columns = {}
    for quantity in quantities:
        array = getattr(cloud, quantity).reshape(len(cloud.points), -1)
        columns |= dict(zip(names[quantity], array.T, strict=True))
    return columns


def ply(
    columns: dict, kind: str = "ascii", types: dict | None = None, faces: Sequence = (), extra: str = ""
) -> bytes:
    names = {np.dtype(code): name for name, code in TYPES.items()}
    types = {name: (types or {}).get(name) or names[array.dtype] for name, array in columns.items()}
    count = len(next(iter(columns.values())))
    header = f"ply\nformat {kind} 1.0\ncomment made by hand\n{extra}element vertex {count}\n"
    header += "".join(f"property {types[name]} {name}\n" for name in columns)
    if len(faces):
        header += f"element face {len(faces)}\nproperty list uchar int vertex_indices\n"
    header += "end_header\n"
    if kind == "ascii":
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        lines = [" ".join(f"{x:.9g}" for x in row) for row in rows]
        lines += [" ".join(map(str, [len(face), *face])) for face in faces]
        return header.encode() + "".join(line + "\n" for line in lines).encode()
    order = ">" if "big" in kind else "<"
    row = np.dtype([(name, order + TYPES[types[name]]) for name in columns])
    table = np.rec.fromarrays([column.astype(row[name]) for name, column in columns.items()], dtype=row)
    data = b"".join(bytes([len(face)]) + np.array(face, order + "i4").tobytes() for face in faces)
    return header.encode() + table.tobytes() + data


def pcd(columns: dict, kind: str = "ascii", count: int | None = None, compress: bool = False) -> bytes:
    types = [array.dtype for array in columns.values()]
    count = len(next(iter(columns.values()))) if count is None else count
    letters = {"f": "F", "u": "U", "i": "I"}
    lines = {
        "SIZE": [str(t.itemsize) for t in types],
        "TYPE": [letters[t.kind] for t in types],
        "COUNT": ["1"] * len(types),
    }
    header = (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS {' '.join(columns)}\n"
        + "".join(f"{key} {' '.join(values)}\n" for key, values in lines.items())
        + f"WIDTH {count}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA {kind}\n"
    )
    if kind == "ascii":
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return (header + "".join(" ".join(f"{x:.9g}" for x in row) + "\n" for row in rows)).encode()
    if kind == "binary":
        return header.encode() + np.rec.fromarrays(list(columns.values())).tobytes()
    raw = b"".join(column.tobytes() for column in columns.values())
    packed = raw
    if compress:  # LZF of literals only
        packed = b"".join(bytes([len(raw[i : i + 32]) - 1]) + raw[i : i + 32] for i in range(0, len(raw), 32))
    return header.encode() + struct.pack("<II", len(packed), len(raw)) + packed


def text(table: np.ndarray, names: Sequence[str] = (), sign: str = " ", lead: str = "") -> bytes:
    head = lead + sign.join(names) + "\n" if len(names) else ""
    return (head + "".join(sign.join(f"{x:.9g}" for x in row) + "\n" for row in table)).encode()


def off(
    points: np.ndarray, faces: Sequence = (), keyword: str = "OFF", more: np.ndarray | None = None
) -> bytes:
    table = points if more is None else np.hstack([points, more])
    lines = [keyword, f"{len(points)} {len(faces)} 0"]
    lines += [" ".join(f"{x:.9g}" for x in row) for row in table]
    lines += [" ".join(map(str, [len(face), *face])) for face in faces]
    return "".join(line + "\n" for line in lines).encode()


def obj(points: np.ndarray, faces: Sequence = (), normals: np.ndarray | None = None) -> bytes:
    lines = ["v " + " ".join(f"{x:.9g}" for x in row) for row in points]
    lines += ["vn " + " ".join(f"{x:.9g}" for x in row) for row in (() if normals is None else normals)]
    lines += ["f " + " ".join(str(i + 1) for i in face) for face in faces]
    return "".join(line + "\n" for line in lines).encode()


def saved(save, *args, **kwargs) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *args, **kwargs)
    return buffer.getvalue()


def h5(change: Callable[[h5py.File], None] | None = None, seed: int = 0) -> Callable[[Path], Path]:
    """A writer of a data set with the splits train and test, which `change` then damages."""

    def write(folder: Path) -> Path:
        rng = np.random.default_rng(seed)
        clouds = [make_cloud(rng) for _ in range(4)]
        points = np.stack([c.points / 9 for c in clouds])
        normals = np.stack([c.normals for c in clouds])
        stored = Clouds(encode_points(points), encode_normals(normals), np.array([0, 1, 0, 1]))
        path = folder / "set.h5"
        write_clouds(path, {"train": stored, "test": stored}, FileInfo(("box", "ball"), licence="CC0-1.0"))
        if change is not None:
            with h5py.File(path, "r+") as file:
                change(file)
        return path

    return write


def whole_files(cloud: Cloud) -> dict[str, bytes]:
    """A good file of each format and kind, all of one cloud."""
    table = np.hstack([cloud.points, cloud.normals, cloud.colors])
    columns = columns_of(cloud)
    floats = columns_of(cloud, ("points", "normals"))
    return {
        "ascii.ply": ply(columns),
        "little.ply": ply(columns, "binary_little_endian"),
        "big.ply": ply(columns, "binary_big_endian"),
        "ascii.pcd": pcd(floats),
        "binary.pcd": pcd(floats, "binary"),
        "packed.pcd": pcd(floats, "binary_compressed", compress=True),
        "plain.pcd": pcd(floats, "binary_compressed"),
        "named.csv": text(table, (*XYZ, *NORMAL, *COLOR), ","),
        "named.txt": text(table, (*XYZ, *NORMAL, *COLOR)),
        "bare.xyz": text(table[:, :6]),
        "cloud.off": off(cloud.points),
        "cloud.obj": obj(cloud.points),
        "table.npy": saved(np.save, table[:, :6]),
        "arrays.npz": saved(np.savez, points=cloud.points, normals=cloud.normals, colors=cloud.colors),
        "small.npz": saved(np.savez_compressed, xyz=cloud.points, normals=cloud.normals),
    }


COUNTED = (
    "ascii.ply",
    "little.ply",
    "big.ply",
    "ascii.pcd",
    "binary.pcd",
    "packed.pcd",
    "plain.pcd",
    "cloud.off",
    "table.npy",
    "arrays.npz",
    "small.npz",
)  # whose length follows from their heads
TEXTS = ("named.csv", "named.txt", "bare.xyz", "cloud.off", "cloud.obj", "ascii.pcd", "ascii.ply")


def of_bytes(name: str, file: str, data: bytes, check=None, may_refuse=False, **options) -> Case:
    """A file of these bytes, which `read_points` reads."""

    def run(folder: Path):
        (folder / file).write_bytes(data)
        return read_points(folder / file, **{"warn": False, **options})

    return Case(f"{name}: {file}", run, check, may_refuse, file)


# ----------------------------------------------------------------------------------------- kinds of damage


def damaged(rng: np.random.Generator, cloud: Cloud) -> list[Case]:
    """Cuts, flips, leftovers and wrong contents of good files."""
    files, cases = whole_files(cloud), []
    contents = {
        "named": ("normals", "colors"),
        "ascii.ply": ("normals", "colors"),
        "little": ("normals", "colors"),
        "big": ("normals", "colors"),
        "arrays": ("normals", "colors"),
        "cloud": (),
    }
    for file, data in files.items():
        names = next((n for key, n in contents.items() if file.startswith(key)), ("normals",))
        cases.append(of_bytes("good", file, data, is_cloud(cloud, *names)))
        if file in COUNTED:
            body = len(data.rstrip()) - (
                len(data.split()[-1]) if file in TEXTS else 1
            )  # "12" cut to "1" shows in no format
            for cut in sorted({*rng.integers(1, body, 5).tolist(), body}):
                cases.append(of_bytes(f"cut at {cut}", file, data[:cut]))
        for at in rng.integers(0, len(data), 6):
            flipped = bytearray(data)
            flipped[at] ^= 1 << int(rng.integers(8))
            cases.append(of_bytes(f"bit flip at {at}", file, bytes(flipped), is_sane, may_refuse=True))
        cases.append(of_bytes("empty", file, b""))
        cases.append(of_bytes("zeros", file, bytes(200)))
        cases.append(of_bytes("all bytes", file, bytes(range(256)) * 4))
        cases.append(of_bytes("a picture", file, b"\x89PNG\r\n\x1a\n" + rng.bytes(300)))
        cases.append(of_bytes("words", file, b"these are words\nand no numbers\n"))
        if file == "packed.pcd" or file == "plain.pcd":
            cases.append(of_bytes("bytes behind", file, data + b"more", is_cloud(cloud, "normals")))
        elif not file.endswith("npz"):
            cases.append(of_bytes("garbage behind", file, data + b"garbage 1_0\n"))
        others = [other for other in files if other.rpartition(".")[2] != file.rpartition(".")[2]]
        other = files[others[rng.integers(len(others))]]
        cases.append(of_bytes("another format", file, other, is_sane, may_refuse=True))
    for name, file in (
        ("truncated row", "named.csv"),
        ("truncated row", "named.txt"),
        ("truncated row", "bare.xyz"),
    ):
        data = files[file].rstrip()
        cases.append(of_bytes(name, file, data[: data.rindex(b"," if b"," in data else b" ")]))
    return cases


def header_faults(cloud: Cloud) -> list[Case]:
    """Counts, types and lines of headers that are not as they must be."""
    files, cases = whole_files(cloud), []
    count = str(COUNT).encode()
    wrong = [
        b"0",
        b"-1",
        b"1.5",
        b"x",
        b"",
        b"23",
        b"25",
        b"2147483648",
        b"100000000",
        b"9" * 18,
        b"9" * 5000,
        b"1_0",
        b"\xb2",
    ]
    for file, spot in (
        ("ascii.ply", b"element vertex %s\n"),
        ("little.ply", b"element vertex %s\n"),
        ("big.ply", b"element vertex %s\n"),
        ("ascii.pcd", b"POINTS %s\n"),
        ("binary.pcd", b"POINTS %s\n"),
        ("packed.pcd", b"WIDTH %s\n"),
        ("plain.pcd", b"POINTS %s\n"),
        ("cloud.off", b"OFF\n%s 0 0\n"),
    ):
        for value in wrong:
            data = files[file].replace(spot % count, spot % value)
            assert data != files[file]
            cases.append(of_bytes(f"count {value[:9].decode('latin-1')!r} of {len(value)}", file, data))
    for file in ("binary.pcd", "packed.pcd", "plain.pcd", "ascii.pcd"):
        for value in (b"100000000", b"999999999"):
            data = (
                files[file]
                .replace(b"POINTS " + count, b"POINTS " + value)
                .replace(b"WIDTH " + count, b"WIDTH " + value)
            )
            cases.append(of_bytes(f"both counts {value.decode()}", file, data))
        for old, new in (
            (b"COUNT 1 1", b"COUNT 1 999999999"),
            (b"COUNT 1 1", b"COUNT 1 0"),
            (b"SIZE 4 4", b"SIZE 4 3"),
            (b"TYPE F F", b"TYPE F Q"),
            (b"FIELDS x y z", b"FIELDS x x z"),
            (b"FIELDS x y z", b"FIELDS x y w"),
            (b"nx ny nz", b"nx ny qz"),
            (b"VERSION", b"VERSIAN"),
            (b"DATA", b"FIELDS x y z nx ny nz\nDATA"),
        ):
            cases.append(
                of_bytes(f"{old.decode()} to {new.decode()[:22]!r}", file, files[file].replace(old, new))
            )
    for file in ("ascii.ply", "little.ply", "big.ply"):
        data = files[file]
        for old, new in (
            (b"comment made by hand", data.split(b"\n")[1]),
            (b"end_header", b"element vertex 0\nproperty float x\nend_header"),
            (b"property float y\n", b"property float x\n"),
            (b"property float z\n", b"property list uchar float z\n"),
            (b"property float z\n", b"property quad z\n"),
            (b"property float nz\n", b"property float nq\n"),
            (b"property uchar blue\n", b"property uchar blu\n"),
            (b"format", b"fromat"),
            (b" 1.0", b" 2.0"),
            (b"ply\n", b"plx\n"),
            (b"end_header", b"end_haeder"),
            (b"end_header", b"element junk 99999999\nproperty list uchar int x\nend_header"),
            (b"end_header", b"element junk 9999999999\nproperty double x\nend_header"),
            (b"end_header", b"element face 1\nproperty list uint uchar vertex_indices\nend_header"),
        ):
            changed = data.replace(old, new, 1)
            assert changed != data
            cases.append(of_bytes(f"{old.decode()[:18]} to {new.decode()[:40]!r}", file, changed))
    cases.append(
        of_bytes(
            "beyond its type",
            "ascii.ply",
            ply({**columns_of(cloud), "red": np.full(COUNT, 300.0)}, types={"red": "uchar"}),
        )
    )
    cases.append(
        of_bytes(
            "a fraction",
            "ascii.ply",
            ply({**columns_of(cloud), "red": np.full(COUNT, 0.5)}, types={"red": "uchar"}),
        )
    )
    for name, data in (
        ("one digit more", b"OFF\n1 0 0\n1_0 0 0\n"),
        ("5000 digits", b"OFF\n1 0 0\n0 0 " + b"9" * 5000 + b"\n"),
        ("face beyond", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 " + b"9" * 5000),
        ("4OFF", b"4OFF\n1 0 0\n0 0 0 1\n"),
        ("OFFSET", b"OFFSET\n1 0 0\n0 0 0\n"),
        ("face garbage", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2 red\n"),
        ("BINARY", b"OFF BINARY\n" + bytes(40)),
        ("fourth count", b"OFF\n1 0 0 7\n0 0 0\n"),
        ("no faces", b"OFF\n3 2 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"),
    ):
        cases.append(of_bytes(name, "a.off", data))
    square = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    for name, data in (
        ("two corners", square + b"f 1 2\n"),
        ("one corner", square + b"f 1\n"),
        ("garbage", square + b"f 1 2 3\nrubbish 1 2\n"),
        ("1_0", square + b"f 1 2 1_0\n"),
        ("vertex 1_0", square + b"v 1_0 0 0\n"),
        ("vertex word", square + b"v 1 1 1 word\n"),
        ("index 0", square + b"f 0 1 2\n"),
        ("index 5", square + b"f 1 2 5\n"),
        ("index -5", square + b"f -5 2 1\n"),
        ("5000 digits", square + b"f 1 2 " + b"9" * 5000),
        ("corner a/b", square + b"f 1/a 2/b 3/c\n"),
        ("half coloured", square + b"v 0 0 0 1 0 0\n"),
        ("normal of 2", square + b"vn 1 0\n"),
        ("five numbers", square + b"v 1 2 3 4 5\n"),
    ):
        cases.append(of_bytes(name, "a.obj", data))
    return cases


def text_faults(cloud: Cloud) -> list[Case]:
    table = np.hstack([cloud.points, cloud.normals])
    rows = text(table)
    cases = []
    for file in ("a.txt", "a.xyz", "a.csv"):
        sign = "," if file == "a.csv" else " "
        body = text(cloud.points, (), sign)
        named = text(cloud.points, XYZ, sign)
        more = text(np.hstack([cloud.points, cloud.part[:, None]]), (), sign)
        for name, data in (
            ("a garbled first row", b"a.bc d,e fgh\n" + body),
            ("a row too short", body + b"1 2\n"),
            ("four bare columns", more),
            ("words within", body + b"one two three\n"),
            ("names twice", text(table, ("x", "y", "z", "x", "y", "z"), sign)),
            ("a name too few", text(table, (*XYZ, "nx", "ny"), sign)),
            ("half a normal", text(table[:, :5], (*XYZ, "nx", "ny"), sign)),
            ("5000 digits", body + sign.join(["9" * 5000] * 3).encode()),
            ("decimal commas", b"1,5;2,5;3,5\n2,5;2,5;3,5\n"),
            ("1_0", body + sign.join(["1_0", "2", "3"]).encode()),
            ("a zero byte", body[:40] + b"\0" + body[40:]),
            ("names alone", sign.join(XYZ).encode()),
            ("no x", text(cloud.points, ("a", "b", "c"), sign)),
            ("a header within", named + named),
            ("hexadecimal", body + sign.join(["0x10", "2", "3"]).encode()),
            ("unit vectors or colours", text(np.hstack([cloud.points, np.eye(3)[cloud.part % 3]]), (), sign)),
            ("columns of no kind", text(np.hstack([cloud.points, 1000 + cloud.points]), (), sign)),
            ("half a UTF-16", ("x y z\n1 2 3\n").encode("utf-16")[:-1]),
        ):
            cases.append(of_bytes(name, file, data))
        for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "latin-1"):
            data = named.decode().encode(encoding)
            data = b"\xff\xfe" + data if encoding == "utf-16-le" else data
            data = b"# \xc5sa\n" + data if encoding == "latin-1" else data
            cases.append(of_bytes(f"in {encoding}", file, data, is_cloud(cloud)))
        cases.append(of_bytes("Mac's line ends", file, named.replace(b"\n", b"\r"), is_cloud(cloud)))
        cases.append(of_bytes("Windows' line ends", file, named.replace(b"\n", b"\r\n"), is_cloud(cloud)))
        cases.append(of_bytes("their number first", file, f"{COUNT}\n".encode() + body, is_cloud(cloud)))
        cases.append(of_bytes("told", file, more, is_cloud(cloud, "part"), columns="x y z part"))
        cases.append(of_bytes("told to pass over", file, more, is_cloud(cloud), columns="x y z _"))
        cases.append(of_bytes("told too few", file, more, columns="x y z"))
    cases.append(
        of_bytes(
            "told normals",
            "a.npy",
            saved(np.save, table),
            is_cloud(cloud, "normals"),
            columns="x y z nx ny nz",
        )
    )
    cases.append(of_bytes("normals by their values", "b.txt", rows, is_cloud(cloud, "normals")))
    return cases


def array_faults(cloud: Cloud) -> list[Case]:
    """npy and npz."""
    cases = []
    good = saved(np.save, cloud.points)
    start = good.index(b"\n") + 1

    def head(shape: str, kind: str = "<f4", data: bytes = good[start:]) -> bytes:
        text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
        text = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data

    for name, data in (
        ("10^9 rows", head("(1000000000, 3)")),
        ("10^18 rows", head("(1000000000000000000, 3)")),
        ("negative", head("(-24, 3)")),
        ("5000 digits", head(f"({'9' * 5000}, 3)")),
        ("objects", saved(np.save, np.array([[1, None, 3]], object), allow_pickle=True)),
        ("complex", saved(np.save, cloud.points.astype(complex))),
        ("text", saved(np.save, np.full((4, 3), "a"))),
        ("bool", saved(np.save, cloud.points > 0)),
        ("scalar", saved(np.save, np.float32(3))),
        ("(N, 4)", saved(np.save, np.ones((9, 4)))),
        ("no rows", saved(np.save, np.ones((0, 3)))),
        ("dates", saved(np.save, np.zeros((4, 3), "M8[s]"))),
        ("empty type", head("(24, 3)", "|V0", b"")),
        ("deep header", head("(" * 3000 + ")" * 3000)),
        ("code in the header", head("__import__('os').getpid()")),
        ("version 9", good.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x09")),
    ):
        cases.append(of_bytes(name, "a.npy", data))
        bundle = io.BytesIO()
        with zipfile.ZipFile(bundle, "w") as archive:
            archive.writestr("points.npy", data)
        cases.append(of_bytes(name, "a.npz", bundle.getvalue()))
    fields = np.rec.fromarrays(
        [*cloud.points.T, *cloud.normals.T, cloud.part], names="X,Y,Z,normal_x,normal_y,normal_z,label"
    )
    cases.append(
        of_bytes(
            "named fields", "b.npy", saved(np.save, np.array(fields)), is_cloud(cloud, "normals", "part")
        )
    )
    for big in (np.zeros((50_000_000, 3), np.float32), np.zeros((10_000_000, 3), np.float64)):
        bomb = io.BytesIO()
        with (
            zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("points.npy", "w") as file,
        ):
            np.lib.format.write_array_header_1_0(
                file, {"descr": big.dtype.str, "fortran_order": False, "shape": big.shape}
            )
            for _ in range(big.nbytes // 10_000_000):
                file.write(bytes(10_000_000))
        cases.append(of_bytes(f"{big.nbytes >> 20} MB of zeros", "bomb.npz", bomb.getvalue()))
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of the name that comes twice
        archive.writestr("points.npy", good)
        archive.writestr("points.npy", saved(np.save, cloud.points + 1))
    cases.append(of_bytes("a name twice", "a.npz", twice.getvalue()))
    for name, arrays in (
        ("no points", {"cloud": cloud.points}),
        ("normals too few", {"points": cloud.points, "normals": cloud.normals[1:]}),
        ("parts of fractions", {"points": cloud.points, "part": cloud.part + 0.5}),
        ("colours of 300", {"points": cloud.points, "colors": np.full((COUNT, 3), 300)}),
        ("negative colours", {"points": cloud.points, "colors": np.full((COUNT, 3), -1.0)}),
        ("nan normals", {"points": cloud.points, "normals": cloud.normals * np.nan}),
        ("parts too few", {"points": cloud.points, "part": cloud.part[1:]}),
        ("a flat array", {"points": cloud.points.ravel()}),
    ):
        cases.append(of_bytes(name, "b.npz", saved(np.savez, **arrays)))
    return cases


def numbers(rng: np.random.Generator) -> list[Case]:
    """NaN, infinity, offsets, scales and colours in every format that can hold them."""
    cases = []
    for bad, label in ((np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e300, "1e300")):
        cloud = make_cloud(rng)
        points = cloud.points.astype(np.float64)
        points[5, 1] = bad
        kept = np.arange(COUNT) != 5
        faulty = Cloud(**{**vars(cloud), "points": points if np.isfinite(bad) else points.astype(np.float32)})
        files = (
            whole_files(faulty)
            if not np.isfinite(bad)
            else {"a.npy": saved(np.save, points), "a.txt": text(points)}
        )
        for file, data in files.items():
            cases.append(of_bytes(f"{label} among the points", file, data))
            if not np.isfinite(bad):
                names = tuple(
                    n
                    for n in ("normals", "colors")
                    if n == "normals" or "named" in file or ".ply" in file or "arrays" in file
                )
                names = () if file.startswith("cloud") else names
                cases.append(
                    of_bytes(
                        f"{label} dropped", file, data, is_cloud(cloud, *names, rows=kept), drop_nan=True
                    )
                )
    for i in range(12):
        cloud = make_cloud(rng)
        size, step = 10.0 ** rng.uniform(0, 3), 10.0 ** rng.uniform(4, 7, 3)
        cloud.points = cloud.points.astype(np.float64) * size + step
        atol = 1e-3 if size > 30 else 1e-4
        table = np.hstack([cloud.points, cloud.normals])
        files = {
            "a.npy": saved(np.save, table),
            "a.npz": saved(np.savez, points=cloud.points, normals=cloud.normals),
            "a.ply": ply(columns_of(cloud, ("points", "normals")), "binary_little_endian"),
            "a.pcd": pcd(columns_of(cloud, ("points", "normals")), "binary"),
            "a.csv": "\n".join(
                ["x,y,z,nx,ny,nz", *(",".join(f"{x:.14g}" for x in row) for row in table)]
            ).encode(),
        }
        for file, data in files.items():
            cases.append(
                of_bytes(f"far from the origin {i}", file, data, is_cloud(cloud, "normals", atol=atol))
            )
    for factor in (1e19, 1e25, 1e-22, 1e-30):
        points = make_cloud(rng).points.astype(np.float64) * factor
        for file, data in {
            "a.npy": saved(np.save, points),
            "a.txt": text(points),
            "a.off": off(points),
        }.items():
            cases.append(of_bytes(f"scale {factor:g}", file, data))
    for kind in TYPES:
        cloud = make_cloud(rng)
        real = kind in ("float", "double")
        colors = {
            name: (column / 255 if real else np.minimum(column, 127) if kind == "char" else column).astype(
                TYPES[kind]
            )
            for name, column in columns_of(cloud, ("colors",)).items()
        }
        if kind == "char":
            cloud.colors = np.minimum(cloud.colors, 127) * (255 / 127)
        for order in ("ascii", "binary_little_endian", "binary_big_endian"):
            data = ply({**columns_of(cloud, ("points",)), **colors}, order)
            cases.append(
                of_bytes(f"colours of type {kind}, {order}", "a.ply", data, is_cloud(cloud, "colors"))
            )
    wide = make_cloud(rng)
    high = {name: column.astype(np.uint16) * 257 for name, column in columns_of(wide, ("colors",)).items()}
    for kind in ("u2", "i4", "u4", "f4", "f8"):
        data = ply(
            {**columns_of(wide, ("points",)), **{name: column.astype(kind) for name, column in high.items()}}
        )
        cases.append(of_bytes(f"16 bits of brightness as {kind}", "a.ply", data, is_cloud(wide, "colors")))
    return cases


def spelled(rng: np.random.Generator, count: int = 70) -> list[Case]:
    """Columns in any order, under any of their names, beside others that are left out."""
    cases = []
    for i in range(count):
        cloud = make_cloud(rng)
        columns, names = {}, [q for q in ("normals", "colors", "part") if rng.random() < 0.6]
        for quantity in ("points", *names):
            group = SPELLINGS[quantity][rng.integers(len(SPELLINGS[quantity]))]
            columns |= dict(zip(group, getattr(cloud, quantity).reshape(COUNT, -1).T, strict=True))
        for other in OTHERS:
            if rng.random() < 0.3:
                columns[other] = rng.uniform(0, 99, COUNT).astype(np.float32)
        order = list(rng.permutation(list(columns)))
        columns = {name: columns[name] for name in order}
        check = is_cloud(cloud, *names)
        table = np.stack(list(columns.values()), axis=1)
        sign, lead = [" ", ",", ";", "\t", ", "][rng.integers(5)], ["", "# ", "//", "#"][rng.integers(4)]
        cases.append(
            of_bytes(
                f"names {i} after {lead!r} with {sign!r}", "a.csv", text(table, order, sign, lead), check
            )
        )
        kind = ("ascii", "binary_little_endian", "binary_big_endian")[rng.integers(3)]
        if not any(":" in name for name in order):
            cases.append(of_bytes(f"names {i}, {kind}", "a.ply", ply(columns, kind), check))
        kind = ("ascii", "binary", "binary_compressed")[rng.integers(3)]
        data = pcd(columns, kind, compress=bool(rng.random() < 0.5))
        cases.append(of_bytes(f"names {i}, {kind}", "a.pcd", data, check))
        old = data.replace(b"FIELDS", b"COLUMNS")
        if i % 5 == 0:
            cases.append(of_bytes(f"names {i}, {kind}, before 0.7", "a.pcd", old, check))
    return cases


# -------------------------------------------------------------------------------------------------- meshes

SHAPES = {
    "dart": ([(4, 1), (1, 1), (1, 4), (0, 0)], 4.0 - 1.0),
    "L": ([(0, 0), (3, 0), (3, 1), (1, 1), (1, 3), (0, 3)], 5.0),
    "U": ([(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)], 7.0),
    "comb": (
        [
            (0, 0),
            (7, 0),
            (7, 3),
            (6, 3),
            (6, 1),
            (5, 1),
            (5, 3),
            (4, 3),
            (4, 1),
            (3, 1),
            (3, 3),
            (2, 3),
            (2, 1),
            (1, 1),
            (1, 3),
            (0, 3),
        ],
        15.0,
    ),
    "spiral": (
        [(0, 0), (5, 0), (5, 5), (1, 5), (1, 2), (3, 2), (3, 3), (2, 3), (2, 4), (4, 4), (4, 1), (0, 1)],
        None,
    ),
    "star": (
        [(np.cos(a) * r, np.sin(a) * r) for a, r in zip(np.arange(10) * np.pi / 5, [3, 1] * 5, strict=True)],
        None,
    ),
    "square": ([(0, 0), (2, 0), (2, 2), (0, 2)], 4.0),
}


def shoelace(outline) -> float:
    x, y = np.array(outline, float).T
    return 0.5 * float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())


def inside(outline, points: np.ndarray) -> np.ndarray:
    """Which of the points (N, 2) lie in the polygon, within a hair."""
    from matplotlib.path import Path as Outline

    return Outline(outline).contains_points(points, radius=1e-3) | Outline(outline).contains_points(
        points, radius=-1e-3
    )


def meshes(rng: np.random.Generator) -> list[Case]:
    """Concave polygons in any plane, from any corner, in every format: points and area are the polygon's."""
    cases = []
    for name, (outline, area) in SHAPES.items():
        assert area is None or abs(abs(shoelace(outline)) - area) < 1e-9
        outline = outline if shoelace(outline) > 0 else outline[::-1]
        for first in range(0, len(outline), max(1, len(outline) // 4)):
            turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
            flat = np.hstack([outline, np.zeros((len(outline), 1))])
            vertices = flat @ turn.T
            face = np.roll(np.arange(len(outline)), -first).tolist()
            wanted = abs(shoelace(outline))

            def check(found, turn=turn, outline=outline) -> bool:
                back = found.points.astype(np.float64) @ turn
                one = np.allclose(
                    found.normals @ turn[:, 2], np.sign(found.normals[0] @ turn[:, 2]), atol=1e-4
                )
                return one and bool(inside(outline, back[:, :2]).all()) and bool(abs(back[:, 2]).max() < 1e-4)

            def check_area(mesh, wanted=wanted) -> bool:
                a, b, c = mesh.vertices[mesh.faces].swapaxes(0, 1)
                return abs(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 - wanted) < 1e-6 * wanted

            xyz = dict(zip(XYZ, vertices.T, strict=True))
            files = {
                "a.off": off(vertices, [face]),
                "a.obj": obj(vertices, [face]),
                "ascii.ply": ply(xyz, faces=[face]),
                "binary.ply": ply(xyz, "binary_little_endian", faces=[face]),
            }
            for file, data in files.items():
                cases.append(of_bytes(f"{name} from corner {first}", file, data, check))

            def measure(folder, data=files["binary.ply"]):
                (folder / "a.ply").write_bytes(data)
                return read_mesh(folder / "a.ply")

            cases.append(Case(f"area of {name} from corner {first}", measure, check_area, names="a.ply"))
    grid = np.array([(x, y, 0) for x in range(6) for y in (0, 1)], float)
    for kind, body in (
        ("tristrips", [*range(12)]),
        ("trifans", [0, 2, 3, 1]),
        ("tristrips", [*range(6), -1, *range(4, 12)]),
    ):
        head = ply(dict(zip(XYZ, grid.T, strict=True))).replace(
            b"end_header\n",
            b"element %s 1\nproperty list int int vertex_indices\nend_header\n" % kind.encode(),
        )
        data = head + " ".join(map(str, [len(body), *body])).encode() + b"\n"
        wide = 5 if kind == "tristrips" else 1

        def check(found, wide=wide) -> bool:
            x, y, z = found.points.T
            up = np.allclose(found.normals, found.normals[0])
            return (
                len(x) == 500
                and up
                and (z == 0).all()
                and wide - 0.2 < x.max() <= wide
                and (abs(y - 0.5) <= 0.5).all()
            )

        cases.append(of_bytes(f"{kind} of {len(body)}", "a.ply", data, check, num_points=500))
    cloud = make_cloud(rng)
    cases.append(
        of_bytes(
            "normals of a cloud",
            "a.obj",
            obj(cloud.points, normals=cloud.normals),
            is_cloud(cloud, "normals"),
        )
    )
    cases.append(
        of_bytes("normals", "n.off", off(cloud.points, (), "NOFF", cloud.normals), is_cloud(cloud, "normals"))
    )
    cases.append(
        of_bytes("colours", "c.off", off(cloud.points, (), "COFF", cloud.colors), is_cloud(cloud, "colors"))
    )
    alpha = np.hstack([cloud.colors, np.full((COUNT, 1), 255)])
    cases.append(
        of_bytes(
            "colours with alpha", "c.off", off(cloud.points, (), "COFF", alpha), is_cloud(cloud, "colors")
        )
    )
    both = np.hstack([cloud.normals, cloud.colors])
    cases.append(
        of_bytes("both", "nc.off", off(cloud.points, (), "CNOFF", both), is_cloud(cloud, "normals", "colors"))
    )
    return cases


# ------------------------------------------------------------------------------------- HDF5 and data sets


def remake(file: h5py.File, key: str, data, **options) -> None:
    del file[key]
    file.create_dataset(key, data=data, **options)


def h5_faults() -> list[Case]:
    """Each through the reader of one shape and through the data set."""

    def declared(key: str, shape, kind="i2", **options):
        def change(file):
            del file[key]
            file.create_dataset(key, shape, kind, **options)

        return change

    def linked(kind):
        def change(file):
            del file["test/points"]
            other = str(Path(file.filename).with_name("other.h5"))
            with h5py.File(other, "w") as there:
                there["points"] = file["train/points"][()]
            if kind == "external link":
                file["test/points"] = h5py.ExternalLink(other, "points")
            elif kind == "soft link":
                file["test/points"] = h5py.SoftLink("/train/points")
            elif kind == "external storage":
                raw = Path(file.filename).with_name("raw.bin")
                raw.write_bytes(bytes(range(250)) * 10)
                file.create_dataset(
                    "test/points", (4, COUNT, 3), "i2", external=[(str(raw), 0, h5py.h5f.UNLIMITED)]
                )
            else:
                layout = h5py.VirtualLayout((4, COUNT, 3), "i2")
                layout[:] = h5py.VirtualSource(other, "points", (4, COUNT, 3))
                file.create_virtual_dataset("test/points", layout)

        return change

    def blocks(file):
        stored = file["test/points"][()]
        del file["test/points"]
        half = file.create_dataset("test/points", stored.shape, stored.dtype, chunks=(1, COUNT, 3))
        half[:1] = stored[:1]

    points = np.ones((4, COUNT, 3), np.float32)
    points[:, :, 0] = np.arange(COUNT)
    faults = {
        "points in another file": linked("external link"),
        "points behind a link": linked("soft link"),
        "points in raw bytes elsewhere": linked("external storage"),
        "virtual points": linked("virtual"),
        "points never written": declared("test/points", (4, COUNT, 3)),
        "normals never written": declared("test/normals", (4, COUNT, 3), "i1"),
        "a block never written": blocks,
        "10^8 points declared": declared(
            "test/points", (1, 10**8, 3), chunks=(1, 10**6, 3), compression="gzip"
        ),
        "points of one axis": lambda f: remake(f, "test/points", points[0, 0]),
        "no points": lambda f: f.__delitem__("test/points"),
        "no split": lambda f: f.__delitem__("test"),
        "points are a group": lambda f: (f.__delitem__("test/points"), f.create_group("test/points")),
        "points of bytes": lambda f: remake(f, "test/points", points.astype(np.uint8)),
        "points of text": lambda f: remake(f, "test/points", np.full((4, COUNT, 3), b"a")),
        "complex points": lambda f: remake(f, "test/points", points.astype(complex)),
        "nan among the points": lambda f: remake(f, "test/points", points * np.nan),
        "points of 1e19": lambda f: remake(f, "test/points", points * np.float32(1e19)),
        "normals too few": lambda f: remake(f, "test/normals", f["test/normals"][:, 1:]),
    }
    of_sets = {
        "classes as one text": lambda f: f.attrs.__setitem__("classes", "box"),
        "a class twice": lambda f: f.attrs.__setitem__("classes", ["box", "box"]),
        "classes of numbers": lambda f: f.attrs.__setitem__("classes", [1, 2]),
        "a class without a name": lambda f: f.attrs.__setitem__("classes", ["box", ""]),
        "an axis w": lambda f: f.attrs.__setitem__("up", "w"),
        "no format": lambda f: f.attrs.__delitem__("format"),
        "format of numbers": lambda f: f.attrs.__setitem__("format", np.arange(3)),
        "version 9": lambda f: f.attrs.__setitem__("version", 9),
        "normals of 1e30": lambda f: remake(f, "test/normals", np.full((4, COUNT, 3), 1e30, np.float32)),
        "normals of 0": lambda f: remake(f, "test/normals", np.zeros((4, COUNT, 3), np.int8)),
        "points all zero": lambda f: remake(f, "test/points", np.zeros((4, COUNT, 3), np.int16)),
        "the last cloud all zero": lambda f: f["test/points"].__setitem__(3, 0),
        "labels never written": declared("test/label", (4,)),
        "labels beyond": lambda f: remake(f, "test/label", [0, 1, 2, 0]),
        "negative labels": lambda f: remake(f, "test/label", [0, -1, 0, 1]),
        "labels of fractions": lambda f: remake(f, "test/label", [0.5, 1, 0, 1]),
        "labels of text": lambda f: remake(f, "test/label", ["a", "b", "c", "d"]),
        "labels too few": lambda f: remake(f, "test/label", [0, 1]),
        "parts without names": lambda f: f.create_dataset("test/part", data=np.ones((4, COUNT), np.uint8)),
    }
    cases = []
    for name, change in faults.items():
        cases.append(
            Case(f"{name}: a shape", lambda folder, c=change: read_points(h5(c)(folder)), names="set.h5")
        )
    for name, change in (faults | of_sets).items():
        run = lambda folder, c=change: PointCloudDataset(h5(c)(folder), "test")  # noqa: E731
        cases.append(Case(f"{name}: a data set", run, names="set.h5"))
    for index in (-1, 4, 10**12):
        run = lambda folder, i=index: read_points(f"{h5()(folder)}:test:{i}")  # noqa: E731
        cases.append(Case(f"row {index} of 4", run, names="set.h5"))
    return cases


def h5_bytes(rng: np.random.Generator) -> list[Case]:
    """Cuts and flips of a data set's file; what cannot be seen must leave numbers in their ranges."""

    def read(folder: Path, change: Callable[[bytearray], bytearray]):
        path = h5()(folder)
        path.write_bytes(change(bytearray(path.read_bytes())))
        return read_clouds(path, "test")[0]

    def sane(clouds) -> bool:
        return len(clouds) == 4 and set(clouds.label) <= {0, 1} and clouds.points.shape == (4, COUNT, 3)

    cases = []
    for part in np.linspace(0.01, 0.99, 20):
        cases.append(
            Case(
                f"cut to {part:.0%} of set.h5",
                lambda f, p=part: read(f, lambda d: d[: int(p * len(d))]),
                names="set.h5",
            )
        )
    for i in range(40):
        at, bit = rng.random(), int(rng.integers(8))

        def flip(data, at=at, bit=bit):
            data[int(at * len(data))] ^= 1 << bit
            return data

        cases.append(
            Case(
                f"bit flip {i} in set.h5", lambda f, c=flip: read(f, c), sane, may_refuse=True, names="set.h5"
            )
        )
    return cases


# --------------------------------------------------------------------------------- paths, folders and PyG


def prepared(root: Path, *options: str, name: str = "meshes") -> Clouds:
    """What tools/prepare_dataset.py makes of a folder, split train; Refusal where it ends with an error."""
    out = root.parent / "out.h5"
    errors = io.StringIO()
    arguments = [
        name,
        "--root",
        str(root),
        "--out",
        str(out),
        "--workers",
        "1",
        "--num-points",
        "16",
        *options,
    ]
    with redirect_stderr(errors), redirect_stdout(io.StringIO()):
        code = load_tool("prepare_dataset").main(arguments)
    if code:
        raise Refusal(errors.getvalue().strip())
    return read_clouds(out, "train")[0]


def paths(cloud: Cloud) -> list[Case]:
    cases = []
    files = whole_files(cloud)
    kinds = {
        "a FIFO": lambda path, data: os.mkfifo(path),
        "a folder": lambda path, data: path.mkdir(),
        "a link to nothing": lambda path, data: path.symlink_to("nowhere"),
        "a link to itself": lambda path, data: path.symlink_to(path.name),
        "a link to a device": lambda path, data: path.symlink_to("/dev/zero"),
        "a link to a FIFO": lambda path, data: (os.mkfifo(path.with_name("fifo")), path.symlink_to("fifo")),
        "nothing": lambda path, data: None,
    }
    for kind, make in kinds.items():
        for file in ("a.ply", "a.pcd", "a.off", "a.obj", "a.txt", "a.npy", "a.npz", "a.h5"):

            def run(folder, make=make, file=file):
                make(folder / file, None)
                return read_points(folder / file)

            cases.append(Case(f"{kind}: {file}", run, names=file))
    for file in ("little.ply", "arrays.npz"):

        def run(folder, file=file):
            (folder / "real").write_bytes(files[file])
            (folder / file).symlink_to("real")
            return read_points(folder / file, warn=False)

        cases.append(Case(f"a link to a file: {file}", run, is_cloud(cloud, "normals", "colors")))
    cases.append(Case("a name with a zero byte", lambda folder: read_points(f"{folder}/a\0.ply"), names="a"))
    cases.append(
        Case(
            "an unknown suffix",
            lambda folder: ((folder / "a.las").write_bytes(b"LASF"), read_points(folder / "a.las")),
            names="a.las",
        )
    )
    return cases


BOX = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


def folders() -> list[Case]:
    """prepare_dataset on folders that hold more, or less, than shapes."""

    def tree(folder: Path, count: int = 3) -> Path:
        for name in ("box", "cone"):
            (folder / "own" / name).mkdir(parents=True)
            for i in range(count):
                (folder / "own" / name / f"{i}.obj").write_text(BOX)
        return folder / "own"

    def looped(folder):
        root = tree(folder)
        (root / "box" / "again").symlink_to(root / "box")
        (root / "cone" / "up").symlink_to(root)
        return prepared(root, "--test", "0.34")

    def damaged(data: bytes):
        def run(folder):
            root = tree(folder)
            (root / "box" / "bad.obj").write_bytes(data)
            return prepared(root, "--test", "0.3")

        return run

    def special(folder):
        root = tree(folder)
        os.mkfifo(root / "box" / "fifo.obj")
        return prepared(root, "--test", "0.3")

    cases = [
        Case(
            "links that form a loop", looped, lambda clouds: len(clouds) == 4 and len(set(clouds.name)) == 4
        ),
        Case("a FIFO among meshes", special, names="fifo.obj"),
        Case("no test share", lambda f: prepared(tree(f), "--test", "0"), names="--test"),
        Case("a test share of 1.5", lambda f: prepared(tree(f), "--test", "1.5"), names="--test"),
        Case("a test share of nan", lambda f: prepared(tree(f), "--test", "nan"), names="--test"),
        Case("one object of a class", lambda f: prepared(tree(f, 1), "--test", "0.5"), names="box"),
        Case(
            "a share of each class",
            lambda f: prepared(tree(f), "--test", "0.34"),
            lambda c: c.label.tolist() == [0, 0, 1, 1],
        ),
        Case("no points of a shape", lambda f: prepared(tree(f), "--num-points", "0"), names="--num-points"),
        Case("a root that is a file", lambda f: prepared(tree(f) / "box" / "0.obj"), names="0.obj"),
        Case("a root that is not there", lambda f: prepared(tree(f) / "nowhere"), names="nowhere"),
    ]
    for name, data in {
        "an empty mesh": b"",
        "a mesh without faces": b"v 0 0 0\n",
        "a mesh of no area": b"v 0 0 0\nf 1 1 1\n",
        "a mesh with nan": b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
        "a mesh of binary": bytes(range(256)),
        "a mesh of 1e19": b"v 1e19 0 0\nv 0 1e19 0\nv 0 0 1e19\nf 1 2 3\n",
        "a mesh with garbage": BOX.encode() + b"rubbish\n",
    }.items():
        cases.append(Case(f"{name} in a folder", damaged(data), names="bad.obj"))
    return cases


def releases(rng: np.random.Generator) -> list[Case]:
    """Converters of published data sets on files that are not as they were published."""
    cloud = make_cloud(rng)
    table = np.hstack([cloud.points, cloud.normals])
    data, label = np.stack([cloud.points] * 2), np.array([0, 1])
    cases = []

    def modelnet40(text_file: bytes):
        def run(folder):
            root = folder / "modelnet40_normal_resampled"
            (root / "airplane").mkdir(parents=True)
            for split in ("train", "test"):
                (root / f"modelnet40_{split}.txt").write_text(f"airplane_{split}\n")
                (root / "airplane" / f"airplane_{split}.txt").write_bytes(text_file)
            return prepared(root, "--sampling", "first", "--allow-partial", name="modelnet40")

        return run

    good = text(table, (), ",")
    cases.append(Case("text of ModelNet40", modelnet40(good), lambda clouds: len(clouds) == 1))
    for name, bad in {
        "a row too short": good + b"1,2\n",
        "words": good + b"a,b,c,d,e,f\n",
        "binary": bytes(range(256)),
        "nothing": b"",
        "1_0": good.replace(b",", b",1_0,", 1),
        "nan": b"nan,0,0,0,0,1\n" + good,
    }.items():
        cases.append(Case(f"{name} in ModelNet40", modelnet40(bad)))

    def scanobjectnn(**arrays):
        def run(folder):
            root = folder / "h5_files" / "main_split"
            root.mkdir(parents=True)
            for prefix in ("training", "test"):
                with h5py.File(root / f"{prefix}_objectdataset.h5", "w") as file:
                    for key, array in {"data": data, "label": label, **arrays}.items():
                        file[key] = array
            options = ("--variant", "OBJ_BG", "--allow-partial", "--sampling", "first")
            return prepared(root.parent, *options, name="scanobjectnn")

        return run

    cases.append(Case("ScanObjectNN", scanobjectnn(), lambda clouds: len(clouds) == 2))
    for name, arrays in {
        "labels of text": {"label": np.array([b"a", b"b"])},
        "labels beyond": {"label": np.array([0, 99])},
        "labels of nan": {"label": np.array([0, np.nan])},
        "labels too few": {"label": np.array([0])},
        "one label": {"label": 3},
        "points of text": {"data": np.full((2, 9, 3), b"a")},
        "complex points": {"data": data.astype(complex)},
        "points of nan": {"data": data * np.nan},
        "points of one axis": {"data": data[0, 0]},
    }.items():
        cases.append(Case(f"{name} in ScanObjectNN", scanobjectnn(**arrays)))

    def modelnet10(**arrays):
        def run(folder):
            cells = np.zeros((2, 4, 4, 4), bool)
            cells[:, 1:3, 1:3, 1:3] = True
            whole = {"X_train": cells, "y_train": label, "X_test": cells, "y_test": label, **arrays}
            np.savez(folder / "voxels.npz", **whole)
            return prepared(folder / "voxels.npz", "--allow-partial", name="modelnet10")

        return run

    cases.append(Case("grids of ModelNet10", modelnet10(), lambda clouds: len(clouds) == 2))
    for name, arrays in {
        "grids of text": {"X_test": np.full((2, 4, 4, 4), "a")},
        "flat grids": {"X_test": np.ones((2, 64))},
        "labels of text": {"y_test": np.array(["a", "b"])},
        "labels beyond": {"y_test": np.array([0, 10])},
    }.items():
        cases.append(Case(f"{name} in ModelNet10", modelnet10(**arrays), names="voxels.npz"))
    return cases


def pyg_faults(rng: np.random.Generator) -> list[Case]:
    cloud = make_cloud(rng)
    pos = torch.from_numpy(cloud.points)

    def case(name: str, check=None, options=None, **fields) -> Case:
        return Case(
            f"PyG: {name}",
            lambda folder: from_pyg(SimpleNamespace(**{"pos": pos, **fields}), **(options or {})),
            check,
        )

    colours = torch.rand(COUNT, 3)
    return [
        case("colours in x are no normals", lambda s: "normals" not in s, x=colours),
        case(
            "normals in x when told",
            lambda s: np.allclose(s["normals"], cloud.normals, atol=1e-6),
            {"normals": "x"},
            x=torch.from_numpy(cloud.normals),
        ),
        case("a label that is no integer", y=torch.tensor([1.7])),
        case("a label of nan", y=torch.tensor([torch.nan])),
        case("a label of bool", y=torch.tensor([True])),
        case("a label of text", None, {"normals": "nowhere"}),
        case("two labels", y=torch.tensor([1, 2])),
        case("a whole label of a float type", lambda s: s["label"] == 2, y=torch.tensor([2.0])),
        case("nan", pos=pos * torch.nan),
        case("infinite", pos=pos / 0),
        case("complex", pos=pos.to(torch.complex64)),
        case("two columns", pos=pos[:, :2]),
        case("no points", pos=pos[:0]),
        case("1e19", pos=pos * 1e19),
        case("normals too few", normal=pos[1:]),
        case("parts of fractions", part=torch.full((COUNT,), 0.5)),
        case("unlabelled parts", lambda s: (s["part"] == -100).all(), part=torch.full((COUNT,), 255)),
        case(
            "far away",
            lambda s: np.allclose(s["points"] + s["offset"], (pos.double() + 5e6).numpy(), rtol=0, atol=1e-5),
            pos=pos.double() + 5e6,
        ),
    ]


def point_cases(seed: int) -> list[Case]:
    """All cases of files and data sets of points."""
    rng = np.random.default_rng(seed)
    cloud = make_cloud(rng)
    cases = [
        *damaged(rng, cloud),
        *header_faults(cloud),
        *text_faults(cloud),
        *array_faults(cloud),
        *numbers(rng),
        *spelled(rng),
        *meshes(rng),
        *h5_faults(),
        *h5_bytes(rng),
        *paths(cloud),
        *folders(),
        *releases(rng),
        *pyg_faults(rng),
    ]
    return cases


def large_cases(size: int = 30_000_000) -> list[Case]:
    """Files of `size` bytes that unpack to as much as a reader lets them, or with as many parts as fit."""

    def of(name: str, file: str, make: Callable[[], bytes], **options) -> Case:
        def run(folder: Path):
            (folder / file).write_bytes(make())
            try:
                return read_points(folder / file, warn=False, **options)
            finally:
                (folder / file).unlink()

        return Case(f"{name}: {file}", run, lambda found: len(found.points) > 0, may_refuse=True, names=file)

    def packed_pcd() -> bytes:
        count = 7 * size // 12
        left, parts = 12 * count - 1, [b"\0\0"]
        parts.append(bytes([7 << 5, 255, 0]) * (left // 264))  # each repeats one byte 264 times
        parts.append(bytes([left % 264 - 1, *bytes(left % 264)]) if 0 < left % 264 <= 32 else b"")
        body = b"".join(parts)
        head = pcd({name: np.zeros(1, np.float32) for name in XYZ}, "ascii").partition(b"DATA")[0]
        head = head.replace(b"WIDTH 1", b"WIDTH %d" % count).replace(b"POINTS 1", b"POINTS %d" % count)
        data = head + b"DATA binary_compressed\n" + struct.pack("<II", len(body), 12 * count) + body
        return data + bytes(max(0, size - len(data)))

    def packed_npz() -> bytes:
        count = 7 * size // 4
        padding = np.random.default_rng(0).integers(0, 255, size * 9 // 10, np.uint8)
        points = np.tile(np.arange(3, dtype=np.uint8), (count, 1))
        return saved(np.savez_compressed, points=points, part=np.zeros(count, np.uint8), padding=padding)

    def mesh(head: bytes, face: bytes) -> bytes:
        triangle = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)
        start = b"ply\nformat binary_little_endian 1.0\nelement vertex 3\n"
        start += b"".join(b"property float %s\n" % name.encode() for name in XYZ)
        return start + head + b"end_header\n" + triangle + face

    row = b"ply\nformat ascii 1.0\nelement vertex %d\n"
    row += b"property float x\nproperty float y\nproperty float z\nend_header\n"
    letter = b"v 0 0 0\nv 3 0 0\nv 3 1 0\nv 1 1 0\nv 1 3 0\nv 0 3 0\n"
    face = b"element face %d\nproperty list %s uchar vertex_indices\n"
    return [
        of("rows", "a.txt", lambda: b"0 1 2\n" * (size // 6)),
        of("blank lines", "a.csv", lambda: b"\n" * size),
        of("one row", "b.csv", lambda: b"1," * (size // 2)),
        of("vertices", "a.ply", lambda: row % (size // 6) + b"0 1 2\n" * (size // 6)),
        of("vertices", "a.obj", lambda: b"v 0 1 2\n" * (size // 8)),
        of("concave faces", "b.obj", lambda: letter * (size // 120) + b"f 1 2 3 4 5 6\n" * (size // 28)),
        of("faces of nothing", "b.ply", lambda: mesh(face % (size, b"uchar"), bytes(size))),
        of("one face", "c.ply", lambda: mesh(face % (1, b"uint"), struct.pack("<I", size) + b"\1" * size)),
        of("points packed sevenfold", "a.pcd", packed_pcd),
        of("points packed sevenfold", "a.npz", packed_npz),
        of("bytes", "a.npy", lambda: saved(np.save, np.ones((size // 3, 3), np.uint8))),
    ]

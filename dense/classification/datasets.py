"""Labelled images: folders, list files, Fashion-MNIST, CIFAR."""

import gzip
import io
import logging
import math
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from pointsuite.engine.files import decode_text, open_regular, read_bytes, read_text

from ..base.datasets import SeededDataset
from ..base.images import SUFFIXES, find_images
from ..registry import DATASETS

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
CIFAR_PIXELS = 3 * 32 * 32
CIFAR_BYTES, IDX_BYTES = 1 << 28, 1 << 30  # that a file may hold, unpacked
# by number of classes: archive, its folder, labels of a record (the last one counts), names of the classes,
# files of each split
CIFAR_VERSIONS = {
    10: (
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
        1,
        "batches.meta.txt",
        {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
    ),
    100: (
        "cifar-100-binary.tar.gz",
        "cifar-100-binary",
        2,
        "fine_label_names.txt",
        {"train": ["train.bin"], "test": ["test.bin"]},
    ),
}


@DATASETS.register_module()
class ImageFolder(SeededDataset):
    """Images in one folder a class, or in a list.

    Without ``list_file``, ``data_root/split`` has a folder for each class, with images at any depth; the
    labels are the classes' places in ``metainfo["classes"]``, by default all folders by name (of
    ``class_split``, where that is given: a validation set may lack some). With it, its
    lines are ``path label``, paths relative to ``data_root/split``, labels either all numbers from 0 or all
    names of classes, by default as they come by name.

    A sample before the pipeline: ``img_path`` str, ``gt_label`` int, ``sample_idx`` int.

    Args:
        class_split: the split whose folders are the classes, as ``class_split="train"`` for validation.
            Classes that are given, so or by ``metainfo``, may have no image here: the log names them.

    Raises:
        OSError: a file or folder is missing, a folder is no class of ``class_split`` or, where no classes are
            given, has no image, a line or a label is wrong.
    """

    def __init__(
        self,
        data_root: str | os.PathLike,
        split: str = "",
        list_file: str | os.PathLike | None = None,
        class_split: str | None = None,
        fraction: float = 1.0,
        **kwargs,
    ):
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, found {fraction}")
        self.fraction = fraction
        self.folder = Path(data_root).expanduser() / split
        self.class_folder = None if class_split is None else Path(data_root).expanduser() / class_split
        self.list_file = None if list_file is None else Path(list_file).expanduser()
        super().__init__(data_root=str(data_root), **kwargs)

    def load_data_list(self) -> list[dict]:
        pairs, names = self._read_folders() if self.list_file is None else self._read_list()
        classes = self._metainfo.setdefault("classes", names)
        label = {name: i for i, name in enumerate(classes)}
        if missing := sorted(set(names) - set(classes)):
            raise OSError(
                f"{self.list_file or self.folder}: {missing[0]!r} is not one of the {len(classes)} classes"
            )
        if self.fraction < 1:
            by_class = {name: [path for path, own in pairs if own == name] for name in names}
            pairs = [
                (path, name)
                for name, paths in by_class.items()
                for path in paths[: max(1, int(self.fraction * len(paths)))]
            ]
        return [{"img_path": path, "gt_label": label[name]} for path, name in pairs]

    def _read_folders(self) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder}: no such folder, wanted one with a folder for each class")
        found, wanted = _folders(self.folder), self._metainfo.get("classes")
        if isinstance(wanted, str):
            raise ValueError(f"classes must be a list of names, found {wanted!r}")
        if wanted is None and self.class_folder is not None:
            if not self.class_folder.is_dir():
                raise FileNotFoundError(f"{self.class_folder}: no such folder, wanted that of the classes")
            wanted = _folders(self.class_folder)
            if unknown := sorted(set(found) - set(wanted)):
                folder = self.folder / unknown[0]
                raise OSError(f"{folder}: not one of the {len(wanted)} classes of {self.class_folder}")
        names = tuple(found if wanted is None else wanted)
        pairs = [(p, name) for name in names if name in found for p in find_images(self.folder / name)]
        empty = sorted(set(names) - {name for _, name in pairs})
        if not names:
            raise FileNotFoundError(f"{self.folder}: found no folder, wanted one for each class")
        if empty and (wanted is None or not pairs):
            raise FileNotFoundError(
                f"{self.folder / empty[0]}: found no image, wanted some of the kinds {' '.join(SUFFIXES)}"
            )
        if empty:
            print_log(f"{self.folder}: no image of {', '.join(empty)}", "current", logging.WARNING)
        return pairs, names

    def _read_list(self) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
        pairs = []
        for number, line in enumerate(read_text(self.list_file).splitlines(), 1):
            if line.strip():
                path, *label = line.strip().rsplit(maxsplit=1)
                if not label:
                    raise OSError(f"{self.list_file}, line {number}: found {line!r}, wanted 'path label'")
                pairs.append((str(self.folder / path), label[0]))
        if not pairs:
            raise OSError(f"{self.list_file}: found no line, wanted 'path label'")
        if not all(label.isdecimal() for _, label in pairs):
            return pairs, tuple(sorted({label for _, label in pairs}))
        if long := [label for _, label in pairs if len(label) > 6]:
            raise OSError(f"{self.list_file}: found the label {long[0][:40]}, wanted less than a million")
        top = max(int(label) for _, label in pairs)
        names = tuple(self._metainfo.get("classes", map(str, range(top + 1))))
        if top >= len(names):
            raise OSError(f"{self.list_file}: found the label {top}, wanted 0 to {len(names) - 1}")
        return [(path, names[int(label)]) for path, label in pairs], names


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")


@DATASETS.register_module()
class FashionMNIST(SeededDataset):
    """60,000 and 10,000 grey images of 28 x 28 pixels, ten classes.

    The files are the four of the data set as they were published, ``.gz`` or unpacked. A sample before the
    pipeline: ``img`` uint8 (28, 28, 3), three equal channels, ``gt_label`` int, ``sample_idx`` int.

    Source: Xiao et al., "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
    2017; MIT licence.

    Args:
        data_root: folder with the files; by default where Debian's package dataset-fashion-mnist has them.
        split: "train" or "test".
        **kwargs: of :class:`SeededDataset`.

    Raises:
        OSError: a file is missing or is not what it should be.
    """

    METAINFO = {
        "classes": (
            "T-shirt",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        )
    }

    def __init__(self, data_root: str | os.PathLike | None = None, split: str = "train", **kwargs):
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', found {split!r}")
        self.folder = FASHION_MNIST if data_root is None else Path(data_root).expanduser()
        self.prefix = "train" if split == "train" else "t10k"
        super().__init__(data_root=str(self.folder), **kwargs)

    def load_data_list(self) -> list[dict]:
        self.images = read_idx(self._find("images-idx3-ubyte"), ndim=3)
        file = self._find("labels-idx1-ubyte")
        labels = read_idx(file, ndim=1)
        if len(labels) != len(self.images) or labels.max() >= 10:
            raise OSError(
                f"{file}: found {len(labels)} labels up to {labels.max()}, wanted {len(self.images)} up to 9"
            )
        return [{"row": row, "gt_label": int(label)} for row, label in enumerate(labels)]

    def _find(self, name: str) -> Path:
        path = self.folder / f"{self.prefix}-{name}"
        for file in (path, path.with_name(f"{path.name}.gz")):
            if file.is_file():
                return file
        raise FileNotFoundError(
            f"{path}: no such file, nor {path.name}.gz; Debian's package dataset-fashion-mnist has them "
            f"(apt-get install it), in {FASHION_MNIST}"
        )

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        image = self.images[info.pop("row")]
        return {**info, "img": np.repeat(image[..., None], 3, axis=2)}


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """A file of the IDX format, gzipped or not, as a uint8 array of ``ndim`` axes, none of them empty.

    Raises:
        OSError: the file is damaged or holds anything else.
    """
    file, length = io.BytesIO(read_bytes(path)), 4 + 4 * ndim
    with gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file as unpacked:
        try:
            head = unpacked.read(length)
            shape = struct.unpack(f">{ndim}i", head[4:]) if len(head) == length else ()
            size = math.prod(shape)
            data = unpacked.read(size + 1) if 0 < size <= IDX_BYTES else b""
        except (EOFError, OSError, zlib.error) as error:
            raise OSError(f"{path}: not a gzip file that can be read ({error})") from error
    if head[:4] != bytes((0, 0, 8, ndim)) or min(shape, default=0) < 1:
        raise OSError(f"{path}: found the head {head.hex(' ')}, wanted IDX of bytes with {ndim} axes")
    if len(data) != size:
        found = "more" if len(data) > size else len(data)
        raise OSError(f"{path}: found {found} bytes, wanted {size} for {shape}")
    return np.frombuffer(data, np.uint8).reshape(shape)


@DATASETS.register_module()
class CIFAR(SeededDataset):
    """50,000 and 10,000 colour pictures of 32 x 32 pixels, ten or a hundred classes.

    ``data_root`` holds the binary version, which is read without running anything from it: the archive
    (``cifar-100-binary.tar.gz``), the folder that it unpacks to, or the files of that. A sample before the
    pipeline: ``img`` uint8 (32, 32, 3), ``gt_label`` int, ``sample_idx`` int.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

    Args:
        data_root: folder.
        num_classes: 10, or 100 for the fine labels of CIFAR-100.
        split: "train" or "test".
        **kwargs: of :class:`SeededDataset`.

    Raises:
        OSError: a file is missing or is not what it should be.
    """

    def __init__(self, data_root: str | os.PathLike, num_classes: int = 100, split: str = "train", **kwargs):
        if num_classes not in CIFAR_VERSIONS:
            raise ValueError(f"num_classes must be one of {[*CIFAR_VERSIONS]}, found {num_classes}")
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', found {split!r}")
        self.root, self.num_classes, self.split = Path(data_root).expanduser(), num_classes, split
        super().__init__(data_root=str(data_root), **kwargs)

    def load_data_list(self) -> list[dict]:
        _, _, labels, names_file, files = CIFAR_VERSIONS[self.num_classes]
        try:
            names = decode_text(self._read(names_file)).split()
        except ValueError as error:
            raise OSError(f"{self.root}: {error} in {names_file}") from error
        if len(names) != self.num_classes:
            raise OSError(
                f"{self.root}: found {len(names)} classes in {names_file}, wanted {self.num_classes}"
            )
        self._metainfo.setdefault("classes", tuple(names))
        parts = []
        for name in files[self.split]:
            data = np.frombuffer(self._read(name), np.uint8)
            if not data.size or data.size % (labels + CIFAR_PIXELS):
                raise OSError(
                    f"{self.root}: found {data.size} bytes in {name}, "
                    f"wanted {labels + CIFAR_PIXELS} a picture"
                )
            parts.append(data.reshape(-1, labels + CIFAR_PIXELS))
            if (top := parts[-1][:, labels - 1].max()) >= self.num_classes:
                raise OSError(
                    f"{self.root}: found the label {top} in {name}, wanted 0 to {self.num_classes - 1}"
                )
        self.records = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return [{"row": row, "gt_label": int(label)} for row, label in enumerate(self.records[:, labels - 1])]

    def _read(self, name: str) -> bytes:
        archive, folder = CIFAR_VERSIONS[self.num_classes][:2]
        for path in (self.root / folder / name, self.root / name):
            if path.is_file():
                return read_bytes(path)
        path = self.root / archive
        try:
            with open_regular(path) as packed, tarfile.open(fileobj=packed) as file:
                member = file.getmember(f"{folder}/{name}")
                if member.size > CIFAR_BYTES:
                    raise OSError(f"it unpacks to {member.size} bytes, more than {CIFAR_BYTES}")
                return file.extractfile(member).read()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.root}: found neither {archive} nor {folder}/{name}, wanted the binary version of "
                f"CIFAR-{self.num_classes}"
            ) from error
        except (AttributeError, EOFError, KeyError, OSError, tarfile.TarError, zlib.error) as error:
            said = " ".join(str(error).split())[:200]
            raise OSError(f"{path}: {name} cannot be read from it ({said})") from error

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        image = self.records[info.pop("row"), -CIFAR_PIXELS:].reshape(3, 32, 32)
        return {**info, "img": np.ascontiguousarray(image.transpose(1, 2, 0))}

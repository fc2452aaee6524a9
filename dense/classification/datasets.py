"""Labelled images: folders, list files, Fashion-MNIST, CIFAR."""

import gzip
import io
import logging
import math
import os
import struct
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log

from pointsuite.engine.files import decode_text, open_regular, read_bytes, read_text
from pointsuite.engine.images import SUFFIXES, find_images

from ..base.datasets import SeededDataset
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
class EuroSAT(ImageFolder):
    """27,000 satellite images of 64 x 64 pixels in ten classes of land use, in a folder each, and its split.

    ``data_root`` has the classes' folders, as the archive of the RGB version has, or ``2750`` or
    ``EuroSAT_RGB`` with them. There is no official split. Neighbouring tiles of one scene may be in different
    parts of either split here, so that accuracy is above that on new places. A sample before the pipeline is
    that of :class:`ImageFolder`.

    Source: Helber et al., "EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land Cover
    Classification", 2019; the split 70/15/15: Vir, arXiv 2510.15527.

    Args:
        data_root: folder.
        split: "train", "val", "test" or "all".
        split_by: "random": PyTorch's ``random_split`` of all images, class after class by file name, with
            a generator's seed ``split_seed``, as published; "stratified": the same of each class.
        split_seed: as published, 42.
        **kwargs: of :class:`ImageFolder`.

    Raises:
        ValueError: an unknown split, or way to make it.
        OSError: see :class:`ImageFolder`.
    """

    SPLITS = ("train", "val", "test")
    SHARES = (0.7, 0.15)

    def __init__(
        self,
        data_root: str | os.PathLike,
        split: str = "train",
        split_by: str = "random",
        split_seed: int = 42,
        **kwargs,
    ):
        if split not in (*self.SPLITS, "all"):
            raise ValueError(f"split must be one of {[*self.SPLITS, 'all']}, found {split!r}")
        if split_by not in ("random", "stratified"):
            raise ValueError(f"split_by must be 'random' or 'stratified', found {split_by!r}")
        self.split, self.split_by, self.split_seed = split, split_by, split_seed
        root = Path(data_root).expanduser()
        inner = next((name for name in ("2750", "EuroSAT_RGB") if (root / name).is_dir()), "")
        super().__init__(data_root=root / inner, **kwargs)

    def load_data_list(self) -> list[dict]:
        samples = super().load_data_list()
        if self.split == "all":
            return samples
        groups = [list(range(len(samples)))]
        if self.split_by == "stratified":
            groups = [
                [i for i in groups[0] if samples[i]["gt_label"] == label]
                for label in range(len(self._metainfo["classes"]))
            ]
        generator = torch.Generator().manual_seed(self.split_seed)
        part = self.SPLITS.index(self.split)
        chosen = [group[i] for group in groups for i in self._choose(len(group), part, generator)]
        return [samples[i] for i in chosen]

    def _choose(self, count: int, part: int, generator: torch.Generator) -> list[int]:
        """Places of one of the three parts among ``count`` images."""
        lengths = [int(share * count) for share in self.SHARES]
        start = sum(lengths[:part])
        stop = count if part == 2 else start + lengths[part]
        return torch.randperm(count, generator=generator)[start:stop].tolist()


@DATASETS.register_module()
class LooseImages(SeededDataset):
    """All images below a folder, of no known class: ``gt_label`` is -1.

    Args:
        folder: where they lie, at any depth.

    Raises:
        OSError: there is no such folder, or no image in it.
    """

    def __init__(self, folder: str | os.PathLike, **kwargs):
        self.folder = Path(folder).expanduser()
        super().__init__(data_root=str(folder), **kwargs)

    def load_data_list(self) -> list[dict]:
        paths = find_images(self.folder) if self.folder.is_dir() else []
        if not paths:
            raise FileNotFoundError(
                f"{self.folder}: found no image, wanted some of the kinds {' '.join(SUFFIXES)}"
            )
        return [{"img_path": path, "gt_label": -1} for path in paths]


@DATASETS.register_module()
class OpenSetFolder(ImageFolder):
    """Folders of classes, of which some are known and all others are not: for open-set recognition.

    Labels are the places of the known classes, in order of their names, which ``metainfo["classes"]`` has;
    that of any other class is -1.

    Args:
        data_root, split, class_split: see :class:`ImageFolder`.
        num_known: how many classes are known; ``class_seed`` draws which.
        num_surrogate: how many of the others stand for unknown ones where thresholds are chosen; they are
            not among the unknown ones of a test.
        class_seed: of the draw.
        part: "known", "unknown", "surrogate", or "test", known and unknown ones.
        share: from and to which part of each class's files, by name, as (0.9, 1.0) for a tenth that
            training leaves out.
        **kwargs: of :class:`ImageFolder`.

    Raises:
        ValueError: an unknown part, shares that are not in 0..1, or numbers of classes that leave none.
        OSError: see :class:`ImageFolder`.
    """

    PARTS = ("known", "unknown", "surrogate", "test")

    def __init__(
        self,
        data_root: str | os.PathLike,
        split: str = "",
        num_known: int = 6,
        num_surrogate: int = 0,
        class_seed: int = 0,
        part: str = "known",
        share: Sequence[float] = (0.0, 1.0),
        **kwargs,
    ):
        if part not in self.PARTS:
            raise ValueError(f"part must be one of {[*self.PARTS]}, found {part!r}")
        if len(share) != 2 or not 0 <= share[0] < share[1] <= 1:
            raise ValueError(f"share must be two rising numbers in 0..1, found {tuple(share)}")
        if num_known < 1 or num_surrogate < 0:
            raise ValueError(
                f"wanted num_known of at least 1 and num_surrogate of at least 0, found {num_known} and "
                f"{num_surrogate}"
            )
        self.num_known, self.num_surrogate, self.class_seed = num_known, num_surrogate, class_seed
        self.part, self.share = part, tuple(share)
        super().__init__(data_root=data_root, split=split, **kwargs)

    def load_data_list(self) -> list[dict]:
        samples = super().load_data_list()
        parts = self.split_classes(self._metainfo["classes"])
        if not parts[self.part]:
            found, chosen = len(self._metainfo["classes"]), self.num_known + self.num_surrogate
            raise ValueError(
                f"{self.folder}: found {found} classes of which none is {self.part}, {chosen} are known or "
                "surrogates"
            )
        by_class = {name: [] for name in parts[self.part]}
        for sample in samples:
            name = self._metainfo["classes"][sample["gt_label"]]
            if name in by_class:
                label = parts["known"].index(name) if name in parts["known"] else -1
                by_class[name].append({**sample, "gt_label": label})
        self._metainfo["classes"] = parts["known"]
        start, stop = self.share
        return [
            sample
            for own in by_class.values()
            for sample in own[round(start * len(own)) : round(stop * len(own))]
        ]

    def split_classes(self, classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The classes of each part, by name."""
        generator = torch.Generator().manual_seed(self.class_seed)
        drawn = [classes[i] for i in torch.randperm(len(classes), generator=generator).tolist()]
        known, others = drawn[: self.num_known], drawn[self.num_known :]
        surrogate, unknown = others[: self.num_surrogate], others[self.num_surrogate :]
        parts = {"known": known, "surrogate": surrogate, "unknown": unknown, "test": [*known, *unknown]}
        if not unknown:
            parts["test"] = []
        return {part: tuple(sorted(names)) for part, names in parts.items()}


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

"""CIFAR-10 and CIFAR-100."""

import os
import tarfile
import zlib
from pathlib import Path

import numpy as np

from ..registry import DATASETS
from .datasets import SeededDataset

PIXELS = 3 * 32 * 32
# by number of classes: archive, its folder, labels of a record (the last one counts), names of the classes,
# files of each split
VERSIONS = {
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
        if num_classes not in VERSIONS:
            raise ValueError(f"num_classes must be one of {[*VERSIONS]}, found {num_classes}")
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', found {split!r}")
        self.root, self.num_classes, self.split = Path(data_root).expanduser(), num_classes, split
        super().__init__(data_root=str(data_root), **kwargs)

    def load_data_list(self) -> list[dict]:
        _, _, labels, names_file, files = VERSIONS[self.num_classes]
        names = self._read(names_file).decode().split()
        if len(names) != self.num_classes:
            raise OSError(
                f"{self.root}: found {len(names)} classes in {names_file}, wanted {self.num_classes}"
            )
        self._metainfo.setdefault("classes", tuple(names))
        parts = []
        for name in files[self.split]:
            data = np.frombuffer(self._read(name), np.uint8)
            if not data.size or data.size % (labels + PIXELS):
                raise OSError(
                    f"{self.root}: found {data.size} bytes in {name}, wanted {labels + PIXELS} a picture"
                )
            parts.append(data.reshape(-1, labels + PIXELS))
            if (top := parts[-1][:, labels - 1].max()) >= self.num_classes:
                raise OSError(
                    f"{self.root}: found the label {top} in {name}, wanted 0 to {self.num_classes - 1}"
                )
        self.records = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return [{"row": row, "gt_label": int(label)} for row, label in enumerate(self.records[:, labels - 1])]

    def _read(self, name: str) -> bytes:
        archive, folder = VERSIONS[self.num_classes][:2]
        for path in (self.root / folder / name, self.root / name):
            if path.is_file():
                return path.read_bytes()
        path = self.root / archive
        try:
            with tarfile.open(path) as file:
                return file.extractfile(f"{folder}/{name}").read()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.root}: found neither {archive} nor {folder}/{name}, wanted the binary version of "
                f"CIFAR-{self.num_classes}"
            ) from error
        except (AttributeError, EOFError, KeyError, OSError, tarfile.TarError, zlib.error) as error:
            raise OSError(f"{path}: {name} cannot be read from it ({error})") from error

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        image = self.records[info.pop("row"), -PIXELS:].reshape(3, 32, 32)
        return {**info, "img": np.ascontiguousarray(image.transpose(1, 2, 0))}

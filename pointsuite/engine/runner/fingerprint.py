"""What a run's data are, as digests that go with its checkpoints."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from ..checkpoint import sha256
from .preflight import iterate_datasets

MOST = 10_000  # samples that are looked at, evenly spread


def fingerprint(dataset: Any) -> dict[str, str]:
    """A digest of every data set in ``dataset``, which may repeat or join several, by its name and file.

    A data set may have a method ``identity()`` that returns arrays and plain data. Of MMEngine's others it
    follows from classes, annotation file and, for up to 10,000 samples, what is known of them without reading
    them, and the size of their files; folders may be moved as a whole. Others are left out.
    """
    found: dict[str, str] = {}
    for part in iterate_datasets(dataset):
        digest = hashlib.sha256()
        if hasattr(part, "identity"):
            _feed(digest, part.identity(), "")
        elif isinstance(part, BaseDataset):
            _feed_dataset(digest, part)
        else:
            continue
        file = getattr(part, "data_file", None) or getattr(part, "ann_file", None) or ""
        name = f"{type(part).__name__} {Path(str(file)).name}".rstrip()
        found[name if name not in found else f"{name} ({len(found)})"] = digest.hexdigest()
    return found


def _feed_dataset(digest: Any, dataset: BaseDataset) -> None:
    root = str(dataset.data_root or "")
    _feed(digest, {key: value for key, value in dataset.metainfo.items() if key != "palette"}, root)
    if dataset.ann_file and os.path.isfile(dataset.ann_file):
        digest.update(sha256(dataset.ann_file).encode())
    count = len(dataset.data_address if dataset.serialize_data else dataset.data_list)
    for index in np.linspace(0, count - 1, min(count, MOST)).astype(int).tolist():
        info = BaseDataset.get_data_info(dataset, index)  # that of its own class may read the sample
        _feed(digest, info, root)
        for key, value in info.items():
            if isinstance(value, str) and key.endswith("path") and os.path.isfile(value):
                digest.update(str(os.path.getsize(value)).encode())


def _feed(digest: Any, value: Any, root: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            digest.update(f"{key}:".encode())
            _feed(digest, item, root)
    elif isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _feed(digest, item, root)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(value.tobytes())
    else:
        text = str(value)
        digest.update((text.removeprefix(root) if root else text).encode("utf-8", "surrogateescape") + b";")

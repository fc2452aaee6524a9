"""PyTorch Geometric's `Data` in and out of our samples; PyTorch Geometric itself is needed only to make one.

sample = from_pyg(data)                                    # any object with pos, ... attributes
data = to_pyg(transform(sample))
ModelNet(root, transform=PyGTransform(NormalizeUnitSphere(), RandomJitter()))
PyGDataset(ModelNet(root, pre_transform=SamplePoints(1024, include_normals=True)), pipeline)
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from mmengine.dataset import Compose

from pointsuite.engine.registry import DATASETS, TRANSFORMS

from .layout import DatasetError
from .point_cloud_dataset import PointCloudDataset


def from_pyg(data, *, index: int = 0, rng: np.random.Generator | None = None) -> dict:
    """Turn a `torch_geometric.data.Data` of one cloud into a sample of our transforms.

    Args:
        data: `pos` (N, 3); optional `normal` (N, 3), or else `x` of three columns, which holds the normals
            in ShapeNet; optional `category` or `y` of one element, the label; `part` or `y` (N,), the parts;
            optional `name`. Normals are brought to unit length.
        index: the sample's.
        rng: source of the transforms' randomness; by default seeded with (0, 0, index).

    Returns:
        `points`, `index`, `rng`, and what the data holds of `normals`, `label`, `part` and `name`.

    Raises:
        ValueError: pos, the normals, the label or the parts have another shape.
    """
    points = _rows("pos", data.pos)
    sample = {"points": points, "index": index}
    sample["rng"] = np.random.default_rng([0, 0, index]) if rng is None else rng
    normals = getattr(data, "normal", None)
    x = getattr(data, "x", None)
    if normals is None and x is not None and x.ndim == 2 and x.shape[1] == 3:
        normals = x
    if normals is not None:
        normals = _rows("normals", normals, len(points))
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        sample["normals"] = normals / np.where(length > 0, length, 1)
    label, part = getattr(data, "y", None), getattr(data, "part", None)
    if part is None and label is not None and label.numel() == len(points) > 1:
        label, part = None, label
    label = getattr(data, "category", None) if label is None else label
    for name, value, count in (("label", label, 1), ("part", part, len(points))):
        if value is not None and value.numel() != count:
            raise ValueError(f"{name} must hold {count} numbers, found shape {tuple(value.shape)}")
    if label is not None:
        sample["label"] = int(label)
    if part is not None:
        sample["part"] = part.detach().cpu().numpy().astype(np.int64).reshape(-1)
    if getattr(data, "name", None) is not None:
        sample["name"] = str(data.name)
    return sample


def to_pyg(sample: dict):
    """Turn a sample, before or after `PackPoints`, into a `torch_geometric.data.Data`.

    `pos` (N, 3) float32, and what there is of `normal` (N, 3) float32, `y` (1,) int64, the label, `part`
    (N,) int64 and `name`. :func:`from_pyg` gives the sample back.

    Raises:
        ImportError: torch-geometric is not installed.
    """
    from torch_geometric.data import Data

    if "inputs" in sample:
        truth = sample["data_samples"]
        fields = {"pos": sample["inputs"][:, :3], "normal": sample["inputs"][:, 3:6]}
        named = (("y", "gt_label"), ("part", "gt_part"), ("name", "name"))
        found = {key: truth.get(name) for key, name in named if name in truth}
    else:
        fields = {"pos": torch.as_tensor(sample["points"])}
        named = (("normal", "normals"), ("y", "label"), ("part", "part"), ("name", "name"))
        found = {key: sample[name] for key, name in named if name in sample}
    fields |= {key: value if key == "name" else torch.as_tensor(value) for key, value in found.items()}
    if "y" in fields:
        fields["y"] = fields["y"].reshape(1)
    return Data(**fields)


class PyGTransform:
    """Our transforms as one transform of PyTorch Geometric, from `Data` to `Data`.

    Their randomness follows from `seed` and the number of calls so far.
    """

    def __init__(self, *transforms: dict | Callable, seed: int = 0):
        self.transforms = Compose([TRANSFORMS.build(t) if isinstance(t, dict) else t for t in transforms])
        self.rng = np.random.default_rng(seed)

    def __call__(self, data):
        return to_pyg(self.transforms(from_pyg(data, rng=self.rng)))


@DATASETS.register_module()
class PyGDataset(PointCloudDataset):
    """A dataset of PyTorch Geometric as one of ours.

    Args:
        dataset: anything with a length whose items :func:`from_pyg` takes.
        pipeline, seed, test_mode: as for :class:`PointCloudDataset`.
        classes: names of the labels; numbers by default.

    Raises:
        DatasetError: no items.
    """

    def __init__(
        self,
        dataset: Sequence,
        pipeline: Sequence[dict | Callable] = (),
        *,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        test_mode: bool = False,
    ):
        if not len(dataset):
            raise DatasetError(f"{dataset!r}: 0 clouds, wanted at least 1")
        self.clouds = dataset
        if classes is None:
            classes = [str(label) for label in range(getattr(dataset, "num_classes", 0))]
        self.metainfo = {"classes": tuple(classes)}
        self.pipeline = Compose([TRANSFORMS.build(t) if isinstance(t, dict) else t for t in pipeline])
        self.seed = seed
        self.test_mode = test_mode
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def get_data_info(self, index: int) -> dict:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range, the dataset has {len(self)} clouds")
        index %= len(self)
        return from_pyg(self.clouds[index], index=index, rng=self.rng(index))


def _rows(name: str, values: torch.Tensor, count: int | None = None) -> np.ndarray:
    wanted = (values.shape[0] if count is None else count, 3)
    if tuple(values.shape) != wanted:
        rows = "N" if count is None else count
        raise ValueError(f"{name} must have shape ({rows}, 3), found {tuple(values.shape)}")
    return values.detach().cpu().numpy().astype(np.float32)

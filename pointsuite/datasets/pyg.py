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
from torch.utils.data import Subset

from pointsuite.io.point_file import checked
from pointsuite.registry import DATASETS, TRANSFORMS

from .layout import AXES, IGNORED, UNLABELLED, DatasetError
from .point_cloud_dataset import PointCloudDataset


def from_pyg(
    data, *, normals: str = "normal", index: int = 0, rng: np.random.Generator | None = None
) -> dict:
    """Turn a `torch_geometric.data.Data` of one cloud into a sample of our transforms.

    Args:
        data: `pos` (N, 3); optional `normal` (N, 3); optional `category` or `y` of one element, the label;
            `part` or `y` (N,), the parts, of which those below 0 and 255 are unlabelled; optional `name`.
            Normals are brought to unit length. `x` holds features, which samples do not have.
        normals: the attribute with the normals; "x" in PyTorch Geometric's ShapeNet.
        index: the sample's.
        rng: source of the transforms' randomness; by default seeded with (0, 0, index).

    Returns:
        `points`, `index`, `rng`, and what the data holds of `normals`, `label`, `part` and `name`; `offset`,
        float64 (3,), where points were so far from the origin that float32 would have rounded them.

    Raises:
        DatasetError: pos, the normals, the label or the parts have another shape, are not finite, or a label
            or part is no whole number; no attribute of the name in `normals`, where that is not "normal".
    """
    pos = _rows("pos", data.pos)
    given = getattr(data, normals, None)
    if given is None and normals != "normal":
        raise DatasetError(f"normals must be an attribute of the data, found no {normals!r}")
    cloud = checked(pos, None if given is None else _rows("normals", given, len(pos)))
    sample = {"points": cloud.points, "index": index}
    sample["rng"] = np.random.default_rng([0, 0, index]) if rng is None else rng
    if cloud.normals is not None:
        sample["normals"] = cloud.normals
    if cloud.offset.any():
        sample["offset"] = cloud.offset
    points = cloud.points
    label, part = getattr(data, "y", None), getattr(data, "part", None)
    if part is None and label is not None and label.numel() == len(points) > 1:
        label, part = None, label
    label = getattr(data, "category", None) if label is None else label
    for name, value, count in (("label", label, 1), ("part", part, len(points))):
        if value is not None and value.numel() != count:
            raise DatasetError(f"{name} must hold {count} numbers, found shape {tuple(value.shape)}")
    if label is not None:
        sample["label"] = int(_whole("label", label)[0])
    if part is not None:
        part = _whole("part", part)
        sample["part"] = np.where((part < 0) | (part == UNLABELLED), IGNORED, part)
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
        normals: as for :func:`from_pyg`.
        up: the axis that points up, "x", "y" or "z".
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
        normals: str = "normal",
        up: str = "z",
        seed: int = 0,
        test_mode: bool = False,
    ):
        if up not in AXES:
            raise DatasetError(f"up is {up!r}, wanted one of {', '.join(AXES)}")
        if not len(dataset):
            raise DatasetError(f"{dataset!r}: 0 clouds, wanted at least 1")
        if classes is None:
            classes = [str(label) for label in range(getattr(dataset, "num_classes", 0))]
        self.normals = normals
        self._hold(dataset, {"classes": tuple(classes), "up": up}, pipeline, seed, test_mode)

    def identity(self) -> dict:
        """Of up to 100 clouds, evenly spread."""
        rows = np.linspace(0, len(self) - 1, min(len(self), 100)).astype(int).tolist()
        return {**self._metainfo, "clouds": [from_pyg(self.clouds[row]) for row in rows]}

    def _select(self, rows: np.ndarray) -> Subset:
        return Subset(self.clouds, rows.tolist())

    def get_data_info(self, index: int) -> dict:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range, the dataset has {len(self)} clouds")
        index %= len(self)
        sample = from_pyg(self.clouds[index], normals=self.normals, index=index, rng=self.rng(index))
        return {**sample, "up": self._metainfo["up"]}

    def get_cat_ids(self, index: int) -> list[int]:
        sample = from_pyg(self.clouds[index], normals=self.normals)
        if "label" not in sample:
            raise DatasetError(f"item {index} has no label, wanted one to balance classes")
        return [sample["label"]]


def _rows(name: str, values: torch.Tensor, count: int | None = None) -> np.ndarray:
    wanted = (values.shape[0] if count is None else count, 3)
    if tuple(values.shape) != wanted:
        rows = "N" if count is None else count
        raise DatasetError(f"{name} must have shape ({rows}, 3), found {tuple(values.shape)}")
    return values.detach().cpu().numpy()


def _whole(name: str, values: torch.Tensor) -> np.ndarray:
    """int64 (N,); DatasetError where they are no whole numbers."""
    numbers = values.detach().cpu().numpy().reshape(-1)
    if numbers.dtype.kind not in "iuf" or not (np.floor(numbers) == numbers).all():
        wrong = numbers if numbers.dtype.kind not in "iuf" else numbers[np.floor(numbers) != numbers]
        raise DatasetError(f"{name} must be whole numbers, found {wrong[0]} of type {values.dtype}")
    return numbers.astype(np.int64)

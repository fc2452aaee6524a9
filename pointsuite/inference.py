"""Names for point clouds, for people who only want answers: a checkpoint in, predictions out.

    import pointsuite
    classify = pointsuite.Classifier("work_dirs/risurconv-s_kicad/epoch_30.pth")
    print(classify("part.ply").name)

No config is run: a training run's checkpoint says as plain data which network and which test pipeline belong
to its weights (``meta["model"]``, ``meta["pipeline"]``), and only classes that are registered here are built.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import Registry
from torch import Tensor, nn

from pointsuite.engine.checkpoint import CheckpointError, load_checkpoint
from pointsuite.engine.registry import MODELS, TRANSFORMS
from pointsuite.engine.zoo import create_model, load_pretrained
from pointsuite.io import read_points
from pointsuite.io.point_file import PointFile, checked
from pointsuite.ops import estimate_normals, farthest_point_sample
from pointsuite.transforms import NormalizeUnitSphere, PackPoints, SamplePoints

MESH_POINTS = 1024  # sampled on a mesh where the checkpoint does not say how many points it was trained on
NEIGHBOURS = 32  # of a point whose normal is estimated
UNIT = 0.05  # how far from 1 a normal's length may be


class Prediction(NamedTuple):
    """What a classifier says about one cloud."""

    name: str  # of the most probable class
    probability: float  # of that class
    label: int  # its number
    probabilities: np.ndarray  # float32 (classes,), of all classes; they add to 1
    classes: tuple[str, ...]


class Classifier:
    """Classifies point clouds with the weights of a checkpoint.

    Args:
        checkpoint: of a training run of this project, or written by tools/convert_checkpoint.py (its clouds
            are scaled to the unit sphere); a path, or a URL with its digest. It is read without running
            anything that is in it.
        device: "cpu", "cuda", ...
        classes: names of the classes, for a checkpoint that does not have them.
        batch_size: clouds that the network gets at once.

    Attributes:
        network: (B, N, 6) points and unit normals -> (B, classes) logits, in eval mode.
        num_points: what larger clouds are sampled to, as many as in training; None if the checkpoint does
            not say.

    Raises:
        CheckpointError: the file cannot be read safely, or does not say what its weights are of.
        ValueError: no such device; no classes.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike,
        *,
        device: str | torch.device = "cpu",
        classes: Sequence[str] | None = None,
        batch_size: int = 32,
    ):
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device is {device!r}, but PyTorch finds no NVIDIA GPU; wanted 'cpu'")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, wanted at least 1")
        self.batch_size = batch_size
        content = load_checkpoint(checkpoint)
        meta = content.get("meta") if isinstance(content, Mapping) else None
        if not isinstance(meta, Mapping):
            raise CheckpointError(
                f"{checkpoint}: holds weights only, wanted a checkpoint of a training run or one written by "
                "tools/convert_checkpoint.py, which say what network they are of"
            )
        known = meta.get("dataset_meta") or {}
        classes = known.get("classes") if classes is None else classes
        if not classes:
            raise ValueError(f"{checkpoint}: has no names of classes, wanted classes=[...]")
        self.classes = tuple(classes)
        self.network = _build_network(meta, str(checkpoint))
        load_pretrained(self.network, checkpoint)
        self.network.eval().to(self.device)
        steps = _build_pipeline(meta, str(checkpoint))
        samples = [step.num for step in steps if isinstance(step, SamplePoints)]
        self.num_points = min(samples, default=known.get("num_points"))
        # Sampling is done here, whatever the order of a cloud's points; packing is of data with labels.
        self._pipeline = Compose([step for step in steps if not isinstance(step, SamplePoints | PackPoints)])

    def __call__(self, clouds) -> Prediction | list[Prediction]:
        """Classify one cloud or several.

        Args:
            clouds: an array or tensor (N, 3) xyz or (N, 6) xyz and unit normal; the path of a file that
                :func:`pointsuite.io.read_points` reads, whose mesh, if it is one, is sampled; (B, N, 3) or
                (B, N, 6), or a list of any of these, for several clouds.

        Normals are estimated where there are none (:func:`pointsuite.ops.estimate_normals`), and clouds of
        more than `num_points` points are sampled by farthest point sampling. The prediction of a cloud does
        not depend on the others.

        Returns:
            Prediction, or a list of them for several clouds.

        Raises:
            PointFileError: a file cannot be read. ValueError: an array of the wrong shape, NaN or infinity,
                normals whose length is not 1, fewer points than the network needs. TypeError: anything else.
        """
        if isinstance(clouds, np.ndarray | Tensor) and clouds.ndim == 3:
            clouds = list(clouds)
        if not isinstance(clouds, list | tuple):
            return self._classify([clouds])[0]
        return self._classify(clouds)

    def _classify(self, clouds: Sequence) -> list[Prediction]:
        names = [
            str(cloud) if isinstance(cloud, str | os.PathLike) else f"cloud {i}"
            for i, cloud in enumerate(clouds)
        ]
        inputs = [self._prepare(cloud, name) for cloud, name in zip(clouds, names, strict=True)]
        by_size: dict[int, list[int]] = {}
        for i, points in enumerate(inputs):
            by_size.setdefault(len(points), []).append(i)
        predictions = {}
        for rows in by_size.values():
            for first in range(0, len(rows), self.batch_size):
                part = rows[first : first + self.batch_size]
                scores = self._run(torch.stack([inputs[i] for i in part]), ", ".join(names[i] for i in part))
                predictions.update(zip(part, map(self._name, scores), strict=True))
        return [predictions[i] for i in range(len(inputs))]

    @torch.inference_mode()
    def _run(self, points: Tensor, names: str) -> np.ndarray:
        """Probabilities (B, classes) of clouds (B, N, 6)."""
        try:
            logits = self.network(points.to(self.device))
        except ValueError as error:
            raise ValueError(f"{names}: {error}") from error
        if logits.shape != (len(points), len(self.classes)):
            raise ValueError(
                f"the network gives {tuple(logits.shape)} numbers for {len(points)} clouds, "
                f"wanted one for each of {len(self.classes)} classes"
            )
        return logits.float().softmax(-1).cpu().numpy()

    def _name(self, scores: np.ndarray) -> Prediction:
        label = int(scores.argmax())
        return Prediction(self.classes[label], float(scores[label]), label, scores, self.classes)

    def _prepare(self, cloud, name: str) -> Tensor:
        """One cloud as the network is fed, float32 (N, 6)."""
        if isinstance(cloud, str | os.PathLike):
            cloud = read_points(Path(cloud), self.num_points or MESH_POINTS)
        else:
            cloud = _check_array(cloud, name)
        points, normals = torch.from_numpy(cloud.points), cloud.normals
        if normals is None:
            normals = estimate_normals(points[None], min(NEIGHBOURS, len(points)))[0].numpy()
        length = np.linalg.norm(normals, axis=1)
        if (length == 0).any():
            raise ValueError(
                f"{name}: found {(length == 0).sum()} normals of length 0, wanted unit normals, or no normals"
            )
        rows = np.arange(len(points))
        if self.num_points and len(points) > self.num_points:
            rows = farthest_point_sample(points[None], self.num_points)[0].numpy()
        sample = {"points": cloud.points[rows], "normals": normals[rows], "rng": np.random.default_rng(0)}
        sample = self._pipeline(sample)
        return torch.from_numpy(np.concatenate([sample["points"], sample["normals"]], 1, dtype=np.float32))


def _check_array(cloud, name: str) -> PointFile:
    if isinstance(cloud, Tensor):
        cloud = cloud.detach().cpu().numpy()
    if not isinstance(cloud, np.ndarray):
        raise TypeError(
            f"{name}: found a {type(cloud).__name__}, wanted a path, or an array or tensor (N, 3) or (N, 6)"
        )
    if cloud.ndim != 2 or cloud.shape[1] not in (3, 6):
        raise ValueError(
            f"{name}: found shape {cloud.shape}, wanted (N, 3) xyz or (N, 6) xyz and unit normal"
        )
    points, normals = cloud[:, :3], cloud[:, 3:] if cloud.shape[1] == 6 else None
    try:
        found = checked(points, normals)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if normals is not None:
        length = np.linalg.norm(normals.astype(np.float64), axis=1)
        wrong = length[(np.abs(length - 1) > UNIT) & (length > 0)]
        if len(wrong):
            raise ValueError(
                f"{name}: found normals of length {wrong.min():.3g} to {wrong.max():.3g} in columns 4 to 6, "
                "wanted unit normals, or (N, 3) points"
            )
    return found


def _build_network(meta: Mapping, where: str) -> nn.Module:
    model = meta.get("model")
    if isinstance(model, str):  # of tools/convert_checkpoint.py
        try:
            return create_model(model, **meta.get("model_args", {}))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: {error}") from error
    if not isinstance(model, Mapping) or not isinstance(model.get("network"), Mapping):
        raise CheckpointError(
            f"{where}: has no meta['model'] with a 'network', wanted a checkpoint that this version "
            "saved when it trained a classifier"
        )
    return MODELS.build(_resolve(model["network"], MODELS, where))


def _build_pipeline(meta: Mapping, where: str) -> list:
    if isinstance(meta.get("model"), str):
        return [NormalizeUnitSphere()]
    steps = meta.get("pipeline")
    if not isinstance(steps, list | tuple):
        raise CheckpointError(f"{where}: has no meta['pipeline'], wanted a run whose config has a test")
    return [TRANSFORMS.build(step) for step in _resolve(steps, TRANSFORMS, where)]


def _resolve(value: Any, registry: Registry, where: str) -> Any:
    """A config with each ``type`` replaced by the class of that name in `registry` itself.

    MMEngine builds from any string that names something importable: what a file says must not get there.
    """
    if isinstance(value, Mapping):
        hidden = [key for key in value if str(key).startswith("_")]
        if hidden:
            raise CheckpointError(
                f"{where}: found {hidden[0]!r} in its {registry.name}, wanted plain arguments"
            )
        value = {key: _resolve(item, registry, where) for key, item in value.items() if key != "type"} | (
            {"type": _find(value["type"], registry, where)} if "type" in value else {}
        )
    elif isinstance(value, list | tuple):
        value = type(value)(_resolve(item, registry, where) for item in value)
    return value


def _find(name: Any, registry: Registry, where: str) -> type:
    registry.import_from_location()
    name = str(name).rpartition(".")[2]
    if name not in registry.module_dict:
        raise CheckpointError(
            f"{where}: its {registry.name} has the type {name!r}, which is not registered in pointsuite; "
            "import the module that registers it first"
        )
    return registry.module_dict[name]

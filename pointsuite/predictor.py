"""Answers for point clouds, for people who only want these: a checkpoint in, predictions out.

    import pointsuite
    classify = pointsuite.Classifier("work_dirs/risurconv-s_kicad")
    print(classify("part.ply").name)
    segment = pointsuite.PartSegmenter("work_dirs/risurconv-s_partseg_kicad")
    print(segment("part.ply", category="dip").count())

A training run's checkpoint says as plain data which network and which test pipeline belong to its weights
(``meta["model"]``, ``meta["pipeline"]``): alone it is enough. Then no config is run, and only classes that
are registered here are built.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from torch import Tensor, nn

from pointsuite.engine.checkpoint import atomic_write
from pointsuite.engine.predictor import Prediction, Predictor, add_suffix, resolve_types
from pointsuite.engine.zoo import ZOO
from pointsuite.io import SUFFIXES, count_clouds, read_points
from pointsuite.io.point_file import PointFile, checked
from pointsuite.models import PointCloudClassifier, PointCloudModel, PointCloudPartSegmenter
from pointsuite.models.voting import Votes
from pointsuite.ops import estimate_normals, farthest_point_sample, knn
from pointsuite.registry import MODELS, TRANSFORMS
from pointsuite.transforms import PackPoints, SamplePoints

MESH_POINTS = 1024  # sampled on a mesh where nothing says how many points the network was trained on
NEIGHBOURS = 32  # of a point whose normal is estimated
UNIT = 0.05  # how far from 1 a normal's length may be


class PartPrediction(NamedTuple):
    """What a part segmenter says about the N points of one cloud."""

    labels: np.ndarray  # int64 (N,), numbers of the points' most probable parts
    probabilities: np.ndarray  # float32 (N, parts), of all parts; those of a point add to 1
    points: np.ndarray  # float32 (N, 3), xyz as given less the offset, or as sampled on a mesh
    parts: tuple[str, ...]  # names
    offset: np.ndarray  # float64 (3,), zero unless the cloud is far from the origin

    @property
    def names(self) -> list[str]:
        """Of each point's part."""
        return [self.parts[label] for label in self.labels]

    def count(self) -> dict[str, int]:
        """How many points each part has, the largest first."""
        return dict(Counter(self.names).most_common())


class Cloud(NamedTuple):
    """An input that a network is ready for."""

    name: str  # for errors
    points: np.ndarray  # float32 (N, 3), xyz as given
    inputs: Tensor  # float32 (M, 6), as the network is fed
    rows: np.ndarray  # int64 (M,), which of the points these are
    category: int | None
    offset: np.ndarray  # float64 (3,), which was subtracted from the points


class CloudPredictor(Predictor):
    """What the predictors of clouds share: reading, estimating, sampling, grouping by size.

    Args:
        config: a ``Config``, its path, a work dir, a network, or a checkpoint of a training run of this
            project or one written by tools/convert_checkpoint.py: the path of it, or a URL with its digest.
        checkpoint: weights, where ``config`` is not a checkpoint itself. Read without running code from it.
        weights: another name of ``checkpoint``; "random" for what a config's network is made with.
        device: "cpu", "cuda", ...; a GPU where there is one by default.
        classes: names of the classes, where neither checkpoint nor config has them.
        batch_size: clouds that the network gets at once.
        progress: draw a bar on stderr while many clouds are predicted; None for terminals only.
        columns, drop_nan: how files are read, see :func:`pointsuite.io.read_points`; `drop_nan` is for
            arrays, too.
        normals: "estimate" for normals of our own in place of given ones.

    Attributes:
        network: (B, N, 6) points and unit normals -> logits, in eval mode.
        classes: names.
        num_points: what larger clouds are sampled to, as many as in training; None if nothing says.

    Raises:
        CheckpointError: the file cannot be read safely, or does not say what its weights are of.
        ValueError: no such device; no names of classes.
    """

    registry = MODELS
    zoo = ZOO
    suffixes = SUFFIXES
    task: ClassVar[type[PointCloudModel]]  # of the runs whose weights the predictor takes
    needs_classes: ClassVar[bool] = True  # their names

    def __init__(
        self,
        config: Config | nn.Module | str | os.PathLike | None = None,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        weights: str | os.PathLike | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
        columns: str | Sequence[str] | None = None,
        drop_nan: bool = False,
        normals: str = "given",
    ):
        if normals not in ("given", "estimate"):
            raise ValueError(f"normals is {normals!r}, wanted 'given' or 'estimate'")
        self.reading = {"columns": columns, "drop_nan": drop_nan}
        self.normals = normals
        if config is None:
            config, checkpoint = checkpoint, None
        super().__init__(
            config, checkpoint, device, weights=weights, batch_size=batch_size, progress=progress
        )
        self.source = self.checkpoint or "the network"
        if isinstance(self.model, PointCloudModel) and not isinstance(self.model, self.task):
            raise ValueError(
                f"{self.source}: is of a {type(self.model).__name__}, wanted a {self.task.__name__}"
            )
        self.network = getattr(self.model, "network", self.model)
        self.votes = getattr(self.model, "votes", Votes())
        self.classes = self._find_names("classes", "classes", classes, self.needs_classes)
        steps = self._build_pipeline()
        samples = [step.num for step in steps if isinstance(step, SamplePoints)]
        self.num_points = min(samples, default=self._data_facts().get("num_points"))
        # Sampling is done here, whatever the order of a cloud's points; packing is of data with labels.
        self._pipeline = Compose([step for step in steps if not isinstance(step, SamplePoints | PackPoints)])

    def _data_facts(self) -> Mapping[str, Any]:
        """What is known of the data that the network was trained on."""
        dataset = self.cfg.test_dataloader.dataset if self.cfg and "test_dataloader" in self.cfg else {}
        return {**dataset, **(self.meta.get("dataset_meta") or {})}

    def _find_names(
        self, what: str, key: str, given: Sequence[str] | None, needed: bool = True
    ) -> tuple[str, ...]:
        names = self._data_facts().get(key) if given is None else given
        if needed and not names:
            raise ValueError(f"{self.source}: has no names of {what}, wanted {what}=[...]")
        return tuple(names or ())

    def _build_pipeline(self) -> list:
        if self.cfg is not None:
            steps = self.test_pipeline(self.source)
        elif isinstance(self.meta.get("model"), Mapping):
            steps = resolve_types(self.test_pipeline(self.source), TRANSFORMS, self.source)
        else:  # nothing says how the network was trained: as most were
            steps = [{"type": "NormalizeUnitSphere"}]
        return [TRANSFORMS.build(step) for step in steps]

    # ------------------------------------------------------------------------------------------------ calls

    def is_many(self, inputs: Any) -> bool:
        return super().is_many(inputs) or (isinstance(inputs, np.ndarray | Tensor) and inputs.ndim == 3)

    def expand(self, inputs: Any) -> list:
        return list(inputs) if isinstance(inputs, np.ndarray | Tensor) else super().expand(inputs)

    def iterate(self, inputs: Sequence, *others: Sequence) -> Iterator:
        names = (
            str(cloud) if isinstance(cloud, str | os.PathLike) else f"cloud {i}"
            for i, cloud in enumerate(inputs)
        )
        return super().iterate(list(zip(names, inputs, *others, strict=True)))

    def predict(self, inputs: Sequence[tuple]) -> list:
        """Predictions of a few inputs, each a tuple of the arguments of :meth:`prepare`."""
        clouds = [self.prepare(*each) for each in inputs]
        by_size: dict[int, list[int]] = {}
        for i, cloud in enumerate(clouds):
            by_size.setdefault(len(cloud.inputs), []).append(i)
        scores = {}
        for rows in by_size.values():
            scores.update(zip(rows, self._run([clouds[i] for i in rows]), strict=True))
        return [self.describe(cloud, scores[i]) for i, cloud in enumerate(clouds)]

    @torch.inference_mode()
    def _run(self, clouds: Sequence[Cloud]) -> np.ndarray:
        """Probabilities of clouds of one size."""
        points = torch.stack([cloud.inputs for cloud in clouds]).to(self.device)
        known = [cloud.category for cloud in clouds if cloud.category is not None]
        category = [torch.tensor(known, device=self.device)] if known else []
        try:
            return self.votes(self.network, points, *category).cpu().numpy()
        except ValueError as error:
            raise ValueError(f"{', '.join(cloud.name for cloud in clouds)}: {error}") from error

    def describe(self, cloud: Cloud, scores: np.ndarray) -> NamedTuple:
        """The prediction from a cloud's probabilities."""
        raise NotImplementedError

    def prepare(self, name: str, cloud: Any, category: int | None = None) -> Cloud:
        """Read or check one cloud, and make of it what the network is fed."""
        if isinstance(cloud, str | os.PathLike):
            if (count := count_clouds(cloud)) > 1:
                raise ValueError(f"{name}: found {count:,} clouds, wanted one of them, as {name}:test:0")
            cloud = read_points(Path(cloud), self.num_points or MESH_POINTS, **self.reading)
        else:
            cloud = _check_array(cloud, name, self.normals == "given", self.reading["drop_nan"])
        points, normals = torch.from_numpy(cloud.points), cloud.normals if self.normals == "given" else None
        if normals is None:
            normals = estimate_normals(points[None], min(NEIGHBOURS, len(points)))[0].numpy()
        length = np.linalg.norm(normals, axis=1)
        if (length == 0).any():
            raise ValueError(
                f"{name}: found {(length == 0).sum()} normals of length 0, wanted unit normals, "
                "no normals, or normals='estimate'"
            )
        rows = np.arange(len(points))
        if self.num_points and len(points) > self.num_points:
            rows = farthest_point_sample(points[None], self.num_points)[0].numpy()
        sample = {
            "points": cloud.points[rows],
            "normals": normals[rows],
            "part": rows,  # goes with the points, whatever the pipeline does with their order
            "rng": np.random.default_rng(0),
        }
        sample = self._pipeline(sample)
        inputs = np.concatenate([sample["points"], sample["normals"]], 1, dtype=np.float32)
        return Cloud(name, cloud.points, torch.from_numpy(inputs), sample["part"], category, cloud.offset)


class Classifier(CloudPredictor):
    """Classifies clouds; see :class:`CloudPredictor` for the arguments."""

    task = PointCloudClassifier

    def __call__(self, clouds: Any) -> Prediction | list[Prediction]:
        """Classify one cloud or several.

        Args:
            clouds: an array or tensor (N, 3) xyz or (N, 6) xyz and unit normal; the path of a file that
                :func:`pointsuite.io.read_points` reads, whose mesh, if it is one, is sampled; (B, N, 3) or
                (B, N, 6), a list of any of these, or a folder of such files, for several clouds.

        Normals are estimated where there are none (:func:`pointsuite.ops.estimate_normals`), and clouds of
        more than `num_points` points are sampled by farthest point sampling. The prediction of a cloud does
        not depend on the others.

        Returns:
            Prediction, or a list of them for several clouds.

        Raises:
            PointFileError: a file cannot be read. ValueError: an array of the wrong shape, NaN or infinity,
                normals whose length is not 1, fewer points than the network needs. TypeError: anything else.
        """
        return super().__call__(clouds)

    def describe(self, cloud: Cloud, scores: np.ndarray) -> Prediction:
        if scores.shape != (len(self.classes),):
            raise ValueError(
                f"{cloud.name}: the network gives numbers of shape {scores.shape}, "
                f"wanted one for each of {len(self.classes)} classes"
            )
        label = int(scores.argmax())
        return Prediction(self.classes[label], float(scores[label]), label, scores, self.classes)


class PartSegmenter(CloudPredictor):
    """Finds the parts of clouds; see :class:`CloudPredictor` for the arguments.

    Args:
        classes: names of the categories; without any, these go by number.
        parts: names of the parts, where neither checkpoint nor config has them.
    """

    task = PointCloudPartSegmenter
    needs_classes = False

    def __init__(
        self,
        config: Config | nn.Module | str | os.PathLike | None = None,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        parts: Sequence[str] | None = None,
        **kwargs,
    ):
        super().__init__(config, checkpoint, device, **kwargs)
        self.parts = self._find_names("parts", "part_classes", parts)

    def __call__(
        self, clouds: Any, category: str | int | None | Sequence[str | int] = None
    ) -> PartPrediction | list[PartPrediction]:
        """Find the parts of one cloud or of several.

        Args:
            clouds: see :meth:`Classifier.__call__`.
            category: which of `classes` a cloud is of, by name or number, as the network is told in
                training; one for all clouds or, in a list, one for each. None for a network of one category.

        Clouds of more than `num_points` points are sampled; each other point has the part of the nearest
        sampled one. The parts are not restricted to those that a category had in training.

        Returns:
            PartPrediction, or a list of them for several clouds.

        Raises:
            ValueError: an unknown category, or none where the network wants one; and as Classifier.
        """
        return super().__call__(clouds, category=category)

    def iterate(self, inputs: Sequence, category: Any = None) -> Iterator:
        given = list(category) if isinstance(category, list | tuple) else [category] * len(inputs)
        if len(given) != len(inputs):
            raise ValueError(f"found {len(given)} categories for {len(inputs)} clouds, wanted one for each")
        return super().iterate(inputs, [self.find_category(each) for each in given])

    def find_category(self, category: str | int | None) -> int | None:
        """The number of a category.

        Raises:
            ValueError: there is none of that name or number.
        """
        count = getattr(self.network, "num_categories", len(self.classes))
        if category is None and count < 2:
            return None
        if category in self.classes:
            category = self.classes.index(category)
        whole = isinstance(category, int | np.integer) and not isinstance(category, bool)
        if not whole or not 0 <= category < count:
            raise ValueError(
                f"category is {category!r}, wanted a number below {count}, or one of {list(self.classes)}"
            )
        return int(category)

    def describe(self, cloud: Cloud, scores: np.ndarray) -> PartPrediction:
        if scores.shape != (len(cloud.rows), len(self.parts)):
            raise ValueError(
                f"{cloud.name}: the network gives numbers of shape {scores.shape}, "
                f"wanted one for each of {len(cloud.rows)} points and {len(self.parts)} parts"
            )
        points = torch.from_numpy(cloud.points)[None]
        nearest = knn(points, points[:, cloud.rows], 1)[0][0, :, 0]
        nearest[cloud.rows] = torch.arange(len(cloud.rows))  # their own, where points coincide
        scores = scores[nearest.numpy()]
        return PartPrediction(scores.argmax(1), scores, cloud.points, self.parts, cloud.offset)

    def describe_answer(self, prediction: PartPrediction) -> tuple[str, dict[str, Any]]:
        count = prediction.count()
        said = ", ".join(f"{name} {number}" for name, number in count.items())
        return f"{said} of {len(prediction.labels)} points", {"parts": count}

    def write(self, source: str, prediction: PartPrediction, stem: Path) -> list[Path]:
        """Points, labels, probabilities and names of the parts as ``.npz``, a picture of them as ``.png``."""
        from pointsuite.visualization import draw_cloud  # Matplotlib, which takes a second

        table, picture = add_suffix(stem, ".npz"), add_suffix(stem, ".png")
        with atomic_write(table) as file:
            np.savez_compressed(
                file,
                points=prediction.points + prediction.offset,
                part=prediction.labels,
                probabilities=prediction.probabilities,
                parts=np.array(prediction.parts),
            )
        draw_cloud(prediction.points, "part", picture, part=prediction.labels)
        return [table, picture]


def _check_array(cloud, name: str, take_normals: bool, drop_nan: bool) -> PointFile:
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
    points, normals = cloud[:, :3], cloud[:, 3:] if cloud.shape[1] == 6 and take_normals else None
    try:
        found = checked(points, normals, drop_nan=drop_nan)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if normals is not None:
        length = np.linalg.norm(normals.astype(np.float64), axis=1)
        wrong = length[(np.abs(length - 1) > UNIT) & (length > 0)]  # NaN, which was dropped, is neither
        if len(wrong):
            raise ValueError(
                f"{name}: found normals of length {wrong.min():.3g} to {wrong.max():.3g} in columns 4 to 6, "
                "wanted unit normals, or (N, 3) points"
            )
    return found

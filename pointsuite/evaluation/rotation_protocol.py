"""Accuracy under the rotation protocols of the field, named "train rotation/test rotation".

z/z: trained and tested under rotations about the vertical axis; z/SO3: tested under all rotations; SO3/SO3:
trained under all rotations too (Esteves et al., "Learning SO(3) equivariant representations with spherical
CNNs", 2018). A network that is invariant to rotation has three equal rows, however it was trained; any other
has rows of the rotation that it was trained under.
"""

import ast
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from pointsuite.datasets import PointCloudDataset
from pointsuite.datasets.examples import example_clouds
from pointsuite.transforms.rotate import RandomRotate, RotateBy, random_rotation

from .accuracy import confusion_matrix, mean_class_accuracy, overall_accuracy

PROTOCOLS = ("z/z", "z/SO3", "SO3/SO3")
_MODES = {"z": "z", "SO3": "so3"}


@dataclass(frozen=True)
class ProtocolResult:
    """What one protocol measured, with R rotations of each of M shapes; accuracies in percent.

    Attributes:
        labels: int64 (M,).
        predictions: int64 (R, M).
        num_classes: of the dataset.
        up: the axis that rotations "z" are about, "x", "y" or "z".
    """

    labels: np.ndarray
    predictions: np.ndarray
    num_classes: int
    up: str = ""

    @property
    def confusions(self) -> list[np.ndarray]:
        """One (classes, classes) matrix a rotation: row = truth, column = prediction."""
        return [confusion_matrix(self.labels, row, self.num_classes) for row in self.predictions]

    @property
    def accuracies(self) -> np.ndarray:
        """Overall accuracy of each rotation, (R,)."""
        return np.array([overall_accuracy(confusion) for confusion in self.confusions])

    def summary(self) -> dict[str, float]:
        """Overall accuracy: mean, standard deviation (of these R values), least and most; and the mean over
        rotations of the mean class accuracy, which leaves out classes without samples."""
        accuracies = self.accuracies
        return {
            "overall_accuracy": float(accuracies.mean()),
            "std": float(accuracies.std()),
            "min": float(accuracies.min()),
            "max": float(accuracies.max()),
            "mean_class_accuracy": float(np.mean([mean_class_accuracy(c) for c in self.confusions])),
        }


def training_rotation(config: Mapping[str, Any] | str, up: str = "z") -> str | None:
    """The rotation that a config trains under, "z" or "SO3"; None without one, or where data sets differ.

    Args:
        config: or its text, as a checkpoint holds it, which is read and not run.
        up: the axis of the data that points up, which "z" rotations are about.

    Raises:
        ValueError: the text is not Python's.
    """
    if isinstance(config, str):
        try:
            body = ast.parse(config).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"found {config[:40]!r}, wanted the text of a config") from error
        lines = [node for node in body if isinstance(node, ast.Assign)]
        config = {getattr(line.targets[0], "id", ""): _plain(line.value) for line in lines}
    found = set()
    for pipeline in _find(config.get("train_dataloader"), lambda part: part.get("pipeline")):
        steps = _find(pipeline, lambda part: part if str(part.get("type")).endswith("RandomRotate") else None)
        axes = (None, "xyz".index(up))
        modes = {s.get("mode", "z") for s in steps if s.get("mode") == "so3" or s.get("axis") in axes}
        found.add("SO3" if "so3" in modes else "z" if "z" in modes else None)
    return found.pop() if len(found) == 1 else None


def _plain(node: ast.AST) -> Any:
    """What a config's text makes of dict(...), {}, [], () and constants; None for anything else."""
    match node:
        case ast.Call(func=ast.Name(id="dict"), keywords=keywords):
            return {keyword.arg: _plain(keyword.value) for keyword in keywords}
        case ast.Dict(keys=keys, values=values):
            return dict(zip(map(_plain, keys), map(_plain, values), strict=True))
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_plain(part) for part in parts]
    return node.value if isinstance(node, ast.Constant) else None


def _find(part: Any, wanted: Callable[[Mapping], Any]) -> Iterator[Any]:
    """What `wanted` takes of each dict in nested lists and dicts, outermost first, and nothing below that."""
    if isinstance(part, Mapping) and (found := wanted(part)) is not None:
        yield found
    elif isinstance(part, Mapping | list | tuple):
        for inner in part.values() if isinstance(part, Mapping) else part:
            yield from _find(inner, wanted)


def is_invariant(network: nn.Module, num_points: int = 1024) -> bool:
    """Whether rotations change a network's logits of random clouds, in float64, by rounding only (1e-6)."""
    double = copy.deepcopy(network).cpu().double().eval()
    vars(double).pop("forward", None)  # a compiled one would be that of the original
    options = {"mode": "tensor"} if isinstance(network, BaseModel) else {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        clouds = example_clouds(4, num_points).double()
        logits = double(clouds, **options)
        for seed in range(2):
            matrix = torch.from_numpy(random_rotation(np.random.default_rng(seed)))
            turned = double((clouds.unflatten(-1, (2, 3)) @ matrix.T).flatten(-2), **options)
            if not torch.allclose(turned, logits, rtol=0, atol=1e-6 * float(logits.abs().max())):
                return False
    return True


def evaluate_protocols(
    networks: Callable | Mapping[str, Callable],
    dataset: PointCloudDataset,
    protocols: Sequence[str] = PROTOCOLS,
    *,
    num_rotations: int = 3,
    seed: int = 0,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    axis: int | None = None,
) -> dict[str, ProtocolResult]:
    """Test networks under rotations of the raw clouds.

    Every shape gets ``num_rotations`` rotations of its own, drawn from (seed, protocol, rotation, index): the
    same for every network. Points and normals are rotated before the dataset's
    pipeline, and the network sees nothing but the result.

    Args:
        networks: what maps (B, N, 6) to logits (B, classes), a module or MMEngine model (called with
            mode="tensor"); or a mapping from the train rotation, "z" or "SO3", to such a network. One
            network stands for both: it is invariant (see :func:`is_invariant`), or protocols name one.
        dataset: with a pipeline that ends in PackPoints and has no rotation of its own.
        protocols: names out of ``PROTOCOLS``.
        device: where the clouds go; the networks must be there.
        axis: of the rotations "z": 0, 1 or 2; by default the one that points up in the dataset.

    Returns:
        {protocol: result}, in the order asked for.

    Raises:
        ValueError: unknown protocol, no network for its train rotation, a pipeline that rotates, fewer than
            one rotation, or logits of the wrong shape.
    """
    if not isinstance(networks, Mapping):
        networks = dict.fromkeys(_MODES, networks)
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol {protocol!r}, wanted one of {PROTOCOLS}")
        train = protocol.split("/")[0]
        if train not in networks:
            raise ValueError(f"{protocol}: no network trained under {train}, found {sorted(networks)}")
    if num_rotations < 1 or batch_size < 1:
        raise ValueError(f"num_rotations={num_rotations}, batch_size={batch_size}, wanted at least 1")
    if any(isinstance(step, RandomRotate | RotateBy) for step in dataset.pipeline.transforms):
        raise ValueError("the dataset's pipeline rotates, wanted one that leaves it to the protocol")

    if axis is None:
        axis = "xyz".index(dataset.metainfo.get("up", "z"))
    num_classes = len(dataset.metainfo["classes"])
    results = {}
    for protocol in protocols:
        train, test = protocol.split("/")
        predictions = []
        with _evaluating(networks[train]) as network:
            for rotation in range(num_rotations):
                clouds = _rotated_clouds(
                    dataset, _MODES[test], axis, (seed, PROTOCOLS.index(protocol), rotation)
                )
                predictions.append(_predict(network, clouds, batch_size, device, num_classes))
        labels = dataset.clouds.label.astype(np.int64)
        results[protocol] = ProtocolResult(labels, np.stack(predictions), num_classes, "xyz"[axis])
    return results


def _rotated_clouds(
    dataset: PointCloudDataset, mode: str, axis: int, seed: tuple[int, ...]
) -> Iterator[Tensor]:
    """Each cloud (N, 6) of the dataset, rotated before its pipeline."""
    for index in range(len(dataset)):
        by = RotateBy(seed=(*seed, index), mode=mode, axis=axis)
        yield dataset.pipeline(by(dataset.get_data_info(index)))["inputs"]


@contextmanager
def _evaluating(network: Callable) -> Iterator[Callable]:
    """``network`` in eval mode, without gradients; then as it was."""
    was_training = isinstance(network, nn.Module) and network.training
    if was_training:
        network.eval()
    try:
        with torch.no_grad():
            yield network
    finally:
        if was_training:
            network.train()


def _predict(
    network: Callable, clouds: Iterator[Tensor], batch_size: int, device: torch.device | str, num_classes: int
) -> np.ndarray:
    """Predicted class of each cloud, int64 (M,)."""
    options = {"mode": "tensor"} if isinstance(network, BaseModel) else {}
    predictions = []
    while batch := list(islice(clouds, batch_size)):
        logits = network(torch.stack(batch).to(device), **options)
        if logits.shape != (len(batch), num_classes):
            raise ValueError(f"logits have shape {tuple(logits.shape)}, wanted {(len(batch), num_classes)}")
        predictions.append(logits.argmax(1).cpu().numpy())
    return np.concatenate(predictions)


def format_protocols(results: Mapping[str, ProtocolResult], not_trained: Sequence[str] = ()) -> str:
    """A table: each row begins with the protocol's name, then the overall accuracy in percent.

    A line before it says which axis points up, where the results know. Rows `not_trained` have no numbers.
    """
    columns = {
        "overall_accuracy": "overall %",
        "std": "std",
        "min": "min",
        "max": "max",
        "mean_class_accuracy": "mean class %",
    }
    axes = sorted({result.up for result in results.values() if result.up})
    lines = [f'rotations "z" are about {axis}, which is up in the data' for axis in axes]
    lines += [" ".join([f"{'protocol':8}", *(f"{title:>12}" for title in columns.values()), "   rotations"])]
    for protocol, result in results.items():
        summary = result.summary()
        cells = [f"{summary[key]:12.2f}" for key in columns]
        lines.append(" ".join([f"{protocol:8}", *cells, f"{len(result.predictions):12d}"]))
    return "\n".join([*lines, *(f"{protocol:8}  not trained" for protocol in not_trained)])

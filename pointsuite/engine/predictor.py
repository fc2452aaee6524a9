"""How a file goes in and an answer comes out, in every task."""

import copy
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, Registry
from mmengine.utils import ProgressBar
from torch import nn

from .checkpoint import (
    CheckpointError,
    find_checkpoint,
    find_state_dict,
    load_checkpoint,
    load_state_dict,
    take_network,
)
from .config import read_file
from .zoo import ModelZoo


class Prediction(NamedTuple):
    """What a classifier says about one input."""

    name: str  # of the most probable class
    probability: float  # of that class
    label: int  # its number
    probabilities: np.ndarray  # float32 (classes,), of all classes; they add to 1
    classes: tuple[str, ...]

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Names and probabilities of the most probable classes, the best first."""
        best = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(self.classes[i], float(self.probabilities[i])) for i in best]


class Predictor:
    """A network with its weights, called with one input or with many.

    An input is what the task says: the path of a file, an array, ... A folder stands for the files in it that
    the task reads, by name; a list or tuple for all that it holds. A prediction depends on its own input
    only.

    Args:
        config: of a run of the task: a ``Config``, its path, or a work dir, whose config is used; or the
            bare network of such a run; or, where ``checkpoint`` is not given, a checkpoint of a run, which
            says itself what it is of.
        checkpoint: weights: a file, a work dir for its last one, or ``URL#sha256=DIGEST``; read without
            running code. None keeps the weights that a network has, or makes new ones of a config.
        device: where the network runs; a GPU where there is one by default.
        batch_size: inputs that the network gets at once, where they have one size.
        progress: draw a bar on stderr while many inputs are predicted; None for terminals only.

    Attributes:
        cfg: config of the run; None of a bare network.
        checkpoint: file that the weights were read from; None where none were.
        meta: what the checkpoint says of itself, a dict.
        model: in evaluation mode, on ``device``.

    Raises:
        CheckpointError: weights that cannot be read or do not fit.
        FileNotFoundError: no such config; (of a call) no such file, or a folder without one.
        ValueError: no such device, or a config that is of another task; (of a call) an input that is not
            what the task takes; the message names it.
    """

    registry: ClassVar[Registry]  # of models; its scope is the default one while a config is built
    zoo: ClassVar[ModelZoo]
    suffixes: ClassVar[tuple[str, ...]] = ()  # of the files that a folder is searched for, in lower case

    def __init__(
        self,
        config: Config | nn.Module | str | os.PathLike,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        batch_size: int = 1,
        progress: bool | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {batch_size}")
        self.device = find_device(device)
        self.batch_size = batch_size
        self.progress = progress
        self.cfg: Config | None = None
        self.checkpoint: str | None = None
        self.meta: Mapping[str, Any] = {}
        if isinstance(config, nn.Module):
            model = config
        else:
            if not isinstance(config, Config) and not is_config(config):
                config, checkpoint = _split_source(config, checkpoint)
            if config is not None and not isinstance(config, Config):
                config = read_config(config)
            self.cfg = config
        state = None
        if checkpoint is not None:
            self.checkpoint = path = find_checkpoint(str(checkpoint))
            content = load_checkpoint(path)
            self.meta = content.get("meta") or {} if isinstance(content, Mapping) else {}
            state = find_state_dict(content, str(path))
        if not isinstance(config, nn.Module):
            with DefaultScope.overwrite_default_scope(self.registry.scope):
                model = self.build_model(str(checkpoint))
        if state is not None:
            load_weights(model, state, str(path))
        self.model = model.to(self.device).eval()

    def build_model(self, source: str) -> nn.Module:
        """The model of :attr:`cfg`; without a config, the one that :attr:`meta` describes.

        Args:
            source: of the weights, for messages.
        """
        if self.cfg is not None:
            return self.registry.build(copy.deepcopy(self.cfg.model))  # building changes some
        described = self.meta.get("model")
        if isinstance(described, str):  # of tools/convert_checkpoint.py
            try:
                return self.zoo.create_model(described, **self.meta.get("model_args", {}))
            except (TypeError, ValueError) as error:
                raise CheckpointError(f"{source}: {error}") from error
        if not isinstance(described, Mapping) or "type" not in described:
            raise CheckpointError(
                f"{source}: does not say what network it is of; wanted a checkpoint of a training run or of "
                "tools/convert_checkpoint.py, or a config beside it"
            )
        return self.registry.build(resolve_types(described, self.registry, source))

    def test_pipeline(self, source: str) -> list:
        """The transforms of the test data, as configs; of a bare network there are none.

        Raises:
            CheckpointError: the checkpoint does not say which.
        """
        if self.cfg is not None:
            return copy.deepcopy(self.cfg.test_dataloader.dataset.pipeline)
        if not self.meta:
            return []
        if not isinstance(self.meta.get("pipeline"), list | tuple):
            raise CheckpointError(f"{source}: has no meta['pipeline'], wanted a run whose config has a test")
        return list(self.meta["pipeline"])

    # ------------------------------------------------------------------------------------------------ calls

    def __call__(self, inputs: Any, **options) -> Any:
        """Predict one input, or a list of predictions for a folder, list or tuple of inputs."""
        return self._call(inputs, options)

    def _call(self, inputs: Any, options: Mapping[str, Any]) -> Any:
        if not self.is_many(inputs):
            return next(self.iterate([inputs], **options))
        return list(self.iterate(self.expand(inputs), **options))

    def is_many(self, inputs: Any) -> bool:
        """Whether inputs are several."""
        return isinstance(inputs, list | tuple) or (
            isinstance(inputs, str | os.PathLike) and Path(inputs).is_dir()
        )

    def expand(self, inputs: Any) -> list:
        """The single inputs of a list, or of a folder."""
        return list(inputs) if isinstance(inputs, list | tuple) else find_files(inputs, self.suffixes)

    def iterate(self, inputs: Sequence, **options) -> Iterator:
        """Predictions one by one: many inputs need no more memory than a batch."""
        done = self.start_bar(len(inputs))
        for start in range(0, len(inputs), self.batch_size):
            for prediction in self.predict(inputs[start : start + self.batch_size], **options):
                yield prediction
                done()

    def start_bar(self, count: int) -> Callable[[], None]:
        """Draw a bar of so many inputs, if it is wanted; call what is returned after each of them."""
        wanted = sys.stderr.isatty() if self.progress is None else self.progress
        return ProgressBar(count, file=sys.stderr).update if wanted and count > 1 else lambda: None

    def predict(self, inputs: Sequence, **options) -> Sequence:
        """Predictions of a few inputs, in their order."""
        raise NotImplementedError


def find_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; by default a GPU where there is one.

    Raises:
        ValueError: there is none of that name.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}, wanted 'cpu', 'cuda', 'cuda:1', ...") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {str(device)!r}, but PyTorch finds no NVIDIA GPU; wanted 'cpu'")
    return found


def find_files(folder: str | os.PathLike, suffixes: Sequence[str]) -> list[str]:
    """Files directly in a folder that end in one of ``suffixes``, in any case, by name.

    A warning names what else is there, but hidden files.

    Raises:
        FileNotFoundError: there is none.
    """
    paths = sorted(path for path in Path(folder).iterdir() if not path.name.startswith("."))
    found = [str(path) for path in paths if path.suffix.lower() in suffixes]
    if not found:
        raise FileNotFoundError(f"{folder}: a folder without files that end in {', '.join(suffixes)}")
    if others := [path.name for path in paths if path.suffix.lower() not in suffixes]:
        names = ", ".join(others[:6]) + (f" and {len(others) - 6} more" if len(others) > 6 else "")
        warnings.warn(
            f"{folder}: passed over, ending in none of {', '.join(suffixes)}: {names}", stacklevel=3
        )
    return found


def is_config(source: str | os.PathLike) -> bool:
    """Whether a path names a config rather than weights."""
    return Path(source).suffix == ".py"


def read_config(path: str | os.PathLike) -> Config:
    """A config file, or that of a work dir.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such config")
    return read_file(path)


def _split_source(
    source: str | os.PathLike, checkpoint: str | os.PathLike | None
) -> tuple[Path | None, str | os.PathLike]:
    """Config and weights of a work dir, or None and the weights, which say what they are of."""
    folder = Path(source)
    if "://" not in str(source) and folder.is_dir():
        configs = sorted(folder.glob("*.py"))
        if len(configs) != 1:
            raise FileNotFoundError(
                f"{folder}: found {len(configs)} configs, wanted one, as a run leaves it; or name the config"
            )
        return configs[0], folder if checkpoint is None else checkpoint
    if checkpoint is not None:
        raise ValueError(f"found {source} and {checkpoint}, wanted a config, a network or a work dir first")
    return None, source


def load_weights(model: nn.Module, state: Mapping[str, Any], name: str) -> None:
    """Load weights of a run into its model or into the bare network, or of that into the run's model.

    Raises:
        CheckpointError: they do not fit.
    """
    load_state_dict(model, take_network(state, model), name=name)


def resolve_types(value: Any, registry: Registry, source: str) -> Any:
    """A config of a checkpoint, with each ``type`` replaced by the class of that name in ``registry`` itself.

    MMEngine builds from any string that names something importable: what a file says must not get there.

    Raises:
        CheckpointError: a name that is not registered, or arguments that are not plain.
    """
    if isinstance(value, Mapping):
        if hidden := [key for key in value if str(key).startswith("_")]:
            raise CheckpointError(
                f"{source}: found {hidden[0]!r} in its {registry.name}, wanted plain arguments"
            )
        plain = {key: resolve_types(item, registry, source) for key, item in value.items() if key != "type"}
        return plain | ({"type": _find_class(value["type"], registry, source)} if "type" in value else {})
    if isinstance(value, list | tuple):
        return type(value)(resolve_types(item, registry, source) for item in value)
    return value


def _find_class(name: Any, registry: Registry, source: str) -> type:
    registry.import_from_location()
    name = str(name).rpartition(".")[2]
    if name not in registry.module_dict:
        raise CheckpointError(
            f"{source}: its {registry.name} has the type {name!r}, which is not registered in "
            f"{registry.scope}; import the module that registers it first"
        )
    return registry.module_dict[name]

"""How a file goes in and an answer comes out, in every task."""

import copy
import os
import re
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
from .command import find_config
from .config import find_run_config, read_file
from .errors import one_line
from .zoo import ModelZoo

RANDOM = "random"  # weights that nobody trained, where they are asked for by this name
WEIGHTS = {"pretrained", "init_cfg", "checkpoint", "load_from"}  # what these name would be read or fetched
FILES = {"config", "file", "filename", "path", "url", "data_root", "data_file", "ann_file", "work_dir", "out"}


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


class Answer(NamedTuple):
    """What a predictor says about one file."""

    source: str  # the file
    line: str  # for people
    record: dict[str, Any]  # for JSON
    files: list[Path]  # that were written


class Predictor:
    """A network with its weights, called with one input or with many.

    An input is what the task says: the path of a file, an array, ... A folder stands for the files in it that
    the task reads, by name; a list or tuple for all that it holds. A prediction depends on its own input
    only.

    Args:
        config: of a run of the task: a ``Config``, its path, or a work dir, whose config is used; or the
            bare network of such a run; or, where ``checkpoint`` is not given, a checkpoint of a run, which
            says itself what it is of, or the name of a model whose weights are shipped.
        checkpoint: weights: a file, a work dir for its last one, or ``URL#sha256=DIGEST``; read without
            running code. None keeps the weights that a network has; a config whose network has parameters
            wants them.
        device: where the network runs; a GPU where there is one by default.
        weights: another name of ``checkpoint``; "random" for what a config's network is made with.
        batch_size: inputs that the network gets at once, where they have one size.
        progress: draw a bar on stderr while many inputs are predicted; None for terminals only.

    Attributes:
        cfg: config of the run; None of a bare network.
        checkpoint: file that the weights were read from; None where none were.
        meta: what the checkpoint says of itself, a dict.
        model: in evaluation mode, on ``device``.

    Raises:
        CheckpointError: weights that cannot be read or do not fit, or that a config lacks.
        FileNotFoundError: no such config; (of a call) no such file, or a folder without one.
        ValueError: no such device, or a config that is of another task; (of a call) an input that is not
            what the task takes; the message names it.
    """

    registry: ClassVar[Registry]  # of models; its scope is the default one while a config is built
    zoo: ClassVar[ModelZoo]
    suffixes: ClassVar[tuple[str, ...]] = ()  # of the files that a folder is searched for, in lower case
    target: ClassVar[str] = "out"  # the argument of a call that says where its files go, if it has one

    def __init__(
        self,
        config: Config | nn.Module | str | os.PathLike,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        weights: str | os.PathLike | None = None,
        batch_size: int = 1,
        progress: bool | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {batch_size}")
        if weights is not None and checkpoint is not None:
            raise ValueError(
                f"found the checkpoint {checkpoint} and weights={str(weights)!r}, wanted one of them"
            )
        random = isinstance(weights, str) and weights == RANDOM
        checkpoint = checkpoint if random or weights is None else weights
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
                config, checkpoint = _split_source(config, checkpoint, random, self.zoo)
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
            if state is None and not random:
                check_weights(model, str(self.cfg.filename or "the config"), f"weights={RANDOM!r}")
                if hasattr(model, "init_weights"):
                    model.init_weights()
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
            options = check_options(self.meta.get("model_args") or {}, source)
            try:
                return self.zoo.create_model(described, **options)
            except (TypeError, ValueError) as error:
                raise CheckpointError(f"{source}: {one_line(error)}") from error
        if not isinstance(described, Mapping) or "type" not in described:
            raise CheckpointError(
                f"{source}: does not say what network it is of; wanted a checkpoint of a training run or of "
                "tools/convert_checkpoint.py, or a config beside it"
            )
        resolved = resolve_types(described, self.registry, source)
        try:
            return self.registry.build(resolved)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{source}: meta['model']: {one_line(error)}") from error

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

    # ---------------------------------------------------------------------------------------------- answers

    def answer(
        self, files: Sequence[str], out: str | os.PathLike | None = None, **options
    ) -> Iterator[Answer]:
        """Predict files, and say and write what was found, one after another.

        Args:
            files: files, or folders for those in them.
            out: folder for what a line does not hold, as pictures, named after the files; None writes none.
            **options: of a call.

        Raises:
            ValueError: two files whose results would get one name; and as a call.
        """
        files = self.gather(files)
        stems = name_results(files, out)
        done = self.start_bar(len(files))
        for start in range(0, len(files), self.batch_size):
            batch = files[start : start + self.batch_size]
            found = self.answer_batch(batch, stems[start : start + self.batch_size], **options)
            for source, (line, record, written) in zip(batch, found, strict=True):
                done()
                yield Answer(source, line, {"file": source, **record}, written)

    def gather(self, files: Sequence[str]) -> list[str]:
        """Files, and those in folders."""
        return [str(one) for each in files for one in (self.expand(each) if self.is_many(each) else [each])]

    def answer_batch(
        self, files: list[str], stems: list[Path | None], **options
    ) -> Iterator[tuple[str, dict[str, Any], list[Path]]]:
        """Line, record and written files of each of a few files; ``stems`` are of what is to be written."""
        progress, self.progress = self.progress, False  # one bar is enough
        try:
            found = self(files, **options)
        finally:
            self.progress = progress
        for source, stem, prediction in zip(files, stems, found, strict=True):
            written = [] if stem is None else self.write(source, prediction, stem)
            yield *self.describe_answer(prediction), written

    def describe_answer(self, prediction: Any) -> tuple[str, dict[str, Any]]:
        """A prediction as a line, and as plain data; here that of a classifier."""
        line = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in prediction.top(3))
        said = zip(prediction.classes, map(float, prediction.probabilities), strict=True)
        return line, {"class": prediction.name, "probabilities": dict(said)}

    def write(self, source: str, prediction: Any, stem: Path) -> list[Path]:
        """Write what of a prediction needs files, at ``stem`` with suffixes; returns these. Here nothing."""
        return []


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


def name_results(files: Sequence[str], folder: str | os.PathLike | None) -> list[Path | None]:
    """Paths in a folder, without suffixes, for the results of some files; None without a folder.

    Raises:
        ValueError: two files would get one name.
    """
    if folder is None:
        return [None] * len(files)
    origin: dict[Path, str] = {}
    for file in files:
        path = Path(file)
        whole = path.is_file() or path.is_dir()
        name = path.stem if whole else path.name.replace(":", "_")  # as FILE.h5:SPLIT:INDEX
        if (stem := Path(folder) / name) in origin:
            raise ValueError(f"{origin[stem]} and {file} would both become {stem}")
        origin[stem] = file
    return list(origin)


def add_suffix(stem: Path, suffix: str) -> Path:
    """A path with a suffix behind its name, which may have dots."""
    return stem.with_name(stem.name + suffix)


def is_config(source: str | os.PathLike) -> bool:
    """Whether a path names a config rather than weights."""
    return Path(source).suffix == ".py"


def read_config(path: str | os.PathLike) -> Config:
    """A config file, or that of a work dir.

    Raises:
        FileNotFoundError: there is none.
    """
    path = find_config(str(path))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such config")
    return read_file(path)


def _split_source(
    source: str | os.PathLike, checkpoint: str | os.PathLike | None, random: bool, zoo: ModelZoo
) -> tuple[Path | None, str | os.PathLike | None]:
    """Config and weights of a work dir, or None and the weights, which say what they are of."""
    if isinstance(source, str) and source.isidentifier() and not Path(source).exists():
        card = zoo.find_card(source)
        source = source if card is None else card.path
    if "://" not in str(source) and Path(source).is_dir():
        return find_run_config(source), source if checkpoint is None and not random else checkpoint
    if checkpoint is not None or random:
        second = RANDOM if checkpoint is None else checkpoint
        raise ValueError(f"found {source} and {second}, wanted a config, a network or a work dir first")
    return None, source


def check_weights(model: nn.Module, config: str, way_out: str) -> None:
    """Ask for weights, unless the config's ``init_cfg`` names a file for all parameters, or there are none.

    Args:
        model: as it was built, before ``init_weights``.
        config, way_out: for the message.

    Raises:
        CheckpointError: there are others.
    """
    known = set()
    for module in model.modules():
        init = getattr(module, "init_cfg", None)
        if isinstance(init, Mapping) and init.get("type") == "Pretrained":
            known.update(module.parameters())
    if count := sum(parameter.numel() for parameter in model.parameters() if parameter not in known):
        raise CheckpointError(
            f"{config}: found no weights for {count:,} parameters of its {type(model).__name__}, wanted a "
            f"checkpoint or a work dir, or {way_out}"
        )


def load_weights(model: nn.Module, state: Mapping[str, Any], name: str) -> None:
    """Load weights of a run into its model or into the bare network, or of that into the run's model.

    Raises:
        CheckpointError: they do not fit.
    """
    load_state_dict(model, take_network(state, model), name=name)


def check_options(value: Any, source: str, name: str = "model_args") -> Any:
    """What a checkpoint says of how its network is built: numbers, and words that name no file or address.

    Raises:
        CheckpointError: keys that choose an input or a type, or text that may name a file; it says which.
    """
    if name == "model_args" and not isinstance(value, Mapping):
        raise CheckpointError(f"{source}: meta: found a {type(value).__name__} as {name}, wanted a dict")
    if isinstance(value, Mapping):
        for key, item in value.items():
            parts = key.split(".") if isinstance(key, str) else [""]
            unfit = any(not part.isidentifier() or part[0] == "_" for part in parts)
            if unfit or {"type", *WEIGHTS, *FILES} & {*parts}:
                raise CheckpointError(
                    f"{source}: meta: found {str(key)[:80]!r} in {name}, wanted sizes and choices of it"
                )
            check_options(item, source, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            check_options(item, source, f"{name}[{i}]")
    elif isinstance(value, str) and not re.fullmatch(r"[\w+-]*", value):
        raise CheckpointError(
            f"{source}: meta: found {value[:80]!r} as {name}, wanted a word that names no file or address"
        )
    elif not isinstance(value, str | bool | int | float | None):
        raise CheckpointError(f"{source}: meta: found a {type(value).__name__} as {name}, wanted plain data")
    return value


def resolve_types(value: Any, registry: Registry, source: str) -> Any:
    """A config of a checkpoint, with each ``type`` replaced by the class of that name in ``registry`` itself.

    MMEngine builds from any string that names something importable: what a file says must not get there.
    Other weights that it names (:data:`WEIGHTS`) become None: the checkpoint has its own.

    Raises:
        CheckpointError: a name that is not registered, or arguments that are not plain or name a file.
    """
    if isinstance(value, Mapping):
        if hidden := [key for key in value if str(key).startswith("_")]:
            raise CheckpointError(
                f"{source}: found {hidden[0]!r} in its {registry.name}, wanted plain arguments"
            )
        plain = {"type": _find_class(value["type"], registry, source)} if "type" in value else {}
        for key in value.keys() - {"type"}:
            plain[key] = None if key in WEIGHTS else resolve_types(value[key], registry, source)
        return plain
    if isinstance(value, list | tuple):
        return type(value)(resolve_types(item, registry, source) for item in value)
    if isinstance(value, str) and re.search(r"[/\\]", value):
        raise CheckpointError(
            f"{source}: its {registry.name} names {value[:80]!r}, wanted no file or address"
        )
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

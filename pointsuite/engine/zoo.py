"""Networks by name, as users of timm know them: ``create_model("name", pretrained=...)``."""

import difflib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.registry import Registry
from torch import Tensor, nn

from .checkpoint import (
    CheckpointError,
    find_state_dict,
    keep_last_layers,
    load_checkpoint,
    load_state_dict,
    strip_prefix,
    take_network,
)
from .network import Network
from .pretrained import Card, find_cards
from .skeleton import skeletons


class Official(NamedTuple):
    """What :meth:`ModelZoo.identify` finds in a published file."""

    name: str  # in the zoo
    options: dict[str, Any]  # of create_model, beside the name
    state_dict: dict[str, Tensor]  # converted


class ModelZoo:
    """Published networks by their names, ``system_arch``, and functions that build networks by their own.

    Args:
        name: what error messages call the zoo.
        *packages: whose import registers the models; imported on first use.
    """

    def __init__(self, name: str, *packages: str):
        self.name = name
        self.packages = packages
        self._builders: dict[str, Callable[..., nn.Module]] = {}
        self._aliases: dict[str, str] = {}
        self._systems: dict[str, type[Network]] = {}

    # ---------------------------------------------------------------------------------------- registration

    def register_model(self, builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        """Decorator of a function that takes keyword arguments and returns a network."""
        self._add(builder.__name__, builder)
        return builder

    def register_network(self, system: str, registry: Registry) -> Callable[[type], type]:
        """Decorator of a :class:`Network`: its variants get names here, its class one in configs."""

        def register(cls: type[Network]) -> type[Network]:
            cls.system = system
            self._systems[system] = cls
            for arch in cls.archs:
                self._add(cls.model_name(arch), _builder(cls, arch))
            return registry.register_module(module=cls)

        return register

    def register_alias(self, name: str, model: str) -> None:
        """Another name of a model."""
        self._add(name, lambda **options: self._builders[model](**options))
        self._aliases[name] = model

    def _add(self, name: str, builder: Callable[..., nn.Module]) -> None:
        if name in self._builders:
            raise ValueError(f"{name} is registered twice in {self.name}")
        self._builders[name] = builder

    # --------------------------------------------------------------------------------------------- looking

    def _import_all(self) -> None:
        for package in self.packages:
            import_module(package)

    def __contains__(self, name: str) -> bool:
        for look in (self._import_file_of, lambda _: self._import_all()):
            if name not in self._builders:
                look(name)
        return name in self._builders

    def _import_file_of(self, name: str) -> None:
        """Import only the file that the model's name begins with: the others take seconds."""
        for package in self.packages:
            folder = Path(find_spec(package).submodule_search_locations[0])
            for path in sorted(folder.rglob("*.py")):
                parts = path.relative_to(folder).with_suffix("").parts
                stem = parts[-2] if parts[-1] == "__init__" and len(parts) > 1 else parts[-1]
                if f"{name}_".startswith(f"{stem}_"):
                    import_module(".".join([package, *parts]).removesuffix(".__init__"))

    def list_models(self, pattern: str | None = None, pretrained: bool = False) -> list[str]:
        """Names of all models, sorted; of those that match ``pattern`` (as ``"risurconv*"``) if given.

        Those that need a library that is not installed (``pip install pointsuite[dense]``) are left out.
        With ``pretrained``, of those whose weights are shipped (:mod:`~pointsuite.engine.pretrained`).
        """
        self._import_all()
        names = (name for name in self._builders if not pretrained or self.find_card(name))
        return sorted(name for name in names if pattern is None or fnmatchcase(name, pattern))

    def find_card(self, name: str) -> Card | None:
        """The card of a model's shipped weights; None where there are none, or there is no such model."""
        return find_cards().get(self._aliases.get(name, name)) if name in self else None

    def systems(self) -> dict[str, type[Network]]:
        """The published systems by name."""
        self._import_all()
        return dict(sorted(self._systems.items()))

    def find_system(self, name: str) -> tuple[type[Network], str]:
        """Class and variant of a model's name.

        Raises:
            ValueError: no such model, or one that is not of a published system.
        """
        self._check(name)
        model = self._aliases.get(name, name)
        for cls in self._systems.values():
            for arch in cls.archs:
                if model == cls.model_name(arch):
                    return cls, arch
        raise ValueError(f"{name} is no published system of {self.name}")

    def _check(self, name: str) -> None:
        if name not in self:
            close = difflib.get_close_matches(name, self._builders, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else f"; there are {self.list_models()}"
            raise ValueError(f"{self.name} has no model {name!r}{hint}")

    # -------------------------------------------------------------------------------------------- building

    def create_model(self, name: str, pretrained: str | PathLike | bool | None = None, **kwargs) -> nn.Module:
        """Build a network.

        Args:
            name: one of :meth:`list_models`.
            pretrained: weights: a path, or a URL with its digest (``https://...#sha256=<64 hex digits>``), or
                True for those that are shipped, of the names in ``list_models(pretrained=True)``.
                Where ``num_classes`` (or ``num_parts``) is given, last layers for another number of them stay
                as they are initialised, and a warning names them.
            **kwargs: of the model; ``in_chans`` is timm's name of ``in_channels``.

        Raises:
            ValueError: no such model, or ``pretrained=True`` of one whose weights are not shipped.
            CheckpointError: the weights cannot be read, or are not those of this network.
        """
        self._check(name)
        if pretrained is True:
            card = self.find_card(name)
            if card is None:
                shipped = ", ".join(self.list_models(pretrained=True)) or "none"
                raise ValueError(
                    f"{name}: pretrained=True, but its weights are not shipped, as those of {shipped} are; "
                    "wanted pretrained='FILE' or 'URL#sha256=DIGEST', of a run or of "
                    "tools/convert_checkpoint.py"
                )
            pretrained = card.path
        if "in_chans" in kwargs:
            kwargs["in_channels"] = kwargs.pop("in_chans")
        model = self._builders[name](**kwargs)
        if pretrained:
            load_pretrained(model, pretrained, kwargs.get("num_classes", kwargs.get("num_parts")))
        return model

    # ------------------------------------------------------------------------------------ published weights

    def identify(self, state_dict: Mapping[str, Tensor], name: str = "state dict") -> Official:
        """Find whose published weights these are, from their keys and shapes.

        Depths and number of classes may be other than published.

        Args:
            state_dict: as its authors named it.
            name: what errors call it.

        Raises:
            CheckpointError: it fits no system, or several variants alike; the message names the nearest.
        """
        fitting, near = [], []
        read = {cls: _converted(cls, state_dict) for cls in self.systems().values()}
        # a backbone within a whole network is not what the file holds
        whole = any(converted and cls.reads_all(state_dict) for cls, converted in read.items())
        for cls, converted in read.items():
            if not converted or (whole and not cls.reads_all(state_dict)):
                continue
            for misfits, found in _guesses(cls, state_dict, converted):
                (near if misfits else fitting).append((misfits, found))
        # weights of a published variant also fit one's own variant of that size
        published = [found for _, found in fitting if "arch" not in found.options]
        candidates = published or [found for _, found in fitting]
        if len(candidates) > 1:
            candidates = self._choose_twin(candidates, name)
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            names = ", ".join(found.name for found in candidates)
            raise CheckpointError(
                f"{name}: fits {names} alike; say which, as convert_checkpoint.py MODEL FILE"
            )
        if near:
            nearest = sorted(near, key=lambda pair: pair[0])[:3]
            hint = ", ".join(f"{found.name} ({misfits} tensors differ)" for misfits, found in nearest)
            raise CheckpointError(f"{name}: holds published weights of no variant; nearest are {hint}")
        raise CheckpointError(
            f"{name}: its keys ({', '.join(list(state_dict)[:3])}, ...) are of no system known here; "
            f"there are {', '.join(self._systems)}"
        )

    def _choose_twin(self, candidates: list[Official], name: str) -> list[Official]:
        """Of variants that weights fit alike: of each with its twins, that which the file's name says.

        That is the one whose words are all in it, of several that of the most words. Where it says none, the
        twins go, with a warning.
        """
        said = set(re.split(r"[^a-z0-9]+", Path(name).stem.lower()))
        kept = {found.name: found for found in candidates}
        for found in candidates:
            cls, arch = self.find_system(found.name)
            other = cls.model_name(cls.twins[arch]) if arch in cls.twins else None
            if other not in kept:
                continue
            named = {len(w): model for model in (other, found.name) if (w := _words(model, cls)) <= said}
            chosen = named[max(named)] if named else other
            del kept[found.name if chosen == other else other]
            if not named:
                warnings.warn(
                    f"{name}: fits {other} and {found.name} alike, taken as {other}; for the other say "
                    f"convert_checkpoint.py {found.name} FILE",
                    stacklevel=3,
                )
        return list(kept.values())

    def knows(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether published weights are, by their keys, of a system in this zoo."""
        return any(_converted(cls, state_dict) is not None for cls in self.systems().values())

    def load_official(self, source: str | PathLike) -> nn.Module:
        """The network whose weights a published file, or one that it was converted to, holds, with them.

        Args:
            source: a path, or a URL with its digest. Read without running code from it.

        Raises:
            CheckpointError: the file cannot be read, or is of none or several of the systems known here.
        """
        checkpoint = load_checkpoint(source, numpy_numbers=True)
        name, options = _converted_to(checkpoint)
        if name in self:
            try:
                return self.create_model(name, pretrained=source, **options)
            except (TypeError, ValueError) as error:
                raise CheckpointError(f"{source}: meta.model_args: {error}") from error
        found = self.identify(find_state_dict(checkpoint, str(source)), str(source))
        model = self.create_model(found.name, **found.options)
        load_converted(model, found.state_dict, str(source))
        return model


def _builder(cls: type[Network], arch: str) -> Callable[..., nn.Module]:
    def build(**options) -> nn.Module:
        return cls.create(**{"arch": arch, **options})

    return build


def _converted_to(checkpoint: Any) -> tuple[str, Mapping[str, Any]]:
    """Model and options that tools/convert_checkpoint.py wrote beside weights; "" and none in other files."""
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    name, options = (
        (meta.get(key) for key in ("model", "model_args")) if isinstance(meta, Mapping) else ("", {})
    )
    known = isinstance(name, str) and isinstance(options, Mapping)
    return (name, options) if known else ("", {})


def _converted(cls: type[Network], state_dict: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Published weights named as a system's; None if their keys are not its own."""
    try:
        return cls.convert_official(dict(state_dict))
    except Exception:  # whatever a converter trips over is not its system's
        return None


def _guesses(
    cls: type[Network], state_dict: Mapping[str, Tensor], converted: dict[str, Tensor]
) -> Iterator[tuple[int, Official]]:
    """Variants of a system that published weights may be of, and how many tensors do not fit each.

    Where parts are missing, or of another rank, nothing may be left to tell a variant by: then that is all.
    """
    try:
        for arch, options, own in cls.guess_options(converted):
            if cls.names_fit(arch, state_dict):
                yield _misfits(cls, arch, options, own), Official(cls.model_name(arch), options, own)
    except Exception:  # as of converters
        return


def convert_for(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Published weights, named as a model wants them that is, or holds, the network of a published system.

    Returns:
        None where there is no such network in it.

    Raises:
        CheckpointError: a key that the published network does not have.
    """
    # the network itself; that of a task's model; of MMDetection's detectors a head, which reads the whole
    for name in ("", "network", "bbox_head", "roi_head", "backbone"):
        part = getattr(model, name, None) if name else model
        if hasattr(part, "convert_official"):
            converted = part.convert_official(dict(state_dict))
            break
    else:
        return None
    wanted = model.state_dict().keys()
    if name == "network":
        return {f"network.{key}": value for key, value in converted.items()}
    if part is model and not any(key.startswith("backbone.") for key in wanted):  # a backbone without a head
        bare = {key: value for key, value in converted.items() if key.startswith("backbone.")}
        return strip_prefix(bare, "backbone.") if bare else converted
    return converted


def _misfits(
    cls: type[Network], arch: str, options: Mapping[str, Any], state_dict: Mapping[str, Tensor]
) -> int:
    """How many tensors differ between weights and the model that they may be of, by name or shape.

    All do where there can be no such model, as of a depth that the system does not allow.
    """
    try:
        with skeletons():
            model = cls.create(**{"arch": arch, **options})
    except ValueError:
        return len(state_dict)
    wanted, given = (
        {(key, value.shape) for key, value in state.items() if not _is_counter(key)}
        for state in (model.state_dict(), state_dict)
    )
    return len({key for key, _ in wanted ^ given})


def _words(name: str, cls: type[Network]) -> set[str]:
    """Those of a model's name without its system's, but for that of a variant that has no other."""
    words = name.split("_")
    return set(words[1:] if words[0] == cls.system and len(words) > 1 else words)


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def load_converted(model: nn.Module, state_dict: Mapping[str, Tensor], name: str) -> None:
    """Load what ``convert_official`` made; step counters of batch norms may be missing.

    Raises:
        CheckpointError: anything else is missing, unexpected or of another shape.
    """
    counters = {key: value for key, value in model.state_dict().items() if _is_counter(key)}
    load_state_dict(model, {**counters, **state_dict}, name=name)


def load_pretrained(model: nn.Module, source: str | PathLike, num_classes: int | None = None) -> None:
    """Load weights into a bare network, from its own state dict or from a checkpoint of a training run.

    A backbone takes its part of a classifier's or a detector's weights. What these lack, as norms of outputs,
    stays as it is initialised; a warning names it.

    Args:
        model: a bare network.
        source: a path, or a URL with its digest.
        num_classes: where it is given, last layers for another number of classes stay as they are; 0 drops
            them.

    Raises:
        CheckpointError: see :func:`~pointsuite.engine.checkpoint.load_checkpoint`; or the keys do not fit.
    """
    checkpoint = load_checkpoint(source)
    state, left = take_network(find_state_dict(checkpoint, str(source)), model), []
    wanted = model.state_dict()
    trunk = strip_prefix({k: v for k, v in state.items() if k.startswith("backbone.")}, "backbone.")
    if trunk and not any(key.startswith("backbone.") for key in wanted) and trunk.keys() & wanted.keys():
        left = [key for key in wanted if key not in trunk and key.startswith("norms.")]
        # stages after the last map that is asked for are not built
        state = {key: trunk.get(key, wanted[key]) for key in (*trunk.keys() & wanted.keys(), *left)}
    elif num_classes is not None:
        state, left = keep_last_layers(model, state, headless=num_classes == 0)
    try:
        load_state_dict(model, state, name=str(source))
    except CheckpointError as error:
        hint = "" if state.keys() & wanted.keys() else "tools/convert_checkpoint.py converts published files"
        if state.keys() == wanted.keys() and num_classes is None:
            hint = "with num_classes=..., last layers for other classes are left as initialised"
        name, options = _converted_to(checkpoint)
        if name:
            hint = f"it was converted for {name}({', '.join(f'{k}={v!r}' for k, v in options.items())})"
        raise CheckpointError("; ".join(filter(None, (str(error), hint)))) from error
    if left:
        warnings.warn(f"{source}: left as initialised: {', '.join(left)}", stacklevel=3)


ZOO = ModelZoo("pointsuite", "pointsuite.models")
register_model = ZOO.register_model
create_model = ZOO.create_model
list_models = ZOO.list_models
load_official = ZOO.load_official

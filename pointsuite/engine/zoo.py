"""Networks by name, as users of timm know them: ``create_model("name", pretrained=...)``."""

import difflib
from collections.abc import Callable
from fnmatch import fnmatchcase
from importlib import import_module
from os import PathLike

from torch import nn

from .checkpoint import CheckpointError, find_state_dict, load_checkpoint, load_state_dict, strip_prefix


class ModelZoo:
    """Functions that build networks, filed under their own names.

    Args:
        name: what error messages call the zoo.
        *locations: modules whose import registers the models; imported on first use.
    """

    def __init__(self, name: str, *locations: str):
        self.name = name
        self.locations = locations
        self._builders: dict[str, Callable[..., nn.Module]] = {}

    def register_model(self, builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        """Decorator of a function that takes keyword arguments and returns a network."""
        name = builder.__name__
        if name in self._builders:
            raise ValueError(f"{name} is registered twice in {self.name}")
        self._builders[name] = builder
        return builder

    def _import_models(self) -> None:
        for location in self.locations:
            import_module(location)

    def __contains__(self, name: str) -> bool:
        self._import_models()
        return name in self._builders

    def list_models(self, pattern: str | None = None) -> list[str]:
        """Names of all models, sorted; of those that match ``pattern`` (as ``"risurconv*"``) if given."""
        self._import_models()
        return sorted(name for name in self._builders if pattern is None or fnmatchcase(name, pattern))

    def create_model(self, name: str, pretrained: str | PathLike | None = None, **kwargs) -> nn.Module:
        """Build a network.

        Args:
            name: one of :meth:`list_models`.
            pretrained: weights: a path, or a URL with its digest (``https://...#sha256=<64 hex digits>``).
            **kwargs: of the model.

        Raises:
            ValueError: no such model.
            CheckpointError: the weights cannot be read, or are not those of this network.
        """
        if name not in self:
            close = difflib.get_close_matches(name, self._builders, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else f"; there are {self.list_models()}"
            raise ValueError(f"{self.name} has no model {name!r}{hint}")
        model = self._builders[name](**kwargs)
        if pretrained is not None:
            load_pretrained(model, pretrained)
        return model


def load_pretrained(model: nn.Module, source: str | PathLike) -> None:
    """Load weights into a bare network, from its own state dict or from a checkpoint of a training run.

    Raises:
        CheckpointError: see :func:`~pointsuite.engine.checkpoint.load_checkpoint`; or the keys do not fit.
    """
    state = find_state_dict(load_checkpoint(source), str(source))
    # a run trains a wrapper, which keeps the network beside its data preprocessor
    state = {key: value for key, value in state.items() if not key.startswith("data_preprocessor.")}
    try:
        load_state_dict(model, strip_prefix(state, "network."), name=str(source))
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. Published files are converted by tools/convert_checkpoint.py"
        ) from error


ZOO = ModelZoo("pointsuite", "pointsuite.models")
register_model = ZOO.register_model
create_model = ZOO.create_model
list_models = ZOO.list_models

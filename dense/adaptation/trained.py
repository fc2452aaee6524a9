"""What adapting a trained network takes: its weights, and the epoch."""

import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

from mmengine.hooks import Hook
from torch import Tensor, nn

from pointsuite.engine.checkpoint import CheckpointError, find_checkpoint, find_state_dict, load_checkpoint

from ..base import TokenBackbone
from ..registry import HOOKS, MODELS


def load_trained(model: nn.Module, path: str | PathLike, own: str) -> None:
    """Load the weights of a trained network into one that has more.

    Args:
        model: whose other parameters are named as in the checkpoint.
        path: of a checkpoint, or a work dir for its last one.
        own: pattern of the keys that the checkpoint need not have; these stay as they are.

    Raises:
        CheckpointError: a key is missing or unknown, or a shape is another one.
    """
    path = find_checkpoint(str(path))
    _load(model, path, find_state_dict(load_checkpoint(path)), own)


def _load(model: nn.Module, path: str | PathLike, state: Mapping[str, Tensor], own: str) -> None:
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in state and not re.match(own, key)]
    for verb, keys in (("lacks", missing), ("has unknown", [key for key in state if key not in wanted])):
        if keys:
            raise CheckpointError(
                f"{path}: {verb} {len(keys)} keys of {type(model).__name__}, as {keys[0]!r}"
            )
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            found, shape = tuple(value.shape), tuple(wanted[key].shape)
            raise CheckpointError(f"{path}: found {key} of shape {found}, wanted {shape}")
    model.load_state_dict(state, strict=False)


def load_trunk(trunk: nn.Module, path: str | PathLike) -> None:
    """Load the backbone of a trained classifier, or a backbone alone, into one like it.

    Args:
        trunk: whose parameters are named as in the checkpoint, there below "backbone." where it has others.
        path: of a checkpoint, or a work dir for its last one.

    Raises:
        CheckpointError: a key is missing or unknown, or a shape is another one.
    """
    path = find_checkpoint(str(path))
    state = find_state_dict(load_checkpoint(path))
    if any(key.startswith("backbone.") for key in state):
        state = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    _load(trunk, path, state, "(?!)")


def build_trunk(trunk: Mapping[str, Any] | nn.Module, **options: Any) -> TokenBackbone:
    """A token backbone from its config, with options that the config does not state; a module as it is.

    Raises:
        TypeError: it is another thing.
    """
    built = MODELS.build({**options, **trunk}) if isinstance(trunk, Mapping) else trunk
    if not isinstance(built, TokenBackbone):
        raise TypeError(f"trunk must be a token backbone, as dense.ViT, found {type(built).__name__}")
    return built


@HOOKS.register_module()
class TellEpoch(Hook):
    """Tells a model the epoch, from 0, by its ``set_epoch``, before each: for training in phases."""

    def before_train_epoch(self, runner) -> None:
        getattr(runner.model, "module", runner.model).set_epoch(runner.epoch)

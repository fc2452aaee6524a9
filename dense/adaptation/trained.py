"""What adapting a trained network takes: its weights, and the epoch."""

import re
from os import PathLike

from mmengine.hooks import Hook
from torch import nn

from pointsuite.engine.checkpoint import CheckpointError, find_checkpoint, find_state_dict, load_checkpoint

from ..registry import HOOKS


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
    state, wanted = find_state_dict(load_checkpoint(path)), model.state_dict()
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


@HOOKS.register_module()
class TellEpoch(Hook):
    """Tells a model the epoch, from 0, by its ``set_epoch``, before each: for training in phases."""

    def before_train_epoch(self, runner) -> None:
        getattr(runner.model, "module", runner.model).set_epoch(runner.epoch)

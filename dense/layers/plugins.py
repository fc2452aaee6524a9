"""Layers that a config adds to the blocks of a ResNet, as MMDetection's takes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..registry import MODELS


class PluggedBlock(nn.Module):
    """A block with layers after its convolutions; a subclass calls :meth:`plug` and :meth:`run_plugins`."""

    def plug(self, plugins: Sequence[Mapping[str, Any]], channels: Sequence[int]) -> None:
        """Build the plugins of this block.

        Args:
            plugins: as ``dict(cfg=dict(type="dense.ELA"), position="after_conv2")``: after the norm of that
                convolution and the activation that follows it, or before the sum where it is the last one.
                ``postfix`` in ``cfg`` tells two of a kind apart. The layer is built with ``in_channels``,
                and keeps shapes.
            channels: after each convolution.

        Raises:
            ValueError: a position that the block does not have, or two layers of one name.
        """
        self.after: list[list[str]] = [[] for _ in channels]
        positions = [f"after_conv{i + 1}" for i in range(len(channels))]
        for plugin in plugins:
            if plugin["position"] not in positions:
                raise ValueError(f"position of a plugin must be in {positions}, found {plugin['position']!r}")
            number = positions.index(plugin["position"])
            cfg = dict(plugin["cfg"])
            postfix = cfg.pop("postfix", "")
            layer = MODELS.build({**cfg, "in_channels": channels[number]})
            name = f"{getattr(layer, '_abbr_', type(layer).__name__.lower())}{postfix}"
            if hasattr(self, name):
                raise ValueError(f"a block has {name!r} already: give one of its plugins a postfix")
            self.add_module(name, layer)
            self.after[number].append(name)

    def run_plugins(self, x: Tensor, number: int) -> Tensor:
        """(B, C, H, W) after a convolution, counted from 1, to the same."""
        for name in self.after[number - 1]:
            x = getattr(self, name)(x)
        return x


def plugins_of_stage(plugins: Sequence[Mapping[str, Any]], stage: int) -> list[dict[str, Any]]:
    """Those whose ``stages``, a flag for each, have the stage; all by default."""
    return [
        {key: value for key, value in plugin.items() if key != "stages"}
        for plugin in plugins
        if plugin.get("stages") is None or plugin["stages"][stage]
    ]

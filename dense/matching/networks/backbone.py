"""Maps to match: any backbone, what it returns, and ResNet's maps between its blocks."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...backbones import Backbone
from ...registry import MODELS


def build_backbone(backbone: dict | nn.Module) -> nn.Module:
    """A backbone from its config, as ``dict(type="mmdet.ResNet", depth=101)``, or the module as it is."""
    return backbone if isinstance(backbone, nn.Module) else MODELS.build(backbone)


def probe_backbone(backbone: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides of each of a backbone's maps; tried out unless it is one of ``dense``."""
    if isinstance(backbone, Backbone):
        return backbone.out_channels, backbone.strides
    side = 128
    training = backbone.training
    backbone.eval()  # MMDetection's return nothing here
    with torch.no_grad():
        maps = backbone(_zeros(backbone, side))
    backbone.train(training)
    return tuple(m.shape[1] for m in maps), tuple(math.ceil(side / m.shape[2]) for m in maps)


def _zeros(module: nn.Module, side: int) -> Tensor:
    return next(module.parameters()).new_zeros(1, 3, side, side)


class BlockFeatures(nn.Module):
    """Maps of a ResNet between its blocks: images (B, 3, H, W) to a list, in the order of ``blocks``.

    Blocks after the last one wanted are taken off.

    Args:
        backbone: a ResNet with torchvision's names of layers, as ``dict(type="mmdet.ResNet", depth=101)``, or
            its config.
        blocks: 0, the map after max-pooling; n, that after block n, counted from 1 over all stages, before
            its last ReLU. Ascending.
        frozen: keep its weights and statistics as they are.

    Attributes:
        out_channels: of each map.
    """

    def __init__(self, backbone: dict | nn.Module, blocks: Sequence[int], frozen: bool = True):
        super().__init__()
        self.backbone = build_backbone(backbone)
        stages = [getattr(self.backbone, f"layer{i}", nn.Sequential()) for i in range(1, 5)]
        count = sum(map(len, stages))
        blocks = list(blocks)
        if not count:
            raise ValueError(
                f"backbone must have ResNet's layer1 to layer4, found {type(self.backbone).__name__}"
            )
        if not blocks or blocks != [i for i in range(count + 1) if i in blocks]:
            raise ValueError(f"blocks must ascend within 0..{count}, found {blocks}")
        self.blocks, self.frozen = blocks, frozen
        left = blocks[-1]
        for stage in stages:
            kept = min(left, len(stage))
            del stage[kept:]  # they would get no gradient
            left -= kept
        for number, block in enumerate(self._list_blocks(), 1):
            if number in blocks:
                block.relu = _KeepingReLU()
        self.backbone.eval()
        with torch.no_grad():
            self.out_channels = [m.shape[1] for m in self.extract(_zeros(self.backbone, 64))]
        self.train()

    def init_weights(self) -> None:
        """Load or initialise the backbone as its ``init_cfg`` says."""
        if hasattr(self.backbone, "init_weights"):
            self.backbone.init_weights()

    def _list_blocks(self) -> list[nn.Module]:
        return [block for i in range(1, 5) for block in getattr(self.backbone, f"layer{i}", ())]

    def forward(self, images: Tensor) -> list[Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.extract(images)

    def extract(self, x: Tensor) -> list[Tensor]:
        net = self.backbone
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        maps = [x] if 0 in self.blocks else []
        for number, block in enumerate(self._list_blocks(), 1):
            x = block(x)
            if number in self.blocks:
                maps.append(block.relu.take())
        return maps

    def train(self, mode: bool = True):
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
            self.backbone.requires_grad_(False)
        return self


class _KeepingReLU(nn.Module):
    """ReLU that keeps its last input until it is taken: a block calls it several times, last at its end."""

    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x
        return x.relu()

    def take(self) -> Tensor:
        kept, self.kept = self.kept, None
        return kept

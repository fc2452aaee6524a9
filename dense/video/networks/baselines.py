"""Frames from their neighbours in the clip: baselines with the interface of a network, and no training."""

import torch
from torch import Tensor, nn

from ...registry import MODELS


class _Baseline(nn.Module):
    def __init__(self, clip_length: int = 9, context: int = 3):
        super().__init__()
        if context < 1 or clip_length <= 2 * context:
            raise ValueError(
                f"wanted context frames on both sides of a target, found {context} a side in a clip of "
                f"{clip_length}"
            )
        self.clip_length, self.context = clip_length, context
        self.num_targets = clip_length - 2 * context

    def example_inputs(self, batch: int = 2, size: tuple[int, int] = (256, 256)) -> tuple[Tensor]:
        """Random clips of grey frames."""
        return (2 * torch.rand(batch, self.clip_length, 1, *size) - 1,)

    def neighbours(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """The frames before and after each target: both (B, t, C, H, W)."""
        if clip.ndim != 5 or clip.shape[1] != self.clip_length:
            raise ValueError(f"clips must be (B, {self.clip_length}, C, H, W), found {tuple(clip.shape)}")
        first, last = self.context, self.clip_length - self.context
        return clip[:, first - 1 : last - 1], clip[:, first + 1 : last + 1]


@MODELS.register_module()
class CopyPrevious(_Baseline):
    """Each target as the frame before it in the clip (at the published offsets, three frames earlier).

    Args:
        clip_length, context: frames of a clip, and how many of them before, and after, the targets.

    Shapes: (B, clip_length, C, H, W) to (B, clip_length - 2 context, C, H, W).
    """

    def forward(self, clip: Tensor) -> Tensor:
        return self.neighbours(clip)[0]


@MODELS.register_module()
class MeanOfNeighbours(_Baseline):
    """Each target as the mean of the frames before and after it in the clip; otherwise as CopyPrevious."""

    def forward(self, clip: Tensor) -> Tensor:
        before, after = self.neighbours(clip)
        return (before + after) / 2

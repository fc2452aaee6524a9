"""Pictures of what a test finds, for every task: ``tools/test.py --show-dir DIR`` adds this hook to a run."""

from collections.abc import Sequence

import numpy as np
from mmengine.hooks import Hook
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import Tensor

from pointsuite.engine.errors import UsageError

from ..registry import HOOKS


@HOOKS.register_module()
class DrawingHook(Hook):
    """Hands every tested sample to the config's visualizer, by ``add_datasample(name, image, sample)``.

    The image is uint8 (H, W, C) as the data set gave it, before normalisation; several images of a sample
    (N, C, H, W) lie side by side. Samples are named by their ``index``, or by their place in the test.
    """

    def __init__(self):
        self.count = 0

    def before_test(self, runner) -> None:
        self.count = 0
        if type(runner.visualizer).add_datasample is Visualizer.add_datasample:
            raise UsageError(
                f"--show-dir: the config's visualizer is {type(runner.visualizer).__name__}, which draws no "
                "samples; wanted one of a task, as visualizer=dict(type='MatchVisualizer')"
            )

    def after_test_iter(
        self, runner, batch_idx: int, data_batch: dict, outputs: Sequence[BaseDataElement]
    ) -> None:
        for inputs, sample in zip(data_batch["inputs"], outputs, strict=True):
            name = f"{sample.get('index', self.count):05}"
            runner.visualizer.add_datasample(name, to_picture(inputs), sample.cpu(), step=self.count)
            self.count += 1


def to_picture(images: Tensor) -> np.ndarray:
    """Images uint8 (C, H, W), or several (N, C, H, W) side by side, as one array (H, W, C)."""
    images = images.cpu().numpy()
    if images.ndim == 4:
        images = np.concatenate(images, axis=2)
    return np.ascontiguousarray(images.transpose(1, 2, 0))

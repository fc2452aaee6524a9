"""Any matching network as an MMEngine model."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..base import TaskModel
from ..base.preprocessors import StackImages
from ..registry import MODELS
from .metrics import end_point_error, keypoint_flow, transfer_keypoints
from .sample import MatchDataSample


@MODELS.register_module()
class StackPairs(StackImages):
    """Move a batch of pairs to the model's device, stack it to float32 (B, 2, 3, S, S) and normalise it."""

    def forward(self, data: dict, training: bool = False) -> dict:
        pairs = data["inputs"]
        images = (
            pairs.flatten(0, 1) if isinstance(pairs, Tensor) else [image for pair in pairs for image in pair]
        )
        data = super().forward({**data, "inputs": images}, training)
        return {**data, "inputs": data["inputs"].unflatten(0, (-1, 2))}


@MODELS.register_module()
class DenseMatcher(TaskModel):
    """A network that maps two batches of images (B, 3, S, S), source and target, to flows, coarse to fine.

    The loss of a flow is its mean end-point error, in its own cells, over the cells of the batch whose true
    flow is known: by the warp that made the pair, of all cells that stay in the image; else by keypoints, of
    the cells near one. All flows count as much: ``loss_level1``, ...

    Inputs are pairs (B, 2, 3, S, S). Predicted samples have ``pred_flow``, ``pred_confidence`` and, of those
    that have points, ``pred_points``.

    Args:
        network: config, as ``dict(type="UFC", ...)``, or module: ``network(source, target)`` is a list of
            flows (B, 2, g, g) on the target's grid, pointing to the source, in cells, and
            ``network.match(source, target)`` the flow and its confidence (B, g, g), to predict with.
        box: pixels to a side of the box around a cell whose keypoints it takes.
        data_preprocessor: config; :class:`StackPairs` by default.
        init_cfg: see MMEngine.
    """

    sample_class = MatchDataSample
    preprocessor = "dense.StackPairs"
    output_names = ("flow", "confidence")

    def __init__(
        self,
        network: dict | nn.Module,
        box: int = 35,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(network, data_preprocessor, init_cfg)
        self.box = box

    def _forward(self, inputs: Tensor, data_samples: Sequence[MatchDataSample] | None = None) -> list[Tensor]:
        return self.network(*self._split(inputs))

    def raw_outputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.match(*self._split(inputs))

    def loss(self, inputs: Tensor, data_samples: Sequence[MatchDataSample]) -> dict[str, Tensor]:
        return {
            f"loss_level{level}": self.compute_loss(flow, data_samples)
            for level, flow in enumerate(self._forward(inputs), 1)
        }

    def predict(self, inputs: Tensor, data_samples: Sequence[MatchDataSample]) -> Sequence[MatchDataSample]:
        flows, confidences = self.network.match(*self._split(inputs))
        for sample, flow, confidence in zip(data_samples, flows.float(), confidences.float(), strict=True):
            sample.set_data({"pred_flow": flow, "pred_confidence": confidence})
            if "target_points" in sample:
                points = sample.target_points.to(flow)
                sample.set_data(
                    {"pred_points": transfer_keypoints(flow, points, inputs.shape[-1], whole=True)}
                )
        return data_samples

    @staticmethod
    def _split(inputs: Tensor) -> tuple[Tensor, Tensor]:
        if inputs.ndim != 5 or inputs.shape[1] != 2 or inputs.shape[3] != inputs.shape[4]:
            raise ValueError(f"pairs of images must be (B, 2, C, S, S), found {tuple(inputs.shape)}")
        return inputs.unbind(1)

    def compute_loss(self, flow: Tensor, samples: Sequence[MatchDataSample]) -> Tensor:
        truths = [self.find_truth(sample, flow.shape[-1]) for sample in samples]
        target, valid = (torch.stack(parts).to(flow.device) for parts in zip(*truths, strict=True))
        return end_point_error(flow.float(), target, valid)

    def find_truth(self, sample: MatchDataSample, grid: int) -> tuple[Tensor, Tensor]:
        """The flow of a grid, (2, grid, grid), and where it is known, bool (grid, grid)."""
        if "warp" in sample:
            return sample.warp.flow(grid)
        if "source_points" not in sample:
            raise ValueError(f"sample {sample.get('index')}: has neither a warp nor keypoints to learn from")
        points = sample.source_points, sample.target_points
        flow = keypoint_flow(*points, grid, sample.size, self.box)
        return flow, (flow != 0).any(0)

    def example_inputs(self, batch: int, size: tuple[int, int]) -> tuple[Tensor]:
        """Random pairs, to count and time what the network does."""
        return (torch.stack(self.network.example_inputs(batch, size), 1),)

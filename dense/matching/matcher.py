"""Any matching network as an MMEngine model, and as what finds points of one picture in another."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate

from pointsuite.engine.checkpoint import find_state_dict, load_checkpoint, load_state_dict
from pointsuite.engine.command import find_checkpoint

from ..data import LoadImage, StackImages
from ..registry import MODELS
from .data_sample import MatchDataSample
from .metrics import end_point_error, keypoint_flow, transfer_keypoints


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
class DenseMatcher(BaseModel):
    """A network that maps two batches of images (B, 3, S, S), source and target, to flows, coarse to fine.

    The loss of a flow is its mean end-point error, in its own cells, over the cells of the batch whose true
    flow is known: by the warp that made the pair, of all cells that stay in the image; else by keypoints, of
    the cells near one. All flows count as much.

    Args:
        network: config, as ``dict(type="UFC", ...)``, or module: ``network(source, target)`` is a list of
            flows (B, 2, g, g) on the target's grid, pointing to the source, in cells, and
            ``network.match(source, target)`` the flow and its confidence (B, g, g), to predict with.
        box: pixels to a side of the box around a cell whose keypoints it takes.
        data_preprocessor: config; :class:`StackPairs` by default.
        init_cfg: see MMEngine.
    """

    def __init__(
        self,
        network: dict | nn.Module,
        box: int = 35,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor or {"type": "dense.StackPairs"}, init_cfg)
        self.network = MODELS.build(network) if isinstance(network, Mapping) else network
        self.box = box

    def forward(
        self, inputs: Tensor, data_samples: list[MatchDataSample] | None = None, mode: str = "tensor"
    ):
        """Flows for mode "tensor", {"loss_level1": ..., ...} for "loss", samples with ``pred_flow``,
        ``pred_confidence`` and, of those that have points, ``pred_points`` for "predict"."""
        if inputs.ndim != 5 or inputs.shape[1] != 2 or inputs.shape[3] != inputs.shape[4]:
            raise ValueError(f"pairs of images must be (B, 2, C, S, S), found {tuple(inputs.shape)}")
        source, target = inputs.unbind(1)
        if mode == "tensor":
            return self.network(source, target)
        if mode == "loss":
            flows = self.network(source, target)
            return {
                f"loss_level{level}": self.compute_loss(flow, data_samples)
                for level, flow in enumerate(flows, 1)
            }
        if mode != "predict":
            raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', found {mode!r}")
        flows, confidences = self.network.match(source, target)
        samples = data_samples or [MatchDataSample() for _ in inputs]
        for sample, flow, confidence in zip(samples, flows.float(), confidences.float(), strict=True):
            sample.set_data({"pred_flow": flow, "pred_confidence": confidence})
            if "target_points" in sample:
                points = sample.target_points.to(flow)
                sample.set_data(
                    {"pred_points": transfer_keypoints(flow, points, inputs.shape[-1], whole=True)}
                )
        return samples

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

    def example_inputs(self, batch: int, size: tuple[int, int]) -> Tensor:
        """Random pairs, to count and time what the network does."""
        return torch.randn(batch, 2, 3, *size)

    def convert_official(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights of the network, named as here."""
        return {f"network.{key}": value for key, value in self.network.convert_official(state_dict).items()}


# ---------------------------------------------------------------------------------------------------- users


class Match(NamedTuple):
    """Where the pixels of a target picture are in a source picture."""

    flow: np.ndarray  # float32 (H, W, 2): x and y in the source less those in the target, of its pixels
    confidence: np.ndarray  # float32 (H, W), 0 to 1
    points: np.ndarray  # float32 (n, 2): x, y in the source of the points that were asked for
    warped: np.ndarray  # uint8 (H, W, 3): what of the source lies at the target's pixels, black outside


class Matcher:
    """Finds in one picture what another shows, with the network of a config.

    Pictures are files or arrays uint8 (H, W, 3), red, green, blue, of any sizes; the network gets them as
    squares of the side that the config's test data has. What is returned is in the pictures' own pixels.

    Args:
        config: of a :class:`DenseMatcher`, or its file.
        checkpoint: weights: of a run of that config, a work dir for its last one, or a URL with its digest;
            read without running code. None keeps the network as it is built.
        device: where the network runs; a GPU if there is one by default.

    Raises:
        CheckpointError: the weights cannot be read or do not fit.
        OSError: (of a call) a picture cannot be read.
        ValueError: (of a call) a picture or points of the wrong shape, or points outside of the target.

    Example:
        >>> matcher = Matcher(
        ...     "configs/ufc/ufc-tiny_warps_pf-willow.py", "work_dirs/ufc-tiny_warps_pf-willow"
        ... )
        >>> match = matcher("source.jpg", "target.jpg", points=[[120, 80]])
        >>> match.points, match.warped.shape
    """

    def __init__(
        self,
        config: Config | str | os.PathLike,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
    ):
        cfg = config if isinstance(config, Config) else Config.fromfile(config)
        with DefaultScope.overwrite_default_scope("dense"):
            self.model = MODELS.build(cfg.model)
        pipeline = cfg.test_dataloader.dataset.pipeline
        sizes = [step["size"] for step in pipeline if step["type"].endswith("ResizePair")]
        if not sizes:
            raise ValueError(f"{cfg.filename}: its test pipeline has no ResizePair, wanted one")
        from .transforms import ResizePair  # image pipelines need mmcv, networks do not

        self.resize = ResizePair(sizes[-1])
        if checkpoint is not None:
            path = find_checkpoint(str(checkpoint))
            load_state_dict(self.model, find_state_dict(load_checkpoint(path), path), name=path)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model.to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, source, target, points: Sequence[Sequence[float]] | np.ndarray = ()) -> Match:
        """Match the pictures; points (n, 2), x, y in the target's pixels, are looked for in the source."""
        images = {"source_img": _read(source, "the source"), "target_img": _read(target, "the target")}
        (source_height, source_width), (height, width) = (image.shape[:2] for image in images.values())
        points = _check_points(points, width, height)
        resized = self.resize(images)
        pair = np.stack([resized["source_img"], resized["target_img"]]).transpose(0, 3, 1, 2)
        data = {"inputs": [torch.from_numpy(np.ascontiguousarray(pair))]}
        sample = self.model.test_step(data)[0]
        flow, confidence = sample.pred_flow, sample.pred_confidence

        # of cells to pixels, and of the squares to the pictures: positions are shares of the sides
        shares = interpolate(flow[None] / flow.shape[-1], (height, width), mode="bilinear")[0].movedim(0, -1)
        rows, columns = (torch.arange(n, device=flow.device) for n in (height, width))
        own = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).float()
        target_size, source_size = (
            own.new_tensor((width, height)),
            own.new_tensor((source_width, source_height)),
        )
        found = (own + 0.5) / target_size + shares  # (H, W, 2), 0 to 1 from edge to edge
        picture = torch.tensor(images["source_img"]).to(own).movedim(-1, 0)[None]
        warped = grid_sample(picture, 2 * found[None] - 1, align_corners=False)[0].movedim(0, -1)

        side = self.resize.size
        wanted = (torch.from_numpy(points).to(flow) + 0.5) / target_size
        unit = (transfer_keypoints(flow, wanted * side - 0.5, side) + 0.5) / side
        confidence = interpolate(confidence[None, None], (height, width), mode="bilinear")[0, 0]
        return Match(
            flow=(found * source_size - 0.5 - own).cpu().numpy(),
            confidence=confidence.clamp(0, 1).cpu().numpy(),
            points=(unit * source_size - 0.5).cpu().numpy(),
            warped=warped.round().clamp(0, 255).byte().cpu().numpy(),
        )


def _read(image: np.ndarray | str | os.PathLike, name: str) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        return LoadImage()({"img_path": os.fspath(image)})["img"]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"{name} is an array {image.shape} of {image.dtype}, wanted uint8 (H, W, 3)")
    return image


def _check_points(points, width: int, height: int) -> np.ndarray:
    points = (
        np.asarray(points, np.float32).reshape(-1, 2) if len(points) == 0 else np.asarray(points, np.float32)
    )
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points are {points.shape}, wanted (n, 2), x and y")
    outside = ~((points >= 0) & (points <= (width - 1, height - 1))).all(1)
    if outside.any():
        x, y = points[outside.argmax()]
        raise ValueError(
            f"a point is at ({x:g}, {y:g}), wanted it in the target of {width} x {height} pixels"
        )
    return points

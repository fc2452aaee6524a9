"""Any network that predicts the middle frames of clips as an MMEngine model, and as a scorer of videos."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

from pointsuite.engine.checkpoint import CheckpointError, find_state_dict, load_checkpoint, load_state_dict

from ..registry import METRICS, MODELS
from .data_sample import ClipDataSample
from .datasets import VideoClips
from .losses import MiddleFrameLoss
from .metrics import FrameAUC
from .scoring import VideoScores, max_patch_error
from .visualization import draw_clip, shrink_maps


@MODELS.register_module()
class ScaleClips(BaseDataPreprocessor):
    """Move a batch of clips to the model's device, stack it and scale it from 0..255 to [-1, 1], float32."""

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        clips = data["inputs"]
        if not isinstance(clips, Tensor):
            if len(sizes := {tuple(clip.shape) for clip in clips}) > 1:
                raise ValueError(f"clips of one batch must have one size, found {sorted(sizes)}")
            clips = torch.stack(list(clips))
        return {**data, "inputs": clips.float() / 127.5 - 1}


@MODELS.register_module()
class FramePredictor(BaseModel):
    """Trains and tests a network that predicts the frames in the middle of a clip.

    Args:
        network: config or module: clips (B, T, C, H, W) in [-1, 1] -> their targets (B, t, C, H, W), with
            attributes ``context`` (frames before, and after, the targets) and ``num_targets`` (t).
        loss: config or module (prediction, targets) -> scalar; by default the published
            :class:`~dense.video.losses.MiddleFrameLoss`.
        patch: side, in pixels, of the patches of ``patch_mse``.
        data_preprocessor: config; :class:`ScaleClips` by default.
        init_cfg: see MMEngine.
    """

    def __init__(
        self,
        network: dict | nn.Module,
        loss: dict | nn.Module | None = None,
        patch: int = 16,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor or {"type": "dense.ScaleClips"}, init_cfg)
        self.network = MODELS.build(network) if isinstance(network, Mapping) else network
        loss = MiddleFrameLoss() if loss is None else loss
        self.frame_loss = MODELS.build(loss) if isinstance(loss, Mapping) else loss
        self.patch = patch

    def forward(self, inputs: Tensor, data_samples: list[ClipDataSample] | None = None, mode: str = "tensor"):
        """Frames for mode "tensor", {"loss": ...} for "loss", samples with errors for "predict"."""
        if mode == "tensor":
            return self.network(inputs)
        if mode == "loss":
            return {"loss": self.frame_loss(self.network(inputs), inputs[:, self._targets])}
        if mode != "predict":
            raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', found {mode!r}")
        samples = data_samples or [
            ClipDataSample(metainfo={"frames": tuple(range(inputs.shape[1]))}) for _ in inputs
        ]
        predictions = self.network(inputs).float()
        for prediction, truth, sample in zip(predictions, inputs[:, self._targets], samples, strict=True):
            self._measure(prediction, truth, sample)
        return samples

    @property
    def _targets(self) -> slice:
        return slice(self.network.context, self.network.context + self.network.num_targets)

    def _measure(self, prediction: Tensor, truth: Tensor, sample: ClipDataSample) -> None:
        error_map = ((prediction - truth) / 2).square().mean(1)  # (t, H, W) on [0, 1]
        sample.set_data(
            {
                "target_index": torch.tensor(sample.frames[self._targets]),
                "mse": error_map.mean((1, 2)),
                "patch_mse": max_patch_error(error_map, min(self.patch, *error_map.shape[1:])),
                "loss": self.frame_loss(prediction, truth),
                "error_map": error_map,
            }
        )

    def example_inputs(self, batch: int, size: tuple[int, int]) -> Tensor:
        """Random clips, to count and time what the network does."""
        channels = getattr(self.network, "in_channels", 1)
        return 2 * torch.rand(batch, self.network.clip_length, channels, *size) - 1

    def convert_official(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        converted = self.network.convert_official(state_dict)
        return {f"network.{key}": value for key, value in converted.items()}


class AnomalyScorer:
    """Anomaly scores of any video, by a config and the weights that were trained with it.

        score = AnomalyScorer("configs/vad_hybrid/vad-hybrid_ped2.py", "epoch_20.pth")
        score("street.mp4").score  # (frames,), 0..1

    Frames, clips and scoring are those of the config's test. Memory does not grow with the video's length,
    but for a few numbers a frame.

    Args:
        config: path, or config.
        checkpoint: path; None for a network without weights, as the baselines are.
        device: "cpu", "cuda", ...
        stride: frames from one clip to the next; by default the config's.

    Raises:
        CheckpointError: the weights cannot be read, are not those of this network, or are missing.
    """

    def __init__(
        self,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike | None = None,
        *,
        device: str | torch.device = "cpu",
        stride: int | None = None,
    ):
        cfg = config if isinstance(config, Config) else Config.fromfile(config)
        self.model = MODELS.build(cfg.model)
        if checkpoint is not None:
            state = find_state_dict(load_checkpoint(checkpoint), str(checkpoint))
            load_state_dict(self.model, state, name=str(checkpoint))
        elif any(True for _ in self.model.parameters()):
            raise CheckpointError(f"{cfg.filename}: its network has weights, wanted a checkpoint")
        self.model.to(device).eval()
        data = cfg.test_dataloader.dataset
        self.clips = {key: data[key] for key in ("size", "color", "offsets", "stride") if key in data}
        if stride is not None:
            self.clips["stride"] = stride
        self.evaluator = {**cfg.test_evaluator, "dump": None}

    def __call__(
        self, video: str | os.PathLike, out: str | os.PathLike | None = None, fps: float = 10.0
    ) -> VideoScores:
        """Score a video.

        Args:
            video: a file, or a folder of images.
            out: annotated clip to write, ``.mp4`` or ``.gif``.
            fps: frames a second of it.

        Raises:
            OSError: the video cannot be read or is too short.
        """
        metric: FrameAUC = METRICS.build(self.evaluator)
        maps = {}
        for sample in self.predict(video):
            metric.process(None, [sample.to_dict()])
            if out is not None:
                maps.update(shrink_maps(sample))
        (scores,) = metric.score(metric.results).values()
        if out is not None:
            draw_clip(video, scores.score, out, maps=maps, fps=fps)
        return scores

    @torch.no_grad()
    def predict(self, video: str | os.PathLike) -> Iterator[ClipDataSample]:
        """The samples of all clips of a video, one after another."""
        dataset = VideoClips(Path(video), test_mode=True, cache_mb=64, **self.clips)
        if len(dataset.videos) > 1:
            raise OSError(f"{video}: holds {len(dataset.videos)} videos, wanted one")
        for i in range(len(dataset)):
            yield self.model.test_step(pseudo_collate([dataset[i]]))[0].cpu()

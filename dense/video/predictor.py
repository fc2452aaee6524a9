"""Videos in, anomaly scores out."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import nn

from pointsuite.engine.predictor import add_suffix

from ..base import Predictor
from ..registry import METRICS
from .datasets import VideoClips
from .frames import find_videos
from .metrics import FrameAUC
from .model import FramePredictor
from .sample import ClipDataSample
from .scoring import VideoScores
from .visualization import draw_clip, shrink_maps

CLIPS = ("size", "color", "offsets", "stride")  # options of the data that a prediction depends on


class AnomalyScorer(Predictor):
    """Anomaly scores of any video, by a config and the weights that were trained with it.

        score = AnomalyScorer("configs/vad_hybrid/vad-hybrid_ped2.py", "epoch_20.pth")
        score("street.mp4").score  # (frames,), 0..1

    Frames, clips and scoring are those of the config's test; of a bare network the usual ones. Memory does
    not grow with the video's length, but for a few numbers a frame.

    Args:
        config, checkpoint, device, weights, progress: see :class:`~pointsuite.engine.predictor.Predictor`;
            the model of a run is a :class:`~dense.video.model.FramePredictor`. The baselines have no weights.
        batch_size: clips that the network gets at once.
        size, color, offsets, stride: of :class:`~dense.video.datasets.VideoClips`, in place of the config's.

    Raises:
        CheckpointError: the weights cannot be read, are not those of this network, or are missing.
    """

    def __init__(
        self,
        config: str | os.PathLike | Config | nn.Module,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        weights: str | os.PathLike | None = None,
        size: int | Sequence[int] | None = None,
        color: str | None = None,
        offsets: Sequence[int] | None = None,
        stride: int | None = None,
        batch_size: int = 1,
        progress: bool | None = None,
    ):
        super().__init__(
            config, checkpoint, device, weights=weights, batch_size=batch_size, progress=progress
        )
        if not isinstance(self.model, FramePredictor):
            self.model = FramePredictor(self.model).to(self.device).eval()
        if self.cfg is not None:
            data = self.cfg.test_dataloader.dataset
            self.clips = {key: data[key] for key in CLIPS if key in data}
            self.evaluator = {**self.cfg.test_evaluator, "dump": None}
        else:
            channels = getattr(self.model.network, "in_channels", 1)
            self.clips = {"color": "grey" if channels == 1 else "rgb"}
            self.evaluator = {"type": "FrameAUC"}
        given = zip(CLIPS, (size, color, offsets, stride), strict=True)
        self.clips.update({key: value for key, value in given if value is not None})

    def __call__(
        self,
        video: str | os.PathLike | Sequence[str | os.PathLike],
        out: str | os.PathLike | None = None,
        fps: float | None = None,
    ) -> VideoScores | list[VideoScores]:
        """Score a video, or many.

        Args:
            video: a file, or a folder of images; a list of these, or a folder in which they lie, for many.
            out: annotated clip to write, ``.mp4`` or ``.gif``; for many a folder, for ``NAME.mp4``.
            fps: frames a second of it; by default those of the video, of a folder of images 10.

        Returns:
            Scores of the video; a list for many, those of a folder by the videos' names.

        Raises:
            OSError: a video cannot be read or is too short.
            ValueError: two videos whose clips would get one name.
        """
        if not self.is_many(video):
            return next(self.iterate([(video, out)], fps=fps))
        videos = self.expand(video)
        outs: list[Path | None] = [None] * len(videos)
        if out is not None:
            paths = map(Path, videos)
            outs = [Path(out) / f"{path.name if path.is_dir() else path.stem}.mp4" for path in paths]
            if twice := [path for path in outs if outs.count(path) > 1]:
                raise ValueError(f"two videos would both become {twice[0]}, wanted names that differ")
        return list(self.iterate(list(zip(videos, outs, strict=True)), fps=fps))

    def answer_batch(
        self, files: list[str], stems: list[Path | None], **options
    ) -> Iterator[tuple[str, dict[str, Any], list[Path]]]:
        """Score and PSNR of each frame; annotated clips."""
        for source, stem in zip(files, stems, strict=True):
            clip = stem and add_suffix(stem, ".mp4")
            found = self(source, clip, **options)
            worst = int(found.score.argmax())
            line = f"{len(found.score)} frames, the oddest is {worst} ({found.psnr[worst]:.1f} dB)"
            yield line, {"score": found.score.tolist(), "psnr": found.psnr.tolist()}, [clip] if clip else []

    def is_many(self, inputs: str | os.PathLike | Sequence) -> bool:
        """Whether inputs are several: a folder of images is one video."""
        return super().is_many(inputs) and (
            isinstance(inputs, list | tuple) or find_videos(Path(inputs)) != [Path(inputs)]
        )

    def expand(self, inputs: str | os.PathLike | Sequence) -> list:
        """The videos of a list, or in a folder."""
        return list(inputs) if isinstance(inputs, list | tuple) else find_videos(Path(inputs))

    def predict(
        self, inputs: Sequence[tuple[str | os.PathLike, str | os.PathLike | None]], fps: float | None = None
    ) -> Iterator[VideoScores]:
        """Scores of videos, whose annotated clips are written where they have a place for them."""
        for video, out in inputs:
            metric: FrameAUC = METRICS.build(self.evaluator)
            maps = {}
            for sample in self.predict_clips(video):
                metric.process(None, [sample.to_dict()])
                if out is not None:
                    maps.update(shrink_maps(sample))
            (scores,) = metric.score(metric.results).values()
            if out is not None:
                draw_clip(video, scores.score, out, maps=maps, fps=fps)
            yield scores

    @torch.no_grad()
    def predict_clips(self, video: str | os.PathLike) -> Iterator[ClipDataSample]:
        """The samples of all clips of a video, one after another."""
        dataset = VideoClips(Path(video), test_mode=True, cache_mb=64, **self.clips)
        if len(dataset.videos) > 1:
            raise OSError(f"{video}: holds {len(dataset.videos)} videos, wanted one")
        for start in range(0, len(dataset), self.batch_size):
            clips = [dataset[i] for i in range(start, min(start + self.batch_size, len(dataset)))]
            yield from (sample.cpu() for sample in self.model.test_step(pseudo_collate(clips)))

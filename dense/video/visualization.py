"""Pictures of scores over time, and clips that show them beside the frames and where the errors are."""

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.visualization import Visualizer
from numpy.typing import ArrayLike
from PIL import Image

from pointsuite.engine.checkpoint import atomic_write

from ..registry import VISUALIZERS
from .frames import FrameCache, Video, find_videos
from .metrics import check_choices, pick_errors
from .sample import ClipDataSample
from .scoring import score_video

SCORE, ABNORMAL = (0, 114, 178), (213, 94, 0)  # blue and vermilion, which the colour-blind can tell apart
MAP_SIDE = 64  # pixels of the error maps that are kept of a video
FPS = 10.0  # frames a second of clips of images, of which nothing says how many there were
STRIP = 56  # pixels of height of the scores below a clip


@VISUALIZERS.register_module()
class VideoVisualizer(Visualizer):
    """Draws each tested video once all its clips have been predicted: ``tools/test.py ... --show-dir DIR``.

    ``DIR/vis_data/vis_video/NAME.mp4`` is the annotated clip (see :func:`draw_clip`), ``NAME.png`` the scores
    over time beside the labels. What several processes tested in parts is not drawn.

    Args:
        name, save_dir, **kwargs: of MMEngine's ``Visualizer``.
        targets, error, smoothing: as of :class:`~dense.video.metrics.FrameAUC`.
        suffix: ".mp4" or ".gif".
        fps: frames a second; by default those of the video, see :func:`draw_clip`.
    """

    def __init__(
        self,
        name: str = "visualizer",
        save_dir: str | None = None,
        targets: str = "middle",
        error: str = "frame",
        smoothing: float = 0.0,
        suffix: str = ".mp4",
        fps: float | None = None,
        **kwargs,
    ):
        super().__init__(name, save_dir=save_dir, **kwargs)
        check_choices(targets, error, smoothing)
        self.folder = Path(save_dir or ".") / "vis_data" / "vis_video"
        self.targets, self.error, self.smoothing = targets, error, smoothing
        self.suffix, self.fps = suffix, fps
        self._samples: dict[str, list] = {}

    def add_datasample(
        self, name: str, image: np.ndarray, data_sample: ClipDataSample, step: int = 0
    ) -> None:
        """Note a clip's errors; of the last clip of a video, draw this. The frames are read anew."""
        video = data_sample.video
        errors = pick_errors(data_sample.to_dict(), self.error, self.targets)
        seen = self._samples.setdefault(video, [])
        seen.append((errors, shrink_maps(data_sample)))
        if len(seen) == data_sample.num_windows:
            del self._samples[video]
            self._draw(data_sample, seen)

    def draw_sample(self, inputs: torch.Tensor, data_sample: ClipDataSample) -> np.ndarray:
        """Of a clip the target with the largest error, and beside it where the error is.

        Args:
            inputs: the clip's frames, uint8 (T, C, H, W).
            data_sample: with a prediction.

        Returns:
            uint8 (H, 2 W, 3).
        """
        worst = int(data_sample.mse.argmax())
        frame = int(data_sample.target_index[worst])
        image = inputs[list(data_sample.frames).index(frame)].permute(1, 2, 0).cpu().numpy()
        image = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
        small = data_sample.error_map[worst].float().sqrt().cpu().numpy()
        return np.concatenate([image, _overlay(image, small, float(small.max()) or 1.0)], axis=1)

    def _draw(self, sample: ClipDataSample, seen: list) -> None:
        index = [frame for (frames, _), _ in seen for frame in frames]
        errors = [error for (_, values), _ in seen for error in values]
        scores = score_video(sample.num_frames, index, errors, self.smoothing, sample.video)
        known = (self.dataset_meta or {}).get("videos", {}).get(sample.video, {})
        values = {"score": scores.score}
        if known.get("label") is not None:
            values["label"] = known["label"]
        maps = {frame: small for _, part in seen for frame, small in part.items()}
        out = self.folder / sample.video
        draw_timelines({sample.video: values}, out.with_name(f"{out.name}.png"))
        draw_clip(
            sample.video_path,
            scores.score,
            out.with_name(out.name + self.suffix),
            labels=values.get("label"),
            maps=maps,
            fps=self.fps,
        )


def shrink_maps(sample: ClipDataSample) -> dict[int, np.ndarray]:
    """Error maps by frame, float16, of at most 64 pixels a side: those of long videos fit into memory."""
    height, width = sample.error_map.shape[1:]
    size = min(height, MAP_SIDE), min(width, MAP_SIDE)
    small = torch.nn.functional.adaptive_avg_pool2d(sample.error_map[:, None].float(), size)[:, 0]
    maps = small.sqrt().cpu().numpy().astype(np.float16)  # the root: small squares would vanish in 16 bits
    return dict(zip(sample.target_index.tolist(), maps, strict=True))


def draw_timelines(
    scores: Mapping[str, Mapping[str, ArrayLike]], out: str | os.PathLike, title: str | None = None
) -> None:
    """One row a video: its score over the frames, abnormal ones shaded.

    Args:
        scores: {video: {"score": (n,), "label": (n,)}}, as of :func:`~dense.video.scoring.load_scores`; the
            labels may be missing.
        out: picture to write (.png, .pdf, .svg).
        title: above all.
    """
    if not scores:
        raise ValueError("found no video to draw")
    figure = Figure((9, 1.5 * len(scores) + 0.8), dpi=110, layout="constrained")
    rows = figure.subplots(len(scores), 1, squeeze=False)[:, 0]
    for axes, (video, values) in zip(rows, scores.items(), strict=True):
        score = np.asarray(values["score"])
        for first, last in find_spans(values.get("label", ())):
            axes.axvspan(first - 0.5, last + 0.5, color=np.array(ABNORMAL) / 255, alpha=0.3, linewidth=0)
        axes.plot(score, color=np.array(SCORE) / 255, linewidth=1)
        axes.set(xlim=(-0.5, len(score) - 0.5), ylim=(-0.02, 1.02), ylabel="score")
        axes.set_title(video, loc="left", fontsize=9)
    rows[-1].set_xlabel("frame (shaded: abnormal)")
    if title:
        figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(out).suffix.removeprefix(".") or "png")
    with atomic_write(out) as file:
        file.write(buffer.getvalue())


def find_spans(labels: ArrayLike) -> list[tuple[int, int]]:
    """First and last place of each run of ones."""
    steps = np.diff(np.concatenate([[0], np.asarray(labels, int), [0]]))
    return list(
        zip(np.flatnonzero(steps == 1).tolist(), (np.flatnonzero(steps == -1) - 1).tolist(), strict=True)
    )


def draw_clip(
    video: str | os.PathLike,
    scores: ArrayLike,
    out: str | os.PathLike,
    *,
    labels: ArrayLike | None = None,
    maps: Mapping[int, np.ndarray] | None = None,
    fps: float | None = None,
    size: int = 256,
) -> None:
    """Write a clip: each frame, beside it where its error is, below the scores of the video and the present.

    Frames with the label 1 have a vermilion border, their spans in the scores that colour.

    Args:
        video: folder of images, or video file.
        scores: (n,) 0..1, one for each frame.
        out: ``.mp4`` (by OpenCV), or an animated ``.gif`` (by Pillow).
        labels: (n,) 0 or 1.
        maps: error maps (h, w) by frame; a frame without one has nothing beside it.
        fps: frames a second; by default those of the file, of a folder of images 10.
        size: longer side of the frames in pixels; they keep their shape.
    """
    (path,) = find_videos(Path(video))
    frames = _open(path, size)
    height, width = frames.size
    fps = fps or frames.fps or FPS
    scores = np.asarray(scores, float)
    if len(scores) != len(frames):
        raise ValueError(f"{video}: has {len(frames)} frames, found {len(scores)} scores")
    maps = {} if maps is None else maps
    top = max((float(np.max(small)) for small in maps.values()), default=0.0) or 1.0
    strip = _draw_strip(scores, () if labels is None else labels, 2 * width)

    def pictures() -> Iterable[np.ndarray]:
        for i in range(len(frames)):
            frame = np.ascontiguousarray(frames[i].transpose(1, 2, 0))
            picture = np.concatenate([frame, _overlay(frame, maps.get(i), top)], axis=1)
            if labels is not None and labels[i]:
                cv2.rectangle(picture, (0, 0), (2 * width - 1, height - 1), ABNORMAL, 3)
            _write(picture[:, :width], f"frame {i}   score {scores[i]:.2f}", (8, 18))
            _write(picture[:, width:], "error: dark to bright", (8, 18))
            below = strip.copy()
            x = round(i * (2 * width - 1) / max(len(scores) - 1, 1))
            cv2.line(below, (x, 0), (x, STRIP - 1), (0, 0, 0), 1)
            yield np.concatenate([picture, below])

    write_video(pictures(), out, fps)


def _open(path: Path, longest: int) -> Video:
    """A video whose frames keep their shape, with even sides, the longer one as given."""
    video = Video(path, longest, "rgb")
    video[0]
    share = longest / max(video.read_size)
    video.size = tuple(max(2 * round(side * share / 2), 2) for side in video.read_size)
    video.cache = FrameCache(video.cache.limit)
    return video


def _overlay(frame: np.ndarray, small: np.ndarray | None, top: float) -> np.ndarray:
    if small is None:
        dark = frame // 3
        _write(dark, "no prediction", (8, frame.shape[0] - 10))
        return dark
    level = cv2.resize((np.asarray(small, np.float32) / top * 255).astype(np.uint8), frame.shape[1::-1])
    heat = cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)[..., ::-1]
    return cv2.addWeighted(frame, 0.4, np.ascontiguousarray(heat), 0.6, 0)


def _draw_strip(scores: np.ndarray, labels: ArrayLike, width: int) -> np.ndarray:
    strip = np.full((STRIP, width, 3), 255, np.uint8)
    scale = (width - 1) / max(len(scores) - 1, 1)
    for first, last in find_spans(labels):
        strip[:, round(first * scale) : round(last * scale) + 1] = (247, 211, 186)
    points = np.stack([np.arange(len(scores)) * scale, (STRIP - 5) - scores * (STRIP - 10)], 1)
    cv2.polylines(strip, [points.round().astype(np.int32)], False, SCORE, 1, cv2.LINE_AA)
    return strip


def _write(picture: np.ndarray, text: str, place: tuple[int, int]) -> None:
    font, size, (x, y) = cv2.FONT_HERSHEY_SIMPLEX, 0.45, place
    (width, _), _ = cv2.getTextSize(text, font, size, 1)
    size *= min(1, (picture.shape[1] - 2 * x) / width)
    (width, height), below = cv2.getTextSize(text, font, size, 1)
    picture[max(y - height - 3, 0) : y + below, max(x - 3, 0) : x + width + 3] = 0
    cv2.putText(picture, text, place, font, size, (255, 255, 255), 1, cv2.LINE_AA)


def write_video(pictures: Iterable[np.ndarray], out: str | os.PathLike, fps: float = 10.0) -> None:
    """Write RGB pictures uint8 (H, W, 3), of one size with even sides, to ``.mp4`` or ``.gif``.

    Raises:
        ValueError: another suffix. OSError: OpenCV cannot write such a file.
    """
    out = Path(out)
    writers = {".mp4": _write_mp4, ".gif": _write_gif}
    if out.suffix not in writers:
        raise ValueError(f"{out}: clips are written to {' or '.join(writers)}, found {out.suffix!r}")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.stem}.{os.getpid()}.tmp{out.suffix}")  # OpenCV goes by the suffix
    try:
        writers[out.suffix](pictures, temporary, fps)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _write_mp4(pictures: Iterable[np.ndarray], path: Path, fps: float) -> None:
    writer = None
    try:
        for picture in pictures:
            if writer is None:
                code = cv2.VideoWriter_fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(path), code, fps, picture.shape[1::-1])
                if not writer.isOpened():
                    raise OSError(f"{path}: this build of OpenCV cannot write it; wanted a file .gif")
            writer.write(np.ascontiguousarray(picture[..., ::-1]))
    finally:
        if writer is not None:
            writer.release()


def _write_gif(pictures: Iterable[np.ndarray], path: Path, fps: float) -> None:
    images: Sequence = [Image.fromarray(p).quantize(128, dither=Image.Dither.NONE) for p in pictures]
    images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)

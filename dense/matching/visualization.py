"""Pictures of matches: lines from points to points, and flows in colours."""

import numpy as np
from mmengine.visualization import Visualizer
from PIL import Image, ImageDraw

from ..base.captions import add_captions
from ..registry import VISUALIZERS
from .sample import MatchDataSample

RIGHT, WRONG, TRUE = (60, 200, 60), (230, 50, 50), (60, 140, 255)
ALPHA = 0.1  # a match is drawn as right if PCK at this threshold counts it


def color_wheel(flow: np.ndarray, longest: float | None = None) -> np.ndarray:
    """A flow (2, H, W) as uint8 (H, W, 3): the direction is the hue, the length its strength.

    No motion is white, right is red, down yellow-green, left cyan, up violet.

    Args:
        longest: length of full strength; by default that of the longest in the flow.
    """
    x, y = np.asarray(flow, np.float32)
    length = np.hypot(x, y)
    longest = max(float(length.max()) if longest is None else longest, 1e-6)
    hue = np.arctan2(y, x) / (2 * np.pi) % 1 * 255
    strength = (length / longest).clip(0, 1) * 255
    picture = np.stack((hue, strength, np.full_like(hue, 255)), -1)
    return np.asarray(Image.fromarray(picture.round().astype(np.uint8), "HSV").convert("RGB"))


def draw_matches(
    source: np.ndarray,
    target: np.ndarray,
    source_points: np.ndarray,
    target_points: np.ndarray,
    colors: list[tuple[int, int, int]] | None = None,
) -> np.ndarray:
    """Two pictures uint8 (H, W, 3) side by side, lines between points (n, 2) of the first and the second.

    Returns:
        uint8 (larger H, sum of W, 3).
    """
    height = max(len(source), len(target))
    canvas = Image.new("RGB", (source.shape[1] + target.shape[1], height))
    canvas.paste(Image.fromarray(source), (0, 0))
    canvas.paste(Image.fromarray(target), (source.shape[1], 0))
    draw = ImageDraw.Draw(canvas)
    radius = max(1.5, height / 100)
    for i, (start, end) in enumerate(zip(source_points, target_points, strict=True)):
        ends = [tuple(map(float, start)), (float(end[0]) + source.shape[1], float(end[1]))]
        color = RIGHT if colors is None else colors[i]
        draw.line(ends, fill=color, width=max(1, round(height / 200)))
        for x, y in ends:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    return np.asarray(canvas)


@VISUALIZERS.register_module()
class MatchVisualizer(Visualizer):
    """Draws what keypoints' flow finds in the source, green if right, red if not, and the flow's colours.

    Without a prediction, where the keypoints are. Pictures are enlarged to at least ``least`` pixels a side;
    headings and a legend say what they show.
    """

    def __init__(self, name: str = "visualizer", least: int = 256, **kwargs):
        super().__init__(name, **kwargs)
        self.least = least

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: MatchDataSample,
        draw_gt: bool = True,
        draw_pred: bool = True,
        step: int = 0,
        **_,
    ) -> None:
        """See MMEngine.

        Args:
            name: of the picture.
            image: source and target side by side, uint8 (S, 2 S, 3).
            data_sample: with points, a predicted flow, or both.
        """
        scale = max(1, -(-self.least // image.shape[0]))
        source, target = (
            np.asarray(Image.fromarray(half).resize((scale * half.shape[1], scale * half.shape[0])))
            for half in np.split(image, 2, axis=1)
        )
        points = {
            key: scale * value.cpu().numpy() for key, value in data_sample.items() if key.endswith("_points")
        }
        lines, headings, legend = [(np.empty((0, 2)), np.empty((0, 2)), None)], ["source", "target"], []
        if draw_gt and "source_points" in points and not (draw_pred and "pred_points" in points):
            count = len(points["source_points"])
            lines = [(points["source_points"], points["target_points"], [TRUE] * count)]
            legend = [("keypoints as they are", TRUE)]
        elif draw_pred and "pred_points" in points:
            error = np.linalg.norm(points["pred_points"] - points["source_points"], axis=1)
            right = error <= scale * ALPHA * data_sample.pck_base
            colors = [RIGHT if yes else WRONG for yes in right]
            lines = [(points["pred_points"], points["target_points"], colors)]
            near = f"{ALPHA:g} x {data_sample.pck_base:.0f} pixels of the truth"
            legend = [(f"found within {near}: {right.sum()}", RIGHT), (f"not: {(~right).sum()}", WRONG)]
        picture = draw_matches(source, target, *lines[0])
        if draw_pred and "pred_flow" in data_sample:
            flow = data_sample.pred_flow.cpu().numpy()
            headings.append("flow")
            longest = np.hypot(*flow).max() * image.shape[0] / flow.shape[-1]
            hues = "red to the right, green down, cyan left, violet up, white none"
            legend.append((f"flow from target to source: {hues}; full colour {longest:.0f} pixels", None))
            wheel = Image.fromarray(color_wheel(flow))
            wheel = wheel.resize(source.shape[1::-1], Image.Resampling.NEAREST)
            picture = np.concatenate((picture, np.asarray(wheel)), axis=1)
        picture = add_captions(picture, headings, legend)
        self.set_image(picture)
        self.add_image(name, picture, step)

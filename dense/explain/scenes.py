"""Scenes whose truth is known: labelled pictures pasted into clutter, with their boxes."""

from collections.abc import Sequence

import numpy as np
import torch

from pointsuite.engine.images import read_rgb

from ..classification.datasets import ImageFolder
from ..classification.transforms import PackImage
from ..registry import DATASETS, TRANSFORMS

KEPT = 3 * 32 * 32  # values of a picture, at most
SOURCES = 4  # pictures that clutter is cut from
TRIES = 50  # places for an object, before the scene is laid out anew


@DATASETS.register_module()
class ClutterScenes(ImageFolder):
    """A labelled picture at a random place of a scene, with others and clutter around it.

    Clutter is blocks of random pictures, cut so small that they show no object. Further pictures are of other
    classes; no two overlap. There is a scene for each picture of the folder (see
    :class:`~dense.classification.ImageFolder`), and all of it follows from ``seed`` and, in training, the
    pass. A sample before the pipeline: ``img`` uint8 (H, W, 3), ``gt_label`` int, ``gt_box`` float32 (4,)
    (left, top, right, bottom, in pixels), ``other_labels`` (n,) int64, ``other_boxes`` (n, 4).

    Args:
        data_root, split, list_file, class_split, fraction: of :class:`~dense.classification.ImageFolder`.
        size: (width, height) of scenes.
        num_objects: pictures in a scene, the labelled one included.
        block: side of the clutter's blocks, pixels.
        **kwargs: of :class:`~dense.base.datasets.SeededDataset`.

    Raises:
        ValueError: a size or number that cannot be.
    """

    def __init__(
        self,
        data_root: str,
        *args,
        size: Sequence[int] = (80, 80),
        num_objects: int = 1,
        block: int = 8,
        **kwargs,
    ):
        self.size = tuple(size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size: found {size}, wanted (width, height) of a scene")
        if num_objects < 1 or block < 1:
            raise ValueError(f"found num_objects {num_objects} and block {block}, wanted at least 1")
        self.num_objects, self.block = num_objects, block
        self._pictures: dict[str, np.ndarray] = {}
        super().__init__(data_root, *args, **kwargs)

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        classes = len(self.metainfo["classes"])
        if self.num_objects > classes:
            raise ValueError(
                f"num_objects {self.num_objects}, wanted at most {classes}, each of its own class"
            )
        rng = np.random.default_rng(np.random.randint(2**31, size=4))  # noqa: NPY002  of the draw
        labels = [info["gt_label"]]
        pictures = [self._read(info["img_path"])]
        while len(pictures) < self.num_objects:
            other = super().get_data_info(int(rng.integers(len(self))))
            if other["gt_label"] not in labels:
                labels.append(other["gt_label"])
                pictures.append(self._read(other["img_path"]))
        scene = self._clutter(rng)
        boxes = self._places([picture.shape[1::-1] for picture in pictures], rng)
        for picture, (left, top, right, bottom) in zip(pictures, boxes, strict=True):
            scene[top:bottom, left:right] = picture
        boxes = np.array(boxes, np.float32)
        return {
            **info,
            "img": scene,
            "img_shape": scene.shape[:2],
            "ori_shape": scene.shape[:2],
            "gt_box": boxes[0],
            "other_labels": np.array(labels[1:], np.int64),
            "other_boxes": boxes[1:].reshape(-1, 4),
        }

    def _read(self, path: str) -> np.ndarray:
        """A picture (H, W, 3); small ones are kept, for a scene takes several."""
        picture = self._pictures.get(path)
        if picture is None:
            picture = read_rgb(path)
            if picture.size <= KEPT:
                self._pictures[path] = picture
        return picture

    def _clutter(self, rng: np.random.Generator) -> np.ndarray:
        width, height = self.size
        side, sources = self.block, [self._random_picture(rng) for _ in range(SOURCES)]
        rows, columns = -(-height // side), -(-width // side)
        choice = rng.integers(SOURCES, size=rows * columns)
        turn = rng.integers(4, size=rows * columns)
        place = rng.random((rows * columns, 2))
        blocks = np.empty((rows * columns, side, side, 3), np.uint8)
        for i, (source, (v, u)) in enumerate(zip(choice, place, strict=True)):
            picture = sources[source]
            y, x = int(v * (picture.shape[0] - side + 1)), int(u * (picture.shape[1] - side + 1))
            blocks[i] = picture[y : y + side, x : x + side]
        for k in range(1, 4):
            blocks[turn == k] = np.rot90(blocks[turn == k], k, (1, 2))
        scene = blocks.reshape(rows, columns, side, side, 3).swapaxes(1, 2)
        return np.ascontiguousarray(scene.reshape(rows * side, columns * side, 3)[:height, :width])

    def _random_picture(self, rng: np.random.Generator) -> np.ndarray:
        path = super().get_data_info(int(rng.integers(len(self))))["img_path"]
        picture = self._read(path)
        if min(picture.shape[:2]) < self.block:
            raise OSError(
                f"{path}: is {picture.shape[1]} x {picture.shape[0]} pixels, wanted {self.block} or more"
            )
        return picture

    def _places(self, sizes: Sequence[tuple[int, int]], rng: np.random.Generator) -> list[tuple[int, ...]]:
        """Boxes that do not overlap, of (width, height) each."""
        for _ in range(TRIES):
            boxes: list[tuple[int, ...]] = []
            for width, height in sizes:
                room = self.size[0] - width, self.size[1] - height
                if min(room) < 0:
                    raise ValueError(f"a picture of {width} x {height} pixels does not fit into {self.size}")
                for _ in range(TRIES):
                    left, top = (int(rng.integers(side + 1)) for side in room)
                    box = (left, top, left + width, top + height)
                    if not any(_overlap(box, other) for other in boxes):
                        boxes.append(box)
                        break
            if len(boxes) == len(sizes):
                return boxes
        raise ValueError(f"{len(sizes)} pictures do not fit side by side into scenes of {self.size}")


def _overlap(a: Sequence[int], b: Sequence[int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@TRANSFORMS.register_module()
class PackScene(PackImage):
    """What :class:`~dense.classification.transforms.PackImage` makes, with ``gt_boxes`` (n, 4) float32, those
    of the labelled object where there is one.
    """

    def __call__(self, sample: dict) -> dict:
        packed = super().__call__(sample)
        if "gt_box" in sample:
            packed["data_samples"].gt_boxes = torch.from_numpy(np.atleast_2d(sample["gt_box"]))
        return packed

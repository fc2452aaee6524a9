"""What the tasks share: finding and reading image files, data sets of seeded samples, stacking batches."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.model import ImgDataPreprocessor
from PIL import Image, ImageOps
from torch import Tensor

from .registry import MODELS, TRANSFORMS

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
IMAGENET_MEAN = (123.675, 116.28, 103.53)  # red, green, blue in 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)


def find_images(folder: Path) -> list[str]:
    """All images under a folder, by name, whatever their suffix's case; FileNotFoundError without folder."""

    def fail(error: OSError):
        raise FileNotFoundError(f"{error.filename}: no folder that can be read ({error.strerror})")

    return sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder, onerror=fail, followlinks=True)
        for name in names
        if name.lower().endswith(SUFFIXES)
    )


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class LoadImage:
    """``img_path`` to ``img``, upright (EXIF), ``img_shape`` and ``ori_shape``.

    Grey images get three equal channels, those of 16 bits lose the lower 8, transparency is dropped; other
    colour spaces become RGB.

    Raises:
        OSError: the file is missing, damaged, or of another kind; the message names it.
    """

    def __call__(self, sample: dict) -> dict:
        path = sample["img_path"]
        try:
            with Image.open(path) as file:
                image = np.asarray(to_rgb(ImageOps.exif_transpose(file)))
        except (FileNotFoundError, PermissionError):
            raise  # say already which
        except Exception as error:  # of many types where a file is damaged
            raise OSError(f"{path}: not an image that can be read ({error})") from error
        return {**sample, "img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image of 8 or 16 bits a channel, in RGB with 8."""
    if image.mode.startswith("I"):  # 16 bits of grey, in 16 or 32
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"found levels {levels.min()} to {levels.max()}, wanted 0 to 65535")
        image = Image.fromarray((levels >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("found an image of floating-point numbers, wanted 8 or 16 bits a channel")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Python's and NumPy's global generators, which transforms draw from, start at ``key`` within."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


class SeededDataset(BaseDataset):
    """What MMEngine's dataset is, with random numbers that depend on (seed, epoch, index) alone.

    So a run that was resumed sees what an unbroken one sees, with any number of workers.

    Args:
        pipeline: transforms (configs or callables), applied in order.
        seed: of the transforms.
        test_mode: the epoch stays 0, whatever :meth:`set_epoch` is told.
        **kwargs: of MMEngine's ``BaseDataset``, as ``indices=1000``, or ``metainfo=dict(classes=...)``.
    """

    def __init__(self, *, pipeline: Sequence[dict | Callable] = (), seed: int = 0, **kwargs):
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # worker processes see it change
        built = [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in pipeline]
        super().__init__(pipeline=built, **kwargs)

    def set_epoch(self, epoch: int) -> None:
        """Choose the random numbers of the samples from now on, in worker processes too."""
        self._epoch.fill_(epoch)

    def prepare_data(self, idx: int) -> dict:
        with seeded(self.seed, 0 if self.test_mode else int(self._epoch), idx % len(self)):
            return super().prepare_data(idx)

    def get_cat_ids(self, idx: int) -> list[int]:
        return [self.get_data_info(idx)["gt_label"]]


@MODELS.register_module()
class StackImages(ImgDataPreprocessor):
    """Move a batch to the model's device, stack it to float32 (B, C, H, W) and normalise it.

    Nothing is padded: the images of a batch must have one size, for a prediction depends on its own image
    only.

    Args:
        mean, std: of each channel, in 0..255.
        **kwargs: of MMEngine's ``ImgDataPreprocessor``.
    """

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD, **kwargs):
        super().__init__(mean, std, **kwargs)

    def forward(self, data: dict, training: bool = False) -> dict:
        images = data["inputs"]
        if not isinstance(images, Tensor):
            sizes = {tuple(image.shape) for image in images}
            if len(sizes) > 1:
                raise ValueError(
                    f"images of one batch must have one size, found {sorted(sizes)}: add Resize or "
                    "CenterCrop to the pipeline"
                )
            data = {**data, "inputs": torch.stack(list(images))}
        return super().forward(data, training)

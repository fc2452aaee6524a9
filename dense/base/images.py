"""The step of a pipeline that reads an image."""

from dataclasses import dataclass

from pointsuite.engine.images import read_rgb

from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class LoadImage:
    """``img_path`` to ``img``, ``img_shape`` and ``ori_shape``.

    See :func:`~pointsuite.engine.images.read_rgb`.
    """

    def __call__(self, sample: dict) -> dict:
        image = read_rgb(sample["img_path"])
        return {**sample, "img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}

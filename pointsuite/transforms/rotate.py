"""Rotate points and normals: at random for training, by a known matrix for testing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pointsuite.registry import TRANSFORMS

MODES = ("z", "so3", "none")


def random_rotation(rng: np.random.Generator, mode: str = "so3", axis: int = 2) -> np.ndarray:
    """Draw a rotation.

    Args:
        mode: "so3", uniform over all rotations (Haar measure, by a quaternion uniform on the 3-sphere); "z",
            uniform over the rotations about ``axis``; "none", the identity.
        axis: 0, 1 or 2 for x, y or z.

    Returns:
        float64 (3, 3), to be applied as ``points @ matrix.T``.
    """
    if mode == "none":
        return np.eye(3)
    if mode == "z":
        angle = rng.uniform(0, 2 * np.pi)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        matrix = np.eye(3)
        matrix[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        return matrix
    quaternion = rng.standard_normal(4)
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotate(sample: dict, matrix: np.ndarray) -> dict:
    """``sample`` with points, and normals where it has them, rotated in float32."""
    transposed = matrix.T.astype(np.float32)
    return {**sample, **{key: sample[key] @ transposed for key in ("points", "normals") if key in sample}}


def _check_mode(name: str, mode: str, axis: int | None) -> None:
    if mode not in MODES:
        raise ValueError(f"{name}: mode is {mode!r}, wanted one of {MODES}")
    if axis not in (None, 0, 1, 2):
        raise ValueError(f"{name}: axis is {axis!r}, wanted 0, 1 or 2")


@TRANSFORMS.register_module()
@dataclass(frozen=True)
class RandomRotate:
    """A new rotation for every sample: see :func:`random_rotation` for ``mode`` and ``axis``.

    Without an ``axis``, it is the one that points up in the sample's data set (``sample["up"]``, "z" where
    nothing says): the mode "z" is the field's name for rotations about the vertical.
    """

    mode: str = "z"
    axis: int | None = None

    def __post_init__(self):
        _check_mode("RandomRotate", self.mode, self.axis)

    def __call__(self, sample: dict) -> dict:
        axis = "xyz".index(sample.get("up", "z")) if self.axis is None else self.axis
        return rotate(sample, random_rotation(sample["rng"], self.mode, axis))


@TRANSFORMS.register_module()
class RotateBy:
    """The same rotation for every sample.

    Args:
        matrix: (3, 3) rotation matrix; or
        seed: what :func:`random_rotation` draws it from, with ``mode`` and ``axis``.
    """

    def __init__(
        self,
        matrix: Sequence[Sequence[float]] | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        mode: str = "so3",
        axis: int = 2,
    ):
        if (matrix is None) == (seed is None):
            raise ValueError(f"RotateBy: matrix is {matrix} and seed is {seed}, wanted one of the two")
        _check_mode("RotateBy", mode, axis)
        if matrix is None:
            matrix = random_rotation(np.random.default_rng(seed), mode, axis)
        self.matrix = np.array(matrix, np.float64)
        proper = (
            self.matrix.shape == (3, 3)
            and np.allclose(self.matrix @ self.matrix.T, np.eye(3), atol=1e-5)
            and np.linalg.det(self.matrix) > 0
        )
        if not proper:
            raise ValueError(f"RotateBy: {self.matrix.tolist()} is no rotation matrix")

    def __call__(self, sample: dict) -> dict:
        return rotate(sample, self.matrix)

    def __repr__(self) -> str:
        return f"RotateBy({self.matrix.tolist()})"

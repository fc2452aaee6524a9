"""What the compiled operators take on trust; a mistake is one line here."""

from torch import Tensor


def check_whole(array: Tensor, name: str, shape: tuple[int, ...]) -> None:
    """Masks, labels: of whole numbers or bool."""
    if array.is_floating_point() or array.is_complex():
        raise ValueError(f"{name} must be of whole numbers or bool, found {array.dtype}")
    check_shape(array, name, shape)


def check_shape(array: Tensor, name: str, shape: tuple[int, ...]) -> None:
    if tuple(array.shape) != shape:
        raise ValueError(f"{name} must be {shape}, found {tuple(array.shape)}")

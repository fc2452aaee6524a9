"""Any restoration network as an MMEngine model, and as what turns image files into better ones."""

import os
from collections.abc import Callable, Mapping

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from pointsuite.engine.zoo import load_pretrained

from ..registry import MODELS
from .datasets import RestorationSample
from .degradations import imresize, to_float
from .images import Picture, check_writable, read_image, write_image
from .tiling import restore


def charbonnier_loss(pred: Tensor, gt: Tensor) -> Tensor:
    """The mean of sqrt(difference^2 + 1e-6): a smooth L1."""
    return ((pred - gt).square() + 1e-6).sqrt().mean()


def psnr_loss(pred: Tensor, gt: Tensor) -> Tensor:
    """Minus the PSNR in dB (of images in 0..1), its mean over the images of the batch."""
    return 10 * ((pred - gt).square().mean((1, 2, 3)) + 1e-8).log10().mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1_loss,
    "mse": mse_loss,
    "charbonnier": charbonnier_loss,
    "psnr": psnr_loss,
}


@MODELS.register_module()
class StackRestoration(BaseDataPreprocessor):
    """Move a batch to the model's device and stack its images to float32 (B, C, h, w) in 0..1.

    Good images are only moved. The images of a batch must have one size.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        return {**data, "inputs": _stack(data["inputs"])}


def _stack(images: Tensor | list[Tensor]) -> Tensor:
    if not isinstance(images, Tensor):
        sizes = {tuple(image.shape) for image in images}
        if len(sizes) > 1:
            raise ValueError(
                f"images of one batch must have one size, found {sorted(sizes)}: add RandomPatch to the "
                "pipeline, or test with batch_size=1"
            )
        images = torch.stack(list(images))
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


@MODELS.register_module()
class ImageRestorer(BaseModel):
    """A network that maps images (B, C, h, w) in 0..1 to (B, C, scale * h, scale * w).

    Its parameters are named ``network.*``: :class:`Restorer` takes them from a checkpoint of a run.

    Args:
        network: config, as ``dict(type="HAT", arch="hat_s", scale=2)``, or module, with the attributes
            ``scale`` and ``multiple``, which divides the sides that it takes.
        loss: "l1", "mse", "charbonnier" or "psnr" (minus the mean PSNR of the images), or the config of a
            module, or a module, (prediction, good images) -> number.
        tile: side of the tiles in which images are predicted, in their pixels; None for whole images.
        overlap: pixels that a tile sees beyond its own on each side.
        data_preprocessor: config; :class:`StackRestoration` by default.
        init_cfg: see MMEngine.
    """

    def __init__(
        self,
        network: dict | nn.Module,
        loss: str | dict | nn.Module = "l1",
        tile: int | None = None,
        overlap: int = 32,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor or {"type": "dense.StackRestoration"}, init_cfg)
        self.network = MODELS.build(network) if isinstance(network, Mapping) else network
        if isinstance(loss, str):
            if loss not in LOSSES:
                raise ValueError(f"loss must be one of {sorted(LOSSES)} or a module, found {loss!r}")
            self.loss_function = LOSSES[loss]
        else:
            self.loss_function = MODELS.build(loss) if isinstance(loss, Mapping) else loss
        self.tile, self.overlap = tile, overlap

    def forward(
        self, inputs: Tensor, data_samples: list[RestorationSample] | None = None, mode: str = "tensor"
    ):
        """Images for mode "tensor", {"loss": ...} for "loss", samples with ``pred`` for "predict"."""
        if mode == "tensor":
            return self.network(inputs)
        if mode == "loss":
            gt = _stack([sample.gt for sample in data_samples])
            return {"loss": self.loss_function(self.network(inputs).float(), gt)}
        if mode != "predict":
            raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', found {mode!r}")
        restored = restore(self.network, inputs, self.tile, self.overlap).float()
        samples = data_samples or [RestorationSample() for _ in inputs]
        for sample, image in zip(samples, restored, strict=True):
            sample.set_data({"pred": image})
        return samples

    def example_inputs(self, batch: int, size: tuple[int, int]) -> Tensor:
        """Random images, to count and time what the network does."""
        return torch.rand(batch, getattr(self.network, "in_channels", 3), *size)

    def convert_official(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights of the network, named as here."""
        return {f"network.{key}": value for key, value in self.network.convert_official(state_dict).items()}


class Restorer:
    """Restores image files of any size and kind.

    Grey stays grey, 16 bits stay 16 bits, transparency stays (enlarged by bicubic interpolation where the
    image grows); palettes become full colour, and what EXIF wants turned is turned. A grey image goes through
    a network of three channels as three equal ones, of whose results the mean is taken; a network of one
    channel restores each colour by itself.

    Memory: what the network needs for one tile of ``tile + 2 * overlap`` pixels to a side, whatever the size
    of the image, and at most 50 bytes for each pixel of the result.

    Args:
        network: a module as :class:`ImageRestorer` takes it; or a config, or its path, whose ``model`` is an
            :class:`ImageRestorer`.
        checkpoint: weights: a checkpoint of a run or of the bare network; a path, or a URL with its digest.
            None keeps those that a module has.
        device: where the network runs; a GPU if there is one by default.
        tile: side of a tile in pixels of the poor image; None takes images whole, in unbounded memory.
        overlap: pixels that a tile sees beyond its own on each side.

    Example:
        >>> restorer = Restorer("configs/hat/hat-xs_srx2_t91.py", "work_dirs/hat-xs_srx2_t91/epoch_4.pth")
        >>> restorer("small.png", "large.png")
    """

    def __init__(
        self,
        network: nn.Module | Config | str | os.PathLike,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        tile: int | None = 256,
        overlap: int = 32,
    ):
        if not isinstance(network, nn.Module):
            if checkpoint is None:
                raise ValueError("a config has no weights: wanted a checkpoint beside it")
            cfg = network if isinstance(network, Config) else Config.fromfile(network)
            with DefaultScope.overwrite_default_scope("dense"):
                network = MODELS.build(cfg.model).network
        if checkpoint is not None:
            load_pretrained(network, checkpoint)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network = network.to(device).eval()
        self.device, self.tile, self.overlap = torch.device(device), tile, overlap

    def __call__(self, source: str | os.PathLike, target: str | os.PathLike) -> None:
        """Restore the image file ``source`` to ``target``, which is written whole or not at all.

        Raises:
            OSError: ``source`` cannot be read, or ``target`` cannot be written or, by its suffix, cannot
                hold what ``source`` holds (16 bits, transparency).
        """
        picture = read_image(source)
        check_writable(target, picture)  # before the work
        write_image(target, self.restore(picture))

    def restore(self, picture: Picture) -> Picture:
        """The restored picture, with levels of the same type."""
        pixels = self.restore_pixels(picture.pixels)
        alpha = picture.alpha
        if alpha is not None and alpha.shape != pixels.shape[:2]:
            alpha = _to_levels(imresize(to_float(alpha), size=pixels.shape[:2]), alpha.dtype)
        return Picture(pixels, alpha, picture.icc_profile)

    @torch.inference_mode()
    def restore_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 1 or 3) uint8 or uint16 to (scale * H, scale * W, same) of the same type."""
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"pixels must be (H, W, 1 or 3) uint8 or uint16, found {pixels.shape} {pixels.dtype}"
            )
        image = torch.from_numpy(to_float(pixels)).permute(2, 0, 1)[None].to(self.device)  # (1, C, H, W)
        wanted, found = getattr(self.network, "in_channels", 3), image.shape[1]
        if wanted == 1:
            image = image.transpose(0, 1)  # (C, 1, H, W)
        elif found == 1:
            image = image.expand(-1, 3, -1, -1)
        result = [restore(self.network, one[None], self.tile, self.overlap)[0] for one in image]
        result = torch.cat(result) if wanted == 1 else result[0]  # (C, scale * H, scale * W)
        if wanted == 3 and found == 1:
            result = result.mean(0, keepdim=True)
        return _to_levels(result.permute(1, 2, 0).float().cpu().numpy(), pixels.dtype)


def _to_levels(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Levels of numbers in 0..1, which are overwritten: whole images are large."""
    np.clip(image, 0, 1, out=image)
    image *= np.iinfo(dtype).max
    return np.rint(image, out=image).astype(dtype)

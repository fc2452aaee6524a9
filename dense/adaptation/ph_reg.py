"""PH-Reg: registers for a trained vision Transformer, by self-distillation without labels.

Chen et al., "Vision Transformers with Self-Distilled Registers", NeurIPS 2025, arXiv 2505.21501. Published
code: 0raiser0/PH-Reg, Apache-2.0, of DINOv2-B alone.

A frozen copy of the network, the teacher, sees shifted and mirrored views of an image. What it finds at a
patch of the image, on average over the views, has fewer artefacts than what it finds in one: the student, the
same network with registers, learns to find that in the image itself.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from os import PathLike
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import CheckpointError

from ..backbones.vit import ViT
from ..base import TaskModel, TokenBackbone, register_backbone
from ..classification.sample import ImageDataSample
from ..registry import MODELS
from .trained import build_trunk, load_trunk

Grid = tuple[int, int]
RESIZINGS = ("scale_offset", "size")
PARTS = ("registers", "positions", "patch_embed", "last_block")  # that are trained
ALIASES = ("embed.", "encoder.", "layernorm.")  # under which published files have the same tensors again


# ------------------------------------------------------------------------------------------------------ views


def draw_offsets(count: int, grid: Grid, max_shift: float = 0.15) -> tuple[Tensor, Tensor]:
    """Offsets of an image's views, far from each other, and which of them are mirrored.

    The first view is the image. The others are found by farthest point sampling among ten times as many pairs
    as there are views, uniform from -s to s, s being ``max_shift`` of the grid's sides, rounded.

    Args:
        count: of views.
        grid: h and w of the patches.

    Returns:
        (count, 2) int64, patches down and right, and (count,) bool. Of PyTorch's generator.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, found {count}")
    pool = torch.stack([torch.randint(-s, s + 1, (10 * count,)) for s in _reach(grid, max_shift)], 1)
    chosen = torch.randint(len(pool), (count,))
    nearest = torch.full((len(pool),), torch.iinfo(torch.int64).max)
    for i in range(1, count):
        nearest = nearest.minimum((pool - pool[chosen[i - 1]]).square().sum(1))
        chosen[i] = nearest.argmax()
    offsets, flips = pool[chosen], torch.rand(count) < 0.5
    offsets[0], flips[0] = 0, False
    return offsets, flips


def _reach(grid: Grid, max_shift: float) -> list[int]:
    if not 0 <= max_shift < 1:
        raise ValueError(f"max_shift must be at least 0 and below 1, found {max_shift}")
    return [round(max_shift * side) for side in grid]


def shift_views(
    images: Tensor, offsets: Tensor, flips: Tensor, patch_size: int, fill: Tensor
) -> tuple[Tensor, Tensor]:
    """Views of images, shifted by patches, then mirrored where ``flips`` says so.

    Before it is mirrored, a view has at (y, x) what the image has at (y + patch_size * dy, x + patch_size *
    dx), and ``fill`` where that lies outside.

    Args:
        images: (B, C, H, W), sides multiples of the patch size.
        offsets: (B, N, 2) int64, pairs (dy, dx).
        flips: (B, N) bool.
        fill: (C,).

    Returns:
        Views (B, N, C, H, W), and from which patch of the image each of their patches is, (B, N, 2, h, w)
        int64 rows and columns, -1 outside.

    Raises:
        ValueError: sizes do not fit, or a view has nothing of its image.
    """
    height, width = images.shape[-2:]
    if images.ndim != 4 or height % patch_size or width % patch_size:
        raise ValueError(
            f"images must be (B, C, H, W), sides multiples of {patch_size}, found {tuple(images.shape)}"
        )
    wanted = (len(images), offsets.shape[1] if offsets.ndim == 3 else 1)
    if offsets.shape != (*wanted, 2) or flips.shape != wanted:
        raise ValueError(
            f"offsets must be ({len(images)}, N, 2) and flips ({len(images)}, N), found "
            f"{tuple(offsets.shape)} and {tuple(flips.shape)}"
        )
    grid = (height // patch_size, width // patch_size)
    limit = torch.tensor(grid, device=offsets.device)
    if (offsets.abs() >= limit).any():
        raise ValueError(
            f"offsets must be within the grid of {grid[0]} x {grid[1]}, found {offsets.abs().max()}"
        )
    rows, columns = _sources(offsets, flips, (height, width), patch_size)
    inside = (rows >= 0)[..., None] & (columns >= 0)[..., None, :]  # (B, N, H, W)
    batch = torch.arange(len(images), device=images.device)[:, None, None, None]
    views = images.movedim(1, -1)[batch, rows.clamp(min=0)[..., None], columns.clamp(min=0)[..., None, :]]
    views = torch.where(inside[..., None], views, fill.to(views)).movedim(-1, 2)
    rows, columns = _sources(offsets, flips, grid, 1)
    inside = (rows >= 0)[..., None] & (columns >= 0)[..., None, :]
    places = torch.stack((rows[..., None].expand_as(inside), columns[..., None, :].expand_as(inside)), 2)
    return views, places.masked_fill(~inside[:, :, None], -1)


def _sources(offsets: Tensor, flips: Tensor, size: Grid, step: int) -> tuple[Tensor, Tensor]:
    """Row (B, N, H) and column (B, N, W) of the image that a view's rows and columns are; -1 outside."""
    found = []
    for axis, side in enumerate(size):
        places = torch.arange(side, device=offsets.device) + step * offsets[..., axis, None]
        found.append(places.masked_fill((places < 0) | (places >= side), -1))
    rows, columns = found
    return rows, torch.where(flips[..., None], columns.flip(-1), columns)


def average_views(features: Tensor, places: Tensor) -> Tensor:
    """The mean, at each patch of an image, over the views that show it.

    Args:
        features: (B, N, h * w, C), of the patches of views.
        places: (B, N, 2, h, w), see :func:`shift_views`.

    Returns:
        (B, h * w, C), in float32 at least; 0 where no view shows a patch.
    """
    batch, views, count, dims = features.shape
    height, width = places.shape[3:]
    if places.shape != (batch, views, 2, height, width) or height * width != count:
        raise ValueError(
            f"places must be ({batch}, {views}, 2, h, w) of {count} patches, found {tuple(places.shape)}"
        )
    features = features.to(torch.promote_types(features.dtype, torch.float32)).flatten(1, 2)
    rows, columns = places.flatten(3).unbind(2)  # (B, N, h * w)
    seen = ((rows >= 0) & (columns >= 0)).flatten(1)  # (B, N * h * w)
    index = (rows * width + columns).flatten(1).masked_fill(~seen, 0)
    total = features.new_zeros(batch, count, dims)
    total.scatter_add_(1, index[..., None].expand(-1, -1, dims), features * seen[..., None])
    number = features.new_zeros(batch, count).scatter_add_(1, index, seen.to(features.dtype))
    return total / number.clamp(min=1)[..., None]


def distillation_losses(features: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """1 minus the mean cosine between features and targets (B, N, C), and their mean squared difference."""
    if features.shape != targets.shape:
        raise ValueError(f"features and targets differ: {tuple(features.shape)} and {tuple(targets.shape)}")
    lengths = (features.norm(dim=-1) + 1e-8) * (targets.norm(dim=-1) + 1e-8)
    cosine = (features * targets).sum(-1) / lengths
    return {"loss_cosine": 1 - cosine.mean(), "loss_mse": F.mse_loss(features, targets)}


@torch.no_grad()
def plant_artifacts(backbone: TokenBackbone, count: int, scale: float = 5.0, seed: int = 0) -> Tensor:
    """Add noise to a few rows of a network's table of positions: tokens there become artefacts.

    Args:
        backbone: which has such a table.
        count: of rows, drawn among those of patches.
        scale: length of the noise, in lengths of what patches of normal noise are embedded as.

    Returns:
        The places among the patches, (count,) int64, ascending.
    """
    if backbone.pos_embed is None:
        raise ValueError(f"artefacts need a table of positions, {type(backbone).__name__} has none")
    patches = backbone.grid[0] * backbone.grid[1]
    if not 0 < count < patches:
        raise ValueError(f"count must be 1 to {patches - 1}, found {count}")
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(patches, generator=generator)[:count].sort().values
    rows = backbone.pos_embed[0, -patches:]
    noise = torch.randn(count, rows.shape[1], generator=generator).to(rows)
    image = torch.randn(1, backbone.in_channels, *backbone.img_size, generator=generator).to(rows)
    length = backbone.embed(image)[0][0, -patches:].norm(dim=1).mean()
    rows[places] += scale * length * noise / noise.norm(dim=1, keepdim=True)
    return places


# ---------------------------------------------------------------------------------------------------- student


def init_registers(backbone: TokenBackbone) -> None:
    """Normal, of the variance 1 / C."""
    nn.init.normal_(backbone.reg_token, std=backbone.reg_token.shape[2] ** -0.5)


def _student(arch: str) -> dict[str, Any]:
    return {**ViT.archs[arch], "num_registers": 16}


@register_backbone("ph_reg")
class PHReg(ViT):
    """DINOv2 with registers that it was given afterwards: tokens are [registers, class token, patches].

    Args:
        arch: a variant, or a dict as those in ``archs``.
        pos_resize: how the table of positions becomes one of another grid: by "scale_offset", as the
            published network and transformers up to 4.44, or by the "size" alone, as later versions.
        **kwargs: see :class:`~dense.backbones.ViT`.
    """

    title = "PH-Reg"
    paper = 'Chen et al., "Vision Transformers with Self-Distilled Registers", NeurIPS 2025, arXiv 2505.21501'
    code = "0raiser0/PH-Reg"
    licence = "Apache-2.0"
    archs = {
        "dinov2_small": _student("small_dinov2"),
        "dinov2_base": _student("base_dinov2"),
        "dinov2_large": _student("large_dinov2"),
    }
    num_parameters = {"dinov2_small": 22_062_336, "dinov2_base": 86_592_000, "dinov2_large": 304_384_000}
    published = {
        "dinov2_base": {
            "VOC21 linear, mIoU": 84.85,
            "ADE20K linear, mIoU": 48.66,
            "NYUd linear, RMSE": 0.4306,
        }
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "dinov2_base",
        *,
        pos_resize: str = "scale_offset",
        **kwargs,
    ):
        if pos_resize not in RESIZINGS:
            raise ValueError(f"pos_resize must be one of {list(RESIZINGS)}, found {pos_resize!r}")
        offset = 0.1 if pos_resize == "scale_offset" else 0.0
        super().__init__(arch, **{"registers_first": True, "scale_offset": offset, **kwargs})
        if self.reg_token is not None:
            init_registers(self)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        own, registers = super().adapt_arch(spec, state_dict), state_dict.get("backbone.reg_token")
        return own if registers is None else {**own, "num_registers": registers.shape[1]}

    @classmethod
    def reads_all(cls, state_dict: Mapping[str, Tensor]) -> bool:
        return "registers" in state_dict or super().reads_all(state_dict)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of the authors' (names of transformers, most tensors twice), of timm, of DINOv2 with registers."""
        if "registers" not in state_dict:
            return super().convert_official(state_dict)
        rest = {k: v for k, v in state_dict.items() if k != "registers" and not k.startswith(ALIASES)}
        if unknown := [key for key in rest if not key.startswith("model.")]:
            raise CheckpointError(f"{cls.__name__}: found {unknown[0]!r}, wanted registers and model.*")
        renamed, registers = super().convert_official(rest), state_dict["registers"]
        return {**renamed, "backbone.reg_token": registers} if registers.numel() else renamed

    @classmethod
    def names_fit(cls, arch: str, state_dict: Mapping[str, Tensor]) -> bool:
        return "registers" in state_dict  # else they are DINOv2's, of which ViT has the same shapes


# ----------------------------------------------------------------------------------------------- distillation


@MODELS.register_module()
class PHRegDistiller(TaskModel):
    """Gives a trained token backbone registers, and teaches it what it finds on average over views.

    Parameters of the student are named ``backbone.*``: a checkpoint is one of a backbone with registers. The
    teacher is the network as it was, and no part of the checkpoint.

    Args:
        backbone: config of a token backbone that has no registers.
        pretrained: checkpoint, or work dir, of a classifier with this backbone, or of the backbone alone,
            loaded when a run starts; None for random weights.
        num_registers: of the student.
        registers_first: they stand before the class token; a network whose blocks want that first (DHVT) has
            them behind.
        num_views: of an image, itself among them.
        max_shift: see :func:`draw_offsets`.
        trained: parts of the student that learn, of "registers", "positions", "patch_embed", "last_block".
        mse_weight: factor of the mean squared difference.
        fill: value in 0..255 of what lies outside of an image.
        planted: artefacts that the network gets first, see :func:`plant_artifacts`: a check of the method.
        data_preprocessor: config; :class:`~dense.base.preprocessors.StackImages` by default.
        init_cfg: see MMEngine.
    """

    sample_class = ImageDataSample
    preprocessor = "dense.StackImages"
    output_names = ("patches",)

    def __init__(
        self,
        backbone: Mapping[str, Any],
        *,
        pretrained: str | PathLike | None = None,
        num_registers: int = 16,
        registers_first: bool = True,
        num_views: int = 10,
        max_shift: float = 0.15,
        trained: Sequence[str] = PARTS,
        mse_weight: float = 1.0,
        fill: float = 255.0,
        planted: int = 0,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(None, data_preprocessor, init_cfg)
        if num_views < 1 or num_registers < 0:
            raise ValueError(
                f"num_views must be at least 1 and num_registers not negative, found {num_views} and "
                f"{num_registers}"
            )
        _reach((1, 1), max_shift)
        if unknown := [part for part in trained if part not in PARTS]:
            raise ValueError(f"trained must be some of {list(PARTS)}, found {unknown[0]!r}")
        teacher = build_trunk(backbone)
        if teacher.num_registers:
            raise ValueError(f"backbone must have no registers, found {teacher.num_registers}")
        self._teacher = [teacher.requires_grad_(False).eval()]  # in a list: no part of the weights
        self._known = False
        options = {"num_registers": num_registers, "registers_first": registers_first}
        self.backbone = build_trunk({**backbone, **options})
        self.pretrained, self.num_views, self.max_shift = pretrained, num_views, max_shift
        self.mse_weight, self.fill, self.planted = mse_weight, fill, planted
        if num_registers:
            init_registers(self.backbone)
        self._copy(teacher.state_dict())
        self._choose(trained)

    def _copy(self, weights: Mapping[str, Tensor]) -> None:
        self.backbone.load_state_dict(weights, strict=False)  # it lacks registers

    def _choose(self, trained: Sequence[str]) -> None:
        self.backbone.requires_grad_(False)
        parts = {
            "registers": [self.backbone.reg_token],
            "positions": [self.backbone.pos_embed],
            "patch_embed": list(self.backbone.patch_embed.parameters()),
            "last_block": list(self.backbone.blocks[-1].parameters()),
        }
        chosen = [p for part in trained for p in parts[part] if p is not None]
        if not chosen:
            raise ValueError(f"trained must name parts that the backbone has, found {list(trained)}")
        for parameter in chosen:
            parameter.requires_grad_()

    def init_weights(self) -> None:
        """What a run calls before it trains or resumes."""
        registers = deepcopy(self.backbone.reg_token)
        super().init_weights()
        if registers is not None:
            self.backbone.reg_token.data.copy_(registers.data)
        self._copy(self.teacher.state_dict())

    @property
    def teacher(self) -> TokenBackbone:
        """The network as it was, frozen; its weights are read when it is first asked for, as in a test."""
        (teacher,) = self._teacher
        if not self._known:
            self._known = True
            if self.pretrained is not None:
                load_trunk(teacher, self.pretrained)
            if self.planted:
                plant_artifacts(teacher, self.planted)
        return teacher

    def _apply(self, fn, *args, **kwargs):
        self._teacher[0]._apply(fn, *args, **kwargs)  # to the student's device and type
        return super()._apply(fn, *args, **kwargs)

    @staticmethod
    def patches(backbone: TokenBackbone, x: Tensor, normed: bool = True) -> Tensor:
        """Patches of images (B, 3, H, W) after the last block, before or after the norm: (B, h * w, C)."""
        *_, (tokens, grid) = backbone.iterate_blocks(x)
        tokens = tokens[:, tokens.shape[1] - grid[0] * grid[1] :]
        return backbone.norm(tokens) if normed else tokens

    def _forward(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None) -> Tensor:
        return self.patches(self.backbone, inputs)

    @property
    def outside(self) -> Tensor:
        """What views have outside of their image, (C,): normalised as images are."""
        mean, std = self.data_preprocessor.mean, self.data_preprocessor.std
        return ((self.fill - mean) / std).flatten()

    @torch.no_grad()
    def make_targets(self, x: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
        """What the teacher finds at each patch of images (B, C, H, W), on average over views: (B, h * w, C).

        Args:
            offsets: (B, N, 2).
            flips: (B, N).
        """
        views, places = shift_views(x, offsets, flips, self.teacher.spec["patch_size"], self.outside)
        features = self.patches(self.teacher, views.flatten(0, 1)).unflatten(0, views.shape[:2])
        return average_views(features, places)

    def draw_views(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (B, N, 2) and flips (B, N) for images, each with its own."""
        grid = tuple(side // self.teacher.spec["patch_size"] for side in x.shape[2:])
        drawn = [draw_offsets(self.num_views, grid, self.max_shift) for _ in range(len(x))]
        return tuple(torch.stack(parts).to(x.device) for parts in zip(*drawn, strict=True))

    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        losses = distillation_losses(
            self._forward(inputs).float(), self.make_targets(inputs, *self.draw_views(inputs)).float()
        )
        return {**losses, "loss_mse": self.mse_weight * losses["loss_mse"]}

    def predict(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> list[BaseDataElement]:
        """Samples with what was before, of the teacher, and is after, of the student.

        These are ``patches_before``, ``patches_after`` (h * w, C), normed, and the lengths that these have
        un-normed, ``norms_before``, ``norms_after`` (h, w).
        """
        patch = self.teacher.spec["patch_size"]
        for side, backbone in (("before", self.teacher), ("after", self.backbone)):
            tokens = self.patches(backbone, inputs, normed=False)
            norms = tokens.float().norm(dim=-1).unflatten(1, (-1, inputs.shape[3] // patch))
            for sample, *found in zip(data_samples, backbone.norm(tokens), norms, strict=True):
                sample.set_data({f"patches_{side}": found[0], f"norms_{side}": found[1]})
        return list(data_samples)

    def example_inputs(self, batch: int, size: tuple[int, int]) -> tuple[Any, ...]:
        return self.backbone.example_inputs(batch, size)

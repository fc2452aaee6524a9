"""What all backbones share: their outputs, frozen stages, gradient checkpointing, and names in the zoo."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..layers.archs import Archs
from ..registry import MODELS, ZOO


class Backbone(Archs, BaseModule):
    """Stages of blocks, each after a downsampling: (B, in_channels, H, W) to a tuple of (B, C_i, H_i, W_i).

    A subclass fills, in its ``__init__``, ``downsamples`` (the first is the stem) and ``stages`` (blocks;
    all of them map (B, C, H, W) to such), then calls :meth:`set_outputs`.

    Args:
        in_channels: of the images.
        out_indices: stages whose maps are returned, ascending, all by default; stages after the last one are
            not built.
        output_norm: norm each output as the published dense backbone does (the trunk goes on un-normed).
            A classifier, whose head has its own norm, is built without.
        frozen_stages: 0 freezes the stem, n also the first n stages; -1 nothing.
        norm_eval: keep batch norms in evaluation mode while training.
        with_cp: save memory in training: keep only the inputs of blocks, and compute the rest anew.
        init_cfg: MMEngine's, as ``dict(type="Pretrained", checkpoint=..., prefix="backbone.")``.

    Attributes:
        out_channels: channels of each output.
        strides: input pixels to a pixel of each output.
    """

    archs: ClassVar[dict[str, dict[str, Any]]]  # the published variants by name, the smallest first
    num_stages: ClassVar[int] = 4
    system: ClassVar[str]  # what :func:`register_backbone` calls it

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        output_norm: bool = True,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        stages = range(self.num_stages)
        indices = tuple(stages if out_indices is None else out_indices)
        if not indices or indices != tuple(i for i in stages if i in indices):
            raise ValueError(f"out_indices must ascend within 0..{stages[-1]}, found {indices}")
        if not -1 <= frozen_stages <= self.num_stages:
            raise ValueError(f"frozen_stages must be in -1..{self.num_stages}, found {frozen_stages}")
        self.in_channels = in_channels
        self.out_indices = indices
        self.output_norm = output_norm
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.downsamples = nn.ModuleList()
        self.stages = nn.ModuleList()
        self.norms = nn.ModuleDict()  # by stage

    def set_outputs(
        self, channels: Sequence[int], strides: Sequence[int], norm: Callable[[int], nn.Module] | None = None
    ) -> None:
        """State channels and stride of each stage; make the norms of the outputs by ``norm(channels)``."""
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self.strides = tuple(strides[i] for i in self.out_indices)
        built = self.out_indices[-1] + 1
        del self.downsamples[built:], self.stages[built:]  # they would get no gradient
        if norm is not None and self.output_norm:
            self.norms.update({str(i): norm(channels[i]) for i in self.out_indices})
        self.train()

    def make_head(self, num_classes: int) -> nn.Module:
        """The published classification head: the last stage's map, un-normed, to (B, num_classes)."""
        raise NotImplementedError(f"{type(self).__name__} was published without a classifier")

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' weights, named as in :class:`ClassificationNetwork`: ``backbone.`` and ``head.``.

        A file of a classifier, of a backbone, or of a detector or segmentor, of which the backbone is taken.
        """
        trunk = {k.removeprefix("backbone."): v for k, v in state_dict.items() if k.startswith("backbone.")}
        return cls.rename_official(trunk or state_dict)

    @staticmethod
    def rename_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What :meth:`convert_official` does to the weights of a classifier or backbone."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"images must be (B, {self.in_channels}, H, W), found {tuple(x.shape)}")
        outputs = []
        for i, (downsample, blocks) in enumerate(zip(self.downsamples, self.stages, strict=True)):
            x = downsample(x)
            for block in blocks:
                if self.with_cp and self.training and torch.is_grad_enabled():
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            if i in self.out_indices:
                outputs.append(self.norms[str(i)](x) if str(i) in self.norms else x)
        return tuple(outputs)

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self._frozen_modules():
            module.eval().requires_grad_(False)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [*self.downsamples[: max(1, self.frozen_stages)], *self.stages[: self.frozen_stages]]


class ClassificationNetwork(nn.Module):
    """A backbone and its published head: images (B, 3, H, W) to logits (B, num_classes)."""

    def __init__(self, backbone: Backbone, num_classes: int = 1000):
        super().__init__()
        self.backbone = backbone
        self.head = backbone.make_head(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[-1])

    def convert_official(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.backbone.convert_official(state_dict)


def register_backbone(name: str) -> Callable[[type[Backbone]], type[Backbone]]:
    """Decorator of a backbone: ``type="dense.Name"`` in configs, ``create_model("name_arch")`` in Python.

    The model so created is a :class:`ClassificationNetwork`; ``features_only=True`` gives the backbone.
    """

    def register(cls: type[Backbone]) -> type[Backbone]:
        cls.system = name

        def builder(arch: str) -> Callable[..., nn.Module]:
            def build(*, num_classes: int = 1000, features_only: bool = False, **kwargs) -> nn.Module:
                if features_only:
                    return cls(arch, **kwargs)
                last = cls.num_stages - 1
                backbone = cls(arch, out_indices=(last,), output_norm=False, **kwargs)
                return ClassificationNetwork(backbone, num_classes)

            build.__name__ = f"{name}_{arch}"
            return build

        for arch in cls.archs:
            ZOO.register_model(builder(arch))
        return MODELS.register_module(module=cls)

    return register

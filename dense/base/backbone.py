"""What all backbones share: variants, outputs, frozen stages, gradient checkpointing, published weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pointsuite.engine.checkpoint import strip_prefix
from pointsuite.engine.network import Network
from pointsuite.engine.skeleton import skeletons

from ..layers import ClassificationHead, mergeable_layers, run_block, switch_to_deploy
from ..registry import MODELS, ZOO
from .classification import ClassificationNetwork


class FeatureInfo(list):
    """Channels and strides of a backbone's maps, as users of timm ask for them; the finest first."""

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [level["num_chs"] for level in self]

    def reduction(self) -> list[int]:
        """Input pixels to a pixel of each map."""
        return [level["reduction"] for level in self]


class BaseBackbone(Network, BaseModule):
    """What pyramids and token backbones share.

    Args:
        arch: a published variant by its name, or a dict of its keys.
        in_channels: of the images.
        out_indices: of the stages (or blocks, of a token backbone) whose maps are returned, ascending; all
            by default. What comes after the last one is not built.
        num_levels: how many of these there are.
        output_norm: norm each output as the published dense backbone does (the trunk goes on un-normed).
            A classifier, whose head has its own norm, is built without.
        frozen_stages: 0 freezes the stem, n also the first n stages; -1 nothing.
        norm_eval: keep batch norms in evaluation mode while training.
        with_cp: save memory in training: keep only the inputs of blocks, and compute the rest anew.
        deploy: have the weights of :func:`~dense.layers.switch_to_deploy`, branches and norms merged.
        init_cfg: MMEngine's, as ``dict(type="Pretrained", checkpoint=..., prefix="backbone.")``.

    Attributes:
        spec: the variant, a dict.
        out_channels: channels of each output.
        strides: input pixels to a pixel of each output.
        num_features: channels of what :meth:`forward_features` returns.
        min_size: pixels that either side of an image must have.
    """

    num_features: int
    min_size: int = 1

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        num_levels: Callable[[dict[str, Any]], int],
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        output_norm: bool = True,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        deploy: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        self.spec = self.find_arch(arch)
        levels = range(num_levels(self.spec))
        indices = tuple(levels if out_indices is None else out_indices)
        if not indices or indices != tuple(i for i in levels if i in indices):
            raise ValueError(f"out_indices must ascend within 0..{levels[-1]}, found {indices}")
        if not -1 <= frozen_stages <= len(levels):
            raise ValueError(f"frozen_stages must be in -1..{len(levels)}, found {frozen_stages}")
        self.in_channels = in_channels
        self.out_indices = indices
        self.output_norm = output_norm
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.deploy = deploy

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and stride of each output."""
        levels = zip(self.out_channels, self.strides, strict=True)
        return FeatureInfo({"num_chs": channels, "reduction": stride} for channels, stride in levels)

    # ----------------------------------------------------------------------------------------- classifiers

    def make_head(self, num_classes: int) -> ClassificationHead:
        """The published classification head, of what :meth:`forward_features` returns."""
        raise NotImplementedError(f"{type(self).__name__} was published without a classifier")

    def forward_features(self, x: Tensor) -> Any:
        """Images (B, in_channels, H, W) to what the head takes: a map, tokens, or several of them."""
        raise NotImplementedError

    @classmethod
    def create(
        cls, arch: str | Mapping[str, Any], *, num_classes: int = 1000, features_only: bool = False, **kwargs
    ) -> nn.Module:
        """A :class:`ClassificationNetwork`; with ``features_only`` the backbone, which returns its maps."""
        if features_only:
            return cls(arch, **kwargs)
        return ClassificationNetwork(cls(arch, **{**cls.classifier_options(arch), **kwargs}), num_classes)

    @classmethod
    def classifier_options(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        """Options of the backbone of a classifier: it has the last map alone, and no norm of outputs."""
        raise NotImplementedError

    # ----------------------------------------------------------------------------------- published weights

    @staticmethod
    def find_trunk(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a detector or segmentor without all that is not its backbone; others as they are."""
        trunk = {k.removeprefix("backbone."): v for k, v in state_dict.items() if k.startswith("backbone.")}
        return trunk or dict(state_dict)

    @classmethod
    def reads_all(cls, state_dict: Mapping[str, Tensor]) -> bool:
        return len(cls.find_trunk(state_dict)) == len(state_dict)

    @classmethod
    def guess_options(
        cls, state_dict: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        options = {"features_only": True}
        renamed = dict(state_dict)
        if heads := [v for k, v in state_dict.items() if k.startswith("head.") and k.endswith("fc.weight")]:
            options = {"num_classes": len(heads[0])}
        else:
            renamed = strip_prefix(state_dict, "backbone.")
        options |= cls.read_options(state_dict)
        if cls.is_merged(state_dict):
            options["deploy"] = True
        seen = []
        for arch, spec in cls.archs.items():
            own = cls.adapt_arch(spec, state_dict)
            if own in seen:
                continue
            seen.append(own)
            name = next((name for name, known in cls.archs.items() if known == own), None)
            yield (name, options, renamed) if name else (arch, {"arch": own, **options}, renamed)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """Options of the backbone that converted weights show, as a bias or a second head."""
        return {}

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """A variant with the depths that converted weights have."""
        raise NotImplementedError

    @classmethod
    def is_merged(cls, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether converted weights are of the form that ``deploy`` has."""
        if any(key.endswith(".norm.running_var") for key in state_dict if key.startswith("backbone.")):
            return False
        with skeletons():
            names = mergeable_layers(cls.create(next(iter(cls.archs))))
        return any(f"{name}.weight" in state_dict for name in names)

    # --------------------------------------------------------------------------------------------- training

    def _finish(self) -> None:
        """To be called when all is made."""
        if self.deploy:
            switch_to_deploy(self)
        self.train()

    def _run(self, block: nn.Module, *args: Any) -> Any:
        """``block(*args)``, without its inner activations being kept if ``with_cp`` says so."""
        return run_block(block, *args, with_cp=self.with_cp and self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self._frozen_modules():
            module.eval().requires_grad_(False)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _frozen_modules(self) -> Sequence[nn.Module]:
        raise NotImplementedError

    def _check_images(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"images must be (B, {self.in_channels}, H, W), found {tuple(x.shape)}")
        height, width = x.shape[2:]
        if min(height, width) < self.min_size:
            raise ValueError(
                f"images must be at least {self.min_size} x {self.min_size}, found {height} x {width}"
            )


class Backbone(BaseBackbone):
    """A pyramid of stages of blocks, each after a downsampling: (B, in_channels, H, W) to a tuple of
    (B, C_i, H_i, W_i).

    A subclass fills, in its ``__init__``, ``downsamples`` (the first is the stem) and ``stages`` (blocks),
    then calls :meth:`set_outputs`. There are as many stages as its variant has ``depths``. Downsamplings map
    (B, C, H, W) to such, channels last in memory; so do blocks, unless ``channels_last`` says that they map
    (B, H, W, C) to such.

    Args:
        arch, **kwargs: see :class:`BaseBackbone`.
    """

    channels_last: ClassVar[bool] = False

    def __init__(self, arch: str | Mapping[str, Any], **kwargs):
        super().__init__(arch, lambda spec: len(spec["depths"]), **kwargs)
        self.downsamples = nn.ModuleList()
        self.stages = nn.ModuleList()
        self.norms = nn.ModuleDict()  # by stage

    def set_outputs(
        self, channels: Sequence[int], strides: Sequence[int], norm: Callable[[int], nn.Module] | None = None
    ) -> None:
        """State channels and stride of each stage; make the norms of the outputs by ``norm(channels)``."""
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self.strides = tuple(strides[i] for i in self.out_indices)
        self.num_features = self.out_channels[-1]
        built = self.out_indices[-1] + 1
        del self.downsamples[built:], self.stages[built:]  # they would get no gradient
        if norm is not None and self.output_norm:
            self.norms.update({str(i): norm(channels[i]) for i in self.out_indices})
        self._finish()

    @classmethod
    def classifier_options(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        return {"out_indices": (len(cls.find_arch(arch)["depths"]) - 1,), "output_norm": False}

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        blocks = {tuple(key.split(".")[2:4]) for key in state_dict if key.startswith("backbone.stages.")}
        found = [int(stage) for stage, block in blocks if block.isdigit()]
        return {**spec, "depths": tuple(found.count(i) for i in range(len(spec["depths"])))}

    def iterate_stages(self, x: Tensor, change: Callable[[Tensor], Tensor] | None = None) -> Iterator[Tensor]:
        """The map after each stage that is built, (B, C_i, H_i, W_i), un-normed; ``change`` is made to the
        stem's map.
        """
        self._check_images(x)
        x = x.contiguous(memory_format=torch.channels_last)
        for i, (downsample, blocks) in enumerate(zip(self.downsamples, self.stages, strict=True)):
            x = downsample(x)
            if i == 0 and change is not None:
                x = change(x)
            if self.channels_last:
                x = x.permute(0, 2, 3, 1)
            for block in blocks:
                x = self._run(block, x)
            if self.channels_last:
                x = x.permute(0, 3, 1, 2)
            yield x

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            self.norms[str(i)](y) if str(i) in self.norms else y
            for i, y in enumerate(self.iterate_stages(x))
            if i in self.out_indices
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """The map of the last stage that is built, un-normed: (B, num_features, H', W')."""
        *_, y = self.iterate_stages(x)
        return y

    def _frozen_modules(self) -> Sequence[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [*self.downsamples[: max(1, self.frozen_stages)], *self.stages[: self.frozen_stages]]


def register_backbone(system: str) -> Callable[[type[BaseBackbone]], type[BaseBackbone]]:
    """Decorator of a backbone: ``type="dense.Name"`` in configs, ``create_model("system_arch")`` in Python.

    The model so created is a :class:`ClassificationNetwork`; ``features_only=True`` gives the backbone.
    """
    return ZOO.register_network(system, MODELS)

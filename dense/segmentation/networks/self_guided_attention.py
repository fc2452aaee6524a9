"""Multi-scale self-guided attention for segmentation, "DAF stack".

Sinha, Dolz, "Multi-scale self-guided attention for medical image segmentation", IEEE JBHI 2020
(arXiv 1906.02849). Published code: sinAshish/Multi-Scale-Attention, without a licence; written anew here.

Two stages refine the maps of a backbone, each with attention over positions and over channels and with an
auto-encoder that the scales share. Scales are counted from the finest; published weights, in which some are
counted from the coarsest, are renamed by :meth:`SelfGuidedAttention.convert_official`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS as SEGMENTORS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ...base.configured import ConfiguredNetwork
from ...layers import ConvNorm
from ...ops import padded_attention
from ...registry import MODELS, ZOO

ROWS_TIMES_KEYS = 1 << 20  # of the weights that are held at a time, of each sample


class PositionAttention(nn.Module):
    """``x + gamma * softmax(q k^T) v`` over positions, without a scale: (B, C, H, W) to the same.

    ``q`` and ``k`` have C / 8 channels; ``gamma`` starts at 0.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (conv(x).flatten(2).mT for conv in (self.query, self.key, self.value))
        return self.gamma * attend(q, k, v).mT.reshape(x.shape) + x


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``softmax(q k^T) v`` of (B, N, d), (B, M, d) and (B, M, c), without holding (N, M): (B, N, c).

    Where gradients are wanted, some rows at a time, twice. The fused kernels' gradients rest on
    ``exp(logit - logsumexp)``, and logits without a scale reach 1e6, of which float32 keeps no decimals.
    """
    if torch.is_grad_enabled():
        rows = q.split(max(1, ROWS_TIMES_KEYS // k.shape[1]), 1)
        return torch.cat([checkpoint(_attend, r, k, v, use_reentrant=False) for r in rows], 1)
    # they want numbers of a position side by side
    return padded_attention(*(t[:, None].contiguous() for t in (q, k, v)), scale=1.0)[:, 0]


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1) @ v


class ChannelAttention(nn.Module):
    """``x + gamma * softmax(-x x^T) x`` over channels: (B, C, H, W) to the same; ``gamma`` starts at 0.

    The least similar channel has the most weight. The products grow with H * W until the softmax is nearly
    one-hot, so they stay in float32 at least under autocast.
    """

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            rows = x.flatten(2).to(torch.promote_types(x.dtype, torch.float32))  # (B, C, HW)
            attended = (-rows @ rows.mT).softmax(-1) @ rows
        return self.gamma * attended.to(x.dtype).view(x.shape) + x


def attention_layer(channels: int, core: nn.Module) -> nn.Sequential:
    """Convolutions around an attention: (B, 2C, H, W) to (B, C, H, W)."""
    return nn.Sequential(
        *_conv_prelu(2 * channels, channels, 3),
        core,
        *_conv_prelu(channels, channels, 3),
    )


def _conv_prelu(in_channels: int, out_channels: int, kernel_size: int) -> tuple[nn.Module, nn.Module]:
    conv = ConvNorm(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=True)
    return conv, nn.PReLU()


class SemanticModule(nn.Module):
    """An auto-encoder of two levels: (B, d, H, W) to its code (B, 4d, H // 4, W // 4) and (B, d, H, W).

    Raises:
        ValueError: a side is odd or below 4.
    """

    def __init__(self, channels: int):
        super().__init__()
        d = channels
        self.encoder1 = self._level(d, 2 * d, nn.MaxPool2d(2))
        self.encoder2 = self._level(2 * d, 4 * d, nn.MaxPool2d(2))
        self.decoder2 = self._level(4 * d, 2 * d, nn.ConvTranspose2d(2 * d, 2 * d, 2, stride=2))
        self.decoder1 = self._level(2 * d, d, nn.ConvTranspose2d(d, d, 2, stride=2))

    @staticmethod
    def _level(in_channels: int, out_channels: int, resample: nn.Module) -> nn.Sequential:
        return nn.Sequential(
            ConvNorm(in_channels, out_channels, 3, padding=1, bias=True),
            nn.ReLU(inplace=True),
            ConvNorm(out_channels, out_channels, 3, padding=1, bias=True),
            nn.ReLU(inplace=True),
            resample,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        height, width = x.shape[2:]
        if height % 2 or width % 2 or min(height, width) < 4:
            raise ValueError(f"the finest map must have even sides of 4 or more, found {height} x {width}")
        half = self.encoder1(x)
        code = self.encoder2(half)
        return code, self.decoder1(_resize(self.decoder2(code), half))


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """``x`` with the height and width of ``like``, bilinear."""
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class GuidedStage(nn.Module):
    """One stage: maps of all scales, each (B, 2C, H, W), to as many (B, C, H, W).

    Also returns the codes and the decoded maps of the auto-encoder, scale by scale.
    """

    def __init__(self, channels: int, scales: int):
        super().__init__()

        def each(make) -> nn.ModuleList:
            return nn.ModuleList(make() for _ in range(scales))

        self.semantic = SemanticModule(2 * channels)
        self.position = each(lambda: attention_layer(channels, PositionAttention(channels)))
        self.channel = each(lambda: attention_layer(channels, ChannelAttention()))
        self.decode = each(lambda: nn.Conv2d(2 * channels, channels, 3, padding=1))
        self.project = each(lambda: nn.Conv2d(channels, channels, 1))

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        codes, decoded = self._encode(maps)
        layers = zip(self.position, self.channel, self.decode, self.project, strict=True)
        guided = [
            project((channel(x) + position(x)) * decode(y))
            for x, y, (position, channel, decode, project) in zip(maps, decoded, layers, strict=True)
        ]
        return guided, codes, decoded

    def _encode(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        if not self.training:
            codes, decoded = self.semantic(torch.cat(list(maps)))
            return list(codes.chunk(len(maps))), list(decoded.chunk(len(maps)))
        # the statistics of each scale are its own; the running ones see the coarsest first
        pairs = [self.semantic(x) for x in reversed(maps)][::-1]
        return [code for code, _ in pairs], [y for _, y in pairs]


class GuidedMaps(NamedTuple):
    """What :meth:`SelfGuidedHead.guide` finds; every field has one tensor a scale, all of the finest size."""

    reduced: list[Tensor]  # (B, C, H, W), of the backbone's maps
    first: list[Tensor]  # (B, 2C, H, W), what the first stage is given
    first_codes: list[Tensor]  # (B, 8C, H // 4, W // 4)
    first_decoded: list[Tensor]  # (B, 2C, H, W)
    guided: list[Tensor]  # (B, C, H, W), what the first stage returns
    second: list[Tensor]
    second_codes: list[Tensor]
    second_decoded: list[Tensor]
    refined: list[Tensor]  # what the second stage returns


@MODELS.register_module()
class SelfGuidedHead(BaseDecodeHead):
    """The decode head of the network, on the maps of any backbone.

    The loss is the sum of the cross-entropies of two predictions a scale, ``guidance_weight`` times the mean
    squared differences of the stages' codes, and ``reconstruction_weight`` times those of what the
    auto-encoders are given and return. The prediction is the mean of the second stage's.

    Args:
        in_channels: of the backbone's maps, finest first; the finest has even sides of 4 or more.
        channels: C.
        guidance_weight, reconstruction_weight: as published.
        **kwargs: of MMSegmentation's ``BaseDecodeHead``. The norms are batch norms whatever ``norm_cfg``;
            ``sync_bn="torch"`` in a config lets processes share their statistics.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 64,
        *,
        guidance_weight: float = 0.25,
        reconstruction_weight: float = 0.1,
        **kwargs,
    ):
        defaults = {"in_index": list(range(len(in_channels))), "dropout_ratio": 0, "init_cfg": None}
        super().__init__(
            list(in_channels), channels, input_transform="multiple_select", **{**defaults, **kwargs}
        )
        del self.conv_seg  # each scale has its own, twice
        self.guidance_weight = guidance_weight
        self.reconstruction_weight = reconstruction_weight
        scales = len(in_channels)
        self.reduce = nn.ModuleList(nn.Sequential(*_conv_prelu(n, channels, 1)) for n in in_channels)
        self.fuse = nn.Sequential(
            *_conv_prelu(scales * channels, channels, 3),
            *_conv_prelu(channels, channels, 3),
            *_conv_prelu(channels, channels, 1),
        )
        self.first_stage = GuidedStage(channels, scales)
        self.second_stage = GuidedStage(channels, scales)
        self.first_predict, self.second_predict = (
            nn.ModuleList(nn.Conv2d(channels, self.out_channels, 1) for _ in in_channels) for _ in range(2)
        )
        initialise(self)

    def guide(self, inputs: Sequence[Tensor]) -> GuidedMaps:
        """Both stages on the backbone's maps (B, in_channels[i], H_i, W_i)."""
        inputs = self._transform_inputs(inputs)
        reduced = [_resize(layer(x), inputs[0]) for layer, x in zip(self.reduce, inputs, strict=True)]
        fused = self.fuse(torch.cat(reduced[::-1], 1))
        first = [torch.cat((x, fused), 1) for x in reduced]
        guided, first_codes, first_decoded = self.first_stage(first)
        second = [torch.cat((x, y * fused), 1) for x, y in zip(reduced, guided, strict=True)]
        refined, second_codes, second_decoded = self.second_stage(second)
        return GuidedMaps(
            reduced,
            first,
            first_codes,
            first_decoded,
            guided,
            second,
            second_codes,
            second_decoded,
            refined,
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, classes, H, W) of the finest map's size."""
        refined = self.guide(inputs).refined
        return torch.stack([p(x) for p, x in zip(self.second_predict, refined, strict=True)]).mean(0)

    def loss(self, inputs: Sequence[Tensor], batch_data_samples: list, train_cfg: dict) -> dict[str, Tensor]:
        maps = self.guide(inputs)
        predictions = [p(x) for p, x in zip(self.first_predict, maps.reduced, strict=True)]
        predictions += [p(x) for p, x in zip(self.second_predict, maps.refined, strict=True)]
        losses = {}
        for logits in reversed(predictions):  # the accuracy that stays is that of the finest scale
            for name, value in self.loss_by_feat(logits, batch_data_samples).items():
                losses[name] = losses[name] + value if name in losses and "loss" in name else value
        guidance = _squared_differences(maps.first_codes, maps.second_codes)
        reconstruction = _squared_differences(maps.first, maps.first_decoded)
        reconstruction = reconstruction + _squared_differences(maps.second, maps.second_decoded)
        losses["loss_guidance"] = self.guidance_weight * guidance
        losses["loss_reconstruction"] = self.reconstruction_weight * reconstruction
        return losses


def _squared_differences(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    return sum(F.mse_loss(x, y) for x, y in zip(first, second, strict=True))


def initialise(module: nn.Module) -> None:
    """The published initial weights: Xavier's for convolutions, scales of batch norms from N(1, 0.02^2)."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_normal_(part.weight)
        elif isinstance(part, _BatchNorm):
            nn.init.normal_(part.weight, 1.0, 0.02)
            nn.init.zeros_(part.bias)


@ZOO.register_network("self_guided_attention", MODELS)
class SelfGuidedAttention(ConfiguredNetwork, EncoderDecoder):
    """A backbone with :class:`SelfGuidedHead`; published is MMSegmentation's ResNeXt-101 32x8d.

    Args:
        xavier_over_backbone: as published, initialise the backbone by :func:`initialise`, too, over the
            pretrained weights that it was given. Off by default.
        **kwargs: of MMSegmentation's ``EncoderDecoder``.
    """

    title = "Self-guided attention"
    paper = (
        'Sinha, Dolz, "Multi-scale self-guided attention for medical image segmentation", IEEE JBHI 2020, '
        "arXiv 1906.02849"
    )
    code = "sinAshish/Multi-Scale-Attention"
    licence = "none"
    library = SEGMENTORS
    exempt = {"gradients": "the first stage's predictions learn from losses, not from the output"}
    archs = {"x101": {"config": "self_guided_attention/self-guided-attention_x101_chaos.py"}}
    num_parameters = {"x101": 103_556_063}
    published = results(("CHAOS, T1-DUAL in-phase: mean 3-D Dice",), {"x101": (86.75,)})

    def __init__(self, *args, xavier_over_backbone: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.xavier_over_backbone = xavier_over_backbone

    def init_weights(self) -> None:
        super().init_weights()
        if self.xavier_over_backbone:
            initialise(self)

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        """On a ResNet-18 of an eighth of the width, with 8 channels."""
        backbone = {
            "type": "ResNet",
            "depth": 18,
            "in_channels": 1,
            "stem_channels": 8,
            "base_channels": 8,
            "norm_cfg": {"type": "BN"},
            "_delete_": True,
        }
        small = {"backbone": backbone, "decode_head.in_channels": [8, 16, 32, 64], "decode_head.channels": 8}
        return cls.create("x101", **{**small, **options})

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The authors' weights with our names; parameters that their network never uses are dropped."""
        return rename_keys(state_dict, official_rules())

    @classmethod
    def guess_options(
        cls, state_dict: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        """Weights of any number of classes and of channels of the images."""
        found = {
            "num_classes": (len(state_dict["decode_head.second_predict.0.weight"]), 5),
            "backbone.in_channels": (state_dict["backbone.conv1.weight"].shape[1], 1),
        }
        yield "x101", {key: n for key, (n, usual) in found.items() if n != usual}, dict(state_dict)

    def example_inputs(self, batch: int = 2, size: tuple[int, int] = (224, 224)) -> tuple[Tensor]:
        """Random images of as many channels as the backbone takes."""
        first = next(module for module in self.backbone.modules() if isinstance(module, nn.Conv2d))
        return (torch.randn(batch, first.in_channels, *size),)


def official_rules() -> list[tuple[str, str | None]]:
    """Key map of the published network, for :func:`~pointsuite.engine.checkpoint.rename_keys`."""
    rules = [
        (r"resnext\.layer0\.0\.(.*)", r"backbone.conv1.\1"),
        (r"resnext\.layer0\.1\.(.*)", r"backbone.bn1.\1"),
        (r"resnext\.layer1\.1\.(.*)", r"backbone.layer1.\1"),
        (r"resnext\.(layer[234]\..*)", r"backbone.\1"),
        (r"(conv[67]_|attention\d\.|refine\d\.).*", None),
        *_conv_rules("fuse1.fuse_attn", "decode_head.fuse", 0, 3, 6),
    ]
    for k, stage in ((1, "decode_head.first_stage"), (2, "decode_head.second_stage")):
        rules += semantic_rules(f"semanticModule_{k}_1", f"{stage}.semantic")
        for i in range(4):
            rules += attention_rules(f"pam_attention_{k}_{i + 1}", f"{stage}.position.{i}")
            rules += attention_rules(f"cam_attention_{k}_{i + 1}", f"{stage}.channel.{i}")
            crossed = 4 - i  # these two are counted from the coarsest scale
            rules.append((rf"conv_sem_{k}_{crossed}\.(.*)", rf"{stage}.decode.{i}.\1"))
            number = crossed if k == 1 else 10 + crossed
            rules.append((rf"conv8_{number}\.(.*)", rf"{stage}.project.{i}.\1"))
    for i in range(4):
        rules += _conv_rules(f"down{i + 1}", f"decode_head.reduce.{i}", 0)
        rules.append((rf"predict{i + 1}\.(.*)", rf"decode_head.first_predict.{i}.\1"))
        rules.append((rf"predict{i + 1}_2\.(.*)", rf"decode_head.second_predict.{i}.\1"))
    return rules


def attention_rules(old: str, new: str) -> list[tuple[str, str]]:
    """Key map of an :func:`attention_layer`."""
    rules = _conv_rules(f"{old}.attn", new, 0) + _conv_rules(f"{old}.attn", new, 4, first=3)
    return rules + core_rules(f"{old}.attn.3", f"{new}.2")


def core_rules(old: str, new: str) -> list[tuple[str, str]]:
    """Key map of an attention without its convolutions."""
    return [
        (rf"{old}\.gamma", f"{new}.gamma"),
        (rf"{old}\.(query|key|value)_conv\.(.*)", rf"{new}.\1.\2"),
    ]


def semantic_rules(old: str, new: str) -> list[tuple[str, str]]:
    """Key map of a :class:`SemanticModule`."""
    rules = []
    for short, name in (("enc", "encoder"), ("dec", "decoder")):
        for level in (1, 2):
            before, after = f"{old}.{short}{level}.{name[:-1]}", f"{new}.{name}{level}"
            rules += _conv_rules(before, after, 0, 3)
            rules.append((rf"{before}\.6\.(.*)", rf"{after}.4.\1"))
    return rules


def _conv_rules(old: str, new: str, *numbers: int, first: int = 0) -> list[tuple[str, str]]:
    """Of convolution, norm and activation at ``numbers`` and the two after each: two modules here."""
    rules = []
    for i, number in enumerate(numbers):
        place = first + 2 * i
        rules += [
            (rf"{old}\.{number}\.(.*)", rf"{new}.{place}.conv.\1"),
            (rf"{old}\.{number + 1}\.(.*)", rf"{new}.{place}.norm.\1"),
            (rf"{old}\.{number + 2}\.(.*)", rf"{new}.{place + 1}.\1"),
        ]
    return rules

"""CrossViT: two vision Transformers of small and of large patches, whose class tokens attend to each other's.

Chen, Fan, Panda, "CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification",
ICCV 2021, arXiv 2103.14899. Published code: IBM/CrossViT, Apache-2.0.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import TokenBackbone, register_backbone
from ..base.backbone import BaseBackbone
from ..base.token_backbone import Grid
from ..layers import (
    MLP,
    ClassAttention,
    ClassificationHead,
    DropPath,
    LayerNorm,
    Linear,
    PatchEmbed,
    SelfAttention,
    init_normal,
    record_attention,
)
from ..layers.attention import join_qkv
from ..layers.heads import NoClassifier, make_classifier
from .vit import Block

Tokens = tuple[Tensor, Tensor]  # of both branches: (B, 1 + N0, C0), (B, 1 + N1, C1)
STRIDES = {12: ((3, 3, 0), (3, 1, 1)), 16: ((3, 2, 1), (3, 2, 1))}  # of convolutions after one of stride 4


class ConvPatchEmbed(PatchEmbed):
    """Three convolutions, the first of stride 4: (B, in_channels, H, W) to (B, C, H / size, W / size).

    Args:
        in_channels: of the images.
        embed_dims: C, a multiple of 4.
        patch_size: 12 or 16.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int):
        if patch_size not in STRIDES:
            raise ValueError(f"patch_size of convolutions must be one of {list(STRIDES)}, found {patch_size}")
        if embed_dims % 4:
            raise ValueError(f"embed_dims of convolutions must be multiples of 4, found {embed_dims}")
        super().__init__(in_channels, embed_dims, patch_size)
        second, third = STRIDES[patch_size]
        self.proj = nn.Sequential(
            nn.Conv2d(in_channels, embed_dims // 4, 7, 4, 3),
            nn.ReLU(),
            nn.Conv2d(embed_dims // 4, embed_dims // 2, *second),
            nn.ReLU(),
            nn.Conv2d(embed_dims // 2, embed_dims, *third),
        )


class CrossAttention(nn.Module):
    """The class token plus its attention to all tokens, normed before: (B, N, C) to (B, 1, C)."""

    def __init__(self, attn: ClassAttention, embed_dims: int, drop_path_rate: float, norm_eps: float):
        super().__init__()
        self.norm1 = LayerNorm(embed_dims, norm_eps)
        self.attn = attn
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] + self.drop_path(self.attn(self.norm1(x)))


class Fusion(nn.Module):
    """Each branch's class token among the other's patches; patches stay: tokens of both to the same.

    Args:
        embed_dims: of each branch.
        num_heads: of the attention among tokens of each branch.
        depth: attentions of each class token, one after another; those after the first see it alone.
        qkv_bias: bias of queries, keys and values.
        drop_path_rate: of the attentions.
        norm_eps: of all norms.
    """

    def __init__(
        self,
        embed_dims: Sequence[int],
        num_heads: Sequence[int],
        depth: int = 1,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.projs, self.cross, self.backs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()

        def project(dims: int, out: int) -> nn.Sequential:
            return nn.Sequential(LayerNorm(dims, norm_eps), nn.GELU(), Linear(dims, out))

        for own, other, heads in zip(embed_dims, reversed(embed_dims), reversed(num_heads), strict=True):
            attentions = [ClassAttention(other, heads, qkv_bias=qkv_bias) for _ in range(depth)]
            self.projs.append(project(own, other))
            self.cross.append(
                nn.Sequential(*[CrossAttention(attn, other, drop_path_rate, norm_eps) for attn in attentions])
            )
            self.backs.append(project(other, own))

    def forward(self, *tokens: Tensor) -> Tokens:
        fused = []
        for i, (own, other) in enumerate(zip(tokens, reversed(tokens), strict=True)):
            guest = torch.cat((self.projs[i](own[:, :1]), other[:, 1:]), 1)
            fused.append(torch.cat((self.backs[i](self.cross[i](guest)), own[:, 1:]), 1))
        return tuple(fused)


class Branch(TokenBackbone):
    """Embedding, encoder blocks and last norm of one branch; ``blocks`` are those of a stage.

    Args:
        spec: of the keys of :class:`~dense.base.token_backbone.TokenBackbone`, ``num_heads``, ``mlp_ratio``
            and ``multi_conv``.
        drop_path_rates: of each block of each stage.
        qkv_bias: bias of queries, keys and values.
        norm_eps: of all norms.
        **kwargs: see :class:`~dense.base.token_backbone.TokenBackbone`.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        drop_path_rates: Sequence[Sequence[float]],
        qkv_bias: bool,
        norm_eps: float,
        **kwargs,
    ):
        super().__init__(spec, norm_eps=norm_eps, **kwargs)
        dims, hidden = spec["embed_dims"], int(spec["embed_dims"] * spec["mlp_ratio"])
        if spec["multi_conv"]:
            self.patch_embed = ConvPatchEmbed(self.in_channels, dims, spec["patch_size"])
        for rates in drop_path_rates:
            blocks = []
            for rate in rates:
                attn = SelfAttention(dims, spec["num_heads"], qkv_bias=qkv_bias)
                blocks.append(Block(dims, attn, MLP(dims, hidden), rate, norm_eps=norm_eps))
            self.blocks.append(nn.Sequential(*blocks))
        self.set_outputs()

    @classmethod
    def find_arch(cls, arch: Mapping[str, Any]) -> dict[str, Any]:
        return dict(arch)


class TwoBranchHead(ClassificationHead):
    """A classifier of each branch's class token, whose logits are averaged: tokens of both to (B, classes).

    Pre-logits are both class tokens in one vector.
    """

    used_in_parts = ("branches",)

    def __init__(self, embed_dims: Sequence[int], num_classes: int):
        super().__init__(sum(embed_dims), None)
        self.branches = nn.ModuleList()
        for dims in embed_dims:
            branch = nn.Module()
            branch.fc = make_classifier(dims, num_classes, self.init)
            self.branches.append(branch)

    def pre_logits(self, features: Tokens) -> Tensor:
        return torch.cat([tokens[:, 0] for tokens in features], 1)

    def classify(self, x: Tensor) -> Tensor:
        layers = [branch.fc for branch in self.branches]
        if isinstance(layers[0], NoClassifier):
            return x
        tokens = x.split([fc.in_features for fc in layers], 1)
        return sum(fc(token) for fc, token in zip(layers, tokens, strict=True)) / 2


def stage_rates(
    last: float, depths: Sequence[Sequence[int]], reference_quirks: bool = False
) -> list[list[float]]:
    """Drop path rates of each stage, which rise linearly from 0 to ``last``.

    Block i of either branch has entry i of its stage, fusion the last one.

    Args:
        last: of the last stage's fusion.
        depths: of each stage, the blocks of both branches and the explicit depth of fusion.
        reference_quirks: spread the rates over the second branch's blocks alone, as published, although a
            stage takes as many as the deeper branch has: where the first one is deeper, the list runs short.

    Raises:
        ValueError: it is too short for the blocks.
    """
    taken = [max(first, second) + fusion for first, second, fusion in depths]
    total = sum(second + fusion for _, second, fusion in depths) if reference_quirks else sum(taken)
    rates = torch.linspace(0, last, total, device="cpu").tolist()
    stages = [rates[start:end] for start, end in pairwise(accumulate(taken, initial=0))]
    for i, (found, (first, second, _)) in enumerate(zip(stages, depths, strict=True)):
        if len(found) < max(first, second):
            raise ValueError(
                f"depths {tuple(map(tuple, depths))}: with reference_quirks, stage {i} has drop path rates "
                f"of {len(found)} blocks, wanted {max(first, second)}"
            )
    return stages


def _crossvit(
    embed_dims: int, num_heads: int, depth: int, mlp_ratio: int, multi_conv: bool = False, large: bool = False
) -> dict[str, Any]:
    return {
        "embed_dims": (embed_dims, 2 * embed_dims),
        "depths": ((1, depth, 0),) * 3,
        "num_heads": (num_heads, num_heads),
        "mlp_ratios": (mlp_ratio, mlp_ratio),
        "patch_size": (12, 16),
        "img_size": (408, 384) if large else (240, 224),
        "multi_conv": multi_conv,
    }


@register_backbone("crossvit")
class CrossViT(BaseBackbone):
    """CrossViT: stages of encoder blocks of both branches, then of fusion of their class tokens.

    Each branch has the image in a size of its own. As a classifier (``fixed_size``) that is the one of its
    table of positions, into which any image is resized. As a dense backbone the second branch has the image
    as it is, rounded to whole patches, the first one in the proportion of their ``img_size`` to it, and
    tables are resized; both are the same at the second one's ``img_size``.

    The maps of the first branch are returned before those of the second: for each of ``out_indices`` one,
    normed by the branch's last norm.

    Args:
        arch: a published variant, or a dict as those in ``archs``: pairs for the two branches, ``depths`` as
            (blocks of the first, of the second, attentions of fusion; 0 are one) of each stage,
            ``multi_conv`` for three convolutions in the place of linear patches, the paper's dagger.
        img_size: of the images whose grids the tables of positions have, of each branch; by default those of
            the variant.
        fixed_size: resize all images to ``img_size``.
        class_output: have the fusion after the last stage, which no map depends on.
        drop_path_rate: of the last fusion; it grows linearly from 0.
        qkv_bias: bias of queries, keys and values.
        norm_eps: of all norms.
        reference_quirks: as published: compare only the heights of images with a branch's, so that one of
            another width is refused where the height fits; and drop path rates as :func:`stage_rates` says.
        **kwargs: see :class:`~dense.base.backbone.BaseBackbone`; ``out_indices`` are stages.
    """

    used_in_parts = ("branches",)
    paper = (
        'Chen, Fan, Panda, "CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image '
        'Classification", ICCV 2021, arXiv 2103.14899'
    )
    code = "IBM/CrossViT"
    licence = "Apache-2.0"
    archs = {
        "tiny": _crossvit(96, 3, 4, 4),
        "small": _crossvit(192, 6, 4, 4),
        "base": _crossvit(384, 12, 4, 4),
        "9": _crossvit(128, 4, 3, 3),
        "9_dagger": _crossvit(128, 4, 3, 3, True),
        "15": _crossvit(192, 6, 5, 3),
        "15_dagger": _crossvit(192, 6, 5, 3, True),
        "15_dagger_384": _crossvit(192, 6, 5, 3, True, True),
        "18": _crossvit(224, 7, 6, 3),
        "18_dagger": _crossvit(224, 7, 6, 3, True),
        "18_dagger_384": _crossvit(224, 7, 6, 3, True, True),
    }
    num_parameters = {
        "tiny": 7_014_800,
        "small": 26_856_272,
        "base": 105_025_232,
        "9": 8_553_296,
        "9_dagger": 8_776_592,
        "15": 27_528_464,
        "15_dagger": 28_209_008,
        "15_dagger_384": 28_500_080,
        "18": 43_271_408,
        "18_dagger": 44_266_976,
        "18_dagger_384": 44_606_560,
    }
    published = results(
        ["ImageNet-1K top-1, %", "images/s (V100, batch 64)"],
        {
            "tiny": (73.4, 1668),
            "small": (81.0, 690),
            "base": (82.2, 239),
            "9": (73.9, 1530),
            "9_dagger": (77.1, 1463),
            "15": (81.5, 640),
            "15_dagger": (82.3, 626),
            "15_dagger_384": (83.5, None),
            "18": (82.5, 430),
            "18_dagger": (82.8, 418),
            "18_dagger_384": (83.9, None),
        },
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "9",
        *,
        img_size: Sequence[int | Sequence[int]] | None = None,
        fixed_size: bool = False,
        class_output: bool = False,
        drop_path_rate: float = 0.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(arch, lambda spec: len(spec["depths"]), **kwargs)
        spec = self.spec if img_size is None else {**self.spec, "img_size": img_size}
        _check(spec)
        self.fixed_size, self.reference_quirks = fixed_size, reference_quirks
        depths, last = spec["depths"], self.out_indices[-1]
        of_stages = stage_rates(drop_path_rate, depths, reference_quirks)
        shared = {name: getattr(self, name) for name in ("in_channels", "out_indices", "output_norm")}
        shared |= {name: getattr(self, name) for name in ("frozen_stages", "norm_eval", "with_cp")}
        self.branches = nn.ModuleList()
        for b in range(2):
            own = {name: spec[name][b] for name in ("embed_dims", "num_heads", "patch_size", "img_size")}
            own |= {
                "depth": len(depths),
                "mlp_ratio": spec["mlp_ratios"][b],
                "multi_conv": spec["multi_conv"],
            }
            rates = [rates[: stage[b]] for rates, stage in zip(of_stages, depths, strict=True)]
            self.branches.append(Branch(own, rates, qkv_bias, norm_eps, **shared))
        self.fusions = nn.ModuleList()
        for rates, (*_, depth) in zip(of_stages[: last + class_output], depths, strict=False):
            self.fusions.append(
                Fusion(spec["embed_dims"], spec["num_heads"], max(1, depth), qkv_bias, rates[-1], norm_eps)
            )
        init_normal(self, nn.Linear)
        scales = [branch.img_size[0] / self.branches[1].img_size[0] for branch in self.branches]
        self.out_channels = tuple(c for branch in self.branches for c in branch.out_channels)
        self.strides = tuple(
            round(stride / scale)
            for branch, scale in zip(self.branches, scales, strict=True)
            for stride in branch.strides
        )
        self.num_features = sum(spec["embed_dims"])
        self._finish()

    # ---------------------------------------------------------------------------------------------- forward

    def branch_sizes(self, height: int, width: int) -> list[Grid]:
        """The height and width in which each branch has an image of some size."""
        if self.fixed_size:
            return [branch.img_size for branch in self.branches]
        sizes, reference = [], self.branches[1].img_size
        for branch, patch in zip(self.branches, self.spec["patch_size"], strict=True):
            scales = [own / other for own, other in zip(branch.img_size, reference, strict=True)]
            sides = zip((height, width), scales, strict=True)
            sizes.append(tuple(patch * max(1, round(side * scale / patch)) for side, scale in sides))
        return sizes

    def resize(self, x: Tensor) -> list[Tensor]:
        """Images (B, in_channels, H, W) as each branch has them.

        Raises:
            ValueError: by ``reference_quirks`` alone: their height is a branch's, their width is not.
        """
        images, (height, width) = [], x.shape[2:]
        for size in self.branch_sizes(height, width):
            if self.reference_quirks and self.fixed_size and height == size[0] and width != size[1]:
                raise ValueError(
                    f"images of height {height} must be {size[1]} wide with reference_quirks, found {width}"
                )
            same = size == (height, width)
            images.append(x if same else F.interpolate(x, size, mode="bicubic", align_corners=False))
        return images

    def run_stage(self, index: int, tokens: Tokens, grids: Sequence[Grid]) -> Tokens:
        """Tokens after the blocks of both branches, and the fusion if there is one, of a stage."""
        branches = zip(self.branches, tokens, grids, strict=True)
        tokens = tuple(branch.run_block(index, x, grid) for branch, x, grid in branches)
        return self._run(self.fusions[index], *tokens) if index < len(self.fusions) else tokens

    def iterate_stages(self, x: Tensor) -> Iterator[tuple[Tokens, Sequence[Grid]]]:
        """Tokens of both branches after each stage that is built, un-normed, and the grids of the patches."""
        self._check_images(x)
        pairs = zip(self.branches, self.resize(x), strict=True)
        tokens, grids = zip(*(branch.embed(image) for branch, image in pairs), strict=True)
        for i in range(len(self.branches[0].blocks)):
            tokens = self.run_stage(i, tokens, grids)
            yield tokens, grids

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps: tuple[list[Tensor], list[Tensor]] = ([], [])
        for i, (tokens, grids) in enumerate(self.iterate_stages(x)):
            if i in self.out_indices:
                for found, branch, own, grid in zip(maps, self.branches, tokens, grids, strict=True):
                    found.append(branch.to_map(branch.norm(own), grid))
        return (*maps[0], *maps[1])

    def forward_features(self, x: Tensor) -> Tokens:
        """All tokens of both branches after the last stage and norm: (B, 1 + N0, C0), (B, 1 + N1, C1)."""
        *_, (tokens, _) = self.iterate_stages(x)
        return tuple(branch.norm(own) for branch, own in zip(self.branches, tokens, strict=True))

    def attention_weights(self, x: Tensor) -> dict[str, Tensor]:
        """Attention weights by the attention's name.

        (B, heads, 1 + N_b, 1 + N_b) are those of ``branches.{b}.blocks.{stage}.{i}.attn``; (B, heads, 1, 1 +
        N_b') those of ``fusions.{stage}.cross.{b}.{i}.attn``: of branch b's class token to itself and the
        patches of the other branch b'.
        """
        with record_attention(self) as recorded:
            self.forward_features(x)
        return {name: weights for name, (weights,) in recorded.items()}

    # ----------------------------------------------------------------------------- classifiers and weights

    def make_head(self, num_classes: int) -> TwoBranchHead:
        return TwoBranchHead(self.spec["embed_dims"], num_classes)

    @classmethod
    def classifier_options(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        last = len(cls.find_arch(arch)["depths"]) - 1
        return {"out_indices": (last,), "fixed_size": True, "class_output": True}

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        arch = {**cls.archs["tiny"], "depths": ((1, 1, 0), (1, 1, 0)), "img_size": (72, 64)}
        return cls.create(arch, **options)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        biased = any(key.endswith(".attn.qkv.bias") for key in state_dict)
        stages, fusions = (
            _count(state_dict, rf"backbone\.{part}\.(\d+)\.") for part in (r"branches\.0\.blocks", "fusions")
        )
        whole = stages == fusions and not any(key.startswith("head.") for key in state_dict)
        return cls.drop_defaults(qkv_bias=biased, class_output=whole)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """A variant with the depths, patches and grids of positions that converted weights have."""
        depths, patches, sizes = [], [], []
        for s in range(_count(state_dict, r"backbone\.branches\.0\.blocks\.(\d+)\.")):
            blocks = [_count(state_dict, rf"backbone\.branches\.{b}\.blocks\.{s}\.(\d+)\.") for b in range(2)]
            fusion = _count(state_dict, rf"backbone\.fusions\.{s}\.cross\.0\.(\d+)\.")
            depths.append((*blocks, fusion if fusion > 1 else 0))
        for branch, patch in enumerate(spec["patch_size"]):
            start = f"backbone.branches.{branch}."
            weight, table = (state_dict.get(start + k) for k in ("patch_embed.proj.weight", "pos_embed"))
            patches.append(patch if weight is None else weight.shape[-1])
            rows = 0 if table is None else table.shape[1]
            sizes.append(isqrt(rows) * patches[-1])  # that of the class token makes no further side
        return {
            **spec,
            "depths": tuple(depths),
            "patch_size": tuple(patches),
            "img_size": tuple(sizes),
            "multi_conv": "backbone.branches.0.patch_embed.proj.0.weight" in state_dict,
        }

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        stage, fusion = r"blocks\.(\d+)\.", r"backbone.fusions.\1."
        renamed = rename_keys(
            cls.find_trunk(state_dict),
            [
                (r"(pos_embed|cls_token)\.(\d)", r"backbone.branches.\2.\1"),
                (r"(patch_embed|norm)\.(\d)\.(.*)", r"backbone.branches.\2.\1.\3"),
                (r"head\.(\d)\.(.*)", r"head.branches.\1.fc.\2"),
                (stage + r"blocks\.(\d)\.(.*)", r"backbone.branches.\2.blocks.\1.\3"),
                (stage + r"projs\.(.*)", fusion + r"projs.\2"),
                (stage + r"revert_projs\.(.*)", fusion + r"backs.\2"),
                (stage + r"fusion\.(\d)\.(\d+\..*)", fusion + r"cross.\2.\3"),
                (stage + r"fusion\.(\d)\.(.*)", fusion + r"cross.\2.0.\3"),
            ],
        )
        return join_qkv(renamed, ("wq", "wk", "wv"))

    def _frozen_modules(self) -> Sequence[nn.Module]:
        return self.fusions[: max(0, self.frozen_stages)]


def _count(state_dict: Mapping[str, Tensor], pattern: str) -> int:
    """How many parts weights have; the only group of ``pattern`` is a part's number, counted from 0."""
    found = (re.match(pattern, key) for key in state_dict)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _check(spec: Mapping[str, Any]) -> None:
    for name in ("embed_dims", "num_heads", "mlp_ratios", "patch_size", "img_size"):
        if not isinstance(spec[name], Sequence) or len(spec[name]) != 2:
            raise ValueError(f"{name} must be two, one of each branch, found {spec[name]}")
    for depths in spec["depths"]:
        if len(depths) != 3 or min(depths[:2]) < 1 or depths[2] < 0:
            raise ValueError(
                "depths of a stage must be blocks of both branches, at least 1, and of fusion, at least 0, "
                f"found {tuple(depths)}"
            )

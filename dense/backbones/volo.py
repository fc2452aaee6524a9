"""VOLO: attention in small windows whose weights come straight from their pixels, then a vision Transformer.

Yuan, Hou, Jiang, Feng, Yan, "VOLO: Vision Outlooker for Visual Recognition", TPAMI 2022, arXiv 2106.13112.
Token labels: Jiang et al., "All Tokens Matter: Token Labeling for Training Better Vision Transformers",
NeurIPS 2021, arXiv 2104.10858. Published code: sail-sg/volo, Apache-2.0.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..base import Backbone, register_backbone
from ..layers import (
    MLP,
    ClassAttention,
    ClassificationHead,
    ConvStem,
    LayerNorm,
    LayerNorm2d,
    Linear,
    SelfAttention,
    drop_path_rates,
    init_normal,
    on_channels_last,
    resize_positions,
)
from ..layers.attention import join_qkv
from ..layers.heads import NoClassifier, make_classifier
from ..ops import outlook_attention
from .vit import Block

EPS = 1e-5  # of all layer norms
OUTPUTS = ("dense", "class", "mean")
Box = tuple[int, int, int, int]  # first and last + 1 row, first and last + 1 column


class OutlookAttention(nn.Module):
    """Windows mixed by matrices that a linear layer makes of the pixels' mean: (B, H, W, C) to the same.

    There are no queries and keys: each window's mean says how much each of its pixels takes of each.

    Args:
        embed_dims: C.
        num_heads: divides C.
        kernel_size: K, pixels of a side of the windows.
        padding: of the first window, pixels before the map.
        stride: pixels between windows, and side of the cells whose means decide.
        qkv_bias: bias of the values.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        kernel_size: int = 3,
        padding: int = 1,
        stride: int = 2,
        qkv_bias: bool = False,
    ):
        super().__init__()
        if num_heads < 1 or embed_dims % num_heads:
            raise ValueError(f"num_heads must divide embed_dims {embed_dims}, found {num_heads}")
        self.num_heads, self.padding, self.stride = num_heads, padding, stride
        self.places = kernel_size**2
        self.scale = (embed_dims // num_heads) ** -0.5
        self.v = Linear(embed_dims, embed_dims, bias=qkv_bias)
        self.attn = Linear(embed_dims, num_heads * self.places**2)
        self.proj = Linear(embed_dims, embed_dims)

    def weigh(self, x: Tensor) -> Tensor:
        """Weights (B, ceil(H / stride), ceil(W / stride), heads, targets, sources) of all windows."""
        if self.stride > 1:  # cells at the border are cut, and have the mean of what is left
            x = on_channels_last(partial(F.avg_pool2d, kernel_size=self.stride, ceil_mode=True), x)
        logits = self.attn(x).unflatten(-1, (self.num_heads, self.places, self.places))
        return (self.scale * logits).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        values = self.v(x)
        weights = self.weigh(x).to(values.dtype)
        return self.proj(outlook_attention(weights, values, stride=self.stride, padding=self.padding))


class ClassBlock(nn.Module):
    """Attention and MLP of the first token alone, normed before; the others stay: (B, N, C) to the same.

    Args:
        embed_dims: C.
        num_heads: divides C.
        hidden_dims: of the MLP.
        qkv_bias: bias of queries, keys and values.
    """

    def __init__(self, embed_dims: int, num_heads: int, hidden_dims: int, qkv_bias: bool = False):
        super().__init__()
        self.norm1 = LayerNorm(embed_dims, EPS)
        self.attn = ClassAttention(embed_dims, num_heads, qkv_bias=qkv_bias)
        self.norm2 = LayerNorm(embed_dims, EPS)
        self.mlp = MLP(embed_dims, hidden_dims)

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, :1] + self.attn(self.norm1(x))
        first = first + self.mlp(self.norm2(first))
        return torch.cat((first, x[:, 1:]), 1)


class Downsample(nn.Module):
    """Patches of 2 and their positions: (B, in_channels, H, W) to (B, C, H / 2, W / 2), rounded down.

    Args:
        in_channels: of the map.
        embed_dims: C.
        grid: of the table of positions; those of other maps are computed from it.
    """

    def __init__(self, in_channels: int, embed_dims: int, grid: tuple[int, int]):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dims, 2, 2)
        self.pos_embed = nn.Parameter(torch.empty(1, *grid, embed_dims))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        grids = self.pos_embed.shape[1:3], x.shape[2:]
        table = resize_positions(self.pos_embed.flatten(1, 2), *grids, antialias=False)
        return x + table.mT.unflatten(2, tuple(x.shape[2:]))


# ---------------------------------------------------------------------------------- token labels


def draw_box(height: int, width: int) -> Box:
    """A box at random on a map: its middle anywhere, its share of the map uniform before it is cut."""
    cut = sqrt(torch.rand((), device="cpu").item())
    ends = []
    for side in (height, width):
        half, middle = int(side * cut) // 2, int(torch.randint(side, (), device="cpu"))
        ends += [max(middle - half, 0), min(middle + half, side)]
    return tuple(ends)


def swap_box(x: Tensor, box: Sequence[int]) -> Tensor:
    """(B, C, H, W) with a box of each sample exchanged for that of its mirror in the batch."""
    top, bottom, left, right = box
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = x.flip(0)[..., top:bottom, left:right]
    return mixed


def token_label_loss(
    logits: Tensor,
    token_logits: Tensor,
    box: Sequence[int],
    targets: Tensor,
    *,
    ground_truth: bool = False,
    class_weight: float = 1.0,
    token_weight: float = 0.5,
) -> Tensor:
    """Cross-entropy of an image's class and of the class of each of its tokens: a scalar.

    Args:
        logits: (B, K), of images in which ``box`` belongs to their mirrors in the batch.
        token_logits: (B, N, K), of whole images.
        box: first and last + 1 row, first and last + 1 column, in tokens.
        targets: probabilities (B, K) of images, which their tokens share; or (B, K, 2 + N): the true class,
            the image's class as an annotator sees it, and that of each token, row by row.
        ground_truth: of the latter, mix the first two for the image: evenly where both have the same class,
            else 1 to 9. Without, the second counts alone.
        class_weight, token_weight: of both terms.

    Raises:
        ValueError: targets of another shape.

    Source: Jiang et al., "All Tokens Matter", NeurIPS 2021, arXiv 2104.10858.
    """
    (batch, classes), count = logits.shape, token_logits.shape[1]
    if targets.shape == (batch, classes):
        image, tokens = targets, targets[:, None].expand(-1, count, -1)
    elif targets.shape == (batch, classes, 2 + count):
        true, image, tokens = targets[..., 0], targets[..., 1], targets[..., 2:].mT
        if ground_truth:
            agree = (true.argmax(1) == image.argmax(1)).to(image.dtype)
            share = (0.9 - 0.4 * agree)[:, None]
            image = share * image + (1 - share) * true
    else:
        wanted = f"({batch}, {classes}) or ({batch}, {classes}, {2 + count})"
        raise ValueError(f"targets must be {wanted}, found {tuple(targets.shape)}")
    top, bottom, left, right = (int(end) for end in box)
    own = 1 - max(bottom - top, 0) * max(right - left, 0) / count
    image = own * image + (1 - own) * image.flip(0)
    of_tokens = F.cross_entropy(token_logits.flatten(0, 1).float(), tokens.flatten(0, 1))
    return class_weight * F.cross_entropy(logits.float(), image) + token_weight * of_tokens


class VOLOHead(ClassificationHead):
    """A class token's blocks, norm, and classifiers of it and of the patches: a map (B, C, H, W) to logits.

    Evaluated, logits (B, num_classes) are those of the class token and half the largest ones of a patch, by
    class. In training both are returned, (B, num_classes) and (B, H * W, num_classes), and the box within
    which images were mixed, a tensor of its four ends, all 0 for none. See :func:`token_label_loss`.

    Args:
        embed_dims: C.
        num_classes: number of logits.
        num_heads: divides C.
        depth: blocks of the class token.
        hidden_dims: of their MLPs.
        output: "dense" as above; "class" without the classifier of patches; "mean" takes the mean of the
            patches instead of a class token.
        qkv_bias: bias of queries, keys and values.
    """

    def __init__(
        self,
        embed_dims: int,
        num_classes: int,
        num_heads: int,
        depth: int,
        hidden_dims: int,
        output: str = "dense",
        qkv_bias: bool = False,
    ):
        super().__init__(embed_dims, num_classes)
        self.output = output
        self.cls_token, self.blocks = None, nn.ModuleList()
        if output != "mean":
            self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dims))
            nn.init.trunc_normal_(self.cls_token, std=0.02)
            for _ in range(depth):
                self.blocks.append(ClassBlock(embed_dims, num_heads, hidden_dims, qkv_bias))
        self.norm = LayerNorm(embed_dims, EPS)
        if output == "dense":
            self.aux = nn.Module()
            self.aux.fc = make_classifier(embed_dims, num_classes, self.init)
        init_normal(self.blocks, nn.Linear)

    def tokens(self, x: Tensor) -> Tensor:
        """The class token, where there is one, and patches of a map, un-normed: (B, 1 + H * W, C)."""
        x = x.flatten(2).mT
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, features: Tensor | tuple[Tensor, Box], pre_logits: bool = False) -> Any:
        x, box = features if isinstance(features, tuple) else (features, (0, 0, 0, 0))
        tokens = self.tokens(x)
        if self.output == "mean":
            vectors = self.norm(tokens).mean(1)
        else:
            vectors = self.norm(tokens[:, 0])
        if pre_logits:
            return vectors
        logits = self.fc(vectors)
        if self.output != "dense" or isinstance(self.fc, NoClassifier):
            return logits
        of_patches = self.aux.fc(self.norm(tokens[:, 1:]))
        if not self.training:
            return logits + 0.5 * of_patches.amax(1)
        if any(box):
            of_patches = swap_box(of_patches.mT.unflatten(2, tuple(x.shape[2:])), box).flatten(2).mT
        return logits, of_patches, torch.tensor(box, device=x.device)

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Of what :meth:`forward` returns in training, and targets as :func:`token_label_loss` has them."""
        if isinstance(outputs, Tensor):
            return F.cross_entropy(outputs.float(), targets)
        return token_label_loss(*outputs, targets)


def _volo(
    depths: tuple[int, ...],
    first: int,
    width: int,
    num_heads: tuple[int, int],
    mlp_ratio: float = 3.0,
    stem_dims: int = 64,
    img_size: int = 224,
) -> dict[str, Any]:
    return {
        "embed_dims": (first, width, width, width),
        "depths": depths,
        "num_heads": (num_heads[0], *[num_heads[1]] * 3),
        "mlp_ratio": mlp_ratio,
        "stem_dims": stem_dims,
        "class_depth": 2,
        "img_size": img_size,
    }


D1 = partial(_volo, (4, 4, 8, 2), 192, 384, (6, 12))
D2 = partial(_volo, (6, 4, 10, 4), 256, 512, (8, 16))
D3 = partial(_volo, (8, 8, 16, 4), 256, 512, (8, 16))
D4 = partial(_volo, (8, 8, 16, 4), 384, 768, (12, 16))
D5 = partial(_volo, (12, 12, 20, 4), 384, 768, (12, 16), 4.0, 128)


@register_backbone("volo")
class VOLO(Backbone):
    """A stage of outlook attention at stride 8, three of self-attention at stride 16; a class token on top.

    Images of any size: a table of positions is resized, and odd maps are rounded down. Self-attention takes
    time quadratic in the pixels, as published.

    Args:
        arch: a published variant, or a dict as those in ``archs``; ``img_size`` is that of the images whose
            grid the table of positions has.
        output: of the classifier: "dense" adds half the largest logits of a patch to those of the class
            token, "class" takes these alone, "mean" has no class token, but the mean of the patches.
        mix_token: in training of a "dense" classifier, exchange a box of the stem's map between the images of
            a batch; by default so. The same box of the patches' logits is changed back.
        qkv_bias: bias of queries, keys and values.
        drop_path_rate: of the last block; it grows linearly from 0.
        reference_quirks: drop no paths of outlook attention, as published, although its blocks are counted.
        **kwargs: see :class:`~dense.base.Backbone`.
    """

    paper = 'Yuan et al., "VOLO: Vision Outlooker for Visual Recognition", TPAMI 2022, arXiv 2106.13112'
    code = "sail-sg/volo"
    licence = "Apache-2.0"
    archs = {
        "d1": D1(),
        "d1_384": D1(img_size=384),
        "d2": D2(),
        "d2_384": D2(img_size=384),
        "d3": D3(),
        "d3_448": D3(img_size=448),
        "d4": D4(),
        "d4_448": D4(img_size=448),
        "d5": D5(),
        "d5_448": D5(img_size=448),
        "d5_512": D5(img_size=512),
    }
    example_arch = {"embed_dims": (48, 96, 96, 96)}
    num_parameters = {
        "d1": 26_632_040,
        "d1_384": 26_777_960,
        "d2": 58_678_336,
        "d2_384": 58_872_896,
        "d3": 86_325_072,
        "d3_448": 86_626_128,
        "d4": 192_961_520,
        "d4_448": 193_413_104,
        "d5": 295_455_584,
        "d5_448": 295_907_168,
        "d5_512": 296_091_488,
    }
    published = results(
        ("ImageNet-1K top-1, %",),
        {
            "d1": (84.2,),
            "d1_384": (85.2,),
            "d2": (85.2,),
            "d2_384": (86.0,),
            "d3": (85.4,),
            "d3_448": (86.3,),
            "d4": (85.7,),
            "d4_448": (86.8,),
            "d5": (86.1,),
            "d5_448": (87.0,),
            "d5_512": (87.1,),
        },
    )
    channels_last = True
    min_size = 15  # two pixels at stride 8

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "d1",
        *,
        output: str = "dense",
        mix_token: bool | None = None,
        qkv_bias: bool = False,
        drop_path_rate: float = 0.0,
        reference_quirks: bool = False,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {OUTPUTS}, found {output!r}")
        if mix_token and output != "dense":
            raise ValueError(f"mix_token wants output 'dense', found {output!r}")
        self.output, self.qkv_bias = output, qkv_bias
        self.mix_token = output == "dense" if mix_token is None else mix_token
        spec = self.spec
        dims, depths, size = spec["embed_dims"], spec["depths"], spec["img_size"]
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if min(sides) < 16:
            raise ValueError(f"img_size must be at least 16, found {size}")
        self.downsamples.append(ConvStem(self.in_channels, spec["stem_dims"], dims[0], 8))
        self.downsamples.append(Downsample(dims[0], dims[1], tuple(side // 16 for side in sides)))
        of_stages = drop_path_rates(drop_path_rate, depths)
        if reference_quirks:
            of_stages[0] = [0.0] * depths[0]
        for i, rates in enumerate(of_stages):
            if i > 1:
                self.downsamples.append(nn.Identity())
            attention = SelfAttention if i else OutlookAttention
            blocks = []
            for rate in rates:
                attn = attention(dims[i], spec["num_heads"][i], qkv_bias=qkv_bias)
                mlp = MLP(dims[i], int(spec["mlp_ratio"] * dims[i]))
                blocks.append(Block(dims[i], attn, mlp, rate, norm_eps=EPS))
            self.stages.append(nn.Sequential(*blocks))
        init_normal(self.stages, nn.Linear)
        self.set_outputs(dims, (8, *[16] * (len(dims) - 1)), partial(LayerNorm2d, eps=EPS))

    def forward_features(self, x: Tensor) -> Tensor | tuple[Tensor, Box]:
        """The last map, (B, C, H', W'); in training with ``mix_token`` also the box that was exchanged.

        The box is in pixels of that map.
        """
        if not (self.training and self.mix_token):
            return super().forward_features(x)
        height, width = (-(-side // 2) // 8 for side in x.shape[2:])
        box = draw_box(height, width)
        *_, y = self.iterate_stages(x, partial(swap_box, box=[2 * end for end in box]))
        return y, box

    # ----------------------------------------------------------------------------- classifiers and weights

    def make_head(self, num_classes: int) -> VOLOHead:
        spec, dims = self.spec, self.num_features
        hidden = int(spec["mlp_ratio"] * dims)
        options = {"output": self.output, "qkv_bias": self.qkv_bias}
        return VOLOHead(dims, num_classes, spec["num_heads"][-1], spec["class_depth"], hidden, **options)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        output = "dense"
        if "head.fc.weight" in state_dict and "head.aux.fc.weight" not in state_dict:
            output = "class" if "head.cls_token" in state_dict else "mean"
        biased = any(key.endswith(".attn.v.bias") for key in state_dict)
        return cls.drop_defaults(output=output, qkv_bias=biased)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        spec = super().adapt_arch(spec, state_dict)
        table = state_dict.get("backbone.downsamples.1.pos_embed")
        if table is not None:
            height, width = (16 * side for side in table.shape[1:3])
            spec["img_size"] = height if height == width else (height, width)
        blocks = {key.split(".")[2] for key in state_dict if key.startswith("head.blocks.")}
        return {**spec, "class_depth": len(blocks) or spec["class_depth"]}

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        stem = "backbone.downsamples.0."
        renamed = rename_keys(
            cls.find_trunk(state_dict),
            [
                *[(rf"patch_embed\.conv\.{3 * i}\.(.*)", stem + rf"convs.{i}.conv.\1") for i in range(3)],
                *[(rf"patch_embed\.conv\.{3 * i + 1}\.(.*)", stem + rf"convs.{i}.norm.\1") for i in range(3)],
                (r"patch_embed\.proj\.(.*)", stem + r"proj.\1"),
                (r"network\.1\.proj\.(.*)", r"backbone.downsamples.1.proj.\1"),
                (r"pos_embed", "backbone.downsamples.1.pos_embed"),
                (r"network\.0\.(.*)", r"backbone.stages.0.\1"),
                *[(rf"network\.{i + 1}\.(.*)", rf"backbone.stages.{i}.\1") for i in (1, 2, 3)],
                (r"cls_token", "head.cls_token"),
                (r"post_network\.(.*)", r"head.blocks.\1"),
                (r"norm\.(.*)", r"head.norm.\1"),
                (r"aux_head\.(.*)", r"head.aux.fc.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )
        return join_qkv(renamed, ("q", "kv"), r"head\..*\.attn")

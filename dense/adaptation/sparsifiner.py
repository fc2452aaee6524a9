"""Sparsifiner: attention whose connections are predicted for each image, and fewer tokens.

Wei et al., "Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers",
CVPR 2023, arXiv 2303.13755. Published code: lim142857/Sparsifiner, MIT.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from math import ceil, log
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys

from ..base import TokenBackbone, register_backbone
from ..classification.model import ImageClassifier
from ..classification.sample import ImageDataSample
from ..layers import (
    MLP,
    ClassificationHead,
    ConvStem,
    DropPath,
    LayerNorm,
    Linear,
    PatchEmbed,
    TokenHead,
    drop_path_rates,
    init_normal,
    resize_positions,
)
from ..layers.heads import make_classifier
from ..registry import MODELS
from .trained import load_trained

Grid = tuple[int, int]


class MaskPredictor(nn.Module):
    """Which keys each query attends to: low-rank attention, of which the largest weights of a row count.

    Keys are projected along the tokens onto m of them; attention to these, kept where it is largest, weighs
    the rows of a sparse basis, and their sum approximates the attention to all tokens. The class token's row
    attends to all.

    Args:
        grid: height and width of the map of patches that the tables are of.
        num_heads: h.
        head_dims: d.
        reduce_n: m is the number of tokens over this.
        reduce_c: queries and keys are projected to d over this.
        keep_rate: share of the keys that a row keeps, rounded up.
        basis_topk: so many weights of the low-rank attention count; None for those above
            ``coefficient_threshold``.
        basis_threshold: entries of the basis up to this one count as 0.
        score_threshold: instead of ``keep_rate``, keys whose approximate weight is above it.
        share_basis: one table projects and spreads.
    """

    def __init__(
        self,
        grid: Grid,
        num_heads: int,
        head_dims: int,
        *,
        reduce_n: int = 6,
        reduce_c: int = 2,
        keep_rate: float = 0.25,
        basis_topk: int | None = 8,
        basis_threshold: float = 0.02,
        coefficient_threshold: float = 0.0,
        score_threshold: float | None = None,
        share_basis: bool = False,
    ):
        super().__init__()
        num_tokens = grid[0] * grid[1] + 1
        rank = num_tokens // reduce_n
        if not 0 < keep_rate <= 1:
            raise ValueError(f"keep_rate must be above 0 and at most 1, found {keep_rate}")
        if rank < 1 or head_dims // reduce_c < 1:
            raise ValueError(
                f"reduce_n must be at most {num_tokens} and reduce_c at most {head_dims}, "
                f"found {reduce_n} and {reduce_c}"
            )
        if basis_topk is not None and not 1 <= basis_topk <= rank:
            raise ValueError(f"basis_topk must be 1 to {rank}, of {num_tokens} tokens, found {basis_topk}")
        self.grid, self.scale = grid, num_heads**-0.5
        self.keep_rate, self.basis_topk, self.basis_threshold = keep_rate, basis_topk, basis_threshold
        self.coefficient_threshold, self.score_threshold = coefficient_threshold, score_threshold
        self.proj_c_q = Linear(head_dims, head_dims // reduce_c)
        self.proj_c_k = Linear(head_dims, head_dims // reduce_c)
        self.proj_n = nn.Parameter(torch.empty(num_tokens, rank))
        self.proj_back_n = None if share_basis else nn.Parameter(torch.empty(num_tokens, rank))
        for table in (self.proj_n, self.proj_back_n):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)

    def tables(self, grid: Grid, places: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both tables for a map, of the tokens at ``places`` (B, M): (B or nothing, M, m)."""
        spread = self.proj_n if self.proj_back_n is None else self.proj_back_n
        both = (resize_positions(table[None], self.grid, grid)[0] for table in (self.proj_n, spread))
        return tuple(table if places is None else table[places][:, None] for table in both)

    def approximate(
        self, q: Tensor, k: Tensor, grid: Grid, places: Tensor | None = None, signed: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Attention weights of the patches, approximately, and the coefficients that they are made of.

        Args:
            q, k: (B, h, M, d), the class token first.
            grid: of the whole map.
            places: (B, M), of the tokens in the whole sequence; None for all.
            signed: all coefficients and the basis as it is, as learned; else what evaluation takes.

        Returns:
            (B, h, M - 1, M) and (B, h, M - 1, m).
        """
        project, spread = self.tables(grid, places)
        keys = self.proj_c_k(k).mT @ project  # (B, h, d / reduce_c, m)
        weights = (self.scale * self.proj_c_q(q[:, :, 1:]) @ keys).softmax(-1)
        if not signed:
            spread = F.threshold(spread.abs(), self.basis_threshold, 0.0)
            if self.basis_topk is None:
                weights = F.threshold(weights, self.coefficient_threshold, 0.0)
            else:
                top = weights.topk(self.basis_topk, sorted=False)
                weights = torch.zeros_like(weights).scatter(-1, top.indices, top.values)
        return weights @ spread.mT, weights

    @torch.no_grad()
    def forward(self, q: Tensor, k: Tensor, grid: Grid, places: Tensor | None = None) -> Tensor | None:
        """Bool (B, h, M, M), True where a query (a row) attends to a key; None where all do."""
        total, count = grid[0] * grid[1] + 1, q.shape[2]
        budget = ceil(self.keep_rate * total)
        if count < total:
            budget = min(budget, count - 1)
        if self.score_threshold is None and budget >= count:
            return None
        scores, _ = self.approximate(q.detach(), k.detach(), grid, places)
        if self.score_threshold is None:
            top = scores.topk(budget, sorted=False).indices
            kept = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, top, True)
        else:
            kept = scores > self.score_threshold
        return torch.cat((kept.new_ones(*kept.shape[:2], 1, count), kept), 2)


class SparseAttention(nn.Module):
    """Attention along the predicted connections: (B, M, C) to the same.

    Tokens that are gone were 0 in the published form, which the class token saw: a key of 0 stands for them.

    Args:
        embed_dims: C.
        num_heads: divides C.
        qkv_bias: bias of queries, keys and values.
        predictor: see :class:`MaskPredictor`.
    """

    def __init__(self, embed_dims: int, num_heads: int, qkv_bias: bool, predictor: MaskPredictor):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (embed_dims // num_heads) ** -0.5
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = Linear(embed_dims, embed_dims)
        self.mask_predictor = predictor

    def split(self, x: Tensor) -> Tensor:
        """Queries, keys and values (3, B, h, M, d)."""
        return self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(
        self, x: Tensor, grid: Grid, places: Tensor | None = None, scored: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The tokens, and if ``scored`` how much the class token attends to each patch, (B, M - 1)."""
        q, k, v = self.split(x)
        scores = self.class_weights(q, k, grid) if scored else None
        mask = self.mask_predictor(q, k, grid, places)
        gone = grid[0] * grid[1] + 1 - q.shape[2]
        if mask is None and gone:
            mask = q.new_ones(q.shape[0], 1, q.shape[2], q.shape[2], dtype=torch.bool)
        lost = None
        if mask is not None:
            if self.mask_predictor.score_threshold is not None:
                lost = ~mask.any(-1, keepdim=True)
                mask = mask | lost
            if gone:
                k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
                bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
                mask = F.pad(bias, (0, 1), value=-torch.inf)
                mask[:, :, 0, -1] = log(gone)
        y = F.scaled_dot_product_attention(q, k, v, mask, scale=self.scale)
        y = y if lost is None else y.masked_fill(lost, 0.0)
        return self.proj(y.transpose(1, 2).flatten(2)), scores

    def class_weights(self, q: Tensor, k: Tensor, grid: Grid) -> Tensor:
        """Attention of the class token, mean over heads: to each patch (B, M - 1)."""
        logits = (self.scale * q[:, :, :1] @ k.mT)[:, :, 0]
        if gone := grid[0] * grid[1] + 1 - q.shape[2]:
            logits = F.pad(logits, (0, 1), value=log(gone))
        return logits.softmax(-1).mean(1)[:, 1 : q.shape[2]]


class SparseBlock(nn.Module):
    """Sparse attention, then MLP, each normed before: (B, M, C) to the same.

    Args:
        embed_dims: C.
        attn: see :class:`SparseAttention`.
        mlp_ratio: hidden width of the MLP, in units of C.
        drop_path_rate: of both branches.
        norm_eps: of both norms.
        branch_scale: factor of both branches.
    """

    def __init__(
        self,
        embed_dims: int,
        attn: SparseAttention,
        mlp_ratio: float,
        drop_path_rate: float,
        norm_eps: float,
        branch_scale: float,
    ):
        super().__init__()
        self.norm1 = LayerNorm(embed_dims, norm_eps)
        self.attn = attn
        self.norm2 = LayerNorm(embed_dims, norm_eps)
        self.mlp = MLP(embed_dims, int(mlp_ratio * embed_dims))
        self.drop_path = DropPath(drop_path_rate)
        self.branch_scale = branch_scale

    def forward(
        self, x: Tensor, grid: Grid, places: Tensor | None = None, scored: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        y, scores = self.attn(self.norm1(x), grid, places, scored)
        x = x + self.branch_scale * self.drop_path(y)
        return x + self.branch_scale * self.drop_path(self.mlp(self.norm2(x))), scores


class DenseScoresHead(ClassificationHead):
    """A classifier of the class token, in evaluation plus half the largest of those of the patches.

    Shapes: (B, N, C) to (B, num_classes). Source: as of :class:`~dense.layers.ConvStem`.
    """

    def __init__(self, embed_dims: int, num_classes: int):
        super().__init__(embed_dims, num_classes)
        self.aux = nn.Module()
        self.aux.fc = make_classifier(embed_dims, num_classes, self.init)

    def pre_logits(self, features: Tensor) -> Tensor:
        return features[:, 0]

    def forward(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.pre_logits(features)
        if pre_logits:
            return x
        logits = self.classify(x)
        return logits if self.training else logits + 0.5 * self.aux.fc(features[:, 1:]).amax(1)


def _deit(embed_dims: int, num_heads: int, reduce_n: int = 6, **other: Any) -> dict[str, Any]:
    return {
        "embed_dims": embed_dims,
        "depth": 12,
        "num_heads": num_heads,
        "patch_size": 16,
        "img_size": 224,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "norm_eps": 1e-6,
        "branch_scale": 1.0,
        "stem": "patches",
        "reduce_n": reduce_n,
        "reduce_c": 2,
        **other,
    }


@register_backbone("sparsifiner")
class Sparsifiner(TokenBackbone):
    """DeiT or LV-ViT whose attention keeps few keys a query, and which may drop patches on its way.

    Patches that are dropped leave the computation; among the tokens and in the maps that are returned they
    are 0 before the norm. Each image keeps as many as any other.

    Args:
        arch: a published variant, or a dict as those in ``archs``.
        drop_path_rate: of the last block; it grows linearly from 0.
        keep_rate, basis_topk, basis_threshold, coefficient_threshold, score_threshold, share_basis: see
            :class:`MaskPredictor`.
        pruning_blocks: after these only the patches remain that the class token attends to most.
        token_keep_rates: how many, in units of all patches, one for each of ``pruning_blocks``; or one
            number r for r, r^2, r^3, ...
        **kwargs: see :class:`~dense.base.token_backbone.TokenBackbone`.
    """

    paper = (
        'Wei et al., "Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision '
        'Transformers", CVPR 2023, arXiv 2303.13755'
    )
    code = "lim142857/Sparsifiner"
    licence = "MIT"
    archs = {
        "deit_tiny": _deit(192, 3),
        "deit_small": _deit(384, 6),
        "deit_small_n8": _deit(384, 6, 8),
        "deit_base": _deit(768, 12),
        "lvvit_small": _deit(
            384,
            6,
            depth=16,
            mlp_ratio=3.0,
            qkv_bias=False,
            norm_eps=1e-5,
            branch_scale=0.5,
            stem="convolutions",
        ),
    }
    num_parameters = {
        "deit_tiny": 5_918_632,
        "deit_small": 22_251_880,
        "deit_small_n8": 22_214_056,
        "deit_base": 86_768_872,
        "lvvit_small": 26_420_112,
    }
    exempt = {"gradients": "masks have no gradient: their predictors learn from reconstruction alone"}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "deit_small",
        *,
        drop_path_rate: float = 0.0,
        keep_rate: float = 0.25,
        basis_topk: int | None = 8,
        basis_threshold: float = 0.02,
        coefficient_threshold: float = 0.0,
        score_threshold: float | None = None,
        share_basis: bool = False,
        pruning_blocks: Sequence[int] = (),
        token_keep_rates: float | Sequence[float] = 1.0,
        **kwargs,
    ):
        spec = self.find_arch(arch)
        super().__init__(arch, norm_eps=spec["norm_eps"], **kwargs)
        dims, depth = spec["embed_dims"], spec["depth"]
        if dims % spec["num_heads"]:
            raise ValueError(f"num_heads must divide embed_dims {dims}, found {spec['num_heads']}")
        if spec["stem"] not in ("patches", "convolutions"):
            raise ValueError(f"stem must be 'patches' or 'convolutions', found {spec['stem']!r}")
        if isinstance(token_keep_rates, (int, float)):
            token_keep_rates = [token_keep_rates ** (i + 1) for i in range(len(pruning_blocks))]
        if list(pruning_blocks) != sorted({*pruning_blocks} & {*range(depth)}):
            raise ValueError(f"pruning_blocks must ascend within 0..{depth - 1}, found {pruning_blocks}")
        if len(token_keep_rates) != len(pruning_blocks):
            raise ValueError(
                f"token_keep_rates must be one for each of {len(pruning_blocks)} pruning_blocks, "
                f"found {len(token_keep_rates)}"
            )
        if not all(0 < rate <= 1 for rate in token_keep_rates):
            raise ValueError(f"token_keep_rates must be above 0 and at most 1, found {token_keep_rates}")
        self.token_keep_rates = dict(zip(pruning_blocks, token_keep_rates, strict=True))
        if spec["stem"] == "convolutions":
            stem = ConvStem(self.in_channels, 64, dims, 16)
            self.patch_embed = PatchEmbed(self.in_channels, dims, 16, stem)
        for rate in drop_path_rates(drop_path_rate, [depth])[0]:
            predictor = MaskPredictor(
                self.grid,
                spec["num_heads"],
                dims // spec["num_heads"],
                reduce_n=spec["reduce_n"],
                reduce_c=spec["reduce_c"],
                keep_rate=keep_rate,
                basis_topk=basis_topk,
                basis_threshold=basis_threshold,
                coefficient_threshold=coefficient_threshold,
                score_threshold=score_threshold,
                share_basis=share_basis,
            )
            attn = SparseAttention(dims, spec["num_heads"], spec["qkv_bias"], predictor)
            self.blocks.append(
                SparseBlock(dims, attn, spec["mlp_ratio"], rate, spec["norm_eps"], spec["branch_scale"])
            )
        init_normal(self.blocks, nn.Linear)
        self.set_outputs()

    def iterate_blocks(self, x: Tensor) -> Iterator[tuple[Tensor, Grid]]:
        self._check_images(x)
        tokens, grid = self.embed(x)
        total, places = tokens.shape[1], None
        for i, block in enumerate(self.blocks):
            rate = self.token_keep_rates.get(i)
            tokens, scores = self._run(block, tokens, grid, places, rate is not None)
            if rate is not None and (count := ceil(rate * (total - 1))) < scores.shape[1]:
                kept = 1 + scores.topk(count, sorted=False).indices.sort().values
                kept = F.pad(kept, (1, 0))  # the class token stays
                tokens = tokens.take_along_dim(kept[..., None], 1)
                places = kept if places is None else places.take_along_dim(kept, 1)
            yield self.spread(tokens, places, total), grid

    @staticmethod
    def spread(tokens: Tensor, places: Tensor | None, total: int) -> Tensor:
        """Tokens (B, M, C) at ``places`` (B, M) among (B, total, C) of which the others are 0."""
        if places is None:
            return tokens
        shape = (len(tokens), total, tokens.shape[2])
        return tokens.new_zeros(shape).scatter(1, places[..., None].expand_as(tokens), tokens)

    def make_head(self, num_classes: int) -> ClassificationHead:
        if self.spec["stem"] == "convolutions":
            return DenseScoresHead(self.num_features, num_classes)
        return TokenHead(self.num_features, num_classes)

    def reconstruction_loss(self, x: Tensor) -> Tensor:
        """How far low-rank attention is from the full one: squared errors, summed; mean over blocks.

        The network attends fully, and gets no gradient; its predictors do.
        """
        losses = []
        with torch.no_grad():
            tokens, grid = self.embed(x)
        for block in self.blocks:
            attn = block.attn
            with torch.no_grad():
                q, k, v = attn.split(block.norm1(tokens))
                weights = (attn.scale * q @ k.mT).softmax(-1)
                y = attn.proj((weights @ v).transpose(1, 2).flatten(2))
                tokens = tokens + block.branch_scale * y
                tokens = tokens + block.branch_scale * block.mlp(block.norm2(tokens))
            found, _ = attn.mask_predictor.approximate(q, k, grid, signed=True)
            losses.append(F.mse_loss(found, weights[:, :, 1:], reduction="sum"))
        return sum(losses) / len(losses)

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return cls.drop_defaults(share_basis=not any(key.endswith("proj_back_n") for key in state_dict))

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state, ours = cls.find_trunk(state_dict), "backbone.patch_embed.proj."
        stem = [
            (rf"patch_embed\.{name}{i + 1}\.(.*)", ours + rf"convs.{i}.{part}.\1")
            for i in range(3)
            for name, part in (("conv", "conv"), ("bn", "norm"))
        ]
        if "patch_embed.conv1.weight" in state:
            stem.append((r"patch_embed\.proj\.(.*)", ours + r"proj.\1"))
        return rename_keys(
            state,
            [
                *stem,
                (r"(cls_token|pos_embed|patch_embed\.proj\..*|blocks\..*|norm\..*)", r"backbone.\1"),
                (r"head\.(.*)", r"head.fc.\1"),
                (r"aux_head\.(.*)", r"head.aux.fc.\1"),
            ],
        )


@MODELS.register_module()
class SparsifinerClassifier(ImageClassifier):
    """Trains :class:`Sparsifiner` from a trained network: mask predictors first, then all else.

    While predictors learn to reconstruct attention, nothing else is trained; afterwards the rest learns from
    labels and from the trained network, its class probabilities and its last tokens.

    A config needs the hook :class:`~dense.adaptation.TellEpoch`, and on several processes
    ``find_unused_parameters=True``.

    Args:
        pretrained: checkpoint, or work dir, of a classifier with the same blocks, from which training starts,
            and which is the teacher; None for random ones.
        reconstruction_epochs: of the predictors.
        reconstruction_weight, probability_weight, token_weight: factors of the losses.
        **kwargs: see :class:`~dense.classification.ImageClassifier`; its backbone is a :class:`Sparsifiner`.
    """

    def __init__(
        self,
        *args,
        pretrained: str | PathLike | None = None,
        reconstruction_epochs: int = 5,
        reconstruction_weight: float = 0.01,
        probability_weight: float = 0.5,
        token_weight: float = 0.5,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.reconstruction_epochs = reconstruction_epochs
        self.reconstruction_weight = reconstruction_weight
        self.probability_weight, self.token_weight = probability_weight, token_weight
        self.pretrained = pretrained
        self._teacher = [self._make_teacher()]  # in a list: no part of the model's weights
        self.set_epoch(0)

    def init_weights(self) -> None:
        """What a run calls before it trains or resumes."""
        super().init_weights()
        if self.pretrained is not None:
            load_trained(self, self.pretrained, r"backbone\.blocks\.\d+\.attn\.mask_predictor\.")
        self._teacher = [self._make_teacher()]

    def _make_teacher(self) -> nn.ModuleDict:
        backbone, head = deepcopy(self.backbone), deepcopy(self.head)
        backbone.token_keep_rates = {}
        for block in backbone.blocks:
            block.attn.mask_predictor.keep_rate, block.attn.mask_predictor.score_threshold = 1.0, None
        return nn.ModuleDict({"backbone": backbone, "head": head}).requires_grad_(False).eval()

    def set_epoch(self, epoch: int) -> None:
        """Reconstruct, or learn all else, as the epoch (from 0) says."""
        self.reconstructing = epoch < self.reconstruction_epochs

    def loss(self, inputs: Tensor, data_samples: Sequence[ImageDataSample]) -> dict[str, Tensor]:
        if self.reconstructing:
            return {"loss": self.reconstruction_weight * self.backbone.reconstruction_loss(inputs)}
        labels = torch.stack([sample.gt_label for sample in data_samples])
        targets = F.one_hot(labels, self.num_classes).float()
        for augment in self.augments:
            inputs, targets = augment(inputs, targets)
        tokens = self.backbone.forward_features(inputs)
        logits = self.head(tokens)
        teacher = self._teacher[0].to(inputs.device)
        with torch.no_grad():
            wanted = teacher["backbone"].forward_features(inputs)
            probabilities = self.head_logits(teacher["head"], wanted).log_softmax(1)
        divergence = F.kl_div(logits.log_softmax(1), probabilities, reduction="batchmean", log_target=True)
        return {
            **self._logits_loss(logits, targets),
            "loss_probabilities": self.probability_weight * divergence,
            "loss_tokens": self.token_weight * F.mse_loss(tokens[:, 1:], wanted[:, 1:]),
        }

    @staticmethod
    def head_logits(head: ClassificationHead, tokens: Tensor) -> Tensor:
        """Of the class token, as in training, whatever the head adds in evaluation."""
        return head.classify(head.pre_logits(tokens))

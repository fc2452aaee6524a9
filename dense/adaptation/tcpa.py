"""Prompts for a frozen vision Transformer: of each block (VPT), Fourier (VFPT), coordinated by token (TCPA).

Liu et al., "Token Coordinated Prompt Attention is Needed for Visual Prompting", ICML 2025, arXiv 2505.02406.
Published code: zhoujiahuan1991/ICML2025-TCPA, without a licence; written anew from the maths. Baselines: Jia
et al., "Visual Prompt Tuning" (VPT), ECCV 2022, arXiv 2203.12119; Zeng et al., "Visual Fourier Prompt Tuning"
(VFPT), NeurIPS 2024, arXiv 2411.01327.

Prompts that are thrown away after a block matter as further keys and values alone: they get no query here.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import sqrt
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..backbones.vit import ViT
from ..base import TokenBackbone, register_backbone
from ..base.backbone import BaseBackbone
from ..classification.model import ImageClassifier
from ..classification.sample import ImageDataSample
from ..layers import ClassificationHead, SelfAttention
from ..ops import linear
from ..registry import MODELS
from .trained import build_trunk, load_trunk

Grid = tuple[int, int]
ROLES = ("cls", "image")
STAGES = ("after_softmax", "before_softmax")


def fourier(prompts: Tensor) -> Tensor:
    """The real part of the Fourier transform over prompts and channels, not normalised: (..., p, C)."""
    exact = torch.promote_types(prompts.dtype, torch.float32)
    return torch.fft.fft2(prompts.to(exact)).real.to(prompts.dtype)


def simam(x: Tensor) -> Tensor:
    """Images (B, C, H, W), each value weighted by how far it is from its channel's mean.

    Source: Yang et al., "SimAM: A Simple, Parameter-Free Attention Module", ICML 2021.
    """
    apart = (x - x.mean((2, 3), keepdim=True)).square()
    spread = apart.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3] - 1)
    return x * (apart / (4 * (spread + 1e-3)) + 0.5).sigmoid()


def prompt_weights(
    attn: SelfAttention, q: Tensor, k: Tensor, count: int, mask: Tensor | None, stage: str
) -> Tensor:
    """Attention weights (B, heads, N, count + N) of keys (B, heads, count + N, d), prompts first.

    Args:
        count: of prompts.
        mask: which of them a token may use, bool (B, N, count); None for all.
        stage: "after_softmax" sets the others' weights to 0, so that a row sums to less than 1;
            "before_softmax" leaves them out.
    """
    logits = attn.scale * q @ k.mT
    if mask is None:
        return logits.softmax(-1)
    seen = F.pad(mask[:, None], (0, k.shape[2] - count), value=True)
    if stage == "before_softmax":
        return logits.masked_fill(~seen, -torch.inf).softmax(-1)
    return logits.softmax(-1) * seen


def attend_with_prompts(
    attn: SelfAttention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    stage: str,
) -> Tensor:
    """What queries (B, heads, N, d) make of values, and of those of prompts: (B, heads, N, d).

    The mask is one for all heads, and no weights are held where the portable kernels hold none.

    Args:
        k, v: (B, heads, N, d).
        keys, values: of prompts, (B or 1, heads, count, d).
        mask, stage: see :func:`prompt_weights`.
    """
    count = keys.shape[2]
    if mask is not None and mask.shape[1] < q.shape[2]:  # tokens that the attention adds see all prompts
        mask = F.pad(mask, (0, 0, 0, q.shape[2] - mask.shape[1]), value=True)
    keys, values = (x.expand(len(q), -1, -1, -1).to(q.dtype) for x in (keys, values))
    k = torch.cat((keys, k), 2)
    if attn.recorded is not None:
        weights = prompt_weights(attn, q, k, count, mask, stage)
        attn.recorded.append(weights)
        return weights @ torch.cat((values, v), 2)
    if mask is None or stage == "before_softmax":
        seen = None if mask is None else F.pad(mask[:, None], (0, v.shape[2]), value=True)
        return F.scaled_dot_product_attention(q, k, torch.cat((values, v), 2), seen, scale=attn.scale)
    # further channels of the values, one a prompt, bring out the prompts' weights, to be masked
    marks = torch.eye(count, dtype=v.dtype, device=v.device).expand(*v.shape[:2], -1, -1)
    rows = torch.cat((F.pad(marks, (v.shape[3], 0)), F.pad(v, (0, count))), 2)
    y, weights = F.scaled_dot_product_attention(q, k, rows, scale=attn.scale).split((v.shape[3], count), -1)
    return y + (weights * mask[:, None]) @ values


def takes_prompts(block: nn.Module) -> bool:
    """Whether a block's attention is the plain one, which may have further keys, of what ``norm1`` gives."""
    attn = getattr(block, "attn", None)
    names = ("weigh", "attend", "mix")
    plain = all(getattr(type(attn), name, None) is getattr(SelfAttention, name) for name in names)
    return plain and isinstance(getattr(block, "norm1", None), nn.Module)


class PromptTuning(BaseBackbone):
    """A trained token backbone that is frozen, for whatever is learned beside it.

    The frozen trunk has no gradients and is always in evaluation mode. Blocks whose attention is not the
    plain one (as the gated ones of ConViT) run without prompts.

    Args:
        arch: a variant, or a dict with the key ``trunk``: config of a token backbone, or one itself.
        pretrained: checkpoint, or work dir, of a classifier with this trunk, or of the trunk alone, loaded
            when a run starts; None for random weights.
        freeze: the trunk; without, all is tuned.
        out_indices: blocks of the trunk.
        **kwargs: see :class:`~dense.base.backbone.BaseBackbone`.
    """

    archs = {"vit_base": {"trunk": {"type": "dense.ViT", "arch": ViT.archs["base"]}}}
    used_in_parts = ("trunk.blocks",)  # prompts go through norms and projections

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "vit_base",
        *,
        pretrained: str | PathLike | None = None,
        freeze: bool = True,
        out_indices: Sequence[int] | None = None,
        in_channels: int = 3,
        **kwargs,
    ):
        depth = self.depth_of(arch)
        super().__init__(arch, lambda spec: depth, out_indices=out_indices, in_channels=in_channels, **kwargs)
        options = {
            "out_indices": self.out_indices,
            "in_channels": in_channels,
            "output_norm": self.output_norm,
            "with_cp": self.with_cp and not freeze,
        }
        self.trunk = build_trunk(self.spec["trunk"], **options)
        self.freeze = freeze
        self.pretrained = pretrained
        self.out_channels, self.strides = self.trunk.out_channels, self.trunk.strides
        self.num_features = self.trunk.num_features

    @classmethod
    def depth_of(cls, arch: str | Mapping[str, Any]) -> int:
        """Blocks of a variant's trunk."""
        trunk = cls.find_arch(arch)["trunk"]
        if not isinstance(trunk, Mapping):
            return len(build_trunk(trunk).blocks)
        kind = MODELS.get(trunk["type"]) if isinstance(trunk["type"], str) else trunk["type"]
        if kind is None or not issubclass(kind, TokenBackbone):
            raise TypeError(f"trunk must be a token backbone, as dense.ViT, found {trunk['type']!r}")
        return kind.find_arch(trunk["arch"])["depth"]

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        trunk = {"type": "dense.ViT", "arch": {**ViT.archs["tiny"], "depth": 2}}
        return cls.create({"trunk": trunk}, **options)

    def init_weights(self) -> None:
        """What a run calls before it trains or resumes."""
        super().init_weights()
        if self.pretrained is not None:
            load_trunk(self.trunk, self.pretrained)

    def find_prompted(self) -> list[int]:
        """Which blocks take prompts.

        Raises:
            ValueError: none.
        """
        found = [i for i, block in enumerate(self.trunk.blocks) if takes_prompts(block)]
        own = type(self.trunk).iterate_blocks is not TokenBackbone.iterate_blocks
        if own or not found:
            why = "iterates its blocks in its own way" if own else "has no block of plain self-attention"
            raise ValueError(f"{type(self).__name__} cannot prompt {type(self.trunk).__name__}: it {why}")
        return found

    # ---------------------------------------------------------------------------------------------- forward

    def run_block(self, index: int, tokens: Tensor, grid: Grid) -> Tensor:
        """Tokens after a block of the trunk."""
        return self.trunk.run_block(index, tokens, grid)

    def attend_to(
        self,
        index: int,
        tokens: Tensor,
        grid: Grid,
        prompts: Tensor,
        mask: Tensor | None = None,
        stage: str = "before_softmax",
        affine: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Tokens after a block that attends to prompts, too.

        Args:
            prompts: (B or 1, count, C).
            mask, stage: see :func:`prompt_weights`.
            affine: factors and offsets of the prompts' values, (1, count, C) each.
        """
        return self._run(self._attend_to, index, tokens, grid, prompts, mask, stage, affine)

    def _attend_to(self, index, tokens, grid, prompts, mask, stage, affine) -> Tensor:
        block = self.trunk.blocks[index]
        attn, dims = block.attn, tokens.shape[2]
        bias = None if attn.qkv.bias is None else attn.qkv.bias[dims:]
        keys, values = linear(block.norm1(prompts), attn.qkv.weight[dims:], bias).chunk(2, -1)
        if affine is not None:
            values = values * affine[0] + affine[1]
        keys, values = (x.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for x in (keys, values))
        attn.attends = partial(attend_with_prompts, keys=keys, values=values, mask=mask, stage=stage)
        try:
            return self.trunk.run_block(index, tokens, grid)
        finally:
            attn.attends = None

    def prepare(self, x: Tensor) -> Tensor:
        """Images as the trunk gets them."""
        return x

    def iterate_blocks(self, x: Tensor) -> Iterator[tuple[Tensor, Grid]]:
        """Tokens after each block that is built, un-normed, and the grid of the patches."""
        self._check_images(x)
        return self.trunk.iterate_blocks(self.prepare(x), self.run_block)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            self.trunk.to_map(self.trunk.norm(tokens), grid)
            for i, (tokens, grid) in enumerate(self.iterate_blocks(x))
            if i in self.out_indices
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens of the trunk after its last block and norm: (B, P + h * w, C)."""
        *_, (tokens, grid) = self.iterate_blocks(x)
        patches = grid[0] * grid[1]
        if (
            further := tokens.shape[1] - patches - self.trunk.num_prefix_tokens
        ) > 0:  # prompts that went along
            prefix, _, rest = tokens.split((self.trunk.num_prefix_tokens, further, patches), 1)
            tokens = torch.cat((prefix, rest), 1)
        return self.trunk.norm(tokens)

    # ----------------------------------------------------------------------------- classifiers and weights

    def make_head(self, num_classes: int) -> ClassificationHead:
        return self.trunk.make_head(num_classes)

    @classmethod
    def classifier_options(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        return {"out_indices": (cls.depth_of(arch) - 1,)}

    def example_inputs(self, batch: int = 2, size: tuple[int, int] = (224, 224)) -> tuple[Tensor, ...]:
        return self.trunk.example_inputs(batch, size)

    def _frozen_modules(self) -> Sequence[nn.Module]:
        return [self.trunk] if self.freeze else []


@MODELS.register_module()
class VPT(PromptTuning):
    """Visual prompts: learned tokens beside the class token, of each block or of the first alone.

    Args:
        num_prompts: of each block that has them; 0 trains a classifier of the trunk alone (linear probe).
        deep: fresh prompts for each block; else those of the first go through all.
        use_fourier: prompts go through :func:`fourier` (VFPT).
        drop_rate: of dropout of prompts, before that.
        **kwargs: see :class:`PromptTuning`.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "vit_base",
        *,
        num_prompts: int = 10,
        deep: bool = True,
        use_fourier: bool = False,
        drop_rate: float = 0.1,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        if num_prompts < 0:
            raise ValueError(f"num_prompts must not be negative, found {num_prompts}")
        self.deep, self.use_fourier, self.drop_rate = deep, use_fourier, drop_rate
        self.prompts = None
        if num_prompts:
            self.prompted = self.find_prompted()
            if not deep and type(self.trunk).run_block is not TokenBackbone.run_block:
                raise ValueError(f"{type(self.trunk).__name__} has blocks of a grid, wanted deep=True")
            dims, patch = self.trunk.num_features, self.trunk.spec["patch_size"]
            count = len(self.prompted) if deep else 1
            self.prompts = nn.Parameter(torch.empty(count, num_prompts, dims))
            bound = sqrt(6 / (3 * patch**2 + dims))
            nn.init.uniform_(self.prompts, -bound, bound)
        self._finish()

    def make_prompts(self, row: int, batch: int) -> Tensor:
        """Of a block that has them: (batch, num_prompts, C) in training, where dropout differs, else of 1."""
        prompts = self.prompts[row][None]
        if self.training and self.drop_rate:
            prompts = F.dropout(prompts.expand(batch, -1, -1), self.drop_rate)
        return fourier(prompts) if self.use_fourier else prompts

    def run_block(self, index: int, tokens: Tensor, grid: Grid) -> Tensor:
        if self.deep and index in self.prompted:
            prompts = self.make_prompts(self.prompted.index(index), len(tokens))
            return self.attend_to(index, tokens, grid, prompts)
        if not self.deep and index == 0:
            prefix = tokens.shape[1] - grid[0] * grid[1]
            prompts = self.make_prompts(0, len(tokens)).expand(len(tokens), -1, -1)
            tokens = torch.cat((tokens[:, :prefix], prompts, tokens[:, prefix:]), 1)
        return self._run(self.trunk.run_block, index, tokens, grid)

    def iterate_blocks(self, x: Tensor) -> Iterator[tuple[Tensor, Grid]]:
        if self.prompts is None:
            return self.trunk.iterate_blocks(x)
        return super().iterate_blocks(x)


class PromptPool(nn.Module):
    """Keys (blocks, n, C) and for each key its prompts (blocks, n, m, C) of tokens of one role.

    Args:
        num_blocks: that have a pool.
        size: n.
        length: m.
        embed_dims: C.
    """

    def __init__(self, num_blocks: int, size: int, length: int, embed_dims: int):
        super().__init__()
        self.keys = nn.Parameter(torch.empty(num_blocks, size, embed_dims))
        self.prompts = nn.Parameter(torch.empty(num_blocks, size, length, embed_dims))
        for table in (self.keys, self.prompts):
            nn.init.uniform_(table, -1, 1)

    def match(self, row: int, tokens: Tensor, k: int, at_random: bool = False) -> tuple[Tensor, Tensor]:
        """The k keys that resemble each token most.

        Args:
            row: of the pool.
            tokens: (B, N, C).
            k: at most n.
            at_random: take any k, each with the same chance.

        Returns:
            Which prompts each token has, bool (B, N, n * m), and the mean of 1 minus the cosine between a
            token and its keys, whose gradient reaches both.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            exact = torch.promote_types(tokens.dtype, torch.float32)
            tokens, keys = (F.normalize(x.to(exact), dim=-1) for x in (tokens, self.keys[row]))
            cosine = tokens @ keys.mT
            ranked = torch.rand_like(cosine) if at_random else cosine.detach()
            places = ranked.topk(k, sorted=False).indices
            distance = (1 - cosine.gather(-1, places)).mean()
        chosen = torch.zeros_like(cosine, dtype=torch.bool).scatter(-1, places, True)
        return chosen.repeat_interleave(self.prompts.shape[2], -1), distance


@register_backbone("tcpa")
class TCPA(PromptTuning):
    """Coordinated prompts: class token and patches have pools of their own, of which each token has a few.

    Prefix tokens share the class token's pool. See :func:`prompt_weights` for the mask; as published it acts
    after the softmax, while the paper describes one before it.

    Args:
        pool_sizes: keys of the class token's and of the patches' pools, of each block.
        prompt_lengths: prompts of a key, of both.
        topk: keys that a token is matched with, of both.
        match_tokens: match them; else a token has all prompts of its role (published: TDVP).
        separate_roles: tokens have no prompts of the other role (RDVP); without, they have all of these.
        scale_values: factors and offsets of the prompts' values, shared by all blocks (ADVP).
        use_simam: :func:`simam` changes the images first.
        pixel_prompter: then two convolutions do (IPrompt).
        use_fourier: see :class:`VPT`; mixes the prompts of both roles.
        mask_stage: "after_softmax" or "before_softmax".
        random_epochs: so many epochs of training match at random; a classifier tells the epoch.
        token_noise: of normal noise on embedded tokens in training (published as random_prompt: 0.001).
        drop_rate: of dropout of prompts.
        **kwargs: see :class:`PromptTuning`.
    """

    paper = (
        'Liu et al., "Token Coordinated Prompt Attention is Needed for Visual Prompting", ICML 2025, '
        "arXiv 2505.02406"
    )
    code = "zhoujiahuan1991/ICML2025-TCPA"
    licence = "none stated"
    num_parameters = {"vit_base": 87_231_208}
    published = results(
        ("VFPT + TCPA on CIFAR-100, %", "on CIFAR-10, %", "mean of ten data sets, %"),
        {"vit_base": (91.6, 98.4, 90.4)},
    )
    exempt = {"gradients": "keys choose, and learn from the distance alone, which is no output"}

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "vit_base",
        *,
        pool_sizes: tuple[int, int] = (18, 18),
        prompt_lengths: tuple[int, int] = (1, 1),
        topk: tuple[int, int] = (10, 10),
        match_tokens: bool = True,
        separate_roles: bool = True,
        scale_values: bool = False,
        pixel_prompter: bool = False,
        use_simam: bool = False,
        use_fourier: bool = True,
        mask_stage: str = "after_softmax",
        random_epochs: int = 10,
        token_noise: float = 0.0,
        drop_rate: float = 0.1,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        if mask_stage not in STAGES:
            raise ValueError(f"mask_stage must be one of {list(STAGES)}, found {mask_stage!r}")
        if min(*pool_sizes, *prompt_lengths) < 1:
            raise ValueError(
                f"pool_sizes and prompt_lengths must be at least 1, found {pool_sizes} and {prompt_lengths}"
            )
        for role, k, size in zip(ROLES, topk, pool_sizes, strict=True):
            if match_tokens and not 1 <= k <= size:
                raise ValueError(f"topk of role {role!r} must be 1 to {size}, its pool's size, found {k}")
        self.topk, self.match_tokens, self.separate_roles = tuple(topk), match_tokens, separate_roles
        self.use_simam, self.use_fourier, self.mask_stage = use_simam, use_fourier, mask_stage
        self.random_epochs, self.token_noise, self.drop_rate = random_epochs, token_noise, drop_rate
        self.prompted, self.epoch = self.find_prompted(), 0
        self.recorded: list[Tensor] | None = None  # see record_distances
        dims, blocks = self.trunk.num_features, len(self.prompted)
        shapes = zip(ROLES, pool_sizes, prompt_lengths, strict=True)
        self.pools = nn.ModuleDict({role: PromptPool(blocks, n, m, dims) for role, n, m in shapes})
        self.counts = [n * m for n, m in zip(pool_sizes, prompt_lengths, strict=True)]
        self.value_scale = self.value_bias = None
        if scale_values:
            count = sum(self.counts)
            spread = 0.1 * sqrt(2 / (count * dims))
            self.value_scale = nn.Parameter(1 + spread * torch.randn(1, count, dims))
            self.value_bias = nn.Parameter(spread * torch.randn(1, count, dims))
        self.pixel_prompter = None
        if pixel_prompter:
            inner = 3 * self.in_channels
            self.pixel_prompter = nn.Sequential(
                nn.Conv2d(self.in_channels, inner, 11, padding=5),
                nn.PReLU(),
                nn.Conv2d(inner, self.in_channels, 11, padding=5),
            )
        self._finish()

    @contextmanager
    def record_distances(self) -> Iterator[list[Tensor]]:
        """Within it, a list of the distance of each block that matches; their sum is 0 to 4 a block."""
        self.recorded = []
        try:
            yield self.recorded
        finally:
            self.recorded = None

    def make_prompts(self, row: int, batch: int) -> Tensor:
        """Of a block, the class token's before the patches': (batch in training, else 1; count; C)."""
        prompts = torch.cat([self.pools[role].prompts[row].flatten(0, 1) for role in ROLES])[None]
        if self.training and self.drop_rate:
            prompts = F.dropout(prompts.expand(batch, -1, -1), self.drop_rate)
        return fourier(prompts) if self.use_fourier else prompts

    def make_mask(self, row: int, tokens: Tensor, grid: Grid) -> Tensor | None:
        """Which prompts each token has, bool (B, P + h * w, count); None for all. Records the distance."""
        if not (self.match_tokens or self.separate_roles):
            return None
        patches = grid[0] * grid[1]
        at_random = self.training and self.epoch < self.random_epochs
        rows, distances = [], []
        parts = tokens.split((tokens.shape[1] - patches, patches), 1)
        for i, (role, part) in enumerate(zip(ROLES, parts, strict=True)):
            if not part.shape[1]:
                continue
            own = part.new_ones(*part.shape[:2], self.counts[i], dtype=torch.bool)
            if self.match_tokens:
                own, distance = self.pools[role].match(row, part, self.topk[i], at_random)
                distances.append(distance)
            others = own.new_full((*own.shape[:2], self.counts[1 - i]), not self.separate_roles)
            rows.append(torch.cat((others, own) if i else (own, others), 2))
        if self.recorded is not None and distances:
            self.recorded.append(sum(distances))
        return torch.cat(rows, 1)

    def prepare(self, x: Tensor) -> Tensor:
        x = simam(x) if self.use_simam else x
        return x if self.pixel_prompter is None else x + self.pixel_prompter(x)

    def run_block(self, index: int, tokens: Tensor, grid: Grid) -> Tensor:
        if index == 0 and self.training and self.token_noise:
            tokens = tokens + self.token_noise * torch.randn_like(tokens)
        if index not in self.prompted:
            return self._run(self.trunk.run_block, index, tokens, grid)
        row = self.prompted.index(index)
        affine = None if self.value_scale is None else (self.value_scale, self.value_bias)
        prompts = self.make_prompts(row, len(tokens))
        mask = self.make_mask(row, tokens, grid)
        return self.attend_to(index, tokens, grid, prompts, mask, self.mask_stage, affine)

    # ------------------------------------------------------------------------------------ published weights

    @classmethod
    def reads_all(cls, state_dict: Mapping[str, Tensor]) -> bool:
        return any(key.startswith("Pool.") for key in state_dict) or super().reads_all(state_dict)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """With the depth, the grid and the patches of a ViT's converted weights."""
        trunk = spec["trunk"]
        own = {k.replace("backbone.trunk.", "backbone.", 1): v for k, v in state_dict.items()}
        return {"trunk": {**trunk, "arch": ViT.adapt_arch(ViT.find_arch(trunk["arch"]), own)}}

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        tables = [state_dict.get(f"backbone.pools.{role}.prompts") for role in ROLES]
        if any(table is None for table in tables):
            return {}
        sizes, lengths = (tuple(table.shape[axis] for table in tables) for axis in (1, 2))
        return cls.drop_defaults(
            pool_sizes=sizes,
            prompt_lengths=lengths,
            topk=tuple(min(10, size) for size in sizes),
            scale_values="backbone.value_scale" in state_dict,
            pixel_prompter="backbone.pixel_prompter.0.weight" in state_dict,
        )

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pools of blocks that the trunk does not have go: the published ones are always of twelve."""
        own = ("Pool.", "Prompter.", "ADVP_")
        mine = rename_keys(
            {key: value for key, value in state_dict.items() if key.startswith(own)},
            [
                (r"Pool\.Pool_(cls|image)\.(keys|prompts)", r"backbone.pools.\1.\2"),
                (r"ADVP_w", "backbone.value_scale"),
                (r"ADVP_b", "backbone.value_bias"),
                (r"Prompter\.Prompter\.(\d)\.(.*)", r"backbone.pixel_prompter.\1.\2"),
            ],
        )
        trunk = ViT.convert_official({k: v for k, v in state_dict.items() if not k.startswith(own)})
        depth = len({key.split(".")[2] for key in trunk if key.startswith("backbone.blocks.")})
        return {
            **{key.replace("backbone.", "backbone.trunk.", 1): value for key, value in trunk.items()},
            **{key: value[:depth] if ".pools." in key else value for key, value in mine.items()},
        }


@MODELS.register_module()
class TCPAClassifier(ImageClassifier):
    """Trains :class:`TCPA`: the classifier's loss, and the distance of tokens from their keys.

    A config needs the hook :class:`~dense.adaptation.TellEpoch`.

    Args:
        distance_weight: factor of the distance, summed over blocks.
        **kwargs: see :class:`~dense.classification.ImageClassifier`; its backbone is a :class:`TCPA`.
    """

    def __init__(self, *args, distance_weight: float = 0.01, **kwargs):
        super().__init__(*args, **kwargs)
        if not isinstance(self.backbone, TCPA):
            raise TypeError(f"TCPAClassifier wants a TCPA, found {type(self.backbone).__name__}")
        self.distance_weight = distance_weight

    def set_epoch(self, epoch: int) -> None:
        """Of training, from 0: the first ones match at random."""
        self.backbone.epoch = epoch

    def loss(self, inputs: Tensor, data_samples: Sequence[ImageDataSample]) -> dict[str, Tensor]:
        with self.backbone.record_distances() as distances:
            losses = super().loss(inputs, data_samples)
        if not distances:
            return losses
        return {**losses, "loss_distance": self.distance_weight * sum(distances)}

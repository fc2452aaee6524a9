"""IA-RED2: interpreters drop tokens of a vision Transformer, for each image its own.

Pan et al., "IA-RED2: Interpretability-Aware Redundancy Reduction for Vision Transformers", NeurIPS 2021,
arXiv 2106.12620. The authors released their interpretation tool alone; inference here is as there. Of
training, what the paper leaves open (reward, exploration) is ours.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pointsuite.engine.backends import is_traced
from pointsuite.engine.checkpoint import rename_keys
from pointsuite.engine.network import results

from ..backbones.vit import ViT
from ..base import register_backbone
from ..classification.model import ImageClassifier
from ..classification.sample import ImageDataSample
from ..layers import Linear, SelfAttention, init_normal
from ..ops import linear
from ..registry import MODELS
from .trained import load_trained

Grid = tuple[int, int]


class PartialAttention(SelfAttention):
    """Self-attention in which tokens may be absent: they are no keys, and their rows give nothing.

    A call has, beside tokens (B, N, C), which of them are there, bool (B, N), or None for all.
    """

    def weigh(self, q: Tensor, k: Tensor, there: Tensor | None = None) -> Tensor:
        if there is None:
            return super().weigh(q, k)
        logits = (self.scale * q @ k.transpose(-2, -1)).masked_fill(~there[:, None, None], -torch.inf)
        return logits.softmax(-1) * there[:, None, :, None]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, there: Tensor | None = None) -> Tensor:
        if there is None:
            return super().attend(q, k, v)
        mask = there[:, None, None].expand(-1, 1, q.shape[2], -1)
        y = F.scaled_dot_product_attention(q, k, v, mask, scale=self.scale)
        return y * there[:, None, :, None]


class Interpreter(nn.Module):
    """How much the class token cares for each token: (B, N, C) to probabilities (B, N) of being kept.

    The last third of the projection is published, but not used.

    Args:
        embed_dims: C.
        num_heads: divides C.
    """

    def __init__(self, embed_dims: int, num_heads: int = 6):
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f"interpreter_heads must divide embed_dims {embed_dims}, found {num_heads}")
        self.num_heads = num_heads
        self.scale = (embed_dims // num_heads) ** -0.5
        self.qk = Linear(embed_dims, 3 * embed_dims)

    def forward(self, x: Tensor, there: Tensor | None = None) -> Tensor:
        """Tokens that are not there, bool (B, N), have the probability 0."""
        if there is not None:
            x = x * there[..., None]
        dims = x.shape[-1]
        x = F.layer_norm(x, (dims,), eps=1e-5)
        weight, bias = self.qk.weight, self.qk.bias
        q = linear(x[:, :1], weight[:dims], bias[:dims]).unflatten(2, (self.num_heads, -1))
        k = linear(x, weight[dims : 2 * dims], bias[dims : 2 * dims]).unflatten(2, (self.num_heads, -1))
        p = (self.scale * (q * k).sum(3)).sigmoid().mean(2)
        return p if there is None else p * there


@dataclass
class Policy:
    """What interpreters decided, of each group of blocks.

    Attributes:
        probabilities: (B, N), of each interpreter.
        kept: bool (B, N), of each group.
        given: the tokens that an interpreter saw, and which of them were there, as it was called.
    """

    probabilities: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    given: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)


def _deit(arch: str) -> dict[str, Any]:
    return {**ViT.archs[arch], "groups": (4, 4, 4), "interpreter_heads": 6}


@register_backbone("ia_red2")
class IARED2(ViT):
    """DeiT in groups of blocks, before each of which an interpreter drops patches of each image.

    In evaluation dropped tokens leave the computation (a batch is padded to its most tokens); with
    ``drop_tokens=False``, in training and in exported graphs they are masked: the same numbers up to
    rounding. In maps and among the tokens that are returned they are 0.

    Args:
        arch: a published variant, or a dict as those in ``archs``: ``groups`` are numbers of blocks.
        threshold: tokens of this probability or less are dropped; 0 keeps all.
        drop_tokens: see above.
        **kwargs: see :class:`~dense.backbones.ViT`.
    """

    title = "IA-RED2"
    paper = (
        'Pan et al., "IA-RED2: Interpretability-Aware Redundancy Reduction for Vision Transformers", NeurIPS '
        "2021, arXiv 2106.12620"
    )
    code = "joon-stack/ltrp"
    licence = "none stated"
    archs = {"deit_tiny": _deit("tiny"), "deit_small": _deit("small"), "deit_base": _deit("base")}
    num_parameters = {"deit_tiny": 6_050_920, "deit_small": 23_381_224, "deit_base": 91_882_984}
    published = results(("ImageNet-1K top-1, %",), {"deit_small": (79.1,)})
    exempt = {
        "gradients": "interpreters learn from rewards: decisions have no gradient",
        "bfloat16:maps": "rounding moves tokens to the other side of the threshold",
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "deit_small",
        *,
        threshold: float = 0.5,
        drop_tokens: bool = True,
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        self.groups = tuple(self.spec["groups"])
        if not self.groups or min(self.groups) < 1 or sum(self.groups) != self.spec["depth"]:
            raise ValueError(f"groups must add up to the depth {self.spec['depth']}, found {self.groups}")
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, found {threshold}")
        self.threshold, self.drop_tokens = threshold, drop_tokens
        starts = accumulate((0, *self.groups[:-1]))
        self.starts = [start for start in starts if start < len(self.blocks)]
        dims, heads = self.spec["embed_dims"], self.spec["interpreter_heads"]
        self.interpreters = nn.ModuleList(Interpreter(dims, heads) for _ in self.starts)
        init_normal(self.interpreters, nn.Linear)
        self.train()

    @classmethod
    def smallest(cls, **options) -> nn.Module:
        arch = {**next(iter(cls.archs.values())), "depth": 2, "groups": (1, 1)}
        return cls.create(arch, **options)

    def make_attention(self, embed_dims: int, num_heads: int, qkv_bias: bool) -> SelfAttention:
        return PartialAttention(embed_dims, num_heads, qkv_bias=qkv_bias)

    def iterate_blocks(
        self,
        x: Tensor,
        policy: Policy | None = None,
        *,
        active: int | None = None,
        sampled: int | None = None,
        exploration: float = 0.0,
        trained_from: int = 0,
    ) -> Iterator[tuple[Tensor, Grid]]:
        """Tokens (B, N, C) after each block, 0 where they were dropped, and the grid of the patches.

        Args:
            x: images (B, in_channels, H, W).
            policy: takes what is decided.
            active: so many interpreters decide, in the groups after them all tokens stay that were there.
            sampled: the group whose tokens are drawn by their probabilities, not by the threshold.
            exploration: share by which these probabilities p go towards 1 - p.
            trained_from: blocks before this one, and the embedding, get no gradient.
        """
        self._check_images(x)
        policy = Policy() if policy is None else policy
        active = len(self.starts) if active is None else active
        # how many tokens stay is known from images alone, not to a graph of any
        drop = self.drop_tokens and not self.training and not is_traced()
        wanted = torch.is_grad_enabled()
        with torch.set_grad_enabled(wanted and trained_from == 0):
            tokens, grid = self.embed(x)
        size, places, there = tokens.shape[:2], None, None
        for i in range(len(self.blocks)):
            group = self.starts.index(i) if i in self.starts else active
            if group < active:
                p = self.interpreters[group](tokens, there)
                policy.given.append((tokens, there))
                keep = self._decide(p, there, group == sampled, exploration)
                policy.probabilities.append(_spread(p, places, size))
                policy.kept.append(_spread(keep, places, size))
                if drop:
                    tokens, places, there = _gather(tokens, keep, places)
                else:
                    tokens, there = tokens * keep[..., None], keep
            with torch.set_grad_enabled(wanted and i >= trained_from):
                tokens = self._run(self.blocks[i], tokens, there)
            shown = tokens if there is None else tokens * there[..., None]
            yield _spread(shown, places, size), grid

    def _decide(self, p: Tensor, there: Tensor | None, sample: bool, exploration: float) -> Tensor:
        with torch.no_grad():
            if sample:
                keep = torch.bernoulli(p + exploration * (1 - 2 * p)).bool()
            else:
                keep = p > self.threshold
            keep = keep if there is None else keep & there
            keep[:, 0] = True
            return keep

    def decide(self, x: Tensor, **kwargs: Any) -> tuple[Tensor, Policy]:
        """As :meth:`forward_features`, and what the interpreters decided; ``kwargs`` as of the iteration."""
        policy = Policy()
        *_, (tokens, _) = self.iterate_blocks(x, policy, **kwargs)
        return self.norm(tokens), policy

    def cost(self, policy: Policy) -> Tensor:
        """Of each image (B,): the mean share of tokens, over blocks, that was computed; 1 is all."""
        sizes = self.groups[: len(self.starts)]
        kept = [policy.kept[min(i, len(policy.kept) - 1)].float().mean(1) for i in range(len(sizes))]
        return sum(share * size for share, size in zip(kept, sizes, strict=True)) / sum(sizes)

    @classmethod
    def adapt_arch(cls, spec: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """A variant with the depth and as many equal groups as converted weights have."""
        own = super().adapt_arch(spec, state_dict)
        count = len({key.split(".")[2] for key in state_dict if key.startswith("backbone.interpreters.")})
        if count and own["depth"] % count == 0:
            own["groups"] = (own["depth"] // count,) * count
        return own

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = r"(?:module\.)?groups\.(\d+)\."
        mine = rename_keys(
            {key: value for key, value in cls.find_trunk(state_dict).items() if "groups." in key},
            [
                (own + r"block_list\..*", None),  # the blocks under second names
                (own + r"agent\.(.*)", r"backbone.interpreters.\1.\2"),
            ],
        )
        rest = {key: value for key, value in cls.find_trunk(state_dict).items() if "groups." not in key}
        return {**super().convert_official(rest), **mine}


def _spread(x: Tensor, places: Tensor | None, size: Sequence[int]) -> Tensor:
    """(B, M, ...) of tokens at ``places`` (B, M) to (B, N, ...), 0 elsewhere."""
    if places is None:
        return x
    index = places.view(*places.shape, *[1] * (x.ndim - 2)).expand_as(x)
    # padded slots hold 0 and share no place with another token
    return x.new_zeros(*size, *x.shape[2:]).scatter(1, index, x)


def _gather(tokens: Tensor, keep: Tensor, places: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Kept tokens to the front, in order, cut after the most that an image has: tokens (B, M, C), their
    places (B, M) and which of them are there (B, M), None for all.
    """
    count = int(keep.sum(1).max())
    order = keep.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    tokens = tokens.take_along_dim(order[..., None], 1)
    places = order if places is None else places.take_along_dim(order, 1)
    there = keep.take_along_dim(order, 1)
    return tokens, places, None if there.all() else there


@MODELS.register_module()
class IARED2Classifier(ImageClassifier):
    """Trains interpreters and blocks of :class:`IARED2` in turn, group by group; tests as any classifier.

    A config needs the hook :class:`~dense.adaptation.TellEpoch`, and on several processes
    ``find_unused_parameters=True``.

    An interpreter learns by policy gradient. Of an image's sampled decisions the reward is 1 - s^2, s the
    share of its tokens that are kept, where the prediction is right, else minus the group's penalty; the
    reward of the thresholded decisions is taken off. The blocks that follow learn from the labels.

    Args:
        pretrained: checkpoint, or work dir, of a classifier with the same blocks, from which training starts;
            None for random ones.
        interpreter_epochs, block_epochs: of each group; after the last one its blocks train on.
        penalties: of a wrong prediction, by group.
        exploration: see :meth:`IARED2.iterate_blocks`.
        **kwargs: see :class:`~dense.classification.ImageClassifier`; its backbone is an :class:`IARED2`.
    """

    def __init__(
        self,
        *args,
        pretrained: str | PathLike | None = None,
        interpreter_epochs: int = 10,
        block_epochs: int = 20,
        penalties: Sequence[float] = (3.0, 5.0, 8.0),
        exploration: float = 0.2,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if min(interpreter_epochs, block_epochs) < 1:
            raise ValueError(f"epochs must be at least 1, found {interpreter_epochs} and {block_epochs}")
        self.interpreter_epochs, self.block_epochs = interpreter_epochs, block_epochs
        groups = len(self.backbone.starts)
        if len(penalties) < groups:
            raise ValueError(f"penalties must be of {groups} groups, found {len(penalties)}")
        self.penalties, self.exploration = tuple(penalties), exploration
        self.pretrained = pretrained
        self.set_epoch(0)

    def init_weights(self) -> None:
        """What a run calls before it trains or resumes."""
        super().init_weights()
        if self.pretrained is not None:
            load_trained(self, self.pretrained, r"backbone\.interpreters\.")

    def set_epoch(self, epoch: int) -> None:
        """Train the interpreter, or the blocks, of the group whose turn it is."""
        group, epoch = divmod(epoch, self.interpreter_epochs + self.block_epochs)
        last = len(self.backbone.starts) - 1
        if group > last:
            group, epoch = last, self.interpreter_epochs
        self.group, self.interpreting = group, epoch < self.interpreter_epochs

    def loss(self, inputs: Tensor, data_samples: Sequence[ImageDataSample]) -> dict[str, Tensor]:
        labels = torch.stack([sample.gt_label for sample in data_samples])
        if self.interpreting:
            return self.policy_loss(inputs, labels)
        start = self.backbone.starts[self.group]
        tokens, policy = self.backbone.decide(inputs, active=self.group + 1, trained_from=start)
        targets = F.one_hot(labels, self.num_classes).float()
        return {**self._logits_loss(self.head(tokens), targets), "kept": self.backbone.cost(policy).mean()}

    def policy_loss(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Of images (B, 3, H, W) and labels (B,)."""
        group, rewards, policies = self.group, [], []
        with torch.no_grad():
            for sampled in (group, None):
                how = {"active": group + 1, "sampled": sampled, "exploration": self.exploration}
                tokens, policy = self.backbone.decide(inputs, **how)
                right = self.head(tokens).argmax(1) == labels
                share = policy.kept[group].float().mean(1)
                rewards.append(torch.where(right, 1 - share**2, -self.penalties[group]))
                policies.append(policy)
        tokens, there = policies[0].given[group]
        p = self.backbone.interpreters[group](tokens, there)
        p = (p + self.exploration * (1 - 2 * p)).clamp(1e-6, 1 - 1e-6)
        kept = policies[0].kept[group]
        chance = torch.where(kept, p, 1 - p).log()
        chance[:, 0] = 0  # the class token is always kept
        if there is not None:
            chance = chance * there
        advantage = rewards[0] - rewards[1]
        return {
            "loss": -(advantage * chance.sum(1)).mean(),
            "reward": rewards[1].mean(),
            "kept": kept.float().mean(),
        }

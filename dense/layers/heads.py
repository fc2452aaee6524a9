"""Classification heads: from what a backbone computes to logits."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .conv_norm import ConvNorm
from .init import init_normal


class NoClassifier(nn.Identity):
    """What stands in the place of a last layer where there are no classes."""

    def __init__(self, in_features: int):
        super().__init__()
        self.in_features = in_features


def init_classifier(fc: nn.Linear) -> None:
    """Initial weights of last layers, as usual: normal, of standard deviation 0.02; biases 0."""
    init_normal(fc, nn.Linear)


Init = Callable[[nn.Linear], Any]


def make_classifier(in_features: int, num_classes: int, init: Init | None = init_classifier) -> nn.Module:
    """A last layer: (B, in_features) to (B, num_classes), or to itself for 0 classes.

    Args:
        in_features: width of what it takes.
        num_classes: number of logits.
        init: sets its initial weights; None leaves those of ``nn.Linear``.
    """
    if num_classes < 0:
        raise ValueError(f"num_classes must not be negative, found {num_classes}")
    if num_classes == 0:
        return NoClassifier(in_features)
    fc = nn.Linear(in_features, num_classes)
    if init is not None:
        init(fc)
    return fc


class ClassificationHead(nn.Module):
    """Features to logits (B, num_classes) by way of pre-logits (B, hidden_size).

    A subclass says in :meth:`pre_logits` how features become a vector an image. Its last layer, or each of
    them, is named ``fc`` and made by :func:`make_classifier`. Where there are several, as of branches or of
    a teacher, :meth:`classify` may return several logits in training, which all learn from the labels.

    Args:
        hidden_size: width of the pre-logits.
        num_classes: number of logits; 0 leaves the pre-logits as they are, None the last layers to the
            subclass.
        init: of the last layers, see :func:`make_classifier`.
    """

    def __init__(self, hidden_size: int, num_classes: int | None, init: Init | None = init_classifier):
        super().__init__()
        self.hidden_size = hidden_size
        self.init = init
        if num_classes is not None:
            self.fc = make_classifier(hidden_size, num_classes, init)

    def pre_logits(self, features: Any) -> Tensor:
        """What the backbone's ``forward_features`` returns to (B, hidden_size)."""
        raise NotImplementedError

    def classify(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, hidden_size) to logits (B, num_classes), or several in training."""
        return self.fc(x)

    def forward(self, features: Any, pre_logits: bool = False) -> Tensor | tuple[Tensor, ...]:
        x = self.pre_logits(features)
        return x if pre_logits else self.classify(x)

    def reset(self, num_classes: int) -> None:
        """Put fresh last layers in place of the old ones; 0 leaves none."""
        for parent in list(self.modules()):
            old = getattr(parent, "fc", None)
            if isinstance(old, (nn.Linear, NoClassifier)):
                parent.fc = make_classifier(old.in_features, num_classes, self.init)


class PooledLinear(ClassificationHead):
    """Mean over positions, norm, Linear: (B, C, H, W) to (B, num_classes).

    Args:
        in_channels: C.
        num_classes: number of logits.
        norm: module on (B, C), after the mean; none by default.
        init: see :class:`ClassificationHead`.
        norm_first: the norm is one of (B, C, H, W), before the mean.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        norm: nn.Module | None = None,
        init: Init | None = init_classifier,
        *,
        norm_first: bool = False,
    ):
        super().__init__(in_channels, None, init)
        self.norm_first = norm_first
        self.norm = nn.Identity() if norm is None else norm
        self.fc = make_classifier(in_channels, num_classes, init)

    def pre_logits(self, features: Tensor) -> Tensor:
        if self.norm_first:
            return self.norm(features).mean((2, 3))
        return self.norm(features.mean((2, 3)))


class FinalConvHead(PooledLinear):
    """A normed 1x1 convolution, mean, Linear: (B, C, H, W) to (B, num_classes).

    Args:
        in_channels: C.
        hidden_dims: of the convolution.
        num_classes: number of logits.
        act: activation after it, see :func:`dense.ops.linear`.
    """

    def __init__(self, in_channels: int, hidden_dims: int, num_classes: int, act: str):
        super().__init__(hidden_dims, num_classes)
        self.act = act
        self.conv = ConvNorm(in_channels, hidden_dims, 1)

    def pre_logits(self, features: Tensor) -> Tensor:
        return super().pre_logits(self.conv(features, self.act))


class NormLinear(nn.Module):
    """Batch norm, Linear: (B, C) to (B, num_classes)."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(in_channels)
        self.fc = make_classifier(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(x))


class PooledNormLinear(ClassificationHead):
    """Mean over positions, batch norm, Linear: (B, C, H, W) to (B, num_classes).

    With ``distillation`` there are two such classifiers: in training both are returned, to learn from labels
    and from a teacher; evaluation takes their mean. Pre-logits are the mean of both norms.
    """

    def __init__(self, in_channels: int, num_classes: int, distillation: bool = False):
        super().__init__(in_channels, None)
        self.cls = NormLinear(in_channels, num_classes)
        self.dist = NormLinear(in_channels, num_classes) if distillation else None

    def pre_logits(self, features: Tensor) -> Tensor:
        x = features.mean((2, 3))
        return self.cls.norm(x) if self.dist is None else (self.cls.norm(x) + self.dist.norm(x)) / 2

    def forward(self, features: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        if pre_logits:
            return self.pre_logits(features)
        x = features.mean((2, 3))
        if self.dist is None:
            return self.cls(x)
        logits = self.cls(x), self.dist(x)
        return logits if self.training else sum(logits) / 2


class TokenHead(ClassificationHead):
    """A class token, or the mean of the patches, norm, Linear: (B, N, C) to (B, num_classes).

    Args:
        embed_dims: C.
        num_classes: number of logits.
        pool: "token" takes one token, "mean" the mean of those after the prefix.
        num_prefix_tokens: how many tokens stand before the patches.
        token: place of the class token, the first by default.
        norm: module on (B, C), after the pooling; none by default.
        init: see :class:`ClassificationHead`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_classes: int,
        *,
        pool: str = "token",
        num_prefix_tokens: int = 1,
        token: int = 0,
        norm: nn.Module | None = None,
        init: Init | None = init_classifier,
    ):
        if pool not in ("token", "mean"):
            raise ValueError(f"pool must be 'token' or 'mean', found {pool!r}")
        if pool == "token" and num_prefix_tokens == 0:
            raise ValueError("pool 'token' wants a class token, found no prefix token")
        super().__init__(embed_dims, num_classes, init)
        self.pool, self.num_prefix_tokens, self.token = pool, num_prefix_tokens, token
        self.norm = nn.Identity() if norm is None else norm

    def pre_logits(self, features: Tensor) -> Tensor:
        if self.pool == "mean":
            return self.norm(features[:, self.num_prefix_tokens :].mean(1))
        return self.norm(features[:, self.token])

"""Whether a trained classifier knows what it sees: scores of open-set recognition behind one interface.

COSTARR: Rabinowitz, Cruz, Scheirer, Boult, "COSTARR: Consolidated Open Set Technique with Attenuation for
Robust Recognition", ICCV 2025, arXiv 2508.01087; no code is published. What its abstract does not say is our
choice, said below.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from torch import Tensor, distributed, nn

UNKNOWN = -1  # the label of what is of no known class
FEATURES = ("both", "pre", "post")


class OpenSetScore(nn.Module):
    """How likely what a classifier sees is of a known class: one number a sample, larger for known.

    It looks at the classifier's last layer alone, z = W x + b of features x. :meth:`fit` goes once over
    training data, of which the samples that are classified right count; sums are in float64 and kept beside
    the module, so that parts of the data can be summed in any order and in several processes. What follows
    from them are buffers, which a checkpoint saves. A sample's score depends on no other sample.

    Args:
        weight: W (K, D), the effective one; see :class:`~.open_set_features.FeatureReader`.
        bias: b (K), none for 0.

    Raises:
        ValueError: shapes that do not fit.
    """

    fits: ClassVar[bool] = True  # whether there is anything to fit
    sums: ClassVar[tuple[str, ...]] = ()  # totals (K, D) that it needs

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        if weight.ndim != 2 or not weight.numel():
            raise ValueError(f"weight must be (K, D), at least one each, found {tuple(weight.shape)}")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"bias must be ({len(weight)},), found {tuple(bias.shape)}")
        weight = weight.detach().float().clone()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", weight.new_zeros(len(weight)) if bias is None else bias.detach().float())
        self.register_buffer("count", torch.zeros(len(weight), dtype=torch.int64))
        self.reset()

    @property
    def num_classes(self) -> int:
        return len(self.weight)

    def rebase(self, weight: Tensor, bias: Tensor) -> None:
        """Take the last layer as it is now, as after further training; what was fitted is forgotten."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        self.count.zero_()
        self.reset()

    # ------------------------------------------------------------------------------------------------ fitting

    def reset(self) -> None:
        """Forget what :meth:`update` has seen."""
        # all of them from the start: a process of several that sees no sample takes part in the sums
        self.totals = {"count": torch.zeros(self.num_classes, dtype=torch.float64)}
        self.totals |= {name: torch.zeros(self.weight.shape, dtype=torch.float64) for name in self.sums}
        self.highest = {"logits": torch.full((2,), -torch.inf, dtype=torch.float64)}

    def update(self, features: Tensor, labels: Tensor, logits: Tensor | None = None) -> None:
        """Add training samples: features (B, D), labels (B), logits (B, K) where these are at hand.

        Raises:
            ValueError: shapes that do not fit, numbers that are not finite, labels that are no class.
        """
        x, z = self._read(features, logits)
        labels = torch.as_tensor(labels, device=x.device)
        if labels.shape != x.shape[:1]:
            raise ValueError(f"labels must be ({len(x)},), found {tuple(labels.shape)}")
        if not len(labels):
            return
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            found = low if low < 0 else high
            raise ValueError(f"found the label {found} in training, wanted 0 to {self.num_classes - 1}")
        right = z.argmax(1) == labels
        self._sum(x[right], z[right], labels[right])

    def _add(self, name: str, labels: Tensor, values: Tensor) -> None:
        """Add values (B, ...) to the total of each label's class."""
        self.totals[name].index_add_(0, labels.cpu(), values.cpu().double())

    def _sum(self, x: Tensor, z: Tensor, labels: Tensor) -> None:
        self._add("count", labels, torch.ones(len(labels)))

    def add(self, other: OpenSetScore) -> None:
        """Add what another one of the kind has seen, as of another part of the data."""
        for name, total in other.totals.items():
            self.totals[name] = self.totals[name] + total
        for name, value in other.highest.items():
            self.highest[name] = torch.maximum(self.highest[name], value)

    def merge(self) -> None:
        """Sum over all processes of a distributed run; without one nothing happens."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        device = self.weight.device if distributed.get_backend() == "nccl" else torch.device("cpu")
        for totals, how in (
            (self.totals, distributed.ReduceOp.SUM),
            (self.highest, distributed.ReduceOp.MAX),
        ):
            for name in sorted(totals):
                value = totals[name].to(device)
                distributed.all_reduce(value, how)
                totals[name] = value.cpu()

    def finish(self, names: Sequence[str] | None = None) -> None:
        """Make the buffers of the totals; warns of classes without a sample that was classified right.

        Args:
            names: of the classes, for the warning; numbers by default.
        """
        self.count.copy_(self.totals["count"].round())
        self._finish()
        if lacking := self.unfitted():
            names = [str(k) if names is None else names[k] for k in lacking]
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            print_log(
                f"{type(self).__name__}: too few right predictions in training of the classes {shown}: "
                f"what is taken for them scores {self.no_score:g}",
                "current",
                logging.WARNING,
            )

    no_score: ClassVar[float] = 0.0  # of a class that could not be fitted
    least_count: ClassVar[int] = 0  # right samples that a class needs

    def unfitted(self) -> list[int]:
        """The classes that have too few samples that were classified right."""
        return torch.nonzero(self.count < self.least_count).flatten().tolist()

    def _finish(self) -> None:
        pass

    def fit(self, batches: Iterable[tuple[Tensor, Tensor]], names: Sequence[str] | None = None) -> None:
        """From pairs of features (B, D) and labels (B), in one pass."""
        self.reset()
        for features, labels in batches:
            self.update(features, labels)
        self.merge()
        self.finish(names)

    # ------------------------------------------------------------------------------------------------ scoring

    def forward(self, features: Tensor, logits: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features (B, D) to scores (B), float32 at least, and predicted classes (B), the first of ties.

        Args:
            logits: (B, K) where they are at hand.

        Raises:
            ValueError: shapes that do not fit, or numbers that are not finite.
        """
        x, z = self._read(features, logits)
        highest, predicted = z.max(1)
        return self._score(x, z, highest, predicted), predicted

    def decide(self, features: Tensor, threshold: float, logits: Tensor | None = None) -> Tensor:
        """The predicted class where the score is at least ``threshold``, else -1, unknown: (B)."""
        scores, predicted = self(features, logits)
        return torch.where(scores >= threshold, predicted, UNKNOWN)

    def _score(self, x: Tensor, z: Tensor, highest: Tensor, predicted: Tensor) -> Tensor:
        raise NotImplementedError

    def _read(self, features: Tensor, logits: Tensor | None) -> tuple[Tensor, Tensor]:
        """Checked features and logits, float32 at least: norms overflow in half precision."""
        if features.ndim != 2 or features.shape[1] != self.weight.shape[1]:
            raise ValueError(f"features must be (B, {self.weight.shape[1]}), found {tuple(features.shape)}")
        x = features.to(torch.promote_types(features.dtype, torch.float32))
        if logits is None:
            z = nn.functional.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))
        else:
            z = logits.to(x.dtype)
        if z.shape != (len(x), self.num_classes):
            raise ValueError(f"logits must be {(len(x), self.num_classes)}, found {tuple(z.shape)}")
        for name, values in (("features", x), ("logits", z)):
            if not values.isfinite().all():
                raise ValueError(f"{name} must be finite, found {_first_wrong(values)}")
        return x, z


def _first_wrong(values: Tensor) -> str:
    row, column = torch.nonzero(~values.isfinite())[0].tolist()
    return f"{values[row, column]} in sample {row}, place {column}"


class MSP(OpenSetScore):
    """The largest probability, max softmax(z). Source: Hendrycks, Gimpel, ICLR 2017, arXiv 1610.02136."""

    fits = False

    def _score(self, x, z, highest, predicted):
        return z.softmax(1).amax(1)


class MaxLogit(OpenSetScore):
    """The largest logit. Source: Vaze et al., ICLR 2022, arXiv 2110.06207."""

    fits = False

    def _score(self, x, z, highest, predicted):
        return highest


class Energy(OpenSetScore):
    """T logsumexp(z / T), the free energy, negative. Source: Liu et al., NeurIPS 2020, arXiv 2010.03759.

    Args:
        temperature: T.
    """

    fits = False

    def __init__(self, weight: Tensor, bias: Tensor | None = None, temperature: float = 1.0):
        super().__init__(weight, bias)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, found {temperature}")
        self.temperature = temperature

    def _score(self, x, z, highest, predicted):
        return self.temperature * (z / self.temperature).logsumexp(1)


class PostMax(OpenSetScore):
    """The largest logit over the length of the features, z_k / |x|; 0 where that is 0.

    Source: Cruz et al., "Operational Open-Set Recognition and PostMax Refinement", ECCV 2024, whose Pareto
    map, which keeps the order, is left out.
    """

    fits = False

    def _score(self, x, z, highest, predicted):
        norm = x.norm(dim=1)
        return torch.where(norm > 0, highest / norm, 0.0)


class GHOST(OpenSetScore):
    r"""The largest logit over how far the features lie from what its class usually has.

    .. math:: s = z_k / \sum_d |x_d - m_{kd}| / \sigma_{kd}

    with mean and unbiased standard deviation (n - 1) of the class in training; dimensions that do not vary
    there count for nothing. A class of fewer than two right samples has none, and scores -inf.

    Source: Rabinowitz et al., "GHOST: Gaussian Hypothesis Open-Set Technique", AAAI 2025, arXiv 2502.03359;
    its Pareto map of each class, which keeps the order within it, is left out.
    """

    no_score = float("-inf")
    least_count = 2
    sums = ("sum", "squares")

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__(weight, bias)
        self.register_buffer("mean", torch.zeros_like(self.weight))
        self.register_buffer("std", torch.full_like(self.weight, torch.inf))

    def _sum(self, x, z, labels):
        super()._sum(x, z, labels)
        self._add("sum", labels, x)
        self._add("squares", labels, x.double().square())

    def _finish(self):
        count = self.totals["count"][:, None]
        total, squares = self.totals["sum"], self.totals["squares"]
        mean = total / count.clamp(min=1)
        deviation = squares - count * mean.square()
        # what rounding leaves of a constant is no deviation
        variance = torch.where(deviation > 1e-12 * squares, deviation, 0.0) / (count - 1).clamp(min=1)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(variance > 0, variance.sqrt(), torch.inf))

    def _score(self, x, z, highest, predicted):
        distance = ((x - self.mean[predicted]).abs() / self.std[predicted]).sum(1)
        score = highest / distance.clamp(min=torch.finfo(distance.dtype).tiny)
        return torch.where(self.count[predicted] < self.least_count, self.no_score, score)

    def normalise(self, features: Tensor, logits: Tensor | None = None) -> Tensor:
        """Logits (B, K) of which the largest is the score, and all others are 0, as published."""
        scores, predicted = self(features, logits)
        return scores.new_zeros(len(scores), self.num_classes).scatter_(
            1, predicted[:, None], scores[:, None]
        )


class COSTARR(OpenSetScore):
    r"""Features before and after the last layer's weights attenuate them, alike to those of their class.

    .. math:: s = \max\left(0, \frac{z_k - z_{\min}}{z_{\max} - z_{\min}}\right) \cos(c, \mu_k),
        \quad c = [x; W_k \odot x]

    where k is the predicted class, mu_k the mean of c over its samples in training, z_min and z_max the least
    and the largest winning logit of all those samples. Our choices: neither half of c is normed, the range is
    that of all classes together, and there is no upper bound, so that what is very certain stays in order.
    The cosine is 0 where a length is 0, as of a class without right samples; where z_min is z_max, the factor
    is 1 from there on and else 0.

    Args:
        features: "both", or the half of c that counts, "pre" or "post".
        use_logit: with the first factor.
        clamp: cut that at 1.
    """

    least_count = 1
    sums = ("sum",)

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        features: str = "both",
        use_logit: bool = True,
        clamp: bool = False,
    ):
        super().__init__(weight, bias)
        if features not in FEATURES:
            raise ValueError(f"features must be one of {list(FEATURES)}, found {features!r}")
        self.features, self.use_logit, self.clamp = features, use_logit, clamp
        self.register_buffer("mean", self.weight.new_zeros(len(weight), 2 * weight.shape[1]))
        self.register_buffer("logit_range", self.weight.new_zeros(2))

    def _sum(self, x, z, labels):
        super()._sum(x, z, labels)
        # the mean of W_k * x is W_k times that of x
        self._add("sum", labels, x)
        if len(z):
            winning = z.double().amax(1)
            seen = torch.stack((-winning.min(), winning.max())).cpu()
            self.highest["logits"] = torch.maximum(self.highest["logits"], seen)

    def _finish(self):
        count, width = self.totals["count"][:, None], self.weight.shape[1]
        mean = self.totals["sum"] / count.clamp(min=1)
        self.mean[:, :width] = mean
        self.mean[:, width:] = mean * self.weight.cpu().double()
        highest = self.highest["logits"]  # of the least one, negative, and the largest
        if not highest.isfinite().all():
            self.logit_range.zero_()
        else:
            self.logit_range.copy_(highest * torch.tensor([-1.0, 1.0], dtype=torch.float64))

    def similarity(self, features: Tensor, predicted: Tensor) -> Tensor:
        """The cosine of features (B, D) to the means of classes (B): (B)."""
        weight, mean = self.weight[predicted], self.mean[predicted].to(features.dtype)
        halves = {"pre": features, "post": features * weight.to(features.dtype)}
        means = dict(zip(halves, mean.chunk(2, 1), strict=True))
        names = list(halves) if self.features == "both" else [self.features]
        dot = sum((halves[name] * means[name]).sum(1) for name in names)
        own = sum(halves[name].square().sum(1) for name in names).sqrt()
        other = sum(means[name].square().sum(1) for name in names).sqrt()
        length = own * other
        return torch.where(length > 0, dot / length, 0.0)

    def normalise_logit(self, highest: Tensor) -> Tensor:
        """The first factor, of winning logits (B): (B)."""
        low, high = self.logit_range.to(highest.dtype)
        factor = ((highest - low) / (high - low)).clamp(min=0)
        factor = torch.where(high > low, factor, (highest >= low).to(factor.dtype))
        return factor.clamp(max=1) if self.clamp else factor

    def _score(self, x, z, highest, predicted):
        similarity = self.similarity(x, predicted)
        return similarity * self.normalise_logit(highest) if self.use_logit else similarity


SCORES: dict[str, type[OpenSetScore]] = {
    "msp": MSP,
    "maxlogit": MaxLogit,
    "energy": Energy,
    "ghost": GHOST,
    "postmax": PostMax,
    "costarr": COSTARR,
}
# as a table has them: all scores, and what COSTARR's parts do alone
ABLATION: dict[str, dict[str, Any]] = {
    **{name: {"type": name} for name in SCORES},
    "costarr, pre": {"type": "costarr", "features": "pre"},
    "costarr, post": {"type": "costarr", "features": "post"},
    "costarr, no logit": {"type": "costarr", "use_logit": False},
}


def make_score(name: str, weight: Tensor, bias: Tensor | None = None, **options: Any) -> OpenSetScore:
    """A score of :data:`SCORES` of a last layer's weight (K, D) and bias (K), on their device.

    Raises:
        ValueError: an unknown name, or bad options.
    """
    if name not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, found {name!r}")
    return SCORES[name](weight, bias, **options).to(weight.device)

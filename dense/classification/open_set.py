"""Whether a trained classifier knows what it sees: scores of open-set recognition behind one interface.

COSTARR: Rabinowitz, Cruz, Scheirer, Boult, "COSTARR: Consolidated Open Set Technique with Attenuation for
Robust Recognition", ICCV 2025, arXiv 2508.01087; no code is published. What its abstract does not say is our
choice, said below.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, distributed, nn

from pointsuite.engine.tables import align_columns

from .open_set_metrics import OpenSetCurve, measure_open_set, open_set_curve

UNKNOWN = -1  # the label of what is of no known class
FEATURES = ("both", "pre", "post")


class OpenSetScore(nn.Module):
    """How likely what a classifier sees is of a known class: one number a sample, larger for known.

    It looks at the classifier's last layer alone, z = W x + b of features x. :meth:`fit` goes once over
    training data, of which the samples that are classified right count; sums are in float64 and kept beside
    the module, so that parts of the data can be summed in any order and in several processes. What follows
    from them are buffers, which a checkpoint saves. A sample's score depends on no other sample.

    Args:
        weight: W (K, D), the effective one; see :class:`FeatureReader`.
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


# ----------------------------------------------------------------------------------------- any classifier


class FeatureReader:
    """Images to what a trained classifier's last layer takes, and to its logits.

    Args:
        network: a :class:`~dense.base.ClassificationNetwork` or
            :class:`~dense.classification.model.ImageClassifier`, whose pre-logits are taken; or any other
            module, of which the input of its last ``nn.Linear`` is.

    Attributes:
        weight: (K, D), the effective one of the last layer: what it multiplies features by, whatever it is
            made from.
        bias: (K).

    Raises:
        ValueError: the network has no last layer that is linear.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self.headed = hasattr(network, "backbone") and hasattr(getattr(network, "head", None), "hidden_size")
        self.layer_name, self.layer = self._find_layer()
        self.checked = False

    @property
    def weight(self) -> Tensor:
        return self._map[0]

    @property
    def bias(self) -> Tensor:
        return self._map[1]

    @cached_property
    def _map(self) -> tuple[Tensor, Tensor]:
        return effective_linear(self.layer, self.layer_name, self._owner)

    @property
    def _owner(self) -> str:
        owner = self.network.backbone if self.headed else self.network
        return type(owner).__name__

    def _find_layer(self) -> tuple[str, nn.Module]:
        if not self.headed:
            layers = [(n, m) for n, m in self.network.named_modules() if isinstance(m, nn.Linear)]
            if not layers:
                raise ValueError(f"{self._owner}: has no nn.Linear, wanted one as its last layer")
            return layers[-1]
        head = self.network.head
        layers = [
            (f"head.{name}", module)
            for name, module in head.named_modules()
            if name.rpartition(".")[2] == "fc"
            and hasattr(module, "in_features")
            and not isinstance(module, nn.Identity)
        ]
        if len(layers) != 1:
            found = ", ".join(name for name, _ in layers) or "none"
            raise ValueError(
                f"{self._owner}: its {type(head).__name__} has as last layers {found}, wanted one linear"
            )
        return layers[0]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images to features (B, D) and logits (B, K).

        Raises:
            ValueError: the logits are not the linear map of the features, as of a cosine classifier.
        """
        if self.headed:
            maps = self.network.backbone.forward_features(images)
            features = self.network.head(maps, True)
            if self.checked:  # what the head would do again
                return features, nn.functional.linear(features.float(), self.weight, self.bias)
            logits = self.network.head(maps)
        else:
            features, logits = self._hooked(images)
        if not self.checked:
            self._check(features, logits)
        return features, logits

    def _hooked(self, images: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        hook = self.layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            logits = self.network(images)
        finally:
            hook.remove()
        if not seen:
            raise ValueError(f"{self._owner}: its last linear layer, {self.layer_name!r}, was not called")
        return seen[-1], logits

    def _check(self, features: Tensor, logits: Any) -> None:
        if isinstance(logits, Tensor) and features.ndim == 2 and features.shape[1] == self.weight.shape[1]:
            wanted = features.float() @ self.weight.to(features.device).T + self.bias.to(features.device)
            if wanted.shape == logits.shape:
                error = (wanted - logits.float()).abs().max() / logits.float().abs().max().clamp(min=1e-6)
                limit = 1e-3 if logits.dtype == torch.float32 else 5e-2
                if error <= limit:
                    self.checked = True
                    return
        raise ValueError(
            f"{self._owner}: its logits are not its features times the weights of {self.layer_name!r}, "
            "wanted a linear last layer"
        )

    def score(self, name: str, **options: Any) -> OpenSetScore:
        """A score of :data:`SCORES` for this classifier.

        Raises:
            ValueError: an unknown name.
        """
        return make_score(name, self.weight, self.bias, **options)


@torch.no_grad()
def effective_linear(layer: nn.Module, name: str = "layer", owner: str = "network") -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K) of the affine map that a layer is, in float32.

    Of ``nn.Linear`` they are its own, as a parametrisation or a density makes them; any other layer is asked
    for its values at 0 and at unit vectors.

    Raises:
        ValueError: it is not affine, as one that norms its input.
    """
    training = layer.training
    layer.eval()
    try:
        width = layer.in_features
        like = next(layer.parameters())
        zero = like.new_zeros(1, width)
        bias, weight = layer(zero)[0], getattr(layer, "weight", None)
        if type(layer) is not nn.Linear:
            weight = (layer(like.new_ones(width).diag()) - bias).T
        probe = torch.linspace(-2, 2, width).to(like)[None]
        found, wanted = layer(probe).float(), probe.float() @ weight.float().T + bias.float()
        scale = (probe.float().abs() @ weight.float().abs().T + bias.float().abs()).max().clamp(min=1e-6)
        if (found - wanted).abs().max() > 1e-3 * scale:
            raise ValueError(f"{owner}: its last layer {name!r} is not linear, wanted one that is")
    finally:
        layer.train(training)
    return weight.detach().float().clone(), bias.detach().float().clone()


def build_scores(
    reader: FeatureReader, names: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, OpenSetScore]:
    """Scores of a classifier, not fitted.

    Args:
        names: by the name that a table gives it: the ``type``, of :data:`SCORES`, and options; by default
            :data:`ABLATION`.
    """
    wanted = ABLATION if names is None else names
    parts = {name: dict(options) for name, options in wanted.items()}
    return {name: reader.score(options.pop("type"), **options) for name, options in parts.items()}


def fit_scores(
    scores: Mapping[str, OpenSetScore],
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    names: Sequence[str] | None = None,
) -> None:
    """Fit several scores in one pass over features (B, D), logits (B, K) and labels (B)."""
    for score in scores.values():
        score.reset()
    for features, logits, labels in batches:
        for score in scores.values():
            if score.fits:
                score.update(features, labels, logits)
    for score in scores.values():
        if score.fits:
            score.merge()
            score.finish(names)


def read_batches(
    model: nn.Module, reader: FeatureReader, loader: Iterable[Any]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Features, logits and labels of a loader's batches; -1 is the label of a sample that has none.

    Args:
        model: an :class:`~dense.classification.model.ImageClassifier`, in evaluation mode.
    """
    for batch in loader:
        data = model.data_preprocessor(batch, False)
        labels = [int(sample.get("gt_label", UNKNOWN)) for sample in data["data_samples"]]
        features, logits = reader(data["inputs"])
        yield features, logits, torch.tensor(labels, device=features.device)


@dataclass(frozen=True)
class Scored:
    """A set of samples as scores see it.

    Attributes:
        labels, predicted: (N) ints.
        scores: (N) by a score's name.
    """

    labels: np.ndarray
    predicted: np.ndarray
    scores: dict[str, np.ndarray]

    def curve(self, name: str, unknown: Scored) -> OpenSetCurve:
        """Of the known samples here and the unknown ones of another set."""
        unlabelled = np.full_like(unknown.labels, UNKNOWN)
        return open_set_curve(
            np.concatenate((self.labels, unlabelled)),
            np.concatenate((self.predicted, unknown.predicted)),
            np.concatenate((self.scores[name], unknown.scores[name])),
        )


@torch.no_grad()
def score_batches(
    scores: Mapping[str, OpenSetScore], batches: Iterable[tuple[Tensor, Tensor, Tensor]]
) -> Scored:
    """All scores of features (B, D), logits (B, K) and labels (B).

    Raises:
        ValueError: no batch.
    """
    labels, predicted, found = [], [], {name: [] for name in scores}
    for features, logits, truth in batches:
        labels.append(truth.cpu().numpy())
        predicted.append(logits.argmax(1).cpu().numpy())
        for name, score in scores.items():
            found[name].append(score(features, logits)[0].double().cpu().numpy())
    if not labels:
        raise ValueError("found no sample, wanted some to be scored")
    parts = {name: np.concatenate(values) for name, values in found.items()}
    return Scored(np.concatenate(labels), np.concatenate(predicted), parts)


@dataclass(frozen=True)
class OpenSetReport:
    """What :func:`evaluate_open_set` finds.

    Attributes:
        metrics: in percent, by set of unknown samples, score and metric, see
            :func:`~dense.classification.open_set_metrics.measure_open_set`.
        curves: by set and score.
        counts: samples of each set.
    """

    metrics: dict[str, dict[str, dict[str, float]]]
    curves: dict[str, dict[str, OpenSetCurve]]
    counts: dict[str, int]


def evaluate_open_set(
    model: nn.Module,
    train: Iterable[Any],
    known: Iterable[Any],
    unknown: Mapping[str, Iterable[Any]],
    validation: tuple[Iterable[Any], Iterable[Any]] | None = None,
    *,
    scores: Mapping[str, Mapping[str, Any]] | None = None,
    names: Sequence[str] | None = None,
    fprs: Sequence[float] = (0.01, 0.1),
    balanced: bool = False,
) -> OpenSetReport:
    """Fit scores on training data, and tell by them known test samples from unknown ones.

    Args:
        model: an :class:`~dense.classification.model.ImageClassifier`.
        train: loader of what the scores are fitted to, prepared as in a test.
        known: loader of the test of known classes.
        unknown: loaders of unknown samples, by name; each is told by itself.
        validation: loaders of known samples and of surrogates of unknown ones, which choose the threshold of
            OOSA.
        scores: see :func:`build_scores`.
        names: of the classes.
        fprs, balanced: see :func:`~dense.classification.open_set_metrics.measure_open_set`.

    Raises:
        ValueError: a network without a linear last layer; sets without samples.
    """
    training = model.training
    model.eval()
    try:
        reader = FeatureReader(model)
        own = build_scores(reader, scores)

        def score(loader: Iterable[Any]) -> Scored:
            return score_batches(own, read_batches(model, reader, loader))

        fit_scores(own, read_batches(model, reader, train), names)
        test, sets = score(known), {name: score(loader) for name, loader in unknown.items()}
        chosen = None if validation is None else tuple(map(score, validation))
    finally:
        model.train(training)
    metrics, curves = {}, {}
    for name, samples in sets.items():
        curves[name] = {kind: test.curve(kind, samples) for kind in own}
        metrics[name] = {}
        for kind, curve in curves[name].items():
            other = None if chosen is None else chosen[0].curve(kind, chosen[1])
            metrics[name][kind] = measure_open_set(curve, other, fprs=fprs, balanced=balanced)
    counts = {"known": len(test.labels), **{name: len(samples.labels) for name, samples in sets.items()}}
    return OpenSetReport(metrics, curves, counts)


def format_open_set(report: OpenSetReport) -> str:
    """A table of each set of unknown samples: a row a score, numbers in percent."""
    parts = []
    for name, rows in report.metrics.items():
        columns = list(next(iter(rows.values())))
        head = f"{report.counts['known']} known and {report.counts[name]} unknown samples ({name}), percent"
        cells = [[kind, *[f"{found[key]:.2f}" for key in columns]] for kind, found in rows.items()]
        parts += [head, align_columns([["score", *columns], *cells])]
    return "\n".join(parts)

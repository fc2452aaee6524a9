"""Any backbone with its published head as an MMEngine model that classifies images."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from ..base import ClassificationNetwork, TaskModel
from ..layers import record_attention
from ..registry import MODELS
from .sample import ImageDataSample

FLIPS = {"horizontal": (3,), "vertical": (2,), "both": (2, 3)}  # axes of images (B, C, H, W)


@MODELS.register_module()
class ImageClassifier(TaskModel):
    """A backbone and its published head; parameters are named as in ``dense.create_model``.

    So weights go from one to the other: what ``tools/convert_checkpoint.py`` wrote can be tested and tuned
    here, and what was trained here is ``dense.create_model(name, pretrained=CHECKPOINT)``. Of a head that has
    several outputs in training, all learn from the labels; a head may have a ``loss`` of its own instead, a
    method that takes them and the smoothed targets (B, num_classes) to a scalar or {"loss...": scalar}.

    Args:
        backbone: config, as ``dict(type="dense.DaViT", arch="tiny")``, or module.
        num_classes: number of logits.
        attention_loss: config or module of a further loss, of a list with the attention weights (B, heads, N,
            N) of each layer, as ``dict(type="AttentionDiversificationLoss")``.
        label_smoothing: share of each target that is spread evenly over all classes.
        class_weights: of each class in the loss, which is then the weighted mean over a batch, divided by the
            weights of its targets; none for equal ones. A head's own ``loss`` takes none.
        test_flips: of ``FLIPS``; predictions are the mean of the probabilities of the image and of each of
            its flips.
        augments: configs or modules (images, targets) -> the same, applied in training in this order to
            normalised images (B, C, H, W) and targets (B, num_classes), each of which sums to one.
        data_preprocessor: config; :class:`~dense.base.preprocessors.StackImages` by default.
        init_cfg: see MMEngine.
    """

    sample_class = ImageDataSample
    preprocessor = "dense.StackImages"

    def __init__(
        self,
        backbone: dict | nn.Module,
        num_classes: int = 1000,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        test_flips: Sequence[str] = (),
        augments: Sequence[dict | nn.Module] = (),
        attention_loss: dict | nn.Module | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(None, data_preprocessor, init_cfg)
        if isinstance(backbone, Mapping):
            backbone = self.build(_as_classifier(backbone))
        network = ClassificationNetwork(backbone, num_classes)
        self.backbone, self.head = network.backbone, network.head
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self._set_class_weights(class_weights)
        if unknown := [name for name in test_flips if name not in FLIPS]:
            raise ValueError(f"test_flips must be of {[*FLIPS]}, found {unknown[0]!r}")
        self.test_flips = tuple(test_flips)
        self.augments = nn.ModuleList(map(self.build, augments))
        self.attention_loss = None if attention_loss is None else self.build(attention_loss)
        if attention_loss is not None and getattr(backbone, "with_cp", False):
            raise ValueError("attention_loss needs the attention that with_cp computes anew: found both")

    def _set_class_weights(self, weights: Sequence[float] | None) -> None:
        if weights is not None:
            if len(weights) != self.num_classes or min(weights) < 0:
                raise ValueError(
                    f"class_weights must be {self.num_classes} numbers of at least 0, found {list(weights)}"
                )
            if hasattr(self.head, "loss"):
                raise ValueError(
                    f"class_weights: {type(self.head).__name__} has a loss of its own, found both"
                )
            weights = torch.tensor(weights, dtype=torch.float32)
        # they come from the config, so checkpoints need not have them
        self.register_buffer("class_weights", weights, persistent=False)

    def _forward(self, inputs: Tensor, data_samples: Sequence[ImageDataSample] | None = None) -> Any:
        return self.head(self.backbone.forward_features(inputs))

    def loss(self, inputs: Tensor, data_samples: Sequence[ImageDataSample]) -> dict[str, Tensor]:
        labels = torch.stack([sample.gt_label for sample in data_samples])
        targets = one_hot(labels, self.num_classes).float()
        for augment in self.augments:
            inputs, targets = augment(inputs, targets)
        if self.attention_loss is None:
            return self._logits_loss(self._forward(inputs), targets)
        with record_attention(self.backbone) as recorded:
            losses = self._logits_loss(self._forward(inputs), targets)
        attention = [weights for calls in recorded.values() for weights in calls]
        return {**losses, "loss_attention": self.attention_loss(attention)}

    def _logits_loss(self, logits: Any, targets: Tensor) -> dict[str, Tensor]:
        if hasattr(self.head, "loss"):
            smoothed = targets.lerp(torch.full_like(targets, 1 / self.num_classes), self.label_smoothing)
            losses = self.head.loss(logits, smoothed)
            return losses if isinstance(losses, Mapping) else {"loss": losses}
        outputs = logits if isinstance(logits, tuple) else (logits,)
        losses = [self._cross_entropy(x.float(), targets) for x in outputs]
        return {"loss": sum(losses) / len(losses)}

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        smoothing, weights = self.label_smoothing, self.class_weights
        if weights is None:
            return cross_entropy(logits, targets, label_smoothing=smoothing)
        # PyTorch divides by the weights' sum for labels, but by the batch for shares of classes
        total = cross_entropy(logits, targets, weights, label_smoothing=smoothing, reduction="sum")
        return total / (targets @ weights).sum()

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) to float32 (B, num_classes), over the flips on average."""
        found = self._forward(inputs).float().softmax(1)
        for name in self.test_flips:
            found = found + self._forward(inputs.flip(FLIPS[name])).float().softmax(1)
        return found / (1 + len(self.test_flips))

    def predict(self, inputs: Tensor, data_samples: Sequence[ImageDataSample]) -> list[ImageDataSample]:
        for sample, scores in zip(data_samples, self.probabilities(inputs), strict=True):
            sample.set_data({"pred_scores": scores, "pred_label": scores.argmax()})
        return list(data_samples)

    def example_inputs(self, batch: int, size: tuple[int, int]) -> tuple[Any, ...]:
        return self.backbone.example_inputs(batch, size)

    def convert_official(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.backbone.convert_official(state_dict)


def _as_classifier(config: Mapping[str, Any]) -> dict[str, Any]:
    """A backbone's config with what its class asks for in a classifier."""
    cls = MODELS.get(config["type"]) if isinstance(config["type"], str) else config["type"]
    if cls is None:
        raise KeyError(f"{config['type']} is not registered in {MODELS.scope}")
    arch = config.get("arch", signature(cls).parameters["arch"].default)
    return {**cls.classifier_options(arch), **config}

"""Any backbone with its published head as an MMEngine model that classifies images."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from ..backbones.base import ClassificationNetwork
from ..registry import MODELS
from .data_sample import ImageDataSample


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """A backbone and its published head; parameters are named as in ``dense.create_model``.

    So weights go from one to the other: what ``tools/convert_checkpoint.py`` wrote can be tested and tuned
    here, and what was trained here is ``dense.create_model(name, pretrained=CHECKPOINT)``. Of a head that has
    several outputs in training, all learn from the labels.

    Args:
        backbone: config, as ``dict(type="dense.DaViT", arch="tiny")``, or module.
        num_classes: number of logits.
        label_smoothing: share of each target that is spread evenly over all classes.
        augments: configs or modules (images, targets) -> the same, applied in training in this order to
            normalised images (B, C, H, W) and targets (B, num_classes), each of which sums to one.
        data_preprocessor: config; :class:`~dense.data.StackImages` by default.
        init_cfg: see MMEngine.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        num_classes: int = 1000,
        label_smoothing: float = 0.0,
        augments: Sequence[dict | nn.Module] = (),
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor or {"type": "dense.StackImages"}, init_cfg)
        if isinstance(backbone, Mapping):
            backbone = MODELS.build({"output_norm": False, **backbone})  # the head has its own norm
        network = ClassificationNetwork(backbone, num_classes)
        self.backbone, self.head = network.backbone, network.head
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.augments = nn.ModuleList(
            MODELS.build(augment) if isinstance(augment, Mapping) else augment for augment in augments
        )

    def forward(
        self, inputs: Tensor, data_samples: list[ImageDataSample] | None = None, mode: str = "tensor"
    ):
        """Logits for mode "tensor", {"loss": ...} for "loss", samples with predictions for "predict"."""
        if mode == "loss":
            labels = torch.stack([sample.gt_label for sample in data_samples])
            targets = one_hot(labels, self.num_classes).float()
            for augment in self.augments:
                inputs, targets = augment(inputs, targets)
            logits = self.head(self.backbone(inputs)[-1])
            heads = logits if isinstance(logits, tuple) else (logits,)
            losses = [cross_entropy(x.float(), targets, label_smoothing=self.label_smoothing) for x in heads]
            return {"loss": sum(losses) / len(losses)}
        logits = self.head(self.backbone(inputs)[-1])
        if mode == "tensor":
            return logits
        if mode != "predict":
            raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', found {mode!r}")
        samples = data_samples or [ImageDataSample() for _ in inputs]
        for sample, scores in zip(samples, logits.float().softmax(1), strict=True):
            sample.set_data({"pred_scores": scores, "pred_label": scores.argmax()})
        return samples

    def convert_official(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.backbone.convert_official(state_dict)

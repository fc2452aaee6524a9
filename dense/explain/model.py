"""A classifier that says where in the image it saw the class."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..classification.model import ImageClassifier
from ..classification.sample import ImageDataSample
from ..registry import MODELS
from .explain import Layers, explain, find_method


@MODELS.register_module()
class ExplainedClassifier(ImageClassifier):
    """An image classifier whose predictions have a map of what counts for the label: ``pred_map`` (H, W).

    The class asked about is ``gt_label`` of the sample; without one, the predicted class. Parameters are
    those of :class:`~dense.classification.ImageClassifier`: it takes checkpoints of that and gives such.

    Args:
        method, layer: of :func:`~dense.explain.explain`.
        method_options: further ones of it, as ``dict(smooth=0.02)``.
        **kwargs: of :class:`~dense.classification.ImageClassifier`.
    """

    def __init__(
        self,
        *args: Any,
        method: str = "norm_grad",
        layer: Layers = None,
        method_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        find_method(method)
        self.method, self.layer, self.method_options = method, layer, dict(method_options or {})

    def predict(self, inputs: Tensor, data_samples: Sequence[ImageDataSample]) -> list[ImageDataSample]:
        data_samples = super().predict(inputs, data_samples)
        target = [int(sample.get("gt_label", sample.pred_label)) for sample in data_samples]
        maps = explain(self, inputs, target, self.method, self.layer, **self.method_options)
        for sample, found in zip(data_samples, maps, strict=True):
            sample.set_data({"pred_map": found[0]})
        return data_samples

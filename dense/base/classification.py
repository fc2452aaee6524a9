"""A backbone and its head, as users of timm know them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..layers import switch_to_deploy


class ClassificationNetwork(nn.Module):
    """A backbone and its published head: images (B, 3, H, W) to logits (B, num_classes).

    Of a head with several outputs in training (branches, a teacher) the logits are a tuple then.

    Args:
        backbone: a :class:`~dense.base.backbone.BaseBackbone`.
        num_classes: number of logits; 0 is no classifier: the pre-logits (B, head_hidden_size) come out.

    Attributes:
        num_features: channels of what :meth:`forward_features` returns.
        head_hidden_size: width of the pre-logits, which the last layer takes.
    """

    def __init__(self, backbone: nn.Module, num_classes: int = 1000):
        super().__init__()
        self.backbone = backbone
        self.head = backbone.make_head(num_classes)
        if getattr(backbone, "deploy", False):
            switch_to_deploy(self.head)
        self.num_classes = num_classes

    @property
    def num_features(self) -> int:
        return self.backbone.num_features

    @property
    def feature_info(self) -> list[dict[str, int]]:
        """Channels and stride of the backbone's outputs."""
        return self.backbone.feature_info

    @property
    def head_hidden_size(self) -> int:
        return self.head.hidden_size

    def forward_features(self, x: Tensor) -> Any:
        """Images to what the head takes, see the backbone."""
        return self.backbone.forward_features(x)

    def forward_head(self, features: Any, pre_logits: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Features to logits (B, num_classes), or with ``pre_logits`` to what the last layer takes."""
        return self.head(features, pre_logits)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Fresh last layers for other classes; 0 leaves none."""
        self.head.reset(num_classes)
        self.head.to(next(self.backbone.parameters()))
        self.num_classes = num_classes

    def convert_official(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights named as here, see the backbone."""
        return self.backbone.convert_official(state_dict)

    def example_inputs(self, batch: int = 2, size: tuple[int, int] = (224, 224)) -> tuple[Tensor, ...]:
        """Random images of a size that the backbone takes."""
        return self.backbone.example_inputs(batch, size)

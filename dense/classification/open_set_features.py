"""What a trained classifier's last layer takes and does, whatever the classifier is."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn


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

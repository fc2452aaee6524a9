import numpy as np
import pytest
import torch
from torch import nn

from dense.backbones import ViT
from dense.classification import Classifier
from dense.explain.predictor import Explainer

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def vit():
    torch.manual_seed(0)
    small = {"patch_size": 8, "embed_dims": 32, "depth": 3, "num_heads": 2, "img_size": 32}
    return ViT.create({**ViT.archs["tiny"], **small}, num_classes=3)


def test_methods_that_a_network_does_not_allow_are_left_out_by_default(monkeypatch):
    """Relevance propagation has no rule for a softmax; asked for by name, it says so."""
    said = []
    monkeypatch.setattr("dense.explain.predictor.print_log", lambda message, *_: said.append(message))
    found = Explainer(vit(), device="cpu")(IMAGE)
    names = {method for method, _ in found.maps}
    assert "grad_cam" in names and "lrp" not in names
    assert any(message.startswith("left out lrp: layer 'backbone.blocks.0.norm1'") for message in said)
    with pytest.raises(ValueError, match="softmax|no rule|lrp"):
        Explainer(vit(), device="cpu", methods=("grad_cam", "lrp"))(IMAGE)


def test_what_no_method_allows_is_an_error():
    with pytest.raises(ValueError, match="target"):
        Explainer(vit(), device="cpu", target=7)(IMAGE)


def test_a_class_by_name():
    assert issubclass(Explainer, Classifier)
    with pytest.raises(ValueError, match="target: found 'dog', wanted a number or one of "):
        Explainer(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), device="cpu", target="dog")

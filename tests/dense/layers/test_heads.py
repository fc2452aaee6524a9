"""Heads: features to pre-logits to logits, and other numbers of classes."""

import pytest
import torch
from torch import nn

from dense.layers import ClassificationHead, PooledLinear, TokenHead, make_classifier
from dense.layers.heads import NoClassifier


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_make_classifier():
    assert make_classifier(500, 400).weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not make_classifier(5, 4).bias.any()
    plain = make_classifier(100, 4, None)
    assert plain.weight.abs().max() > 0.08 and plain.bias.any()  # uniform up to 0.1, as PyTorch has it
    assert torch.all(make_classifier(5, 4, lambda fc: nn.init.ones_(fc.weight)).weight == 1)
    none = make_classifier(5, 0)
    assert isinstance(none, NoClassifier) and none.in_features == 5 and not list(none.parameters())
    with pytest.raises(ValueError, match="num_classes must not be negative, found -2"):
        make_classifier(5, -2)


def test_pooled_linear():
    head = PooledLinear(6, 4, nn.LayerNorm(6))
    x = torch.randn(2, 6, 3, 5)
    pooled = head.norm(x.mean((2, 3)))
    assert torch.equal(head(x, pre_logits=True), pooled) and torch.equal(head(x), head.fc(pooled))
    assert list(PooledLinear(6, 4).state_dict()) == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_token_head(pool):
    head = TokenHead(6, 4, pool=pool, num_prefix_tokens=3)
    x = torch.randn(2, 9, 6)
    wanted = x[:, 0] if pool == "token" else x[:, 3:].mean(1)
    assert torch.equal(head(x, pre_logits=True), wanted) and torch.equal(head(x), head.fc(wanted))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pool": "max"}, "'token' or 'mean', found 'max'"), ({"num_prefix_tokens": 0}, "wants a class token")],
)
def test_bad_token_heads(options, message):
    with pytest.raises(ValueError, match=message):
        TokenHead(6, 4, **options)


class TwoBranches(ClassificationHead):
    """Two last layers, one in a part; both learn in training."""

    def __init__(self, hidden_size, num_classes):
        super().__init__(hidden_size, num_classes, lambda fc: nn.init.constant_(fc.weight, 3))
        self.other = nn.Module()
        self.other.fc = make_classifier(hidden_size, num_classes, self.init)

    def pre_logits(self, features):
        return features

    def classify(self, x):
        logits = self.fc(x), self.other.fc(x)
        return logits if self.training else sum(logits) / 2


def test_reset_reaches_every_last_layer():
    head, x = TwoBranches(5, 4), torch.randn(2, 5)
    assert [y.shape for y in head(x)] == [(2, 4)] * 2 and head.eval()(x).shape == (2, 4)
    head.reset(0)
    assert torch.equal(head(x), x) and not list(head.parameters())
    head.reset(7)
    assert head(x).shape == (2, 7) and torch.all(head.other.fc.weight == 3) and torch.all(head.fc.weight == 3)
    assert head(x, pre_logits=True) is x


def test_a_head_may_leave_its_last_layer_to_a_subclass():
    assert not list(ClassificationHead(5, None).parameters())
    with pytest.raises(NotImplementedError):
        ClassificationHead(5, 2)(torch.zeros(1, 5))

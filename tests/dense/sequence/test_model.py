"""The shell of language models, and how their predictions are measured."""

from math import log

import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch import nn
from torch.nn import functional as F

from dense.sequence.datasets import next_tokens
from dense.sequence.metrics import TokenLikelihood
from dense.sequence.model import LanguageModeler


class Constant(nn.Module):
    """The same logits for every token."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, ids):
        return self.logits.expand(*ids.shape, -1)


def batch(*windows):
    return pseudo_collate([next_tokens(torch.tensor(window)) for window in windows])


def test_loss_is_the_mean_over_tokens():
    model = LanguageModeler(Constant(1.0, 2.0, 0.0))
    data = model.data_preprocessor(batch([0, 1, 1, 2], [2, 0, 1, 0]))
    data["data_samples"][1].targets[:2] = -100
    loss = model(**data, mode="loss")["loss"]
    nats = -F.log_softmax(torch.tensor([1.0, 2.0, 0.0]), 0)
    torch.testing.assert_close(loss, nats[[1, 1, 2, 0]].mean())
    loss.backward()
    assert model.network.logits.grad.abs().max() > 0


def test_predictions_and_their_measures():
    model = LanguageModeler(Constant(0.0, 0.0, 0.0, 0.0)).eval()
    data = batch([0, 1, 3], [2, 2, 1])
    data["data_samples"][0].targets[0] = -100
    samples = model.test_step(data)
    assert [sample.tokens for sample in samples] == [1, 2]
    assert float(samples[1].nats) == pytest.approx(2 * log(4), rel=1e-6)
    metric = TokenLikelihood(unit="byte")
    metric.process(None, [sample.to_dict() for sample in samples])
    found = metric.evaluate(2)
    assert found == pytest.approx({"loss/nats": log(4), "loss/bits_per_byte": 2.0}, rel=1e-6)


def test_windows_without_targets_cannot_be_measured():
    metric = TokenLikelihood()
    metric.process(None, [{"nats": 0.0, "tokens": 0}])
    with pytest.raises(ValueError, match="the test has no token to predict"):
        metric.compute_metrics(metric.results)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([1, 4]), r"targets must be 0\.\.3 or -100, found 4"),
        (torch.tensor([-1, 1]), r"targets must be 0\.\.3 or -100, found -1"),
        (torch.tensor([1]), r"targets must be \(1, 2\) as the tokens, found \(1, 1\)"),
        (None, "found a sample without targets"),
    ],
)
def test_bad_targets(targets, message):
    model = LanguageModeler(Constant(0.0, 0.0, 0.0, 0.0))
    data = model.data_preprocessor(batch([0, 1, 3]))
    (sample,) = data["data_samples"]
    if targets is None:
        del sample.targets
    else:
        sample.targets = targets
    with pytest.raises(ValueError, match=message):
        model(**data, mode="loss")


def test_sequences_of_different_length():
    model = LanguageModeler(Constant(0.0, 0.0))
    with pytest.raises(ValueError, match="sequences of one batch must have one size"):
        model.data_preprocessor(batch([0, 1, 1], [0, 1]))

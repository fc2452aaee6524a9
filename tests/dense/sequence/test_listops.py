"""ListOps: worth of expressions, draws by seed, bounds, targets, bad input."""

from random import Random

import pytest
import torch

from dense.sequence.listops import IDS, TOKENS, ListOps, draw_expression, evaluate
from dense.sequence.metrics import TokenAccuracy
from dense.sequence.model import LanguageModeler
from pointsuite.engine.errors import UsageError

SMALL = {"length": 40, "max_depth": 3, "max_arguments": 4, "min_tokens": 5, "max_tokens": 30}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MIN [MAX 3 5 ] 8 ]", 5),
        ("[MED 1 5 9 ]", 5),
        ("[MED 2 3 ]", 2),  # 2.5, rounded down
        ("[SM 9 8 7 ]", 4),
    ],
)
def test_worth(text, value):
    assert evaluate(text.split()) == value


@pytest.mark.parametrize(
    "text", ["[MAX 1 2", "1 2", "]", "[MAX ]", "[SUM 1 2 ]", "[MAX 1 x ]", "[MAX 1 12 ]"]
)
def test_what_is_no_expression(text):
    with pytest.raises(ValueError, match="wanted"):
        evaluate(text.split())


def test_draws_keep_the_grammar():
    depths, values = set(), set()
    for i in range(300):
        tokens, value = draw_expression(Random(i), 3, 4)
        assert evaluate(tokens) == value
        depth = members = deepest = 0
        for token in tokens:
            depth += token.startswith("[")
            deepest = max(depth, deepest)
            depth -= token == "]"
            members += token != "]"
        assert members <= 1 + 4 + 16 + 64
        depths.add(deepest)
        values.add(value)
    assert depths == {1, 2, 3} and values == set(range(10))


def test_samples():
    dataset = ListOps(**SMALL)
    assert len(dataset) == 40 and dataset.metainfo["vocabulary"] == TOKENS
    lengths = set()
    for sample in dataset:
        inputs, known = sample["inputs"], sample["data_samples"]
        written = known.expression.split()
        assert 5 <= len(written) <= 30
        assert inputs.shape == known.targets.shape == (31,)
        assert [TOKENS[i] for i in inputs if i != IDS["_"]] == [*written, "="]
        assert inputs[-1] == IDS["="] and (known.targets[:-1] == -100).all()
        assert known.targets[-1] == evaluate(written)
        lengths.add(len(written))
    assert len(lengths) > 5
    full = ListOps(**SMALL, answers_only=False)[0]
    count = len(full["data_samples"].expression.split())
    assert torch.equal(full["data_samples"].targets[-count - 1 : -1], full["inputs"][-count:])
    assert (full["data_samples"].targets[: -count - 1] == -100).all()


class Always(torch.nn.Module):
    """Says the same token, whatever it is given."""

    def forward(self, ids):
        return torch.nn.functional.one_hot(torch.full_like(ids, 7), len(TOKENS)).float()


def test_accuracy_counts_answers_alone():
    dataset = ListOps(**SMALL)
    samples = [dataset[i] for i in range(20)]
    inputs = torch.stack([sample["inputs"] for sample in samples])
    known = [sample["data_samples"] for sample in samples]
    found = LanguageModeler(Always()).predict(inputs, known)
    metric = TokenAccuracy()
    metric.process(None, [sample.to_dict() for sample in found])
    right = sum(sample.targets[-1] == 7 for sample in known)
    assert 0 < right < 20 and all(sample.tokens == 1 for sample in found)
    assert metric.compute_metrics(metric.results) == {"top1": 100 * int(right) / 20}
    with pytest.raises(ValueError, match="no token to predict"):
        metric.compute_metrics([(0, 0)])


def test_draws_follow_seed_and_split():
    def texts(**options):
        return [sample["data_samples"].expression for sample in ListOps(**{**SMALL, "length": 8}, **options)]

    assert texts() == texts() != texts(seed=1)
    assert len(set(texts()) & set(texts(split="test"))) < 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tst"}, "split must be one of .* found 'tst'; did you mean test"),
        ({"max_depth": 0}, "must be from 1, 1 and 2, found 40, 0 and 4"),
        ({"max_tokens": 3, "min_tokens": 3}, "max_tokens must be at least 4 and min_tokens, found 3 to 3"),
        ({"max_depth": 1, "min_tokens": 20}, "found no expression of 20 to 30 tokens among 10000"),
    ],
)
def test_bad_bounds(options, message):
    with pytest.raises(UsageError, match=message):
        ListOps(**{**SMALL, **options})[0]

"""Scores of open-set recognition: by hand, streaming, merging, any classifier, bad input."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from dense.base import ClassificationNetwork
from dense.classification import open_set
from dense.classification.open_set import (
    COSTARR,
    GHOST,
    SCORES,
    UNKNOWN,
    Energy,
    MaxLogit,
    PostMax,
    make_score,
)
from dense.classification.open_set_evaluation import build_scores, fit_scores, score_batches
from dense.classification.open_set_features import FeatureReader, effective_linear
from dense.layers import PooledLinear, PooledNormLinear

from .toy import ToyNet

HAND = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
SEEN = torch.tensor([[2.0, 1.0], [1.0, 3.0], [4.0, 0.0]])


def hand(**options):
    score = COSTARR(HAND, **options)
    score.fit([(SEEN, torch.tensor([0, 1, 0]))])
    return score


def data(count=300, width=6, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, width, generator=generator)
    weight, bias = (torch.randn(*shape, generator=generator) for shape in ((classes, width), (classes,)))
    labels = torch.randint(classes, (count,), generator=generator)
    return weight, bias, features, labels


# ------------------------------------------------------------------------------------------------ COSTARR


def test_by_hand():
    score = hand()
    assert score.mean.tolist() == [[3, 0.5, 3, 0], [1, 3, 0, 6]]
    assert score.logit_range.tolist() == [2, 6] and score.count.tolist() == [2, 1]
    found, predicted = score(torch.tensor([[3.0, 1.0], [1.0, 3.0]]))
    assert predicted.tolist() == [0, 1]
    torch.testing.assert_close(found, torch.tensor([0.248372, 1.0]), atol=1e-6, rtol=0)
    assert score.decide(torch.tensor([[3.0, 1.0]]), 0.248).tolist() == [0]
    assert score.decide(torch.tensor([[3.0, 1.0]]), 0.249).tolist() == [UNKNOWN]


def test_options():
    x = torch.tensor([[3.0, 1.0], [9.0, 1.0]])
    no_logit, _ = hand(use_logit=False)(x)
    torch.testing.assert_close(no_logit[0], torch.tensor(18.5 / (19 * 18.25) ** 0.5))
    pre, _ = hand(use_logit=False, features="pre")(x)
    torch.testing.assert_close(pre[0], torch.tensor(9.5 / (10 * 9.25) ** 0.5))
    post, _ = hand(use_logit=False, features="post")(x)
    torch.testing.assert_close(post[0], torch.tensor(1.0))
    free, cut = hand()(x)[0], hand(clamp=True)(x)[0]
    assert free[1] > 1 >= cut[1] and free[0] == cut[0]
    below, _ = hand()(torch.tensor([[0.5, 0.1]]))
    assert below.item() == 0
    with pytest.raises(ValueError, match=r"features must be one of \['both', 'pre', 'post'\], found 'all'"):
        COSTARR(HAND, features="all")


def test_attenuated_features_sum_to_the_logit():
    weight, bias, features, _ = data()
    z = features @ weight.T + bias
    k = z.argmax(1)
    torch.testing.assert_close((weight[k] * features).sum(1) + bias[k], z.amax(1))
    score = COSTARR(weight, bias)
    score.fit([(features, k)])
    torch.testing.assert_close(score.similarity(3 * features, k), score.similarity(features, k))
    assert (score.normalise_logit(z.amax(1)).amin(), score.normalise_logit(z.amax(1)).amax()) == (0, 1)


def test_streams_shuffled_and_merged_fits_are_one_fit():
    weight, bias, features, labels = data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    for name in ("costarr", "ghost"):
        whole, stream, left, right = (make_score(name, weight, bias) for _ in range(4))
        whole.fit([(features, labels)])
        stream.fit(zip(features[order].split(7), labels[order].split(7), strict=True))
        left.update(features[:100], labels[:100])
        right.update(features[100:], labels[100:])
        left.add(right)
        left.finish()
        for other in (stream, left):
            for key, value in whole.state_dict().items():
                torch.testing.assert_close(other.state_dict()[key], value, msg=f"{name} {key}")
        loaded = make_score(name, torch.zeros_like(weight))
        loaded.load_state_dict(whole.state_dict())
        assert torch.equal(loaded(features)[0], whole(features)[0])
        assert torch.equal(whole(features[3:4])[0], whole(features)[0][3:4])


def test_merging_in_a_distributed_run(tmp_path):
    """Of one process, which changes nothing; one that has seen no sample takes part."""
    weight, bias, features, labels = data()
    alone, merged, empty = (COSTARR(weight, bias) for _ in range(3))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        merged.fit([(features, labels)])
        empty.merge()
    finally:
        torch.distributed.destroy_process_group()
    alone.fit([(features, labels)])
    assert all(torch.equal(merged.state_dict()[key], value) for key, value in alone.state_dict().items())
    assert empty.totals.keys() == alone.totals.keys() and empty.highest.keys() == alone.highest.keys()


def test_only_right_samples_count():
    weight, bias, features, labels = data()
    right = (features @ weight.T + bias).argmax(1) == labels
    all_of_them, those = COSTARR(weight, bias), COSTARR(weight, bias)
    all_of_them.fit([(features, labels)])
    those.fit([(features[right], labels[right])])
    assert all_of_them.count.sum() == right.sum() < len(labels)
    assert torch.equal(all_of_them.mean, those.mean)


def test_classes_never_predicted_right(monkeypatch):
    said = []
    monkeypatch.setattr(open_set, "print_log", lambda message, *args: said.append(message))
    weight, bias, features, labels = data()
    hits = (features @ weight.T + bias).argmax(1)
    lost = hits == 2
    x = features[lost][:5]
    for name, wanted in (("costarr", 0.0), ("ghost", float("-inf"))):
        score = make_score(name, weight, bias)
        score.fit([(features[~lost], hits[~lost])], names=["cat", "dog", "owl", "pig"])
        assert "too few right predictions in training of the classes owl: what" in said.pop()
        assert (score(x)[0] == wanted).all() and score(features[~lost])[0].isfinite().all()
    nothing = COSTARR(weight, bias)
    nothing.fit([])
    assert not nothing(features)[0].any()


def test_one_winning_logit_has_no_range():
    score = COSTARR(HAND)
    score.fit([(SEEN[:1], torch.tensor([0]))])
    x = torch.tensor([[2.0, 1.0], [1.9, 0.0]])
    assert score.normalise_logit(x @ HAND.T[:, 0]).tolist() == [1, 0]


# -------------------------------------------------------------------------------------------------- others


def test_others_by_hand():
    x = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    z = x @ HAND.T
    found = {name: make_score(name, HAND)(x)[0] for name in ("msp", "maxlogit", "energy", "postmax")}
    torch.testing.assert_close(found["msp"], z.softmax(1).amax(1))
    assert found["maxlogit"].tolist() == [3, 0]
    torch.testing.assert_close(found["energy"], z.exp().sum(1).log())
    torch.testing.assert_close(found["postmax"], torch.tensor([3 / 10**0.5, 0]))
    torch.testing.assert_close(Energy(HAND, temperature=2.0)(x)[0], 2 * (z / 2).exp().sum(1).log())
    with pytest.raises(ValueError, match="temperature must be positive, found 0"):
        Energy(HAND, temperature=0)


def test_ghost_leaves_out_what_does_not_vary():
    features = torch.tensor([[3.0, 0.1], [5.0, 0.1], [7.0, 0.1]])
    score = GHOST(HAND)
    score.fit([(features, torch.zeros(3, dtype=torch.long))])
    assert score.mean[0].tolist() == pytest.approx([5, 0.1]) and score.std[0].tolist() == [2, float("inf")]
    x = torch.tensor([[8.0, 3.0]])
    assert score(x)[0].item() == pytest.approx(8 / 1.5)
    assert score.normalise(x).tolist() == [[pytest.approx(8 / 1.5), 0]]


@pytest.mark.parametrize("name", SCORES)
def test_half_precision_is_summed_in_single(name):
    weight, bias, features, labels = data()
    score = make_score(name, weight, bias)
    score.fit([((100 * features).half(), labels)])
    found, _ = score((100 * features).half())
    assert found.dtype == torch.float32 and found.isfinite().all()


# ----------------------------------------------------------------------------------------- any classifier


def classifier(head=None, classes=4):
    torch.manual_seed(0)
    net = ClassificationNetwork(ToyNet(), classes).eval()
    if head is not None:
        net.head = head
    return net


IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_features_are_pre_logits():
    net = classifier()
    reader = FeatureReader(net)
    for _ in range(2):
        features, logits = reader(IMAGES)
        torch.testing.assert_close(features, net.forward_head(net.forward_features(IMAGES), pre_logits=True))
        torch.testing.assert_close(logits, net(IMAGES))
    assert torch.equal(reader.weight, net.head.fc.weight) and reader.layer_name == "head.fc"


def test_features_of_any_module():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 5), nn.ReLU(), nn.Linear(5, 3))
    features, logits = FeatureReader(net)(IMAGES)
    torch.testing.assert_close(features, net[:3](IMAGES))
    torch.testing.assert_close(logits, net(IMAGES))


def test_effective_weights():
    """A parametrised weight counts as it is, and so does that of any affine layer."""
    net = classifier()
    fc = parametrizations.weight_norm(net.head.fc)
    with torch.no_grad():
        fc.parametrizations.weight.original0.fill_(2.0)
    features, logits = FeatureReader(net)(IMAGES)
    weight, bias = effective_linear(fc)
    torch.testing.assert_close(weight.norm(dim=1), torch.full((4,), 2.0))
    torch.testing.assert_close(features @ weight.T + bias, logits)


class Cosine(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6), self.weight)


def two_heads():
    return PooledNormLinear(8, 4, distillation=True).eval()


def cosine_head():
    head = PooledLinear(8, 4)
    head.fc = Cosine(8, 4)
    return head


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (two_heads, "ToyNet: its PooledNormLinear has as last layers head.cls.fc, head.dist.fc, wanted one"),
        (cosine_head, "ToyNet: its last layer 'head.fc' is not linear"),
        (lambda: PooledLinear(8, 0), "ToyNet: its PooledLinear has as last layers none, wanted one"),
    ],
)
def test_networks_without_a_linear_head(head, message):
    with pytest.raises(ValueError, match=message):
        FeatureReader(classifier(head()))(IMAGES)
    with pytest.raises(ValueError, match="Sequential: has no nn.Linear"):
        FeatureReader(nn.Sequential(nn.Flatten()))


def test_logits_that_are_no_linear_map():
    class Twice(PooledLinear):
        def classify(self, x):
            return super().classify(x).square()

    with pytest.raises(ValueError, match="its logits are not its features times the weights of 'head.fc'"):
        FeatureReader(classifier(Twice(8, 4)))(IMAGES)


def test_several_scores_in_one_pass():
    weight, bias, features, labels = data()
    reader = FeatureReader(classifier())
    scores = build_scores(reader)
    assert list(scores)[:6] == list(SCORES) and scores["costarr, pre"].features == "pre"
    scores = {name: make_score(name, weight, bias) for name in SCORES}
    logits = features @ weight.T + bias
    fit_scores(scores, [(features, logits, labels)])
    found = score_batches(scores, [(features[:9], logits[:9], labels[:9])])
    for name, score in scores.items():
        torch.testing.assert_close(torch.from_numpy(found.scores[name]).float(), score(features[:9])[0])
    with pytest.raises(ValueError, match="score must be one of msp, .*, found 'odin'"):
        build_scores(reader, {"a": {"type": "odin"}})
    with pytest.raises(ValueError, match="found no sample"):
        score_batches(scores, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(2, 5)}, r"features must be \(B, 6\), found \(2, 5\)"),
        ({"labels": torch.tensor([0, 4])}, "found the label 4 in training, wanted 0 to 3"),
        ({"labels": torch.tensor([-1, 0])}, "found the label -1 in training"),
        ({"labels": torch.tensor([0])}, r"labels must be \(2,\), found \(1,\)"),
        (
            {"features": torch.full((2, 6), torch.nan)},
            "features must be finite, found nan in sample 0, place 0",
        ),
        ({"logits": torch.zeros(2, 3)}, r"logits must be \(2, 4\), found \(2, 3\)"),
    ],
)
def test_bad_input(change, message):
    weight, bias, features, labels = data()
    with pytest.raises(ValueError, match=message):
        COSTARR(weight, bias).update(**{"features": features[:2], "labels": labels[:2], **change})


def test_bad_weights():
    with pytest.raises(ValueError, match=r"weight must be \(K, D\), at least one each, found \(3,\)"):
        MaxLogit(torch.zeros(3))
    with pytest.raises(ValueError, match=r"bias must be \(2,\), found \(3,\)"):
        PostMax(HAND, torch.zeros(3))

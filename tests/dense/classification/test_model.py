import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from dense.base import ClassificationNetwork
from dense.classification.augment import Mixup
from dense.classification.model import ImageClassifier
from dense.classification.sample import ImageDataSample
from dense.registry import MODELS

from .toy import ToyNet


def sample(label):
    return ImageDataSample(gt_label=torch.tensor(label))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ImageClassifier({"type": "ToyNet"}, num_classes=5, label_smoothing=0.2)


IMAGES = torch.randn(4, 3, 16, 24, generator=torch.Generator().manual_seed(0))
LABELS = (0, 4, 2, 2)


def test_loss_is_smoothed_cross_entropy(model):
    found = model(IMAGES, [sample(label) for label in LABELS], mode="loss")["loss"]
    logits = model(IMAGES)
    assert logits.shape == (4, 5)
    wanted = cross_entropy(logits, torch.tensor(LABELS), label_smoothing=0.2)
    torch.testing.assert_close(found, wanted)
    found.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_predictions(model):
    model.eval()
    samples = model(IMAGES, [sample(label) for label in LABELS], mode="predict")
    logits = model(IMAGES)
    for found, row in zip(samples, logits, strict=True):
        torch.testing.assert_close(found.pred_scores, row.softmax(0))
        assert found.pred_label == row.argmax()
    assert [s.gt_label.item() for s in samples] == list(LABELS)
    alone = model(IMAGES[1:2], mode="predict")[0]  # no data samples
    torch.testing.assert_close(alone.pred_scores, samples[1].pred_scores)


def test_every_output_of_a_head_learns(model):
    """As that of SHViT with distillation, which returns two logits in training."""

    class Two(torch.nn.Module):
        def __init__(self, head):
            super().__init__()
            self.first, self.second = head, copy.deepcopy(head)

        def forward(self, x):
            return self.first(x), self.second(-x)

    model.head = Two(model.head)
    samples = [sample(label) for label in LABELS]
    found = model(IMAGES, samples, mode="loss")["loss"]
    logits, labels = model(IMAGES), torch.tensor(LABELS)
    wanted = sum(cross_entropy(x, labels, label_smoothing=0.2) for x in logits) / 2
    torch.testing.assert_close(found, wanted)


def test_a_head_may_bring_its_own_loss(model):
    model.head.loss = lambda logits, targets: {"loss_own": (logits * targets).sum(), "seen": targets}
    found = model(IMAGES, [sample(label) for label in LABELS], mode="loss")
    assert list(found) == ["loss_own", "seen"]
    assert found["seen"][1].tolist() == pytest.approx([0.04] * 4 + [0.84])  # smoothed
    torch.testing.assert_close(found["loss_own"], (model(IMAGES) * found["seen"]).sum())
    model.head.loss = lambda logits, targets: logits.sum()
    found = model(IMAGES, [sample(label) for label in LABELS], mode="loss")
    torch.testing.assert_close(found["loss"], model(IMAGES).sum())


@pytest.mark.parametrize("config", [{"type": "DaViT"}, {"type": "dense.ViT", "arch": "tiny", "img_size": 32}])
def test_backbones_are_built_as_their_classes_ask_for(config):
    """A pyramid without its unused maps and their norms; tokens as well."""
    small = {"DaViT": {"depths": (1, 1, 1, 1)}, "ViT": {"depth": 1}}[config["type"].split(".")[-1]]
    cls = MODELS.get(config["type"])
    arch = {**next(iter(cls.archs.values())), **small}
    model = ImageClassifier({**config, "arch": arch}, num_classes=7).eval()
    wanted = cls.create(arch, num_classes=7, **{k: v for k, v in config.items() if k == "img_size"}).eval()
    wanted.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert model(x).equal(wanted(x)) and model(x).shape == (2, 7)


def test_unknown_backbones_are_named():
    with pytest.raises(KeyError, match="Nobody is not registered in dense"):
        ImageClassifier({"type": "Nobody"})


def test_published_weights_are_converted_by_the_backbone(model, monkeypatch):
    monkeypatch.setattr(
        ToyNet, "convert_official", lambda self, state: {"head.fc.bias": state["b"]}, raising=False
    )
    assert model.convert_official({"b": LABELS}) == {"head.fc.bias": LABELS}


def test_unknown_mode(model):
    with pytest.raises(ValueError, match="found 'guess'"):
        model(IMAGES, mode="guess")


def test_weights_are_those_of_the_bare_network(model):
    assert model.backbone.output_norm is False
    network = ClassificationNetwork(ToyNet(), num_classes=5)
    network.load_state_dict(model.state_dict())
    torch.testing.assert_close(network.eval()(IMAGES), model.eval()(IMAGES))


def test_augments_change_training_only(model):
    class Negate(torch.nn.Module):
        def forward(self, images, targets):
            return -images, targets.flip(1)

    plain = copy.deepcopy(model)
    model.augments.append(Negate())
    found = model(IMAGES, [sample(label) for label in LABELS], mode="loss")["loss"]
    wanted = plain(-IMAGES, [sample(4 - label) for label in LABELS], mode="loss")["loss"]
    torch.testing.assert_close(found, wanted)
    plain.load_state_dict(model.state_dict())
    assert model.eval()(IMAGES).equal(plain.eval()(IMAGES))


def test_augments_are_built_from_configs():
    model = ImageClassifier(ToyNet(), 2, augments=[{"type": "dense.Mixup", "cutmix": 0}])
    assert isinstance(model.augments[0], Mixup) and model.augments[0].cutmix == 0


# ------------------------------------------------------------------------------- class weights, test flips


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_class_weights_are_those_of_pytorch(smoothing):
    weights = (1.0, 0.8, 1.3, 2.0, 0.5)
    model = ImageClassifier(ToyNet(), 5, label_smoothing=smoothing, class_weights=weights)
    found = model(IMAGES, [sample(label) for label in LABELS], mode="loss")["loss"]
    wanted = cross_entropy(
        model(IMAGES), torch.tensor(LABELS), torch.tensor(weights), label_smoothing=smoothing
    )
    torch.testing.assert_close(found, wanted)
    assert not any("class_weights" in key for key in model.state_dict())


def test_flips_average_probabilities():
    model = ImageClassifier(ToyNet(), 5, test_flips=("horizontal", "vertical")).eval()
    wanted = sum(model(x).softmax(1) for x in (IMAGES, IMAGES.flip(3), IMAGES.flip(2))) / 3
    found = torch.stack([s.pred_scores for s in model(IMAGES, mode="predict")])
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, model(IMAGES).softmax(1), atol=1e-4)
    torch.testing.assert_close(model(IMAGES.flip(3).flip(3), mode="tensor"), model(IMAGES))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": (1, 2)}, r"class_weights must be 5 numbers of at least 0, found \[1, 2\]"),
        ({"class_weights": (1, 1, 1, 1, -1)}, "at least 0"),
        ({"test_flips": ("diagonal",)}, r"test_flips must be of \['horizontal', .*found 'diagonal'"),
    ],
)
def test_bad_weights_and_flips(options, message):
    with pytest.raises(ValueError, match=message):
        ImageClassifier(ToyNet(), 5, **options)

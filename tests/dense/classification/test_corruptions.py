import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dense.classification import ImageClassifier
from dense.classification.corruptions import CORRUPTIONS, evaluate_corruptions
from dense.classification.datasets import ImageFolder
from pointsuite.engine.corruptions import SEVERITIES

from .toy import ToyNet


def corrupt(name, image, severity, **options):
    return CORRUPTIONS[name](severity, **options)({"img": image})["img"]


@pytest.fixture
def picture():
    """Slopes with steps of eight pixels."""
    y, x = np.mgrid[:48, :64]
    steps = 60 * ((x // 8 + y // 8) % 2)
    return np.stack([3 * x + steps, 4 * y + steps, x + y + steps], 2).astype(np.uint8)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_changes_more(name, small, picture):
    changes = []
    for severity in SEVERITIES:
        changed = corrupt(name, picture, severity, small=small)
        assert changed.dtype == np.uint8 and changed.shape == picture.shape
        changes.append(np.abs(changed.astype(float) - picture).mean())
    assert 0 < changes[0] < changes[-1] and changes == sorted(changes)


def test_levels_are_what_their_unit_says():
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert corrupt("noise", grey, 1).std() / 255 == pytest.approx(0.08, rel=0.03)
    assert np.array_equal(corrupt("contrast", grey, 5), grey)
    half = grey.copy()
    half[:32] = 28
    assert np.ptp(corrupt("contrast", half, 1)) == pytest.approx(0.4 * 100, abs=1)
    point = np.zeros((64, 64, 3), np.uint8)
    point[32, 32] = 255
    row = corrupt("blur", point, 1)[32, :, 0].astype(float)
    offset = np.arange(64) - 32
    assert (row * offset**2).sum() / row.sum() == pytest.approx(1, abs=0.15)


class Contrast(ToyNet):
    """Class 1 for pictures whose channels vary, in 0..255, by more than 40."""

    def forward_features(self, images):
        spread = images.flatten(1).std(1)
        return torch.stack([40 - spread, spread - 40], 1)


def test_evaluation(tmp_path, picture):
    for name, image in {"dull": np.full((20, 24, 3), 99, np.uint8), "rich": picture}.items():
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    steps = [{"type": "LoadImage"}, {"type": "PackImage"}]
    dataset = ImageFolder(tmp_path, pipeline=steps, test_mode=True)
    levels = {"type": "dense.StackImages", "mean": [0.0], "std": [1.0]}
    model = ImageClassifier(Contrast(), 2, data_preprocessor=levels)
    model.head = nn.Identity()
    model.train()
    results = evaluate_corruptions(model, dataset, ["noise", "contrast"], [1, 5], batch_size=1)
    assert model.training and list(results) == ["clean", "noise", "contrast"]
    assert results["noise"].levels == (0.04, 0.10)  # of small pictures
    accuracy = {name: result.overall_accuracy.tolist() for name, result in results.items()}
    assert accuracy == {"clean": [100], "noise": [100, 100], "contrast": [100, 50]}
    again = evaluate_corruptions(model, dataset, ["noise"], [5], batch_size=1, max_samples=2)
    assert len(again["noise"].labels) == 2
    with pytest.raises(ValueError, match="corruption 'rain', wanted one of 'noise'"):
        evaluate_corruptions(model, dataset, ["rain"])

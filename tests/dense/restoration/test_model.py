import numpy as np
import pytest
import torch
from torch import nn

from dense.restoration import ImageRestorer
from dense.restoration.sample import RestorationSample

from .toy import ToyUpscaler


def samples(count, channels=3, size=(8, 12), scale=2):
    gt = [
        torch.randint(0, 256, (channels, scale * size[0], scale * size[1]), dtype=torch.uint8)
        for _ in range(count)
    ]
    return [RestorationSample(gt=image) for image in gt]


def test_modes():
    torch.manual_seed(0)
    model = ImageRestorer({"type": "dense.ToyUpscaler"})
    inputs = [torch.randint(0, 256, (3, 8, 12), dtype=torch.uint8) for _ in range(2)]
    data = model.data_preprocessor({"inputs": inputs, "data_samples": samples(2)}, training=True)
    assert data["inputs"].dtype == torch.float32 and data["inputs"].max() <= 1
    assert model(**data).shape == (2, 3, 16, 24)
    gt = torch.stack([sample.gt for sample in data["data_samples"]]) / 255
    torch.testing.assert_close(model(**data, mode="loss")["loss"], (model(**data) - gt).abs().mean())
    found = model.eval().test_step({"inputs": inputs, "data_samples": samples(2)})
    torch.testing.assert_close(found[1].pred, model(**data)[1].detach())
    odd = model.test_step({"inputs": [torch.rand(3, 7, 1)]})  # of any size, without truth
    assert odd[0].pred.shape == (3, 14, 2) and not odd[0].pred.requires_grad
    with pytest.raises(ValueError, match="found 'guess'"):
        model(data["inputs"], mode="guess")
    with pytest.raises(ValueError, match="one size, found"):
        model.data_preprocessor({"inputs": [torch.rand(3, 4, 4), torch.rand(3, 4, 5)]})


def test_losses():
    pred, gt = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, 1, 4, 4)
    gt[1] = 0.4

    def loss(name):
        model = ImageRestorer(ToyUpscaler(1, 1), loss=name)
        data = [RestorationSample(gt=image) for image in gt]
        return model(pred, data, mode="loss")["loss"].item()

    assert loss("l1") == pytest.approx(0.3) and loss("mse") == pytest.approx(0.13)
    assert loss("charbonnier") == pytest.approx(0.3, abs=1e-4)
    psnr = [-10 * np.log10(1 / (0.25 + 1e-8)), -10 * np.log10(1 / (0.01 + 1e-8))]
    assert loss("psnr") == pytest.approx(np.mean(psnr), rel=1e-5)
    assert ImageRestorer(ToyUpscaler(), loss=nn.SmoothL1Loss()).loss_function.beta == 1.0
    with pytest.raises(ValueError, match="found 'hinge'"):
        ImageRestorer(ToyUpscaler(), loss="hinge")


def test_example_inputs_are_those_of_the_network():
    model = ImageRestorer({"type": "dense.HAT", "arch": "hat_s", "scale": 2, "in_channels": 1})
    (x,) = model.example_inputs(3, (40, 64))
    assert x.shape == (3, 1, 48, 64) and x.min() >= 0 and x.max() <= 1  # whole windows

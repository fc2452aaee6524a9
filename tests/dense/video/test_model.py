import pytest
import torch

from dense.video import CopyPrevious, FramePredictor, MeanOfNeighbours
from dense.video.losses import MiddleFrameLoss


def test_modes():
    model = FramePredictor(MeanOfNeighbours(), patch=4)
    clips = torch.randint(0, 256, (2, 9, 1, 16, 16), dtype=torch.uint8)
    inputs = model.data_preprocessor({"inputs": list(clips)})["inputs"]
    assert torch.allclose(inputs, clips / 127.5 - 1)
    prediction = model(inputs)
    assert prediction.shape == (2, 3, 1, 16, 16)
    loss = model(inputs, mode="loss")["loss"]
    assert torch.allclose(loss, MiddleFrameLoss()(prediction, inputs[:, 3:6]))
    samples = model(inputs, mode="predict")
    squared = ((prediction - inputs[:, 3:6]) / 2).square()[:, :, 0]
    for i, sample in enumerate(samples):
        assert sample.target_index.tolist() == [3, 4, 5]
        assert torch.allclose(sample.error_map, squared[i])
        assert torch.allclose(sample.mse, squared[i].mean((1, 2)))
        patches = squared[i].unfold(1, 4, 1).unfold(2, 4, 1).mean((3, 4))
        assert torch.allclose(sample.patch_mse, patches.amax((1, 2)))
    assert torch.allclose(sum(sample.loss for sample in samples) / 2, loss)
    with pytest.raises(ValueError, match="found 'train'"):
        model(inputs, mode="train")
    (example,) = model.example_inputs(3, (16, 24))
    assert example.shape == (3, 9, 1, 16, 24) and example.min() < 0 and example.abs().max() <= 1


def test_a_prediction_depends_on_its_own_clip():
    torch.manual_seed(0)
    network = {"type": "VADHybrid", "arch": "small"}
    model = FramePredictor(network).eval()
    clips = torch.rand(3, 9, 1, 16, 16) * 2 - 1
    with torch.no_grad():
        together = model(clips, mode="predict")
        for i, sample in enumerate(together):
            alone = model(clips[i : i + 1], mode="predict")[0]
            assert torch.allclose(sample.mse, alone.mse, rtol=1e-4)
            assert torch.allclose(sample.error_map, alone.error_map, atol=1e-5)


def test_clips_of_one_batch_have_one_size():
    model = FramePredictor(CopyPrevious())
    clips = [torch.zeros(9, 1, 16, side, dtype=torch.uint8) for side in (16, 20)]
    with pytest.raises(ValueError, match="clips of one batch must have one size, found"):
        model.test_step({"inputs": clips})

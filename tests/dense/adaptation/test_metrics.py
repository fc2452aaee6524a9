import numpy as np
import pytest
import torch

from dense.adaptation import ArtifactTokens, NormVisualizer
from dense.adaptation.metrics import find_artifacts, probe_patches
from dense.adaptation.visualization import draw_norms
from dense.classification.sample import ImageDataSample


def test_artifacts_lie_above_the_fence():
    norms = torch.arange(9.0)  # quartiles 2 and 6: the fence is at 18
    assert not find_artifacts(norms).any()
    assert find_artifacts(torch.cat((norms[:-2], torch.tensor([18.0, 18.1])))).tolist() == [False] * 8 + [
        True
    ]
    with pytest.raises(ValueError, match="norms must be finite"):
        find_artifacts(torch.tensor([1.0, torch.nan]))


def test_probe():
    torch.manual_seed(0)
    labels = torch.arange(40) % 4
    told = torch.randn(40, 6, 8) * 0.1
    told[:, :, 0] += labels[:, None] == 1
    told[:, :, 1] += labels[:, None] == 2
    told[:, :, 2] += labels[:, None] == 3
    assert probe_patches(told[:20], labels[:20], told[20:], labels[20:]) > 0.95
    noise = torch.randn(40, 6, 8)
    assert probe_patches(noise[:20], labels[:20], noise[20:], labels[20:]) < 0.5
    with pytest.raises(ValueError, match="features and labels must be of as many images, found 2 and 3"):
        probe_patches(told[:2], labels[:3], told, labels)


def make_samples(labelled=True):
    torch.manual_seed(0)
    for i in range(8):
        sample = ImageDataSample()
        patches = torch.randn(16, 4) * 0.1
        patches[:, i // 2 % 2] += 1
        norms = 1 + 0.1 * torch.rand(4, 4)
        planted = norms.clone()
        planted[1, 2] = 9.0
        sample.set_data({"patches_before": patches, "patches_after": patches, "norms_after": norms})
        sample.set_data({"norms_before": planted})
        if labelled:
            sample.gt_label = torch.tensor(i // 2 % 2)
        yield sample


@pytest.mark.parametrize("labelled", [True, False])
def test_metric(labelled):
    metric = ArtifactTokens()
    metric.process({}, [sample.to_dict() for sample in make_samples(labelled)])
    found = metric.evaluate(8)
    assert found["artifacts_before"] == 1 and found["artifacts_after"] == 0
    assert found["norm_ratio_before"] > 7 > 1.2 > found["norm_ratio_after"]
    assert found.get("probe_before") == found.get("probe_after") == (100 if labelled else None)


def test_pictures(tmp_path):
    picture = draw_norms([[0.0, 1.0], [2.0, 4.0]], (4, 2), 4.0)
    assert picture.shape == (2, 4, 3) and picture[0, 0].sum() < picture[1, 0].sum() < picture[1, 3].sum()
    shown = []
    visualizer = NormVisualizer(least=64)
    visualizer.add_image = lambda name, image, step=0: shown.append(image)
    for sample in (next(make_samples()), ImageDataSample()):
        visualizer.add_datasample("a", np.zeros((32, 32, 3), np.uint8), sample)
    assert shown[0].shape[1] == 3 * 64 and shown[1].shape[1] == 64
    with pytest.raises(ValueError, match=r"norms must be \(h, w\) and top above 0, found \(3,\) and 1"):
        draw_norms([1.0, 2.0, 3.0], (4, 4), 1)

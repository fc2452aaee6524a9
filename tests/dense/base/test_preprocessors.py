"""Batches of images, stacked and normalised."""

import pytest
import torch

from dense.base.preprocessors import IMAGENET_MEAN, IMAGENET_STD, StackImages


def test_stack_images():
    images = [torch.randint(0, 256, (3, 8, 6), dtype=torch.uint8) for _ in range(2)]
    found = StackImages()({"inputs": images, "data_samples": [1, 2]})
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    wanted = torch.stack([(image - mean) / std for image in images])
    torch.testing.assert_close(found["inputs"], wanted)
    assert found["inputs"].dtype == torch.float32 and len(found["data_samples"]) == 2
    grey = StackImages(mean=[0], std=[255])({"inputs": [images[0][:1]]})["inputs"]
    torch.testing.assert_close(grey, images[0][None, :1] / 255)


def test_images_of_several_sizes_are_refused():
    with pytest.raises(ValueError, match=r"one size, found \[\(3, 8, 6\), \(3, 8, 8\)\]"):
        StackImages()({"inputs": [torch.zeros(3, 8, 6), torch.zeros(3, 8, 8)]})

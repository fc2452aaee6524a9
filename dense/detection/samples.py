"""Made samples, to run detectors on random images."""

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData


def make_samples(batch: int, size: tuple[int, int]) -> list[DetDataSample]:
    """Samples of images of that height and width, each with a box of class 0 in its middle."""
    height, width = size
    box = torch.tensor([[width / 4, height / 4, 3 * width / 4, 3 * height / 4]])
    sizes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), (height, width))
    samples = []
    for i in range(batch):
        sample = DetDataSample(metainfo={**sizes, "scale_factor": (1.0, 1.0), "img_id": i})
        sample.gt_instances = InstanceData(bboxes=box.clone(), labels=torch.zeros(1, dtype=torch.long))
        samples.append(sample)
    return samples

"""Detectors that learn nothing, so that tests know what they find: what is annotated, or what is bright."""

from collections.abc import Sequence

import torch
from mmdet.models.detectors import BaseDetector
from mmengine.structures import InstanceData
from torch import Tensor, nn

from dense.registry import MODELS


class KnownDetector(BaseDetector):
    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.weight = nn.Parameter(torch.zeros(1))

    def predict(self, batch_inputs: Tensor, batch_data_samples: Sequence, rescale: bool = True):
        found = [self.find(*pair) for pair in zip(batch_inputs, batch_data_samples, strict=True)]
        return self.add_pred_to_datasample(batch_data_samples, found)

    def find(self, image: Tensor, sample) -> InstanceData:
        raise NotImplementedError

    def loss(self, *args):
        raise NotImplementedError

    def extract_feat(self, *args):
        raise NotImplementedError

    _forward = loss


@MODELS.register_module(force=True)
class OracleDetector(KnownDetector):
    """Finds the annotated boxes, ``shift`` pixels too far right, and before them ``alarms`` of class 0."""

    def __init__(self, shift: float = 0.0, alarms: Sequence = (), data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.shift, self.alarms = shift, torch.tensor(alarms).reshape(-1, 4).float()

    def find(self, image: Tensor, sample) -> InstanceData:
        boxes = sample.gt_instances.bboxes + torch.tensor([self.shift, 0, self.shift, 0])
        labels = torch.cat([torch.zeros(len(self.alarms)).long(), sample.gt_instances.labels])
        scores = 0.95 - 0.05 * torch.arange(len(labels))
        return InstanceData(bboxes=torch.cat([self.alarms, boxes]), labels=labels, scores=scores)


@MODELS.register_module(force=True)
class BrightDetector(KnownDetector):
    """Finds the rectangle of red (class 0), green, blue and white (3), in pixels of the original image."""

    COLORS = ((True, False, False), (False, True, False), (False, False, True), (True, True, True))

    def find(self, image: Tensor, sample) -> InstanceData:
        height, width = sample.img_shape
        bright = image[:, :height, :width] > 128
        boxes, labels = [], []
        for label, color in enumerate(self.COLORS):
            mask = (bright == torch.tensor(color)[:, None, None]).all(0)
            if mask.any():
                rows, columns = (mask.any(axis).nonzero() for axis in (1, 0))
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                labels.append(label)
        found = torch.tensor(boxes).reshape(-1, 4) / torch.tensor(sample.scale_factor).repeat(2)
        scores = torch.full((len(labels),), 0.9)
        return InstanceData(bboxes=found, labels=torch.tensor(labels).long(), scores=scores)

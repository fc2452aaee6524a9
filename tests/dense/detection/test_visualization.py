"""Pictures say what is truth, and what is not drawn."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from PIL import Image

from dense.base import captions
from dense.detection.visualization import CaptionedDetVisualizer

IMAGE = np.full((80, 120, 3), 90, np.uint8)


def make_sample(scores):
    boxes = torch.tensor([[10.0, 10.0, 60.0, 60.0]] * len(scores))
    labels = torch.zeros(len(scores), dtype=torch.int64)
    sample = DetDataSample()
    sample.pred_instances = InstanceData(bboxes=boxes, labels=labels, scores=torch.tensor(scores))
    sample.gt_instances = InstanceData(bboxes=boxes[:1], labels=labels[:1])
    return sample


@pytest.fixture
def visualizer(request):
    visualizer = CaptionedDetVisualizer(name=request.node.name)
    visualizer.dataset_meta = {"classes": ("cup",), "palette": [(220, 20, 60)]}
    return visualizer


def test_boxes_that_are_not_drawn_are_counted(visualizer, tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr(captions, "write_note", lambda picture, text: notes.append(text) or picture)
    out = str(tmp_path / "sub" / "a.png")
    visualizer.add_datasample("a", IMAGE, make_sample([0.9, 0.3, 0.1]), draw_gt=False, out_file=out)
    visualizer.add_datasample("a", IMAGE, make_sample([0.9, 0.45]), draw_gt=False, pred_score_thr=0.5)
    visualizer.add_datasample("a", IMAGE, make_sample([0.9]), draw_gt=False)
    visualizer.add_datasample("a", IMAGE, make_sample([0.1]), draw_pred=False)
    assert notes == ["2 boxes under 0.3 not shown", "1 box under 0.5 not shown"]
    assert np.asarray(Image.open(out)).shape == IMAGE.shape


def test_pairs_have_headings(visualizer, monkeypatch):
    said = []
    monkeypatch.setattr(captions, "add_captions", lambda picture, *words: said.append(words) or picture)
    visualizer.add_datasample("a", IMAGE, make_sample([0.9, 0.2]))
    assert said == [(("truth", "prediction"), [("1 box under 0.3 not shown", None)])]

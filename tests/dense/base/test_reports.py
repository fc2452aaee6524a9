"""What a report shows of the tasks of this package; runs of the others are in their own tests."""

import base64
import io

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from dense.gaze.sample import ScanpathDataSample
from dense.sequence.sample import SequenceSample
from dense.video.sample import ClipDataSample
from pointsuite.report import Verdict, judge
from pointsuite.report.samples import Sampler


def show(inputs, sample, visualizer="Visualizer", meta=None):
    """Picture or text of a sample, and what is said of it."""
    meta = meta or {}
    cfg = Config({"model": {}, "default_scope": "dense", "visualizer": {"type": visualizer}})
    item = Sampler(cfg, meta).show(inputs, sample, judge(sample.to_dict(), meta) or Verdict(0.0, ""))
    data = item.picture.partition(",")[2]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) if data else None
    return item.text if picture is None else picture, item


def test_scanpaths():
    sample = ScanpathDataSample(metainfo={"grid": (2, 3), "img_path": None, "index": 4})
    paths = {"gt_paths": [torch.tensor([0, 1, 5])], "pred_paths": [torch.tensor([0, 4])]}
    points = {"pred_points": [torch.tensor([[10.0, 10], [30, 30]])]}
    sample.set_data({**paths, **points, "sim": 0.125})
    picture, item = show(torch.randint(256, (6, 3, 20, 22), dtype=torch.uint8), sample, "ScanpathVisualizer")
    assert picture.shape[1] == 800 and item.title == "sample 4"  # a person's path beside the predicted one
    assert item.note.startswith("similarity to people's paths 0.125; ")


def test_text():
    sample = SequenceSample()
    sample.set_data(
        {"targets": torch.tensor([1, 1]), "nats": torch.tensor(np.log(16)), "tokens": 2, "hits": 2}
    )
    said, item = show(torch.tensor([1, 0]), sample, meta={"vocabulary": ("e", "h")})
    assert said == "he" and item.note == "2 of 2 tokens right, 2.000 bits a token"


def test_the_worst_frame_of_a_clip():
    frames = torch.zeros(5, 1, 8, 12, dtype=torch.uint8)
    frames[3] = 200
    sample = ClipDataSample(metainfo={"video": "street", "frames": [10, 11, 12, 13, 14]})
    errors = torch.zeros(2, 8, 12)
    errors[1, :4] = 0.5
    sample.set_data(
        {"mse": torch.tensor([0.0, 0.25]), "error_map": errors, "target_index": torch.tensor([12, 13])}
    )
    picture, item = show(frames, sample, "VideoVisualizer")
    assert picture.shape == (8, 24, 3) and (picture[:, :12] == 200).all()
    assert picture[0, 12:].astype(int).sum() > picture[7, 12:].astype(int).sum()  # bright where the error is
    assert item.title == "street" and item.note == "frame 13: squared error 0.25"


@pytest.mark.parametrize("with_prediction", [True, False])
def test_norms_of_tokens(with_prediction):
    sample = ScanpathDataSample()
    if with_prediction:
        sample.set_data({f"norms_{side}": torch.rand(4, 4) for side in ("before", "after")})
    picture, _ = show(torch.zeros(3, 64, 64, dtype=torch.uint8), sample, "NormVisualizer")
    assert picture.shape[1] == (3 if with_prediction else 1) * 256

"""Predictors of all tasks in one process: none changes what another one finds."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

import pointsuite
from dense.classification import Classifier
from dense.matching import Matcher
from dense.restoration import Restorer
from dense.video import AnomalyScorer
from pointsuite.engine.checkpoint import save_checkpoint

from .classification.toy import write_project
from .matching.toy import CONFIG as MATCHING
from .restoration.toy import ToyUpscaler
from .video.test_predictor import make_config
from .video.toy import make_frames, write_folder

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from dense.detection import DetInferencer
from dense.segmentation import Segmenter

from .detection import oracle  # noqa: F401  registers its detectors
from .segmentation.test_predictor import CONFIG as SEGMENTATION

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
CLOUD = np.random.default_rng(0).normal(size=(64, 3))
CLOUD = np.concatenate([CLOUD, CLOUD / np.linalg.norm(CLOUD, axis=1, keepdims=True)], 1)
DETECTOR = Path(__file__).parents[2] / "configs/relationnet2/relationnet2-retinanet_r18_pennfudan.py"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def classify(folder: Path) -> np.ndarray:
    torch.manual_seed(0)
    return Classifier(folder / "toy.py", weights="random", device="cpu")(IMAGE).probabilities


def detect(folder: Path) -> np.ndarray:
    config = Config.fromfile(DETECTOR)
    preprocessor = {"type": "DetDataPreprocessor", "mean": [0] * 3, "std": [1] * 3, "bgr_to_rgb": True}
    config.model = {"type": "dense.BrightDetector", "data_preprocessor": preprocessor}
    save_checkpoint({"state_dict": {"weight": torch.zeros(1)}}, folder / "detector.pth")
    found = DetInferencer(config, folder / "detector.pth", "cpu", progress=False)(IMAGE)
    return np.array(found["predictions"][0]["bboxes"])


def match(folder: Path) -> np.ndarray:
    torch.manual_seed(0)
    matcher = Matcher(write(folder / "matching.py", MATCHING), weights="random", device="cpu")
    return matcher(IMAGE, IMAGE[::-1]).flow


def restore(folder: Path) -> np.ndarray:
    return Restorer(ToyUpscaler(), device="cpu")(IMAGE).pixels


def score(folder: Path) -> np.ndarray:
    return AnomalyScorer(make_config({"type": "MeanOfNeighbours"}), device="cpu")(folder / "frames").score


def segment(folder: Path) -> np.ndarray:
    save_checkpoint({"state_dict": {"scale": torch.full((1,), 2.0)}}, folder / "segmentor.pth")
    return Segmenter(write(folder / "segmentor.py", SEGMENTATION), folder / "segmentor.pth", "cpu")(
        IMAGE
    ).labels


def classify_cloud(folder: Path) -> np.ndarray:
    torch.manual_seed(0)
    network = pointsuite.create_model("pointnet_cls", num_classes=2)
    return pointsuite.Classifier(network, device="cpu", classes=("a", "b"))(CLOUD).probabilities


TASKS: list[Callable[[Path], np.ndarray]] = [
    classify,
    classify_cloud,
    detect,
    match,
    restore,
    score,
    segment,
]


def test_all_pairs_in_both_orders(tmp_path):
    write_project(tmp_path)
    write_folder(tmp_path / "frames", make_frames())
    alone = {task: task(tmp_path) for task in TASKS}
    assert all(np.size(found) for found in alone.values())
    walk = [classify]  # over all pairs
    for i, task in enumerate(TASKS):
        walk += [part for other in TASKS[i + 1 :] for part in (task, other)] + [task]
    for first, second in pairwise(walk):
        found = second(tmp_path)
        np.testing.assert_array_equal(found, alone[second], f"{second.__name__} after {first.__name__}")

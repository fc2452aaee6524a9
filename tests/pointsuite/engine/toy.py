"""A tiny project for tests of the engine: data, a model that trains by random numbers, and its config."""

import json
import random
import time
from copy import deepcopy
from itertools import count
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset

from pointsuite.engine.randomness import draw_key

REPOSITORY = Path(__file__).parents[3]
CONFIG = f"""
_base_ = "{REPOSITORY}/configs/_base_/default_runtime.py"
custom_imports = dict(imports=["tests.pointsuite.engine.toy"])
model = dict(type="ToyModel")
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(type="ToyDataset", seed=0),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(type="ToyDataset"),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="ToyAccuracy")
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=3)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=0.01))
param_scheduler = [dict(type="CosineAnnealingLR", T_max=15, by_epoch=False), dict(type="StepLR", step_size=2)]
"""
_runs = count()


def write_config(folder: Path) -> Path:
    """The toy config as a file; 5 iterations an epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy.py"
    path.write_text(CONFIG)
    return path


def make_config(work_dir: Path, **options) -> Config:
    """The toy config for a run in this process."""
    cfg = Config.fromfile(write_config(work_dir))
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = (
        f"toy_{next(_runs)}"  # MMEngine keeps a run's state under its name, for one second's runs
    )
    cfg.visualizer = None
    cfg.merge_from_dict(deepcopy(options))  # it takes keys out of them
    return cfg


@DATASETS.register_module()
class ToyDataset(Dataset):
    metainfo = {"classes": ("even", "odd")}

    def __init__(self, seed=0, delay=0.0, data_file=None, noise=0.0):
        if data_file is not None:
            raise FileNotFoundError(f"{data_file}: no such file")
        self.seed, self.delay, self.noise = seed, delay, noise

    def __len__(self):
        return 18

    def __getitem__(self, index):
        time.sleep(self.delay)
        rng = np.random.default_rng([self.seed, *draw_key(index)])
        sample = BaseDataElement(metainfo={"index": index, "name": f"shape-{index}", "label": index % 2})
        points = torch.tensor(rng.normal(size=4), dtype=torch.float32)
        if self.noise:  # of the global generator
            points += self.noise * torch.randn(4)
        return {"inputs": points, "data_samples": sample}


@DATASETS.register_module()
class ToyItems(BaseDataset):
    """A data set as other libraries have them: its samples are drawn from the global generators."""

    METAINFO = {"classes": ("common", "rare")}

    def __init__(self, count=4, **kwargs):
        self.count = count
        super().__init__(serialize_data=False, **kwargs)

    def load_data_list(self):
        if self.ann_file:
            return [{"label": label} for label in json.loads(Path(self.ann_file).read_text())]
        return [{"label": int(i == 0)} for i in range(self.count)]

    def get_cat_ids(self, idx):
        return [self.get_data_info(idx)["label"]]

    def prepare_data(self, idx):
        numbers = [random.random(), np.random.random(), float(torch.rand(())), 0.0]  # noqa: NPY002
        sample = BaseDataElement(metainfo={"index": idx, "label": self.get_data_info(idx)["label"]})
        return {"inputs": torch.tensor(numbers), "data_samples": sample}


@MODELS.register_module()
class ToyModel(BaseModel):
    """Its loss is NaN when the forward pass ``nan_at`` (from 1) computes it; plain: each row for itself."""

    def __init__(self, nan_at=None, plain=False):
        super().__init__()
        between = [nn.Tanh()] if plain else [nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5)]
        self.network = nn.Sequential(nn.Linear(4, 8), *between, nn.Linear(8, 2))
        self.nan_at, self.passes = nan_at, 0

    def forward(self, inputs, data_samples, mode="tensor"):
        logits = self.network(torch.stack(inputs))
        if mode == "loss":
            self.passes += 1
            labels = torch.tensor([sample.label for sample in data_samples])
            loss = nn.functional.cross_entropy(logits, labels)
            return {"loss": loss * float("nan") if self.passes == self.nan_at else loss}
        torch.rand(1)  # an evaluation that draws random numbers
        for sample, row in zip(data_samples, logits, strict=True):
            sample.set_field(int(row.argmax()), "prediction")
        return data_samples


@METRICS.register_module()
class ToyAccuracy(BaseMetric):
    default_prefix = "toy"

    def process(self, data_batch, data_samples):
        self.results += [float(sample["prediction"] == sample["label"]) for sample in data_samples]

    def compute_metrics(self, results):
        return {"accuracy": sum(results) / len(results)}

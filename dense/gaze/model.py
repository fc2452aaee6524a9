"""Any network that predicts scanpaths over objects as an MMEngine model."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from pointsuite.engine.task_model import stack_inputs

from ..base import TaskModel
from ..registry import MODELS
from .metrics import similarity
from .networks.oat import NO_TARGET
from .sample import ScanpathDataSample
from .transforms import cell_centres

SCALES = ("object", "unit", "none")


@MODELS.register_module()
class ScaleObjects(BaseDataPreprocessor):
    """Move a batch of pictures of objects to the model's device and stack it, float32 (B, K, 3, H, W).

    Args:
        scale: "object", to [0, 1] from the least to the largest value of each object, as published for
            shelves; "unit", by 255; "none", 0 to 255, as published for book covers.
        **kwargs: of MMEngine's ``BaseDataPreprocessor``.
    """

    def __init__(self, scale: str = "object", **kwargs):
        super().__init__(**kwargs)
        if scale not in SCALES:
            raise ValueError(f"scale must be one of {SCALES}, found {scale!r}")
        self.scale = scale

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        objects = stack_inputs(data["inputs"], "pictures of objects").float()
        if self.scale == "unit":
            objects = objects / 255
        elif self.scale == "object":
            least, most = (objects.flatten(2).aminmax(dim=2)[i][..., None, None, None] for i in (0, 1))
            objects = (objects - least) / (most - least).clamp(min=1e-6)
        return {**data, "inputs": objects}


@MODELS.register_module()
class ScanpathModel(TaskModel):
    """Trains a network to say what is looked at next, and lets it look.

    The loss is the cross-entropy of each object that people fixated and of the end, given the path before it;
    all steps of a batch count alike. Inputs are pictures of objects (B, K, 3, H, W). Predicted samples have
    ``pred_paths`` and ``pred_points``, and those that have paths of people ``sim``.

    Args:
        network: config or module, as :class:`~dense.gaze.networks.oat.OAT`: ``network(pictures, target,
            path)`` gives logits, ``network.decode(pictures, target, max_length, draws)`` paths.
        max_length: most objects of a predicted path; published is the longest path of the training.
        num_paths: that are drawn for each sample; 0 takes the likeliest object at each step, one path.
        seed: of what is drawn, with the sample's index: a prediction depends on its own sample alone.
        data_preprocessor: config; :class:`ScaleObjects` by default.
        init_cfg: see MMEngine.
    """

    sample_class = ScanpathDataSample
    preprocessor = "dense.ScaleObjects"

    def __init__(
        self,
        network: dict | nn.Module,
        max_length: int = 20,
        num_paths: int = 0,
        seed: int = 0,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(network, data_preprocessor, init_cfg)
        if max_length < 1 or num_paths < 0:
            raise ValueError(
                f"max_length must be at least 1 and num_paths at least 0, found {max_length} and {num_paths}"
            )
        self.max_length, self.num_paths, self.seed = max_length, num_paths, seed

    def _forward(self, inputs: Tensor, data_samples: Sequence[ScanpathDataSample] | None = None) -> Tensor:
        """Logits (B, S, T, K + 2) of people's paths; of what follows the start where there are none."""
        samples = data_samples or [ScanpathDataSample() for _ in inputs]
        paths, _ = self._teach(samples, inputs.device)
        return self.network(inputs, self._targets(samples, inputs.device), paths)

    def loss(self, inputs: Tensor, data_samples: Sequence[ScanpathDataSample]) -> dict[str, Tensor]:
        paths, following = self._teach(data_samples, inputs.device)
        logits = self.network(inputs, self._targets(data_samples, inputs.device), paths)
        padding = self.network.padding
        return {
            "loss": cross_entropy(logits.flatten(0, 2).float(), following.flatten(), ignore_index=padding)
        }

    def predict(
        self, inputs: Tensor, data_samples: Sequence[ScanpathDataSample]
    ) -> Sequence[ScanpathDataSample]:
        targets = self._targets(data_samples, inputs.device)
        if all("gt_paths" in sample for sample in data_samples):
            paths, following = self._teach(data_samples, inputs.device)
            for each, wanted, sample in zip(
                self.network(inputs, targets, paths), following, data_samples, strict=True
            ):
                sample.sim = self._similarity(each, wanted, len(sample.gt_paths))
        draws = self._draw(data_samples).to(inputs.device) if self.num_paths else None
        found = self.network.decode(inputs, targets, self.max_length, draws)
        for paths, sample in zip(found, data_samples, strict=True):
            sample.pred_paths = [path[path != self.network.padding] for path in paths]
            if sample.get("size") is not None:
                sample.pred_points = [
                    cell_centres(path, self.network.grid, sample.size) for path in sample.pred_paths
                ]
        return data_samples

    def _similarity(self, logits: Tensor, following: Tensor, count: int) -> float:
        """In the mean over people."""
        known = following != self.network.padding
        scores = [similarity(logits[i][known[i]], following[i][known[i]]) for i in range(count)]
        return torch.stack(scores).mean().item()

    def _draw(self, samples: Sequence[ScanpathDataSample]) -> Tensor:
        shape = self.num_paths, self.max_length
        rows = [
            np.random.default_rng((self.seed, sample.get("index") or 0)).random(shape) for sample in samples
        ]
        return torch.from_numpy(np.stack(rows)).float()

    @staticmethod
    def _targets(samples: Sequence[ScanpathDataSample], device: torch.device) -> Tensor:
        targets = [sample.get("target") for sample in samples]
        return torch.tensor([NO_TARGET if target is None else target for target in targets], device=device)

    def _teach(self, samples: Sequence[ScanpathDataSample], device: torch.device) -> tuple[Tensor, Tensor]:
        """People's paths (B, S, T), behind the start, and what follows each entry; the rest is padding."""
        network = self.network
        people = [sample.get("gt_paths") or [torch.empty(0, dtype=torch.long)] for sample in samples]
        most = max(map(len, people))
        none = torch.empty(0, dtype=torch.long)
        paths = [path.cpu() for each in people for path in (*each, *[none] * (most - len(each)))]
        real = [i < len(each) for each in people for i in range(most)]
        start, end = torch.tensor([network.start]), torch.tensor([network.end])
        before = [torch.cat((start, path)) for path in paths]
        after = [torch.cat((path, end)) if known else none for path, known in zip(paths, real, strict=True)]
        width = max(map(len, before))
        before = pad_sequence(before, batch_first=True, padding_value=network.padding)
        after = pad_sequence([*after, before.new_zeros(width)], True, network.padding)[:-1]
        shape = (len(samples), most, width)
        return before.view(shape).to(device), after.reshape(shape).to(device)

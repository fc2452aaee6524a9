"""What a network that predicts scanpaths must beat, and what it may reach: nothing of these is trained."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from scipy.ndimage import gaussian_filter, zoom
from torch import Tensor

from ..base import TaskModel
from ..registry import DATASETS, MODELS
from .sample import ScanpathDataSample
from .transforms import assemble, find_cells

Walk = tuple[np.ndarray, np.ndarray]  # points (n, 2) and durations (n,)


class WalkModel(TaskModel):
    """Paths that are drawn, as many fixations long as a path of the training that is drawn, too.

    Args:
        train: data set, or its config, whose ``fixations`` are drawn from; read when it is needed.
        num_paths: for each sample.
        seed: of what is drawn, with the sample's index.
        data_preprocessor: config; :class:`~dense.gaze.model.ScaleObjects` by default.
    """

    sample_class = ScanpathDataSample
    preprocessor = "dense.ScaleObjects"

    def __init__(
        self,
        train: Mapping | BaseDataset,
        num_paths: int = 15,
        seed: int = 0,
        data_preprocessor: dict | None = None,
    ):
        super().__init__(None, data_preprocessor)
        if num_paths < 1:
            raise ValueError(f"num_paths must be at least 1, found {num_paths}")
        self.train_data, self.num_paths, self.seed = train, num_paths, seed
        self._fixations: list[np.ndarray] | None = None

    @property
    def fixations(self) -> list[np.ndarray]:
        """All paths of the training, (n, 3) each."""
        if self._fixations is None:
            data = self.train_data
            data = DATASETS.build(data) if isinstance(data, Mapping) else data
            infos = (data.get_data_info(i) for i in range(len(data)))
            self._fixations = [path for info in infos for path in info["fixations"]]
        return self._fixations

    def predict(
        self, inputs: Tensor, data_samples: Sequence[ScanpathDataSample]
    ) -> Sequence[ScanpathDataSample]:
        for objects, sample in zip(inputs, data_samples, strict=True):
            rng = np.random.default_rng((self.seed, sample.get("index") or 0))
            lengths = [len(self.fixations[i]) for i in rng.integers(len(self.fixations), size=self.num_paths)]
            walks = self.draw(objects.cpu(), sample, lengths, rng)
            sample.pred_paths = [
                torch.from_numpy(find_cells(points, sample.grid, sample.size)) for points, _ in walks
            ]
            sample.pred_points = [torch.from_numpy(points).float() for points, _ in walks]
            sample.pred_durations = [torch.from_numpy(times).float() for _, times in walks]
        return data_samples

    def draw(
        self, objects: Tensor, sample: ScanpathDataSample, lengths: Sequence[int], rng: np.random.Generator
    ) -> list[Walk]:
        """A path of each length over a picture whose objects are (K, 3, h, w)."""
        raise NotImplementedError


@MODELS.register_module()
class CentreWalk(WalkModel):
    """Each fixation is one of the training's, of any picture and time: people's bias towards the centre."""

    def draw(
        self, objects: Tensor, sample: ScanpathDataSample, lengths: Sequence[int], rng: np.random.Generator
    ) -> list[Walk]:
        pool = np.concatenate(self.fixations)
        walks = (pool[rng.integers(len(pool), size=length)] for length in lengths)
        return [(walk[:, :2], walk[:, 2]) for walk in walks]


@MODELS.register_module()
class SaliencyWalk(WalkModel):
    """Each fixation is drawn from the picture's :func:`spectral_residual`, which is less where one has been.

    Durations are drawn from the training's.

    Args:
        inhibition: standard deviation, as a share of the picture's width, of the bell that is taken out of
            the map around each fixation.
        **kwargs: of :class:`WalkModel`.
    """

    def __init__(self, *args, inhibition: float = 0.06, **kwargs):
        super().__init__(*args, **kwargs)
        if inhibition <= 0:
            raise ValueError(f"inhibition must be above 0, found {inhibition}")
        self.inhibition = inhibition

    def draw(
        self, objects: Tensor, sample: ScanpathDataSample, lengths: Sequence[int], rng: np.random.Generator
    ) -> list[Walk]:
        grey = assemble(objects, sample.grid).mean(0).numpy()
        width, height = sample.size
        saliency = spectral_residual(grey)
        rows, columns = (np.arange(n) + 0.5 for n in saliency.shape)
        times = np.concatenate([path[:, 2] for path in self.fixations])
        walks = []
        for length in lengths:
            left, points = saliency.copy(), np.empty((length, 2))
            for point in points:
                chances = left.cumsum()
                place = min(np.searchsorted(chances, rng.random() * chances[-1]), left.size - 1)
                row, column = np.unravel_index(place, left.shape)
                apart = (rows[:, None] - rows[row]) ** 2 + (columns - columns[column]) ** 2
                left *= 1 - 0.999 * np.exp(-apart / (2 * (self.inhibition * len(columns)) ** 2))
                point[:] = columns[column] * width / len(columns), rows[row] * height / len(rows)
            walks.append((points, times[rng.integers(len(times), size=length)]))
        return walks


@MODELS.register_module()
class AnotherPerson(TaskModel):
    """The paths of the people themselves, each to be compared with those of the others: what can be reached.

    Args:
        data_preprocessor: config; :class:`~dense.gaze.model.ScaleObjects` by default.
    """

    sample_class = ScanpathDataSample
    preprocessor = "dense.ScaleObjects"

    def __init__(self, data_preprocessor: dict | None = None):
        super().__init__(None, data_preprocessor)

    def predict(
        self, inputs: Tensor, data_samples: Sequence[ScanpathDataSample]
    ) -> Sequence[ScanpathDataSample]:
        for sample in data_samples:
            for key in ("paths", "points", "durations"):
                if f"gt_{key}" in sample:
                    sample.set_data({f"pred_{key}": list(sample.get(f"gt_{key}"))})
            sample.pred_person = list(range(len(sample.gt_paths)))
        return data_samples


def spectral_residual(grey: np.ndarray, width: int = 64) -> np.ndarray:
    """What of a picture (H, W) its own mean spectrum does not explain: a map of positive numbers, sum 1.

    The logarithm of the amplitudes less its mean over 3 x 3 neighbours, with the phases as they are, back to
    a picture, squared and smoothed.

    Args:
        width: columns of the map; rows are as many as keep the aspect.

    Source: Hou, Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR 2007.
    """
    small = zoom(np.asarray(grey, float), width / grey.shape[1], order=1)
    spectrum = np.fft.fft2(small)
    amplitudes = np.log(np.abs(spectrum) + 1e-9)
    padded = np.pad(amplitudes, 1, mode="wrap")
    mean = sum(padded[i : i + small.shape[0], j : j + small.shape[1]] for i in range(3) for j in range(3)) / 9
    back = np.fft.ifft2(np.exp(amplitudes - mean + 1j * np.angle(spectrum)))
    saliency = gaussian_filter(np.abs(back) ** 2, width / 25) + 1e-12
    return saliency / saliency.sum()

"""Data sets whose random numbers depend on seed, draw and index alone."""

from collections.abc import Callable, Sequence

from mmengine.dataset import BaseDataset

from pointsuite.engine.errors import UsageError
from pointsuite.engine.randomness import draw_key, seeded

from ..registry import TRANSFORMS


class SeededDataset(BaseDataset):
    """What MMEngine's dataset is, with random numbers that follow from its seed and the draw alone.

    So a run that was resumed sees what an unbroken one sees, with any number of workers (see
    :func:`~pointsuite.engine.randomness.draw_key`). ``dataset[index]`` by itself is of pass 0.

    Args:
        pipeline: transforms (configs or callables), applied in order.
        seed: of the transforms.
        test_mode: every pass is as the first.
        **kwargs: of MMEngine's ``BaseDataset``, as ``indices=1000``, or ``metainfo=dict(classes=...)``.
    """

    def __init__(self, *, pipeline: Sequence[dict | Callable] = (), seed: int = 0, **kwargs):
        self.seed = seed
        built = [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in pipeline]
        super().__init__(pipeline=built, **kwargs)

    def prepare_data(self, idx: int) -> dict:
        with seeded(self.seed, *draw_key(idx % len(self), self.test_mode)):
            return super().prepare_data(idx)

    def get_cat_ids(self, idx: int) -> list[int]:
        """The classes of a sample, for MMEngine's ``ClassBalancedDataset``.

        Raises:
            UsageError: it has none.
        """
        info = BaseDataset.get_data_info(self, idx)  # what is known without reading the sample
        if "gt_label" not in info:
            raise UsageError(f"{type(self).__name__}: its samples have no classes that could be balanced")
        return [info["gt_label"]]

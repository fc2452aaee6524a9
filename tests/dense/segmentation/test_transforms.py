import numpy as np
import pytest

from dense.registry import TRANSFORMS
from dense.segmentation.transforms import RoundLabels


def test_round_labels():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    results = TRANSFORMS.build({"type": "RoundLabels", "exact": False})({"gt_seg_map": levels})
    labels = results["gt_seg_map"].ravel()
    assert labels.dtype == np.uint8 and labels[[0, 63, 126, 189, 252]].tolist() == [0, 1, 2, 3, 4]
    # as published: to the nearest multiple of 0.24705882 of the level in [0, 1]
    assert (labels == np.round(np.arange(256) / 255 / 0.24705882)).all()
    assert TRANSFORMS.build({"type": "RoundLabels"})({"img": levels}) == {"img": levels}


@pytest.mark.parametrize("levels", [[0, 1, 2, 3, 4], [0, 51, 102], [0, 255]])
def test_levels_of_another_mapping_are_refused(levels):
    transform = TRANSFORMS.build({"type": "RoundLabels"})
    with pytest.raises(OSError, match=rf"a\.png: found the level {levels[1]}, wanted multiples of 63"):
        transform({"gt_seg_map": np.array([levels]), "seg_map_path": "a.png"})
    assert (RoundLabels(step=1)({"gt_seg_map": np.array([levels])})["gt_seg_map"] == levels).all()
    with pytest.raises(OSError, match=r"a\.png: found a mask of shape \(4, 4, 3\)"):
        transform({"gt_seg_map": np.zeros((4, 4, 3)), "seg_map_path": "a.png"})


def test_other_steps_ignored_levels_and_some_of_the_classes():
    levels = np.array([[0, 51, 102, 153, 204, 255]], np.uint8)
    labels = RoundLabels(step=51, ignored=255)({"gt_seg_map": levels})["gt_seg_map"]
    assert labels.dtype == np.uint8 and labels.tolist() == [[0, 1, 2, 3, 4, 255]]
    sample = {"gt_seg_map": levels[:, :5], "class_map": {0: 1, 1: 0, 2: 255, 3: 255, 4: 2}}
    assert RoundLabels(step=51)(sample)["gt_seg_map"].tolist() == [[1, 0, 255, 255, 2]]
    with pytest.raises(ValueError, match="step is 0"):
        RoundLabels(step=0)

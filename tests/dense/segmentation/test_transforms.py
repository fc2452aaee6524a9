import numpy as np

from dense.registry import TRANSFORMS


def test_round_labels():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    results = TRANSFORMS.build({"type": "RoundLabels"})({"gt_seg_map": levels})
    labels = results["gt_seg_map"].ravel()
    assert labels.dtype == np.uint8 and labels[[0, 63, 126, 189, 252]].tolist() == [0, 1, 2, 3, 4]
    # as published: to the nearest multiple of 0.24705882 of the level in [0, 1]
    assert (labels == np.round(np.arange(256) / 255 / 0.24705882)).all()
    assert TRANSFORMS.build({"type": "RoundLabels"})({"img": levels}) == {"img": levels}

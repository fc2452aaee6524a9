import pytest
import torch

from dense.video import CopyPrevious, MeanOfNeighbours


def test_baselines_by_hand():
    clip = torch.arange(9.0).square().reshape(1, 9, 1, 1, 1).expand(2, 9, 1, 16, 16)
    assert CopyPrevious()(clip)[0, :, 0, 0, 0].tolist() == [4, 9, 16]
    assert MeanOfNeighbours()(clip)[0, :, 0, 0, 0].tolist() == [10, 17, 26]
    assert MeanOfNeighbours(5, 2)(clip[:, :5])[1, :, 0, 0, 0].tolist() == [5]
    with pytest.raises(ValueError, match=r"\(B, 9, C, H, W\), found \(2, 8, 1, 16, 16\)"):
        CopyPrevious()(clip[:, :8])
    with pytest.raises(ValueError, match="found 2 a side in a clip of 4"):
        CopyPrevious(4, 2)

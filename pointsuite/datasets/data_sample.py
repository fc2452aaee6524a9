"""What travels beside a point cloud: truth, prediction, where it came from."""

from mmengine.structures import BaseDataElement


class PointDataSample(BaseDataElement):
    """Truth and prediction of one cloud.

    Data fields (each optional):
        gt_label: int64 tensor (), the class.
        gt_part: int64 tensor (N,), the part of each point.
        pred_label: int64 tensor (), the predicted class.
        pred_scores: float tensor (classes,), one score a class.

    Metainfo: ``index`` (row in the dataset) and, where the file has names, ``name``.
    """

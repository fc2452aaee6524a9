"""What travels beside an image: truth, prediction, where it came from."""

from mmengine.structures import BaseDataElement


class ImageDataSample(BaseDataElement):
    """Truth and prediction of one image.

    Data fields (each optional):
        gt_label: int64 tensor (), the class.
        pred_label: int64 tensor (), the predicted class.
        pred_scores: float32 tensor (classes,), one probability a class.

    Metainfo: ``index`` (in the dataset), ``img_path`` where the image has a file, and the sizes (H, W)
    ``ori_shape``, as it was read, and ``img_shape``, as it goes into the network.
    """

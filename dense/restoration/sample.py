"""What travels beside a poor image: truth, prediction, where it came from."""

from mmengine.structures import BaseDataElement


class RestorationSample(BaseDataElement):
    """Truth and prediction of one image.

    Data fields (each optional):
        gt: tensor (C, H, W), the good image; uint8, or float32 in 0..1.
        pred: float32 tensor (C, H, W), the restored image; not clipped.

    Metainfo: ``index`` (in the data set), ``img_path`` and ``dataset``.
    """

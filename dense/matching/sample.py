"""What travels beside a pair of images: truth, prediction, where they came from."""

from mmengine.structures import BaseDataElement


class MatchDataSample(BaseDataElement):
    """Truth and prediction of one pair; points are x, y in pixels of the images that the network gets.

    Data fields (each optional):
        source_points, target_points: float32 tensors (n, 2), the same n places of the object in both images.
        warp: :class:`~dense.matching.warps.Warp` that made the target of the source.
        pred_flow: float32 tensor (2, g, g), of the target's cells to the source, in cells.
        pred_confidence: float32 tensor (g, g), 0 to 1.
        pred_points: float32 tensor (n, 2), where ``target_points`` are in the source.

    Metainfo: ``index`` (in the data set), ``source_path``, ``target_path``, ``category``, ``size`` (side of
    the images in pixels) and ``pck_base`` (in pixels: what the thresholds of PCK are shares of).
    """

"""What travels beside the objects of a picture: where people looked, and where a model says they look."""

from mmengine.structures import BaseDataElement


class ScanpathDataSample(BaseDataElement):
    """Paths of several people, and predicted ones, over one picture; objects are numbered row by row.

    Data fields (each optional; lists have an entry a path):
        gt_paths, pred_paths: lists of int64 tensors (n,), the objects that were fixated, in order.
        gt_points, pred_points: lists of float32 tensors (n, 2), x and y in pixels of the picture; a network
            points at the middles of objects.
        gt_durations, pred_durations: lists of float32 tensors (n,), in ms.
        sim: float, :func:`~dense.gaze.metrics.similarity` to the paths of people.
        pred_person: list of numbers, of which of ``gt_paths`` each prediction is.

    Metainfo: ``index`` (in the data set), ``img_path``, ``grid`` (rows and columns), ``size`` (width and
    height of the picture in pixels) and ``target`` (number of an object, or None).
    """

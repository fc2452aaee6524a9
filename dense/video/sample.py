"""What travels beside a clip: where it came from, and how well its middle was predicted."""

from mmengine.structures import BaseDataElement


class ClipDataSample(BaseDataElement):
    """Origin and prediction errors of one clip.

    Data fields (of a prediction; t target frames):
        target_index: int64 tensor (t,), the targets' places in the video.
        mse, patch_mse: float32 tensors (t,), mean over the frame, and greatest mean over a patch, of the
            squared error on [0, 1].
        loss: float32 tensor (), the training loss of this clip.
        error_map: float32 tensor (t, H, W), the squared error, mean over channels.

    Metainfo: ``index`` (in the data set), ``video`` (its name), ``video_path``, ``num_frames`` and
    ``num_windows`` (of the video), ``frames`` (places of the clip's frames in the video).
    """

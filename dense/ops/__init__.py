"""Functions on tensors: no parameters, no MMEngine."""

from .attention import padded_attention
from .frame_attention import frame_logits
from .linear import linear
from .local_attention import local_logits, local_mask, local_sum
from .lstm_cell import lstm_cell
from .ms_deform_attn import ms_deform_attn
from .position_relation import position_relation
from .reversed_attention import reversed_attention
from .roi_align import roi_align
from .spanning_tree import maximum_spanning_tree
from .window_attention import window_attention
from .windows import merge_windows, pad_map, partition_windows, window_mask

__all__ = [
    "frame_logits",
    "linear",
    "local_logits",
    "local_mask",
    "local_sum",
    "lstm_cell",
    "maximum_spanning_tree",
    "merge_windows",
    "ms_deform_attn",
    "pad_map",
    "padded_attention",
    "partition_windows",
    "position_relation",
    "reversed_attention",
    "roi_align",
    "window_attention",
    "window_mask",
]

"""Functions on tensors: no parameters, no MMEngine."""

from .attention import padded_attention
from .combiner_attention import combiner_attention
from .context_mixing import context_mixing
from .convolution import conv2d
from .coordinate_product import coordinate_product
from .dynamic_conv import dynamic_depthwise_conv, involution
from .frame_attention import frame_logits
from .frequency import half_spectrum, invert_half_spectrum
from .gated_conv import gated_depthwise_conv
from .gated_sum import gated_sum
from .halo_attention import halo_attention
from .lightning_attention import head_slopes, lightning_attention
from .linear import linear
from .linear_attention import linear_attention
from .local_attention import local_logits, local_mask, local_sum
from .lstm_cell import lstm_cell
from .ms_deform_attn import ms_deform_attn
from .neighborhood_attention import neighborhood_attention
from .outlook_attention import outlook_attention
from .position_relation import position_relation
from .reversed_attention import reversed_attention
from .roi_align import roi_align
from .spanning_tree import maximum_spanning_tree
from .toeplitz_attention import draw_features, toeplitz_attention
from .window_attention import window_attention
from .windows import complete, map_windows, merge_windows, pad_map, partition_windows, window_mask

__all__ = [
    "combiner_attention",
    "complete",
    "context_mixing",
    "coordinate_product",
    "draw_features",
    "dynamic_depthwise_conv",
    "frame_logits",
    "half_spectrum",
    "head_slopes",
    "gated_sum",
    "gated_depthwise_conv",
    "halo_attention",
    "invert_half_spectrum",
    "involution",
    "conv2d",
    "lightning_attention",
    "linear",
    "linear_attention",
    "local_logits",
    "local_mask",
    "local_sum",
    "lstm_cell",
    "map_windows",
    "maximum_spanning_tree",
    "merge_windows",
    "ms_deform_attn",
    "neighborhood_attention",
    "outlook_attention",
    "pad_map",
    "padded_attention",
    "partition_windows",
    "position_relation",
    "reversed_attention",
    "roi_align",
    "toeplitz_attention",
    "window_attention",
    "window_mask",
]

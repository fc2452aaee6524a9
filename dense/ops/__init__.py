"""Functions on tensors: no parameters, no MMEngine."""

from .linear import linear
from .local_attention import local_logits, local_mask, local_sum
from .windows import merge_windows, partition_windows, window_mask

__all__ = ["linear", "local_logits", "local_mask", "local_sum", "merge_windows", "partition_windows", "window_mask"]

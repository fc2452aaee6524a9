"""Gradient checkpointing of blocks."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def run_block(block: Callable[..., Any], *args: Any, with_cp: bool) -> Any:
    """``block(*args)``; where a gradient is wanted, ``with_cp`` keeps the arguments alone and computes what
    is inside anew.
    """
    if with_cp and torch.is_grad_enabled():
        return checkpoint(block, *args, use_reentrant=False)
    return block(*args)

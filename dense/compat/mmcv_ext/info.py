"""What mmcv reports of its compiler."""

import torch


def get_compiler_version() -> str:
    return "none (portable operators of dense)"


def get_compiling_cuda_version() -> str:
    return torch.version.cuda or "not available"

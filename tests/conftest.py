"""Without a GPU, kernels run in Triton's interpreter; Triton reads this switch when it is first imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

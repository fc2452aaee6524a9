"""Without a GPU, kernels run in Triton's interpreter; Triton reads this switch when it is first imported."""
# ruff: noqa: I001

import os

import pointsuite  # noqa: F401  before PyTorch: it sets how threads wait
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

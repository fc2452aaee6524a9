"""Global response normalization: channels compete by their energy over the whole map.

Source: Woo et al., "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders", CVPR 2023,
arXiv 2301.00808.
"""

import torch
from torch import Tensor, nn


class GlobalResponseNorm(nn.Module):
    r"""(B, C, H, W) to the same: :math:`x_c (\gamma_c g_c / (\bar g + \epsilon) + 1) + \beta_c`, where g is
    the Euclidean norm of a channel over all positions and :math:`\bar g` the mean of all channels'.

    Gamma and beta start at 0: the identity.

    Args:
        channels: C.
        eps: epsilon.
    """

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.dtype in (torch.float16, torch.bfloat16):
            norms = torch.linalg.vector_norm(x, dim=(2, 3))  # (B, C)
        else:  # CPUs are several times quicker at this, which has no slope at 0
            norms = x.square().sum((2, 3)).sqrt()
        factor = self.gamma * norms / (norms.mean(1, keepdim=True) + self.eps) + 1
        return torch.addcmul(self.beta[:, None, None], x, factor.to(x.dtype)[:, :, None, None])

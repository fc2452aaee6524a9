"""The gated MLP whose gate sees the neighbours."""

from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import gated_depthwise_conv, linear
from .layer_norm import RMSNorm
from .linear import Linear
from .weighted_conv import effective_weight


class ConvGLU(nn.Module):
    """MLP gated by neighbours: (B, H, W, C) to the same.

    Of one projection come a and g; another takes GELU(depthwise 3x3 convolution of a) * g back to C.

    Source: Shi, "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", CVPR 2024, arXiv
    2311.17132.

    Args:
        embed_dims: C.
        hidden_dims: width of a plain MLP of about as many weights; a and g have two thirds of it.
        conv: without, the gate is GELU(a).
        norm: RMS norm of the gated product.
    """

    def __init__(self, embed_dims: int, hidden_dims: int, *, conv: bool = True, norm: bool = False):
        super().__init__()
        width = int(2 * hidden_dims / 3)
        self.fc1 = Linear(embed_dims, 2 * width)
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width) if conv else None
        self.norm = RMSNorm(width) if norm else None
        self.fc2 = Linear(width, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        # two products, so that each result is in one piece
        (to_a, to_g), (bias_a, bias_g) = self.fc1.weight.chunk(2), self.fc1.bias.chunk(2)
        a, conv = linear(x, to_a, bias_a), self.dwconv
        if conv is None:
            y = linear(x, to_g, bias_g, times=F.gelu(a))
        else:
            y = gated_depthwise_conv(a, linear(x, to_g, bias_g), effective_weight(conv), conv.bias)
        return self.fc2(y) if self.norm is None else self.norm.before(self.fc2, y)

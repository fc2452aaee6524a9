"""InLine-DeiT: a vision Transformer with injective linear attention.

Han et al., "Bridging the Divide: Reconsidering Softmax and Linear Attention", NeurIPS 2024, arXiv 2412.06590.
Published code: LeapLabTHU/InLine, without a licence.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pointsuite.engine.checkpoint import rename_keys

from ..base import TokenBackbone, register_backbone
from ..base.token_backbone import Grid
from ..layers import MLP, InjectiveAttention, drop_path_rates, init_normal
from .vit import Block

PAPER = (
    'Han et al., "Bridging the Divide: Reconsidering Softmax and Linear Attention", NeurIPS 2024, '
    "arXiv 2412.06590"
)
CODE = "LeapLabTHU/InLine"
LICENCE = "none"


def _deit(embed_dims: int, num_heads: int, img_size: int) -> dict[str, Any]:
    return {
        "embed_dims": embed_dims,
        "depth": 12,
        "num_heads": num_heads,
        "patch_size": 16,
        "img_size": img_size,
    }


@register_backbone("inline_deit")
class InLineDeiT(TokenBackbone):
    """Pre-norm blocks of injective attention and MLP, a class token first, positions in a learned table.

    Args:
        arch: a published variant, or a dict as those in ``archs``. Small and base were trained on images of
            288 and 448 pixels.
        drop_path_rate: of the last block; it grows linearly from 0.
        qkv_bias: bias of queries, keys and values.
        feature: map of queries and keys, see :func:`~dense.ops.linear_attention`.
        **kwargs: see :class:`~dense.base.token_backbone.TokenBackbone`.
    """

    folder = "inline"
    paper, code, licence = PAPER, CODE, LICENCE
    archs = {"tiny": _deit(192, 6, 224), "small": _deit(320, 10, 288), "base": _deit(384, 12, 448)}
    num_parameters = {"tiny": 6_477_736, "small": 16_734_760, "base": 23_797_096}
    published = {
        "tiny": {"ImageNet-1K top-1, %": 74.5},
        "small": {"ImageNet-1K top-1, %": 80.2},
        "base": {"ImageNet-1K top-1, %": 82.3},
    }

    exempt = {
        "gradients:classifier": "the class token is not convolved, so the last block's kernels change nothing"
    }

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        drop_path_rate: float = 0.1,
        qkv_bias: bool = True,
        feature: str = "identity",
        **kwargs,
    ):
        super().__init__(arch, **kwargs)
        dims, heads = self.spec["embed_dims"], self.spec["num_heads"]
        for rate in drop_path_rates(drop_path_rate, [self.spec["depth"]])[0]:
            attn = InjectiveAttention(dims, heads, qkv_bias=qkv_bias, feature=feature)
            self.blocks.append(Block(dims, attn, MLP(dims, 4 * dims), rate))
        init_normal(self, nn.Linear)
        self.set_outputs()

    def run_block(self, index: int, tokens: Tensor, grid: Grid) -> Tensor:
        return self._run(self.blocks[index], tokens, grid)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return rename_keys(
            cls.find_trunk(state_dict),
            [
                (r"((?:cls_token|pos_embed)|(?:patch_embed|norm)\..*)", r"backbone.\1"),
                (r"blocks\.(\d+)\.attn\.(qkv|proj|residual)\.(.*)", r"backbone.blocks.\1.attn.\2.\3"),
                (r"blocks\.(\d+)\.(norm\d|mlp)\.(.*)", r"backbone.blocks.\1.\2.\3"),
                (r"head\.(.*)", r"head.fc.\1"),
            ],
        )

    @classmethod
    def read_options(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        return cls.drop_defaults(qkv_bias="backbone.blocks.0.attn.qkv.bias" in state_dict)

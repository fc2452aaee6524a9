"""InLine-DeiT: its tokens, sizes and published weights."""

import torch

from dense.backbones import InLineDeiT
from dense.registry import ZOO

from ..noise import noisy
from .inline import published, without

SMALL = {"embed_dims": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "img_size": 16}


def test_published_weights_are_found():
    state = published("deit_tiny_224")
    assert ZOO.identify(state).name == "inline_deit_tiny"
    state["pos_embed"] = state["pos_embed"].new_empty(1, 1 + 18 * 18, 192)
    state = without(state, "blocks.11.")
    found = ZOO.identify(state).options["arch"]
    assert found["img_size"] == 288 and found["depth"] == 11


def test_the_class_token_is_not_convolved():
    backbone = noisy(InLineDeiT(SMALL))
    x = torch.randn(1, 3, 16, 16).double()
    before = backbone.forward_features(x)
    with torch.no_grad():
        backbone.blocks[1].attn.residual[2].bias.add_(1)
    after = backbone.forward_features(x)
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert ((after - before)[:, 1:].abs() > 1e-6).any(-1).all()


def test_images_that_are_no_squares():
    backbone = noisy(InLineDeiT(SMALL))
    (y,) = backbone(torch.randn(2, 3, 12, 24).double())[1:]
    assert y.shape == (2, 16, 3, 6)


def test_weights_of_attention_sum_to_one():
    weights = noisy(InLineDeiT(SMALL)).attention_weights(torch.randn(1, 3, 16, 16).double())
    assert len(weights) == 2 and weights[0].shape == (1, 2, 17, 17)
    torch.testing.assert_close(weights[1].sum(-1), torch.ones(1, 2, 17).double())

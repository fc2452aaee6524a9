import torch
from torch import nn

from dense.backbones.kernelized_vit import KernelizedViT

ARCH = {"embed_dims": 24, "depth": 2, "num_heads": 3, "patch_size": 4, "img_size": 16}


def make(**options):
    torch.manual_seed(0)
    model = KernelizedViT(ARCH, num_features=8, out_indices=(1,), **options).eval()
    for block in model.blocks:
        nn.init.normal_(block.attn.bias_table)
    return model


@torch.no_grad()
def test_places_are_known_by_offsets_alone():
    """Without its tables the network is blind to the order of patches; with them it is not."""
    model, x = make(), torch.randn(1, 3, 16, 16)
    turned = x.roll(4, 3)  # by one patch
    found, other = (model.forward_features(y).mean(1) for y in (x, turned))
    assert not torch.allclose(found, other, atol=1e-4)
    for block in model.blocks:
        nn.init.zeros_(block.attn.bias_table)
    found, other = (model.forward_features(y).mean(1) for y in (x, turned))
    torch.testing.assert_close(found, other, atol=1e-5, rtol=0)


@torch.no_grad()
def test_ways_agree():
    x = torch.randn(1, 3, 16, 24)
    torch.testing.assert_close(
        *(make(method=m).forward_features(x) for m in ("pairs", "fft")), atol=1e-5, rtol=0
    )


def test_attention_weights_and_options():
    model = make(shared_table=True)
    assert len({id(block.attn.bias_table) for block in model.blocks}) == 1
    weights = model.attention_weights(torch.randn(2, 3, 16, 16))
    assert [w.shape for w in weights] == [(2, 3, 16, 16)] * 2
    before = [block.attn.features.clone() for block in model.blocks]
    assert not torch.equal(*before)
    model.redraw_features(7)
    assert all(
        not torch.equal(old, block.attn.features) for old, block in zip(before, model.blocks, strict=True)
    )

import pytest
import torch

from dense.backbones.rvt import RVT, MaskedAttention
from dense.layers import SelfAttention


def test_an_open_mask_leaves_plain_attention():
    masked, plain = MaskedAttention(12, 3, grid=4), SelfAttention(12, 3)
    torch.nn.init.constant_(masked.att_mask, 40.0)
    plain.load_state_dict({k: v for k, v in masked.state_dict().items() if k != "att_mask"})
    x = torch.randn(2, 16, 12)
    assert torch.allclose(masked(x, 4, 4), plain(x), atol=1e-6)


def test_factors_of_other_maps():
    attention = MaskedAttention(8, 2, grid=4)
    y, x = torch.arange(4.0), torch.arange(4.0)
    at = (y[:, None] + 10 * x).flatten()  # linear in both coordinates of queries and keys
    attention.att_mask.data = (at[:, None] - at).expand(2, 16, 16).clone()
    assert torch.equal(attention.factors(4, 4), attention.att_mask.sigmoid())
    wide = attention.factors(4, 8)
    assert wide.shape == (2, 32, 32)
    logits = wide.detach().logit()[0].unflatten(1, (4, 8)).unflatten(0, (4, 8))
    assert logits[1, 3, 1, 4] == pytest.approx(-5, abs=1e-3)  # half a pixel of the mask to the right
    quirk = MaskedAttention(8, 2, grid=4, reference_quirks=True)
    assert torch.equal(quirk.factors(2, 3), quirk.att_mask[:, :6, :6].sigmoid())
    with pytest.raises(ValueError, match="at most 16 tokens, found 5 x 4"):
        quirk.factors(5, 4)


def test_masks_are_counted_from_the_first_block():
    model = RVT({**RVT.archs["tiny"], "depths": (3, 1), "num_masked": 2})
    kinds = [type(block.attn) for stage in model.stages for block in stage]
    assert kinds == [MaskedAttention, MaskedAttention, SelfAttention, SelfAttention]


def test_plain_host_has_no_pooling():
    plain = RVT.smallest(num_scales=None)
    assert not any("pool.proj" in key for key in plain.state_dict())

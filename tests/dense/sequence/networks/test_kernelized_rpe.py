import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dense.sequence.networks.kernelized_rpe import KernelizedRPE

ARCH = {"embed_dims": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}


def make(**options):
    torch.manual_seed(0)
    model = KernelizedRPE(ARCH, 11, num_features=8, **options)
    for layer in model.layers:
        nn.init.normal_(layer.attn.bias_table)
    return model


def test_tables_and_features():
    model = make(shared_table=True, max_length=9)
    first, second = (layer.attn for layer in model.layers)
    assert first.bias_table is second.bias_table and first.bias_table.shape == (2, 17)
    assert not torch.equal(first.features, second.features)
    old = first.features.clone()
    model.redraw_features(5)
    assert not torch.equal(old, first.features)
    assert torch.equal(make(max_length=9, seed=5).layers[1].attn.features, second.features)


@torch.no_grad()
def test_clipped_tables_reach_any_length():
    ids = torch.randint(11, (1, 300), generator=torch.Generator().manual_seed(0))
    logits = [make(clip=4, method=method).double()(ids) for method in ("pairs", "fft", "blocks")]
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], atol=1e-8, rtol=1e-8)
    with pytest.raises(ValueError, match="found 300 tokens, but positions reach only 8"):
        make(max_length=8)(ids)


def test_it_learns_to_repeat():
    """What stood three tokens before: only the offsets' tables can tell."""
    model = make(max_length=16)
    for layer in model.layers:
        nn.init.zeros_(layer.attn.bias_table)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(80):
        ids = torch.randint(11, (16, 16), generator=generator)
        loss = F.cross_entropy(model(ids)[:, 3:].flatten(0, 1), ids[:, :-3].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1.5  # chance is 2.4

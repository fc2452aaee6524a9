import pytest
import torch

from pointsuite.layers import NeighbourAttention, PointAttention


def by_loops(module, x, over):
    """One cloud (S, K, C) for over="centres", (1, N, C) for over="rows": the published equations, unfused."""
    query, key, value = module.query(x), module.key(x), module.value(x)
    attention = torch.stack([(q @ k.T).softmax(-1) for q, k in zip(query, key, strict=True)])
    if over == "centres":
        attention = attention / (attention.sum(0, keepdim=True) + 1e-9)
    else:
        attention = attention / (attention.sum(1, keepdim=True) + 1e-9)
    y = torch.stack([a.T @ v for a, v in zip(attention, value, strict=True)])
    hidden = module.transform(x - y)
    return x + module.norm(hidden.flatten(0, 1)).view_as(hidden).relu(), attention


def randomised(module):
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    module.norm.running_mean.normal_()
    module.norm.running_var.uniform_(0.5, 2)
    return module.double().eval()


def test_neighbour_attention_equals_loops():
    module, x = randomised(NeighbourAttention(8)), torch.randn(3, 6, 5, 8).double()
    for b in range(3):
        wanted, attention = by_loops(module, x[b], "centres")
        torch.testing.assert_close(module(x)[b], wanted)
        torch.testing.assert_close(attention.sum(0), torch.ones(5, 5).double())


def test_point_attention_equals_loops():
    module, x = randomised(PointAttention(8)), torch.randn(3, 7, 8).double()
    for b in range(3):
        wanted, attention = by_loops(module, x[b : b + 1], "rows")
        torch.testing.assert_close(module(x)[b : b + 1], wanted)
        torch.testing.assert_close(attention.sum(1), torch.ones(1, 7).double())


@pytest.mark.parametrize(("kind", "shape"), [(NeighbourAttention, (2, 1, 5, 8)), (PointAttention, (2, 1, 8))])
def test_a_single_entry_needs_no_queries(kind, shape):
    """With one entry to sum over, A is all ones, unless entries of the softmax come near the 1e-9 added."""
    torch.manual_seed(0)
    full, single = randomised(kind(8)), randomised(kind(8, single=True))
    single.load_state_dict({k: v for k, v in full.state_dict().items() if k in single.state_dict()})
    if full.value.bias is not None:  # without queries the bias is a constant before the norm
        torch.nn.init.zeros_(full.value.bias)
    x = torch.randn(shape).double()
    torch.testing.assert_close(full(x), single(x), atol=1e-6, rtol=1e-6)
    if len(shape) == 4:
        torch.nn.init.constant_(full.query.weight, 30)
        torch.nn.init.eye_(full.key.weight)
        assert (full(100 * x) - single(100 * x)).abs().max() > 1e-3


def test_a_common_shift_of_slots_changes_nothing_else():
    module, x = randomised(NeighbourAttention(8)), torch.randn(1, 6, 5, 8).double()
    torch.testing.assert_close(module(x.roll(2, 2)), module(x).roll(2, 2))
    one = x.clone()
    one[:, 0] = one[:, 0].roll(2, 1)  # in one centre alone it does: slots are summed over centres
    assert (module(one)[:, 1] - module(x)[:, 1]).abs().max() > 1e-6


def test_channels_must_divide():
    with pytest.raises(ValueError, match="multiple of 4, found 6"):
        PointAttention(6)

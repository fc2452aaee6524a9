"""What the relation of boxes must and must not depend on."""

import pytest
import torch

from dense.layers import PositionRelation


def build(**options):
    torch.manual_seed(0)
    return PositionRelation(**options).double()


def boxes(count=9, seed=0):
    return torch.rand(2, count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_initial_weights_are_those_of_a_convolution():
    relation = build()
    assert relation.proj.weight.shape == (8, 64)
    assert 0.9 / 8 < relation.proj.weight.abs().max() <= 1 / 8 and relation.proj.bias.abs().max() <= 1 / 8


def test_diagonal_is_constant():
    """A box to itself: all four numbers are log 1."""
    layer = build(num_heads=5)
    relation = layer(boxes(), boxes()).unflatten(0, (2, 5))
    wanted = (layer.proj.weight.unflatten(1, (-1, 2))[..., 1].sum(1) + layer.proj.bias).relu()
    torch.testing.assert_close(relation.diagonal(dim1=2, dim2=3), wanted[:, None].expand(2, 5, 9))


def test_permuting_boxes_permutes_the_relation():
    layer, order = build(), torch.randperm(9, generator=torch.Generator().manual_seed(1))
    found = layer(boxes()[:, order], boxes(seed=1)[:, order])
    torch.testing.assert_close(found, layer(boxes(), boxes(seed=1))[:, order][:, :, order])


def test_scaling_the_image_changes_nothing():
    layer = build()
    scale = torch.tensor([3.0, 0.5, 3.0, 0.5], dtype=torch.float64)
    found, wanted = (layer(boxes() * s + s / 10, boxes(seed=1) * s + s / 10) for s in (scale, 1))
    torch.testing.assert_close(found, wanted, atol=2e-2, rtol=0)  # up to eps, beside sizes of 0.1 and more
    assert not torch.allclose(wanted, layer(boxes(seed=2), boxes(seed=1)), atol=0.1)


def test_mask():
    layer = build()
    mask = torch.eye(9, dtype=torch.bool)
    plain, masked = layer(boxes(), boxes()), layer(boxes(), boxes(), mask)
    assert masked.shape == (16, 9, 9)
    assert (masked[:, mask] == -float("inf")).all()
    assert torch.equal(masked[:, ~mask], plain[:, ~mask])
    masked.exp().sum().backward()
    assert layer.proj.weight.grad.isfinite().all() and layer.proj.weight.grad.any()


def test_errors():
    with pytest.raises(ValueError, match="embed_dims must be even and positive, found 3"):
        PositionRelation(embed_dims=3)

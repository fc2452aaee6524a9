import torch

from dense.layers import LayerNorm, LayerNorm2d, LayerScale, add_scaled, make_scale


def test_layer_scale():
    module = LayerScale(3, 0.5)
    assert torch.equal(module(torch.tensor([[2.0, 4.0, 6.0]])), torch.tensor([[1.0, 2.0, 3.0]]))
    assert [name for name, _ in module.named_parameters()] == ["gamma"]


def test_add_scaled():
    torch.manual_seed(0)
    x, branch, scale = torch.randn(2, 5, 4), torch.randn(2, 5, 4), make_scale(4, 0.1)
    assert torch.equal(add_scaled(x, branch, None), x + branch)
    torch.testing.assert_close(add_scaled(x, branch, scale), x + 0.1 * branch)
    add_scaled(x, branch, scale).sum().backward()
    torch.testing.assert_close(scale.grad, branch.sum((0, 1)))


def test_epsilon_of_norms():
    x = torch.tensor([[1e-3, -1e-3]])
    torch.testing.assert_close(LayerNorm(2)(x), x / (x.square().mean() + 1e-6).sqrt())
    assert LayerNorm(2, 1e-5).eps == 1e-5 and LayerNorm2d(2).eps == 1e-6
    maps = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(
        LayerNorm2d(3)(maps), LayerNorm(3)(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    )

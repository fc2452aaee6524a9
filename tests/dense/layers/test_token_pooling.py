import pytest
import torch

from dense.layers import TokenAwarePooling


def test_weights_sum_to_one_and_a_constant_stays_inside():
    pool = TokenAwarePooling(3, 4).eval()
    x = torch.full((2, 3, 9, 11), 1.7)
    assert torch.allclose(pool.weights(torch.randn_like(x)).sum(1), torch.ones(2, 9, 11))
    y = pool(x)
    assert torch.allclose(y[..., 3:-3, 3:-3], x[..., 3:-3, 3:-3])  # the largest dilation is 3
    assert (y[..., 0, 0] < 1.7).all()  # what lies beyond the border counts as 0


def test_one_scale_is_the_map_itself():
    x = torch.randn(1, 5, 4, 6)
    assert torch.allclose(TokenAwarePooling(5, 1).eval()(x), x)


def test_scales_are_means_of_nine():
    pool = TokenAwarePooling(1, 3).eval()
    point = torch.zeros(1, 1, 7, 7)
    point[0, 0, 3, 3] = 9
    torch.nn.init.zeros_(pool.proj[2].weight)  # equal weights
    y = pool(point)[0, 0].detach()
    assert y[3, 3] == pytest.approx((9 + 1 + 1) / 3)
    assert y[2, 2] == pytest.approx(1 / 3) and y[1, 5] == pytest.approx(1 / 3) and y[1, 2] == 0


def test_bad_options():
    with pytest.raises(ValueError, match="num_scales must be at least 1, found 0"):
        TokenAwarePooling(3, 0)
    with pytest.raises(ValueError, match="temperature must be above 0, found 0"):
        TokenAwarePooling(3, 2, 0)

"""DropBlock: squares, scale by image or by batch, evaluation, bad input."""

import pytest
import torch

from dense.layers import DropBlock

ONES = torch.ones(2, 3, 8, 8)


def noise(*centres):
    """One where no centre is: (2, 1, 8, 8)."""
    u = torch.ones(2, 1, 8, 8)
    for place in centres:
        u[place[0], 0, place[1], place[2]] = 0
    return u


def test_squares_by_hand():
    found = DropBlock(0.1, 3).drop(ONES, noise((0, 2, 3), (0, 0, 7)))
    kept = torch.ones(8, 8)
    kept[1:4, 2:5] = 0
    kept[:2, 6:] = 0  # cut by the border
    torch.testing.assert_close(found[0], (kept * 64 / 51).expand(3, 8, 8))
    torch.testing.assert_close(found[1], ONES[1])


def test_mean_of_a_constant_map_stays():
    x = 3 * ONES
    torch.manual_seed(0)
    found = DropBlock(0.3, 3)(x)
    assert (found == 0).any()
    torch.testing.assert_close(found.mean((1, 2, 3)), x.mean((1, 2, 3)))


def test_published_scale_is_of_the_batch():
    u = noise((0, 4, 4))
    quirk = DropBlock(0.1, 3, reference_quirks=True).drop(ONES, u)
    assert quirk[1].unique().item() == pytest.approx(128 / 119)
    alone = DropBlock(0.1, 3, reference_quirks=True).drop(ONES[1:], u[1:])
    assert alone.unique().item() == 1
    ours = DropBlock(0.1, 3)
    torch.testing.assert_close(ours.drop(ONES, u)[1:], ours.drop(ONES[1:], u[1:]))


def test_what_drops_nothing_or_all():
    assert DropBlock(0.5).eval()(ONES) is ONES and DropBlock(0.0)(ONES) is ONES
    assert not DropBlock(1.0, 1)(ONES).any()


@pytest.mark.parametrize(
    ("args", "message"), [((1.5,), "in 0..1, found 1.5"), ((0.1, 4), "odd and positive, found 4")]
)
def test_bad_input(args, message):
    with pytest.raises(ValueError, match=message):
        DropBlock(*args)

import random

import pytest
import torch

from dense.classification.augment import Mixup, RandomErasing


def images(batch, size=(12, 10)):
    """Image i holds the number i."""
    return torch.arange(float(batch)).view(-1, 1, 1, 1).repeat(1, 3, *size)


@pytest.fixture(autouse=True)
def seed():
    random.seed(0)
    torch.manual_seed(0)


def test_mixup_mixes_images_and_targets_alike():
    targets = torch.eye(4)
    shares = []
    for _ in range(200):
        mixed, soft = Mixup(mixup=1.0, cutmix=0)(images(4), targets)
        share = soft[0, 0].item()
        torch.testing.assert_close(soft, share * targets + (1 - share) * targets.flip(0))
        torch.testing.assert_close(mixed, share * images(4) + (1 - share) * images(4).flip(0))
        shares.append(share)
    assert 0.45 < sum(shares) / 200 < 0.55 and min(shares) < 0.1 and max(shares) > 0.9  # Beta(1, 1)


def test_cutmix_pastes_a_box_of_the_share_in_the_targets():
    targets = torch.eye(2)
    shares = []
    for _ in range(200):
        mixed, soft = Mixup(mixup=0, cutmix=1.0)(images(2), targets)
        kept = mixed[0, 0] == 0
        assert soft[0, 0].item() == pytest.approx(kept.float().mean().item())
        assert torch.equal(mixed[0] == 0, mixed[1] == 1)
        torch.testing.assert_close(soft.sum(1), torch.ones(2))
        if not kept.all():  # what is not kept is a box
            rows, columns = (~kept).any(1).nonzero(), (~kept).any(0).nonzero()
            box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
            assert not kept[box].any()
        shares.append(soft[0, 0].item())
    assert min(shares) < 0.5 < max(shares)


def test_mixup_switches_and_leaves_its_input():
    batch = images(3)
    boxes = 0
    for _ in range(200):
        mixed, _ = Mixup(mixup=1.0, cutmix=1.0, switch=0.25)(batch, torch.eye(3))
        boxes += set(mixed.unique().tolist()) <= {0.0, 1.0, 2.0}
    assert 30 < boxes < 75
    assert batch.equal(images(3))
    targets = torch.eye(3)
    same, unmixed = Mixup(prob=0)(batch, targets)
    assert same is batch and unmixed is targets


def test_erasing_fills_boxes_with_noise():
    batch = torch.full((400, 3, 20, 16), 9.0)
    found, targets = RandomErasing(prob=0.5, area=(0.1, 0.3))(batch, torch.eye(2))
    assert (batch == 9).all() and targets.equal(torch.eye(2))
    changed = (found != 9).all(1)  # (400, 20, 16)
    assert changed.equal((found != 9).any(1))
    share = changed.float().mean((1, 2))
    hit = share > 0
    assert 160 < hit.sum() < 240 and share.max() < 0.35 and share[hit].min() > 0.05
    for mask in changed[hit]:
        assert mask.sum() == mask.any(1).sum() * mask.any(0).sum()
    noise = found[found != 9]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


def test_erasing_that_fits_nowhere_changes_nothing():
    long = images(2, (40, 4))
    found, _ = RandomErasing(prob=1, area=(1, 1), aspect=0.9)(long, None)
    assert found.equal(long)


@pytest.mark.parametrize(
    ("cls", "kwargs", "message"),
    [
        (Mixup, {"mixup": 0, "cutmix": 0}, "found 0 and 0"),
        (Mixup, {"mixup": -1}, "found -1 and"),
        (RandomErasing, {"area": (0.5, 0.1)}, r"\(0.5, 0.1\)"),
        (RandomErasing, {"aspect": 0}, "found 0"),
    ],
)
def test_bad_arguments(cls, kwargs, message):
    with pytest.raises(ValueError, match=message):
        cls(**kwargs)

import pytest
import torch

from pointsuite.datasets.examples import example_clouds
from pointsuite.layers import RISurConv
from pointsuite.ops.graph import fps


def flat(sizes, seed=0):
    torch.manual_seed(seed)
    clouds = torch.cat([example_clouds(1, size)[0] for size in sizes])
    return (
        clouds[:, :3],
        clouds[:, 3:],
        torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
    )


def rotated(pos, normal):
    basis = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )[0]
    basis = basis * basis.det().sign()
    return pos @ basis, normal @ basis


def test_a_cloud_alone_equals_it_among_others_of_other_sizes():
    pos, normal, batch = flat([40, 25, 60, 25])
    x, index = torch.randn(150, 5), fps(pos, batch, 0.3, random_start=False)
    conv = RISurConv(5, 8, 6, 16).eval()
    whole = conv(x, pos, normal, batch, index)
    assert whole.shape == (len(index), 8)
    for cloud in range(4):
        own, centres = batch == cloud, batch[index] == cloud
        first = int(own.nonzero()[0])
        alone = conv(x[own], pos[own], normal[own], None, index[centres] - first)
        torch.testing.assert_close(whole[centres], alone)


def test_rotation_changes_nothing():
    pos, normal, batch = flat([40, 40])
    pos, normal = pos.double(), normal.double()
    normal = normal / normal.norm(dim=-1, keepdim=True)
    conv = RISurConv(0, 8, 6, 16).double().eval()
    torch.testing.assert_close(
        conv(None, *rotated(pos, normal), batch), conv(None, pos, normal, batch), rtol=0, atol=1e-9
    )


def test_it_trains_two_layers_deep():
    pos, normal, batch = flat([48] * 4)
    torch.manual_seed(0)
    first, second = RISurConv(0, 8, 8, 16), RISurConv(8, 16, 4, 16)
    head = torch.nn.Linear(16, 2)
    optimizer = torch.optim.Adam([*first.parameters(), *second.parameters(), *head.parameters()], 1e-2)
    labels, losses = torch.tensor([0, 1, 0, 1]), []
    for _ in range(25):
        index = fps(pos, batch, 0.5, random_start=False)
        x = first(None, pos, normal, batch, index)
        at = pos[index], normal[index], batch[index]
        x = second(x, *at)
        pooled = torch.stack([x[at[2] == cloud].amax(0) for cloud in range(4)])
        loss = torch.nn.functional.cross_entropy(head(pooled), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in second.parameters() if p.requires_grad)
    assert losses[-1] < 0.3 * losses[0]


def test_bad_input():
    pos, normal, batch = flat([20, 30])
    conv = RISurConv(3, 8, 6, 16)
    x = torch.randn(50, 3)
    with pytest.raises(ValueError, match=r"x must have shape \(50, 3\) with points, found None"):
        conv(None, pos, normal, batch)
    with pytest.raises(ValueError, match="normal must have shape"):
        conv(x, pos, normal[:-1], batch)
    with pytest.raises(ValueError, match=r"as many points and centres, found \[\[20, 20\], \[30, 30\]\]"):
        conv(x, pos, normal, batch)
    with pytest.raises(ValueError, match="cloud 1 must have 6 points or more and a centre, found 30 and 0"):
        conv.eval()(x, pos, normal, batch, torch.arange(20))
    with pytest.raises(ValueError, match="ascending"):
        conv(x, pos, normal, batch.flip(0))
    with pytest.raises(ValueError, match="k must be at least 3"):
        RISurConv(3, 8, 2)

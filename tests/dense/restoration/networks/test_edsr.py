import pytest
import torch

import dense
from dense.restoration.networks.edsr import EDSR

TINY = {"channels": 8, "depth": 2, "scaling": 0.1}


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(scale, channels):
    torch.manual_seed(0)
    network = EDSR(TINY, scale, channels)
    for size in ((1, 1), (5, 8)):
        x = torch.rand(2, channels, *size)
        y = network(x)
        assert y.shape == (2, channels, scale * size[0], scale * size[1]) and y.isfinite().all()
        torch.testing.assert_close(network(x[1:]), y[1:])
    y.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_published_sizes():
    """The paper's table: 1.5 M (x2 baseline of 1.37 M parameters) and 43 M (40.7 M for x2)."""
    with torch.device("meta"):
        counts = {
            (arch, scale): sum(p.numel() for p in EDSR(arch, scale).parameters())
            for arch in EDSR.archs
            for scale in (2, 4)
        }
    conv = 64 * 64 * 9 + 64
    ends = 3 * 64 * 9 + 64 + 64 * 3 * 9 + 3
    assert counts["baseline", 2] == 33 * conv + 4 * conv + ends == EDSR.num_parameters["baseline"]
    assert counts["baseline", 4] == 33 * conv + 8 * conv + ends
    conv = 256 * 256 * 9 + 256
    assert counts["edsr", 4] == 65 * conv + 8 * conv + 2 * 3 * 256 * 9 + 256 + 3  # 43 M


def test_names():
    assert dense.list_models("edsr*") == ["edsr", "edsr_baseline", "edsr_s"]


def test_a_zero_network_returns_the_mean_or_the_image():
    x = torch.rand(1, 3, 4, 4)
    for scale in (1, 2):
        network = EDSR(TINY, scale)
        for parameter in network.parameters():
            torch.nn.init.zeros_(parameter)
        expected = x if scale == 1 else network.mean.expand(1, 3, 8, 8)
        assert network(x).equal(expected)


def test_errors():
    for arguments, message in (
        (("huge",), "no arch 'huge'"),
        (({"depth": 2},), r"keys \['channels', 'depth', 'scaling'\], found \['depth'\]"),
        ((TINY, 5), "scale must be 1, 2, 3 or 4, found 5"),
    ):
        with pytest.raises(ValueError, match=message):
            EDSR(*arguments)
    with pytest.raises(ValueError, match=r"\(B, 3, h, w\), found \(1, 1, 4, 4\)"):
        EDSR(TINY)(torch.rand(1, 1, 4, 4))

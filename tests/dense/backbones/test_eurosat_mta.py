"""EuroSATNet: sizes, pyramids, DropBlock, initial weights, published names, bad input."""

import pytest
import torch
from torch import nn

import dense
from dense.backbones import EuroSATNet
from dense.layers import BalancedAttention, DropBlock, SqueezeExcitation

TINY = {
    "baseline": {"embed_dims": (8, 16), "depths": (1, 1), "hidden_dims": 12, "img_size": 16},
    "attention": {"embed_dims": (16, 32, 32), "depths": (2, 2, 0), "hidden_dims": 12, "img_size": 0},
    "balanced": {"embed_dims": (16, 32), "depths": (1, 2), "hidden_dims": 0, "img_size": 0},
}
TINY = {
    design: {"design": design, "drop_block": (0.1,) * len(spec["depths"]), **spec}
    for design, spec in TINY.items()
}


def tiny(design, **options):
    torch.manual_seed(0)
    return EuroSATNet.create(TINY[design], **options).eval()


@pytest.mark.parametrize(
    ("design", "sizes"), {"baseline": [(8, 4)], "attention": [(9, 7), (4, 12)], "balanced": [(9, 7)]}.items()
)
def test_maps_of_any_size(design, sizes):
    net = tiny(design, features_only=True)
    for size in sizes:
        maps = net(torch.randn(2, 3, *size))
        rounds = (lambda n: -(-n // 2)) if design == "balanced" else (lambda n: n // 2)
        wanted = [size]
        for _ in maps[1:]:
            wanted.append(tuple(map(rounds, wanted[-1])))
        assert [tuple(y.shape[2:]) for y in maps] == wanted
        assert [y.shape[1] for y in maps] == list(TINY[design]["embed_dims"])
    assert net.strides == tuple(2**i for i in range(len(maps)))


def test_the_published_sizes():
    """The baseline flattens its map; the others take any that is not too small."""
    tiny("baseline")(torch.randn(1, 3, 16, 16))
    with pytest.raises(ValueError, match="takes maps of 8 x 8, found 12 x 8: images must have the side img_"):
        tiny("baseline")(torch.randn(1, 3, 24, 16))
    with pytest.raises(ValueError, match="at least 4 x 4, found 3 x 9"):
        tiny("attention")(torch.randn(1, 3, 3, 9))
    with torch.device("meta"):
        sizes = [
            dense.create_model(f"eurosat_mta_{a}", features_only=True).min_size for a in EuroSATNet.archs
        ]
    assert sizes == [4, 64, 8]


def test_ten_classes_by_default():
    with torch.device("meta"):
        assert dense.create_model("eurosat_mta_balanced12").num_classes == 10


@pytest.mark.parametrize("quirks", [False, True])
def test_dropblock_of_an_image_depends_on_its_neighbours_as_published_only(quirks):
    net = tiny("balanced", reference_quirks=quirks, block_size=3, features_only=True)
    block = net.stages[1][0]
    assert block.drop_block.rate == 0.1 and block.drop_block.size == 3
    block.drop_block.train()
    x = torch.randn(2, 16, 8, 8)
    other = torch.stack((x[0], x[1] + 1))
    drawn = []
    for images in (x, other):
        torch.manual_seed(3)
        drawn.append(block.drop_block(images)[0])
    torch.testing.assert_close(*drawn)  # the noise is the same, and so is the mask
    dropped = block.drop_block.drop(x, torch.stack((torch.ones(1, 8, 8), torch.zeros(1, 8, 8))))
    assert torch.allclose(dropped[0], x[0]) != quirks


def test_rates_rise_with_the_stages():
    with torch.device("meta"):
        net = EuroSATNet("balanced12")
    rates = [[block.drop_block.rate for block in stage] for stage in net.stages]
    assert rates == [[0.05] * 3, [0.1] * 3, [0.15] * 3, [0.2] * 2]
    assert sum(isinstance(m, DropBlock) for m in net.modules()) == 11


def test_initial_weights():
    """Published: of all linear layers, those of squeeze and excitation too, 0.01; alpha 0.5."""
    net = EuroSATNet.create({**TINY["balanced"], "embed_dims": (64, 128)})
    excited = [m for m in net.modules() if isinstance(m, SqueezeExcitation)]
    stds = [layer.weight.std().item() for m in excited for layer in (m.fc1, m.fc2)]
    assert stds == pytest.approx([0.01] * len(stds), rel=0.25) and excited[0].fc1.bias is None
    assert net.head.fc.weight.std().item() == pytest.approx(0.01, rel=0.2) and not net.head.fc.bias.any()
    conv = net.backbone.stages[1][0].conv1.conv.weight
    assert conv.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.1)
    assert {m.alpha.item() for m in net.modules() if isinstance(m, BalancedAttention)} == {0.5}


def test_no_activation_between_the_linear_layers_of_the_baseline():
    net = tiny("baseline")
    features = net.forward_features(torch.randn(4, 3, 16, 16))
    hidden = net.forward_head(features, pre_logits=True)
    assert (hidden < 0).any()
    torch.testing.assert_close(net.head.fc(hidden), net.forward_head(features))
    net = tiny("attention")
    assert (net.forward_head(torch.randn(4, 32, 2, 2), pre_logits=True) >= 0).all()


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("design", TINY)
def test_own_weights_show_what_they_are_of(design, merged):
    net = tiny(design, num_classes=7, in_channels=4)
    if merged:
        net = dense.layers.switch_to_deploy(net)
    arch, options, _ = next(EuroSATNet.guess_options(net.state_dict()))
    known = options["arch"]
    same = {key: known[key] for key in known if key != "drop_block"}
    assert same == {key: value for key, value in TINY[design].items() if key != "drop_block"}
    assert options["num_classes"] == 7 and options["in_channels"] == 4
    other = EuroSATNet.create(**options).eval()
    other.load_state_dict(net.state_dict())
    x = torch.randn(1, 4, 16, 16)
    torch.testing.assert_close(other(x), net(x))


@pytest.mark.parametrize("dropout", [None, 0.0])
def test_dropout_of_the_head(dropout):
    net = tiny("balanced", dropout=dropout)
    layer = next(m for m in net.head.modules() if isinstance(m, nn.Dropout))
    assert layer.p == (0.5 if dropout is None else 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"design": "heavy"}, "design must be one of .*'balanced'.*, found 'heavy'"),
        ({"depths": (1, 1, 1)}, "one entry a stage, found 2, 3, 2"),
        ({"heads": 2}, "has keys"),
    ],
)
def test_bad_arch(change, message):
    with pytest.raises(ValueError, match=message):
        EuroSATNet({**TINY["balanced"], **change})

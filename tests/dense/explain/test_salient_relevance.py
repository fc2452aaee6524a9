from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dense.backbones import ResNetCifar, ViT
from dense.base import ClassificationNetwork
from dense.explain.explain import explain
from dense.explain.salient_relevance import (
    RULE_SETS,
    RelevanceRules,
    heat_map,
    measure_conservation,
    propagate_relevance,
    salient_relevance,
)
from dense.ops import linear

BOX, FIRST = {"first": "z_box"}, RelevanceRules(first="z")


def make_network(bias=True, pool=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=bias),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2) if pool else nn.AvgPool2d(2),
        nn.Conv2d(8, 6, 3, stride=2, groups=2, bias=bias),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 10),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(10, 4),
    ).double()


def make_images(batch=2, size=(17, 13)):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1)).double()


def sums(found):
    return found.flatten(1).sum(1)


def start(found):
    return found.logits.gather(1, found.target[:, None])[:, 0]


# ----------------------------------------------------------------------------------------------- relevance


@pytest.mark.parametrize("pool", [True, False])
def test_relevance_is_conserved_without_biases(pool):
    network = make_network(bias=False, pool=pool)
    found = propagate_relevance(network, make_images(), None, None, ["0", "3", "7", "10"])
    for relevance in (found.image, *found.layers.values()):
        torch.testing.assert_close(sums(relevance), start(found), rtol=1e-5, atol=1e-9)


def test_a_convolution_loses_the_share_of_its_bias():
    conv = nn.Conv2d(1, 1, 1).double()
    nn.init.constant_(conv.weight, 2.0)
    nn.init.constant_(conv.bias, 1.0)
    found = propagate_relevance(nn.Sequential(conv, nn.Flatten()), torch.tensor([[[[3.0]]]]).double(), 0)
    assert found.logits.item() == 7
    assert found.image.item() == pytest.approx(6, rel=1e-6)


def test_convolutions_alone_give_gradient_times_input():
    network = nn.Sequential(*make_network(bias=False, pool=False)[:7], nn.Unflatten(1, (24, 1, 1)),
                            nn.Conv2d(24, 4, 1, bias=False), nn.Flatten()).double()  # fmt: skip
    x = make_images().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x)[:, 1].sum(), x)
    relevance = propagate_relevance(network, x, 1, RelevanceRules(eps=1e-15)).image
    torch.testing.assert_close(relevance, x.detach() * gradient)


def test_a_positive_linear_layer_shares_by_its_terms():
    x, weight = torch.rand(1, 6, 1, 1).double(), torch.rand(1, 6).double()
    layer = nn.Linear(6, 1, bias=False).double()
    layer.weight.data = weight
    found = propagate_relevance(nn.Sequential(nn.Flatten(), layer), x, 0)
    torch.testing.assert_close(found.image[0, :, 0, 0], x[0, :, 0, 0] * weight[0])


def by_hand(rule, x, w, y, rules):
    """Shares of outputs (m,) that inputs (n,) get: (m, n)."""
    z = w * x
    if rule == "z":
        return z / y[:, None]
    if rule == "epsilon":
        return z / (y + rules.epsilon * y.sign())[:, None]
    if rule == "alpha_beta":
        gain, loss = z.clamp(min=0), z.clamp(max=0)
        return rules.alpha * gain / gain.sum(1, True) - rules.beta * loss / loss.sum(1, True)
    low, high = rules.bounds or (0, 0)
    share = z.clamp(min=0) if rule == "z+" else z - low * w.clamp(min=0) - high * w.clamp(max=0)
    return share / share.sum(1, True)


@pytest.mark.parametrize("rule", ["z", "z+", "epsilon", "alpha_beta", "z_box"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_rules_by_hand(rule, kind):
    torch.manual_seed(3)
    layer, weights = nn.Linear(9, 4).double(), torch.randn(4).double()
    x = torch.randn(9).double()
    x = x.abs() if rule == "z+" else x
    box = rule == "z_box"
    rules = RelevanceRules(**({"first": rule, "bounds": (-3.0, 3.0)} if box else {kind: rule}))
    if kind == "conv":
        conv = nn.Conv2d(9, 4, 1).double()
        conv.load_state_dict({"weight": layer.weight[..., None, None], "bias": layer.bias})
        network = nn.Sequential(conv, nn.Flatten(), Weigh(weights))
    else:
        network = nn.Sequential(layer, nn.Flatten(), Weigh(weights))
    image = x.view(1, 9, 1, 1) if kind == "conv" else x.view(1, 1, 1, 9)
    found = propagate_relevance(network, image, 0, rules).image.flatten()
    y = layer(x)
    wanted = (y * weights) @ by_hand(rule, x, layer.weight, y, rules)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-6, atol=1e-9)


def test_rules_of_positive_parts_conserve_whatever_the_biases():
    network = make_network()
    for options in ({"conv": "alpha_beta"}, {"conv": "z+", "first": "z_box", "bounds": (-5, [5, 5.5, 6])}):
        found = propagate_relevance(network, make_images(), 2, RelevanceRules(**options), ["3"])
        # between the pooled map and the first layer's input nothing is lost
        torch.testing.assert_close(sums(found.image), sums(found.layers["3"]), rtol=1e-5, atol=1e-9)


def test_windows_that_share_a_maximum_add_up_or_overwrite():
    x = torch.tensor([0.0, 0, 5, 0, 1]).view(1, 1, 1, 5)
    network = nn.Sequential(nn.MaxPool2d((1, 3), (1, 1)), nn.Flatten(), Weigh([1.0, 2.0, 4.0]))
    assert propagate_relevance(network, x, 0).image[0, 0, 0, 2] == 35
    quirk = propagate_relevance(network, x, 0, RelevanceRules(reference_quirks=True))
    assert quirk.image[0, 0, 0, 2] == 20
    assert sums(quirk.image) == 20


class Weigh(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(torch.as_tensor(weights))

    def forward(self, x):
        return (x * self.weights).sum(1, keepdim=True)


def test_a_batch_is_its_images_and_single_precision_follows_double():
    network, x = make_network(), make_images()
    found = propagate_relevance(network, x).image
    alone = torch.cat([propagate_relevance(network, image[None]).image for image in x])
    torch.testing.assert_close(found, alone)
    single = propagate_relevance(network.float(), x.float()).image
    torch.testing.assert_close(single.double(), found, rtol=1e-3, atol=1e-5)


def test_branches_share_in_proportion_and_norms_are_as_if_folded():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)

        def forward(self, x):
            x = F.relu(x + self.norm(self.conv(x)), inplace=True)
            x += 0.5 * x
            return x.mean((2, 3))

    torch.manual_seed(0)
    network, x = Branches().double().eval(), make_images()
    network.norm.running_mean.normal_()
    folded = nn.utils.fuse_conv_bn_eval(network.conv, network.norm)
    conv = nn.Conv2d(3, 3, 3, padding=1).double()
    conv.load_state_dict(folded.state_dict())
    found = propagate_relevance(network, x, 0).image
    plain = Branches().double()
    plain.conv, plain.norm = conv, nn.Identity()
    torch.testing.assert_close(found, propagate_relevance(plain, x, 0).image)


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.LeakyReLU(0.1, inplace=True), nn.Tanh()])
def test_activations_keep_relevance(activation):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), activation, nn.Conv2d(4, 2, 3, bias=False),
                            nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()  # fmt: skip
    found = propagate_relevance(network, make_images())
    torch.testing.assert_close(sums(found.image), start(found), rtol=1e-5, atol=1e-9)


def test_what_works_in_place_and_is_not_assigned_counts():
    class InPlace(nn.Module):
        def __init__(self, in_place):
            super().__init__()
            self.convs = make_network()[::3][:2]
            self.in_place = in_place

        def forward(self, x):
            for conv in self.convs:
                x = conv(x)
                if self.in_place:
                    F.relu(x, inplace=True)
                    x.relu_()
                else:
                    x = F.relu(F.relu(x))
            return x.mean((2, 3))

    found, wanted = (propagate_relevance(InPlace(flag), make_images(), 1) for flag in (True, False))
    torch.testing.assert_close(found.logits, wanted.logits)
    torch.testing.assert_close(found.image, wanted.image)


def test_the_network_comes_back():
    network, x = make_network().train(), make_images()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    propagate_relevance(network, x)
    assert all(module.training for module in network.modules())
    assert network[1].inplace
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_a_backbone_of_the_suite():
    torch.manual_seed(0)
    network = ClassificationNetwork(ResNetCifar({"embed_dims": (8, 16), "depths": (1, 1)}), 5).eval()
    found = propagate_relevance(network, torch.randn(2, 3, 16, 16))
    assert found.image.isfinite().all()
    assert found.image.abs().sum() > 0
    assert explain(network, torch.randn(1, 3, 16, 16), 1, "lrp").shape == (1, 1, 16, 16)


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)),
            r"layer '0.1' \(GroupNorm\): found group_norm",
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid()), r"layer '0.1' \(Sigmoid\): found sigmoid"),
    ],
)
def test_what_has_no_rule_is_named(module, named):
    network = nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match=named):
        propagate_relevance(network, torch.randn(1, 3, 8, 8))


def test_transformers_and_gates_are_refused():
    vit = ViT.smallest(num_classes=3)
    with pytest.raises(ValueError, match=r"norm1.*layer_norm.*no rule"):
        propagate_relevance(vit, *vit.example_inputs(1, (32, 32)))

    class Gate(nn.Module):
        def forward(self, x):
            return (x * x.mean((2, 3), keepdim=True)).mean((2, 3))

    with pytest.raises(ValueError, match=r"\(Gate\): found mul, a product of two things"):
        propagate_relevance(Gate(), torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda net, x: propagate_relevance(net, x, 9), "target: found 9, wanted 0 to 3"),
        (lambda net, x: propagate_relevance(net, x, [0, 1, 2]), r"target: found \(3,\)"),
        (lambda net, x: propagate_relevance(net, x[0]), "image: found"),
        (lambda net, x: propagate_relevance(net, x * torch.nan), "NaN"),
        (lambda net, x: propagate_relevance(net, x, 0, None, ["11"]), "did you mean 1"),
        (lambda net, x: RelevanceRules(conv="alphabeta"), "found 'alphabeta'.*did you mean alpha_beta"),
        (lambda net, x: RelevanceRules(alpha=3.0), "alpha, beta"),
        (lambda net, x: RelevanceRules(first="z_box"), "bounds: found None"),
        (lambda net, x: RelevanceRules(eps=0.0), "eps: found 0.0"),
        (
            lambda net, x: propagate_relevance(net, x, 0, RelevanceRules(**BOX, bounds=(0, 1))),
            "bounds: found an image of",
        ),
        (
            lambda net, x: propagate_relevance(net, x, 0, RelevanceRules(**BOX, bounds=([-5, -5], 9))),
            "bounds: found 2 of low",
        ),
        (
            lambda net, x: propagate_relevance(nn.Sequential(nn.ReLU(), net), x, 0, FIRST),
            "no layer takes the image itself",
        ),
        (lambda net, x: explain(net, x, 0, "lrp", linaer="z"), "'linaer'.*did you mean linear"),
        (lambda net, x: explain(net, x, 0, "salient_relevanc"), "did you mean salient_relevance"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call(make_network(), make_images())


def test_heat_map():
    relevance = torch.tensor([[-4.0, 1.0], [2.0, 2.0]]).view(2, 1, 1, 2)
    assert heat_map(relevance).flatten().tolist() == [255, 0, 0, 0]
    assert heat_map(relevance).dtype == torch.uint8


# -------------------------------------------------------------------------------------------------- SR map


def make_relevance(seed=0, batch=1, size=(40, 52)):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def test_range_and_foci():
    found = salient_relevance(make_relevance(batch=2))
    assert found.map.shape == (2, 1, 40, 52)
    assert len(found.scales) == 4
    assert (found.map >= 0).all()
    assert (found.map <= found.mean_map).all()
    foci = found.mean_map > 0.8
    assert torch.equal(found.map[foci], found.mean_map[foci])
    assert found.mean_map.max() == 1


def test_one_bright_blob_is_the_maximum():
    relevance = torch.zeros(1, 3, 48, 64)
    relevance[:, :, 28:36, 12:20] = -5
    y, x = divmod(int(salient_relevance(relevance).map.argmax()), 64)
    assert 24 <= y < 40
    assert 8 <= x < 24


def test_flipped_relevance_gives_the_flipped_map():
    relevance = make_relevance(size=(39, 39))
    how = {"scales": (1.0,), "candidate_scales": (1.0,)}  # (39 - 7) is a multiple of the stride
    found = salient_relevance(relevance, **how).map
    torch.testing.assert_close(salient_relevance(relevance.flip(3), **how).map.flip(3), found)


def test_chunks_and_batches_change_nothing():
    relevance = make_relevance(batch=2, size=(23, 31))
    whole = salient_relevance(relevance).map
    torch.testing.assert_close(salient_relevance(relevance, chunk=100).map, whole)
    torch.testing.assert_close(salient_relevance(relevance[1:]).map, whole[1:])


def test_distinctness_of_a_patch_by_hand():
    """Two patches, of which each is the other's only candidate."""
    relevance = make_relevance(3, size=(7, 11))
    relevance = relevance[:, :1]
    found = salient_relevance(relevance, scales=(1.0,), candidate_scales=(1.0,))
    assert not found.mean_map.any()  # both are equally distinct: a constant map
    wide = make_relevance(3, size=(7, 15))[:, :1].double()
    a = wide.abs()
    a = (a - a.min()) / (a.max() - a.min())
    patches = [a[0, 0, :, j : j + 7].flatten().numpy() for j in (0, 4, 8)]
    s = []
    for i, q in enumerate(patches):
        d = [
            np.linalg.norm(q - c) / 7 / (1 + 3 * 4 * abs(i - j) / 15) for j, c in enumerate(patches) if i != j
        ]
        s.append(1 - np.exp(-np.mean(d)))
    s = np.array(s)
    s = torch.from_numpy((s - s.min()) / (s.max() - s.min())).view(1, 1, 1, 3)
    wanted = F.interpolate(s, (7, 15), mode="bilinear", align_corners=False)
    wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    found = salient_relevance(wide, scales=(1.0,), candidate_scales=(1.0,)).mean_map
    torch.testing.assert_close(found, wanted)


def test_a_constant_map_is_empty_and_small_ones_skip_scales():
    assert not salient_relevance(torch.ones(1, 3, 20, 20)).map.any()
    assert len(salient_relevance(make_relevance(size=(13, 20))).scales) == 2
    with pytest.raises(ValueError, match=r"found \(6, 20\), wanted at least 7 by 7"):
        salient_relevance(make_relevance(size=(6, 20)))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (partial(salient_relevance, torch.ones(3, 20, 20)), "wanted \\(B, C, H, W\\) floats"),
        (partial(salient_relevance, torch.full((1, 1, 9, 9), torch.inf)), "NaN or infinity"),
        (partial(salient_relevance, torch.ones(1, 1, 9, 9), stride=0), "stride: found 0"),
        (partial(salient_relevance, torch.ones(1, 1, 9, 9), scales=(0.0,)), "scales: found 0.0"),
    ],
)
def test_bad_maps_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_linear_layers_of_the_suite_follow_the_linear_rule():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).double())

        def forward(self, x):
            return linear(x.flatten(1), self.weight, None, activation=None)

    plain = nn.Linear(5, 2, bias=False).double()
    head = Head()
    plain.weight.data = head.weight.data
    x = torch.rand(2, 5, 1, 1).double()
    wanted = propagate_relevance(nn.Sequential(nn.Flatten(), plain), x, 1).image
    torch.testing.assert_close(propagate_relevance(head, x, 1).image, wanted)


def test_conservation_is_measured_from_the_logit():
    network, x = make_network(bias=False), make_images()
    found = measure_conservation(network, x, ["3"], RelevanceRules())
    for share in found.values():
        torch.testing.assert_close(share, torch.ones(2).double(), rtol=1e-5, atol=0)
    lost = measure_conservation(make_network(), x, ["3"], RelevanceRules())
    assert list(lost) == ["", "3"]
    assert (lost["3"] - 1).abs().max() > 1e-3
    quirk = measure_conservation(network, x, [], RULE_SETS["overwriting"], 1)[""]
    assert (quirk - 1).abs().max() > 1e-3

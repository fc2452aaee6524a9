import pytest
import torch
from torch import nn

from dense.backbones import ResNetCifar, ViT
from dense.base import ClassificationNetwork
from dense.explain import METHODS, explain, register_method
from dense.explain.explain import Subject, undisturbed
from dense.explain.maps import LAYER_WEIGHTS, combine_maps, gaussian_blur, normalize_map, to_map


class Block(nn.Module):
    """A layer whose output is changed in place by what follows it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        y += x
        return y.relu_()


def make_network():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        Block(),
    ]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    network[0].weight.requires_grad_(False)
    network[1].eval()
    return network


def make_images(batch=2, size=(12, 16)):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def make_vit(**options):
    arch = {
        **ViT.archs["tiny"],
        "embed_dims": 12,
        "num_heads": 2,
        "depth": 3,
        "patch_size": 4,
        "img_size": 16,
    }
    return ClassificationNetwork(ViT(arch, **ViT.classifier_options(arch), **options), 4)


def state(network):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    flags = [(m.training, getattr(m, "inplace", None)) for m in network.modules()]
    wanting = [(p.requires_grad, p.grad is None) for p in network.parameters()]
    return hooks, flags, wanting, {key: x.clone() for key, x in network.state_dict().items()}


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("meta_lr", [None, 0.1])
def test_the_network_comes_back_as_it_was(method, meta_lr):
    network = make_network().train()
    network[1].eval()
    network[2].register_forward_hook(lambda *_: None)
    before = state(network)
    with torch.no_grad():
        found = explain(network, make_images(), [1, 4], method, meta_lr=meta_lr)
    assert found.shape == (2, 1, 12, 16) and found.isfinite().all() and not found.requires_grad
    after = state(network)
    assert after[:3] == before[:3]
    assert all(torch.equal(after[3][key], x) for key, x in before[3].items())


def test_also_after_an_error():
    network = make_network().train()
    before = state(network)
    with pytest.raises(ValueError, match="target: found 7, wanted 0 to 4"):
        explain(network, make_images(), 7)

    @register_method("broken")
    def broken(subject, layer):
        subject.network[4].register_forward_hook(lambda *_: None)
        raise RuntimeError("no")

    try:
        with pytest.raises(RuntimeError, match="no"):
            explain(network, make_images(), 1, "broken")
        with pytest.raises(KeyError, match="registered twice"):
            register_method("broken")(broken)
    finally:
        del METHODS["broken"]
    assert state(network)[:3] == before[:3]


def test_works_where_tensors_are_of_inference():
    network = make_network()
    with torch.inference_mode():
        image = make_images().clone()
        found = explain(network, image, 1)
    assert torch.equal(found, explain(network, make_images(), 1))


@pytest.mark.parametrize(
    "method", [name for name in sorted(METHODS) if name not in ("random", "salient_relevance")]
)
def test_a_batch_is_its_images(method):
    network, image = make_network(), make_images(3)
    whole = explain(network, image, [0, 3, 2], method, "4" if not METHODS[method].own_layer else None)
    for i, target in enumerate((0, 3, 2)):
        alone = explain(
            network, image[i : i + 1], target, method, "4" if not METHODS[method].own_layer else None
        )
        torch.testing.assert_close(whole[i : i + 1], alone, rtol=1e-4, atol=1e-7)


def test_taps_are_safe_from_what_is_done_in_place():
    network, image = make_network().eval(), make_images()
    with undisturbed(network):
        ((x, g),) = Subject(network, image, 2).gradients(["4.conv"])
    seen = network[4].conv(network[:4](image))
    torch.testing.assert_close(x, seen)
    torch.testing.assert_close(g, g * (x + network[:4](image) > 0))
    assert not torch.equal(x, network[:5](image))


def test_several_layers_are_one_pass():
    network, calls = make_network(), []
    network[0].register_forward_hook(lambda *_: calls.append(0))
    found = explain(network, make_images(), 1, "norm_grad", ["2", "3", "4"])
    assert len(calls) == 1 and found.shape == (2, 1, 12, 16)
    own = [explain(network, make_images(), 1, "norm_grad", name) for name in ("2", "3", "4")]
    torch.testing.assert_close(found, sum(map(normalize_map, own)) / 3)
    weighted = explain(network, make_images(), 1, "norm_grad", {"2": 1, "4": 3}, combine="product")
    torch.testing.assert_close(weighted, normalize_map(own[0]) ** 0.25 * normalize_map(own[2]) ** 0.75)


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        ("method: found 'normgrad', wanted one of .*did you mean norm_grad", {"method": "normgrad"}),
        ("layer: found '4.cnv', wanted a module of Sequential; did you mean 4.conv", {"layer": "4.cnv"}),
        ("method 'norm_grad' has no option 'stat'; did you mean start", {"stat": 1}),
        ("start: found 'here', wanted 'one_hot' or 'pointing'", {"start": "here"}),
        ("target: found 5, wanted 0 to 4", {"target": 5}),
        ("target: found -1, wanted 0 or more", {"target": -1}),
        ("target: found \\(3,\\), wanted one class or 2", {"target": [1, 2, 3]}),
        ("target: found torch.float32, wanted integers", {"target": torch.ones(2)}),
        ("image: found \\(3, 8, 8\\), wanted", {"image": torch.ones(3, 8, 8)}),
        ("image: found NaN", {"image": torch.full((2, 3, 8, 8), torch.nan)}),
        ("image: found torch.int64", {"image": torch.ones(2, 3, 8, 8, dtype=torch.long)}),
        ("layer '7' gave|a layer gave \\(2, 5\\)", {"layer": "7"}),
        ("weights: found \\[1.0\\]", {"layer": ["2", "4"], "weights": [1.0]}),
        ("weights 'accuracy' are for the layers", {"layer": ["2", "4"], "weights": "accuracy"}),
        ("combine: found 'mean'", {"layer": ["2", "4"], "combine": "mean"}),
        ("layer 'None'|found 0 calls of a convolution", {"method": "norm_grad_proper", "layer": "3"}),
        ("smooth: found -1, wanted", {"smooth": -1}),
    ],
)
def test_bad_requests(error, arguments):
    given = {"image": make_images(), "target": 1, **arguments}
    with pytest.raises(ValueError, match=error):
        explain(make_network(), **given)


def test_unlike_outputs_are_named():
    with pytest.raises(ValueError, match="the network gave \\([12], 8, 12\\), wanted logits"):
        explain(
            nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(2), nn.Linear(192, 12)), make_images(), 1
        )
    with pytest.raises(ValueError, match="layer '1.0' was not called"):
        network = make_network()
        network[1].add_module("0", nn.ReLU())
        explain(network, make_images(), 1, layer="1.0")


@pytest.mark.parametrize("num_registers", [0, 3])
def test_tokens_become_maps_without_their_prefix(num_registers):
    network, image = make_vit(num_registers=num_registers), make_images(2, (16, 24))
    found = explain(network, image, 1, "norm_grad", "backbone.blocks.1", resize=False)
    assert found.shape == (2, 1, 4, 6)
    with undisturbed(network):
        subject = Subject(network, image, 1)
        ((x, g),) = subject.gradients(["backbone.blocks.1"])
        assert subject.default_layer() == "backbone.blocks.1"  # of the last block only the class token counts
    x, g = (y[:, 1 + num_registers :].norm(dim=2).view(2, 1, 4, 6) for y in (x, g))
    torch.testing.assert_close(found, x * g)


def test_layouts():
    x = torch.arange(24.0).view(1, 2, 3, 4)
    assert torch.equal(to_map(x, (30, 40)), x)
    assert torch.equal(to_map(x.permute(0, 2, 3, 1), (30, 40)), x)
    tokens = torch.cat((torch.zeros(1, 1, 2), x.flatten(2).mT), 1)
    assert torch.equal(to_map(tokens, (30, 40)), x)
    with pytest.raises(ValueError, match="wanted a map"):
        to_map(torch.zeros(1, 7, 2), (10, 300), 0)


def test_merged_norms_give_gradients():
    arch = {"embed_dims": (8, 8), "depths": (1, 1)}
    network = ClassificationNetwork(ResNetCifar(arch), 3).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    image = make_images(1)
    leaf = image.clone().requires_grad_()
    (g,) = torch.autograd.grad(network(leaf)[:, 2].sum(), leaf)
    torch.testing.assert_close(explain(network, image, 2, "gradient"), g.abs().amax(1, True))
    assert explain(network, image, 2, "norm_grad_proper", "backbone.stages.1.0.conv1", resize=False).shape[
        2:
    ] == (6, 8)
    with pytest.raises(ValueError, match="was not called: where a norm is merged"):
        explain(network, image, 2, "norm_grad", "backbone.stages.1.0.conv1.norm")


def test_a_stage_is_its_last_block():
    network, image = (
        ClassificationNetwork(ResNetCifar({"embed_dims": (8,), "depths": (2,)}), 3),
        make_images(1),
    )
    found = explain(network, image, 2, "norm_grad", "backbone.stages.0")
    assert torch.equal(found, explain(network, image, 2, "norm_grad", "backbone.stages.0.1"))
    plain = make_network()
    assert torch.equal(
        explain(nn.Sequential(plain[:5], plain[5:]), image, 1, "norm_grad", "0"),
        explain(plain, image, 1, "norm_grad", "4"),
    )


def test_blur_keeps_constants_and_spreads_points():
    assert torch.allclose(gaussian_blur(torch.full((1, 1, 6, 9), 2.0), 0.1), torch.tensor(2.0))
    point = torch.zeros(1, 1, 41, 41)
    point[0, 0, 20, 20] = 1
    found = gaussian_blur(point, 0.05)[0, 0]
    assert found.sum() == pytest.approx(1) and found[20, 22] / found[20, 20] == pytest.approx(
        torch.exp(torch.tensor(-4 / (2 * 2.05**2))).item(), rel=1e-4
    )


def test_combining():
    maps = [torch.tensor([[0.0, 1], [2, 4]]).view(1, 1, 2, 2), torch.ones(1, 1, 2, 2)]
    assert torch.equal(combine_maps(maps, (2, 2)), maps[0] / 8)  # a constant map is 0
    assert not combine_maps(maps, (2, 2), "plain_product").any()
    linear = combine_maps([maps[0], maps[0].flip(3)], (2, 2), "sum", "linear")
    torch.testing.assert_close(linear, (maps[0] + 2 * maps[0].flip(3)) / 12)
    table = LAYER_WEIGHTS["accuracy"]["ResNet-50"]
    found = combine_maps([maps[0]] * 2, (2, 2), "product", "accuracy", ("layer1", "layer4"))
    torch.testing.assert_close(found, maps[0] / 4)
    assert sum(table.values()) == pytest.approx(1, abs=1e-4)


def test_published_scripts():
    network, image = make_network(), make_images()
    found = explain(network, image, 1, layer="4", reference_quirks=True)
    assert found.shape == (2, 1, 224, 224) and found.min() == 0 and found.max() == 1
    assert explain(network, image, 1, "centre", None, reference_quirks=True).isfinite().all()
    own = explain(network, image, 1, layer="4", normalize=True)
    assert own.amax((1, 2, 3)).tolist() == [1, 1] and own.amin((1, 2, 3)).tolist() == [0, 0]
    nn.init.zeros_(network[7].weight)
    assert explain(network, image, 1, layer="4", reference_quirks=True).isnan().all()
    assert not explain(network, image, 1, layer="4", normalize=True).any()

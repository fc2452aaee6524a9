import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dense
from dense.backbones import NAT
from dense.backbones.nat import GlobalAttention
from dense.layers import NeighborhoodAttention2d
from dense.registry import ZOO

SMALL = {
    "layout": "nat",
    "embed_dims": (8, 16),
    "depths": (2, 3),
    "num_heads": (1, 2),
    "window_size": 3,
    "dilations": ((1, 4), (None, 2)),
    "mlp_ratio": 2.0,
    "layer_scale": 0.0,
}


def publish(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a model of the layout "nat" or "isotropic", as their authors name them."""
    layout = getattr(model, "backbone", model).spec["layout"]
    published = {}
    for key, value in model.state_dict().items():
        head, _, rest = key.removeprefix("backbone.").partition(".")
        first, _, last = rest.partition(".")
        if head == "stages":
            key = f"layers.{last}" if layout == "isotropic" else f"levels.{first}.blocks.{last}"
        elif head == "downsamples":
            key = f"levels.{int(first) - 1}.downsample.{last}" if int(first) else f"patch_embed.{last}"
        elif head == "norms":
            key = f"norm{rest}"
        else:
            key = rest.replace("fc.", "head.") if rest.startswith("fc.") else rest
        published[key] = value.clone()
    return published


def test_dilations_go_over_the_blocks():
    backbone = NAT(SMALL)
    found = [[block.attn.dilation[0] for block in stage] for stage in backbone.stages]
    assert found == [[1, 4], [1, 2, 1]]
    with torch.device("meta"):
        dinat = NAT("dinat_small")
    assert [block.attn.dilation for block in dinat.stages[0]] == [(1, 1), (8, 8), (1, 1)]
    assert dinat.stages[0][0].gamma1 is None
    own = NAT({**SMALL, "layer_scale": 1e-5})
    assert own.stages[0][0].gamma1.tolist() == pytest.approx([1e-5] * 8)


def test_smallest_images():
    """Each level must have a window times its dilation."""
    sizes = {"mini": 193, "dinat_mini": 221, "isotropic_small": 112, "dinat_isotropic_small": 224}
    with torch.device("meta"):
        assert {arch: NAT(arch).min_size for arch in sizes} == sizes
    backbone = NAT(SMALL)  # 12 pixels of stride 4, 6 of stride 8
    assert backbone.min_size == 45
    maps = backbone(torch.randn(1, 3, 45, 46))
    assert [m.shape[2:] for m in maps] == [(12, 12), (6, 6)]
    with pytest.raises(ValueError, match="at least 45 x 45, found 44 x 60"):
        backbone(torch.randn(1, 3, 44, 60))
    assert NAT(SMALL, out_indices=(0,)).min_size == 45
    padded = NAT(SMALL, small_input="pad")
    assert [m.shape[2:] for m in padded(torch.randn(1, 3, 9, 30))] == [(3, 8), (2, 4)]


def test_padding_changes_nothing_where_maps_are_large_enough():
    backbone = NAT(SMALL, small_input="pad").eval()
    x = torch.randn(1, 3, 48, 64)
    padded = backbone(x)
    for module in backbone.modules():
        if isinstance(module, NeighborhoodAttention2d):
            module.small_input = "error"
    assert all(torch.equal(p, e) for p, e in zip(padded, backbone(x), strict=True))


@pytest.mark.parametrize("arch", ["dinat_s_tiny", "isotropic_small", "vitrpb_small"])
def test_other_layouts(arch):
    """Maps of odd images; a gradient for each parameter."""
    spec = NAT.archs[arch]
    levels = len(spec["depths"])
    own = {**spec, "embed_dims": (32, 64, 128, 256)[:levels], "num_heads": (1, 2, 4, 8)[:levels]}
    backbone = NAT({**own, "depths": (1,) * levels})
    maps = backbone(torch.randn(1, 3, 230, 247))
    wanted = [(58, 62), (29, 31), (15, 16), (8, 8)] if levels > 1 else [(14, 15)]
    assert [m.shape[2:] for m in maps] == wanted
    sum(m.square().sum() for m in maps).backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_global_attention_is_neighborhood_attention_of_all_pixels():
    """And smaller maps take the middle of its table, larger ones take it stretched."""
    full, near = GlobalAttention(8, 2, grid=5), NeighborhoodAttention2d(8, 2, 5)
    near.load_state_dict(full.state_dict())
    x = torch.randn(2, 5, 5, 8)
    torch.testing.assert_close(full(x), near(x))
    whole = full.bias(5, 5).view(2, 5, 5, 5, 5)
    assert torch.equal(full.bias(3, 4).view(2, 3, 4, 3, 4), whole[:, :3, :4, :3, :4])
    stretched = full.bias(9, 5).view(2, 9, 5, 9, 5)
    torch.testing.assert_close(stretched[:, 0, 0, 0, 0], whole[:, 0, 0, 0, 0])  # of no distance
    torch.testing.assert_close(stretched[:, 0, 0, 8, 4], whole[:, 0, 0, 4, 4])  # of the largest
    weights, values = full.weigh(*torch.randn(2, 1, 2, 12, 4), 3, 4), torch.randn(1, 2, 12, 4)
    assert torch.allclose(weights.sum(-1), torch.ones(1, 2, 12)) and (weights @ values).isfinite().all()


@pytest.mark.parametrize("features_only", [False, True])
def test_published_weights_load_without_a_name(features_only):
    """A warning says that dilations were not there to see."""
    options = {"features_only": True} if features_only else {"num_classes": 5}
    model = dense.create_model("nat_mini", **options)
    published = publish(model)
    with pytest.warns(UserWarning, match="fits nat_mini and nat_dinat_mini alike, taken as nat_mini"):
        found = ZOO.identify(published, "weights.pth")
    assert (found.name, found.options) == ("nat_mini", options)
    state = model.state_dict()
    assert found.state_dict.keys() == state.keys()
    assert all(torch.equal(found.state_dict[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("nat_mini_1k-2f0c.pth", "nat_mini"),
        ("dinat_mini_in1k_224.pth", "nat_dinat_mini"),
        ("runs/DiNAT-Mini.pth", "nat_dinat_mini"),
        ("dinat_large_in22k_in1k_384.pth", "nat_dinat_large_384"),
        ("dinat_large_in22k_in1k_224.pth", "nat_dinat_large"),
    ],
)
def test_names_of_files_tell_dilations(file, wanted, monkeypatch):
    with torch.device("meta"):
        published = publish(dense.create_model(wanted, num_classes=3))
    monkeypatch.setattr(ZOO, "systems", lambda: {"nat": NAT})
    assert ZOO.identify(published, file).name == wanted


@pytest.mark.parametrize("name", ["nat_dinat_small", "nat_dinat_large_384_11x11", "nat_vitrpb_small"])
def test_weights_tell_other_variants_apart(name, monkeypatch):
    with torch.device("meta"):
        published = publish(dense.create_model(name, num_classes=3))
    monkeypatch.setattr(ZOO, "systems", lambda: {"nat": NAT})
    assert ZOO.identify(published).name == name


def test_unknown_layout():
    with pytest.raises(ValueError, match="layout must be 'nat', 'swin' or 'isotropic', found 'pyramid'"):
        NAT({**SMALL, "layout": "pyramid"})


def test_classifier_norms_before_it_pools():
    model = dense.create_model("nat_mini", num_classes=4).eval()
    features = torch.randn(2, 512, 3, 4)
    normed = F.layer_norm(features.permute(0, 2, 3, 1), (512,)).mean((1, 2))
    torch.testing.assert_close(model.forward_head(features), model.head.fc(normed))

"""Published weights are told apart by their keys and shapes: which backbone, which variant, which options."""

import re
from pathlib import Path

import pytest
import torch

import dense
from dense.base import BaseBackbone
from dense.registry import ZOO
from pointsuite.engine.checkpoint import CheckpointError, save_checkpoint
from pointsuite.engine.skeleton import skeletons
from pointsuite.engine.zoo import load_converted
from tests.parity import packs

PACKS = Path(__file__).parents[2] / "parity" / "packs"
# packs of classifiers: name of the model, a block that may go, how the last layers begin
CLASSIFIERS = {
    "biformer/biformer_tiny": ("biformer_tiny", "stages.2.7.", "head."),
    "biformer/biformer_stl_nchw": ("biformer_stl_nchw", "stages.2.blocks.5.", "head."),
    "davit/davit_tiny": ("davit_tiny", "main_blocks.2.2.", "head."),
    "hornet/hornet_tiny_7x7": ("hornet_tiny_7x7", "stages.2.17.", "head."),
    "hornet/hornet_tiny_gf": ("hornet_tiny_gf", "stages.2.17.", "head."),
    "rala/ravlt_t": ("rala_tiny", "layers.2.blocks.5.", "head."),
    "shvit/shvit_s1": ("shvit_s1", "blocks3.7.", "head.l."),
    "shvit/shvit_s1_distill": ("shvit_s1", "blocks3.7.", ("head.l.", "head_dist.l.")),
    "transnext/transnext_micro": ("transnext_micro", "block3.14.", "head."),
    "weighted_conv/choice_resnet18_cifar": ("resnet_cifar_18", "layer3.1.", "fc."),
}


def published(pack):
    rows = packs.load(PACKS / f"{pack}.json")["state_dict"]
    return {key: torch.empty(shape, device="meta") for key, shape, _ in rows}


def with_classes(state, start, number):
    return {
        key: value.new_empty(number, *value.shape[1:]) if key.startswith(start) else value
        for key, value in state.items()
    }


def depths_of(name):
    cls, arch = ZOO.find_system(name)
    return tuple(cls.archs[arch]["depths"])


@pytest.mark.parametrize("pack", CLASSIFIERS)
def test_published_classifiers(pack):
    name, block, last = CLASSIFIERS[pack]
    state = with_classes(published(pack), last, 7)
    found = ZOO.identify(state)
    assert found.name == name and found.options["num_classes"] == 7 and "arch" not in found.options
    assert bool(found.options.get("distillation")) == ("distill" in pack)
    shallower = {key: value for key, value in state.items() if not key.startswith(block)}
    assert len(shallower) < len(state)
    found = ZOO.identify(shallower)
    wanted = list(depths_of(name))
    wanted[2 if len(wanted) > 2 else 1] -= 1
    assert found.name.split("_")[0] == name.split("_")[0] and found.options["num_classes"] == 7
    assert found.options["arch"]["depths"] == tuple(wanted)


def test_weighted_convolutions_show():
    state = published("weighted_conv/choice_resnet18_cifar")
    assert ZOO.identify(state).options["density"] == {3: (0.7,)}
    plain = {key: value for key, value in state.items() if not key.endswith(("alfa", "Phi"))}
    assert ZOO.identify(plain).options == {"num_classes": 100}


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_dense_backbones(prefix):
    state = {prefix + key: value for key, value in published("davit/davit_tiny_dense").items()}
    if prefix:
        state["neck.weight"] = torch.empty(3, device="meta")
    found = ZOO.identify(state)
    assert found.name == "davit_tiny" and found.options["features_only"]


def test_davits_flags_show():
    state = published("davit/davit_tiny")
    overlapped = dict(state)
    for key, value in state.items():
        if re.fullmatch(r"patch_embeds\.[1-3]\.proj\.weight", key):
            overlapped[key] = value.new_empty(*value.shape[:2], 3, 3)
    assert ZOO.identify(overlapped).options["arch"]["overlapped_patch"]
    bare = {k: v for k, v in state.items() if "qkv.bias" not in k and ".mlp." not in k and ".norm2." not in k}
    options = ZOO.identify(bare).options
    assert options["qkv_bias"] is False and options["ffn"] is False


def test_hornets_filter_sizes_show():
    state = published("hornet/hornet_tiny_gf")
    for key, value in state.items():
        if key.endswith("complex_weight"):
            state[key] = value.new_empty(len(value), 9, 6, 2)
    assert ZOO.identify(state).options["arch"]["filter_sizes"] == (None, None, (9, 6), (9, 6))


def test_transnexts_windows_show():
    state = published("transnext/transnext_micro")
    for key, value in state.items():
        if re.fullmatch(r"block1\.\d+\.attn\.(relative_pos_bias_local|learnable_(tokens|bias))", key):
            state[key] = value.new_empty(*value.shape[:-1], 25)
    found = ZOO.identify(state)
    assert found.name == "transnext_micro" and found.options["window_sizes"] == (5, 3, 3, 3)


def test_other_widths_are_refused_and_the_nearest_named():
    state = published("shvit/shvit_s1")
    state = {key: value[..., :1] if key.endswith("pw2.c.weight") else value for key, value in state.items()}
    state["patch_embed.0.c.weight"] = torch.empty(17, 3, 3, 3, device="meta")
    with pytest.raises(CheckpointError, match=r"no variant; nearest are shvit_s1 \(1 tensors differ\)"):
        ZOO.identify(state)


def test_names_tell_biformers_designs_apart():
    state = published("biformer/biformer_stl_nchw")
    assert ZOO.identify(state).name == "biformer_stl_nchw"
    renamed = {k.replace("qkv_linear", "qkv.qkv").replace("output_linear", "wo"): v for k, v in state.items()}
    assert ZOO.identify(renamed).name == "biformer_stl"


def test_unknown_keys_are_refused():
    with pytest.raises(CheckpointError, match=r"its keys \(stem.weight, ...\) are of no system known here"):
        ZOO.identify({"stem.weight": torch.zeros(1)})


def test_load_official(tmp_path):
    pack = packs.load(PACKS / "shvit" / "shvit_s1.json")
    state = {key: torch.from_numpy(value) for key, value in packs.fill_state_dict(pack).items()}
    state = {key: value[:3] if key.startswith("head.l.") else value for key, value in state.items()}
    save_checkpoint({"model": state, "epoch": 3}, tmp_path / "found.pth")
    model = dense.load_official(tmp_path / "found.pth").eval()
    wanted = dense.create_model("shvit_s1", num_classes=3).eval()
    load_converted(wanted, wanted.convert_official(state), "state")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = model(x)
        assert logits.shape == (2, 3) and logits.isfinite().all() and torch.equal(logits, wanted(x))


def backbones():
    return {name: cls for name, cls in ZOO.systems().items() if issubclass(cls, BaseBackbone)}


def shapes(state):
    return {key: value.shape for key, value in state.items()}


@pytest.mark.parametrize("system", backbones())
def test_every_variant_has_a_count_and_is_told_from_the_others(system):
    """Of weights named as ours, exactly one guess among the published variants fits: the variant itself."""
    cls = backbones()[system]
    assert cls.num_parameters.keys() == cls.archs.keys()
    names = {name for name in dense.list_models(f"{system}_*") if ZOO.find_system(name)[0] is cls}
    assert names == {f"{system}_{arch}" for arch in cls.archs}
    states, options = {}, {}
    for arch, wanted in cls.num_parameters.items():
        with skeletons():
            network = dense.create_model(f"{system}_{arch}")
        assert sum(p.numel() for p in network.parameters()) == wanted, arch
        states[arch] = network.state_dict()
        classes = getattr(network, "num_classes", None)
        options[arch] = {"num_classes": classes} if classes else {"features_only": True}
    for arch, state in states.items():
        found = {
            guess: taken
            for guess, taken, _ in cls.guess_options(state)
            if "arch" not in taken and shapes(states[guess]) == shapes(state)
        }
        assert arch in found and found.pop(arch) == options[arch]
        alike = {cls.twins.get(arch, arch) for arch in (arch, *found)}
        alike = {arch.removeprefix("lite_").removesuffix("_nchw") for arch in alike}
        assert len(alike) == 1  # names decide between those


@pytest.mark.parametrize("system", ["lsnet", "terminator", "vit", "relation_detr", "vad_hybrid"])
def test_parts_of_files_are_refused_in_a_line(system):
    """Whatever a truncated file lacks, or has of another rank, is no other error."""
    pack = max((PACKS / system).glob("*.json"), key=lambda path: path.stat().st_size)
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape, *_ in packs.load(pack)["state_dict"]}
    parts = sorted({key.split(".")[0] for key in state})[:4]
    broken = [{k: v for k, v in state.items() if k.split(".")[0] != part} for part in parts]
    broken += [{key: value.flatten() for key, value in state.items()}]
    broken += [{f"backbone.{key}": value.sum() for key, value in state.items()}]
    refused = 0
    for file in broken:
        try:
            ZOO.identify(file)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= 2

"""The runner says in a line what is wrong; adapters read every word, and weights for the rest."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from . import packs, run
from .adapt import Case, Words

PACKS = Path(__file__).parent / "packs"


def load(name):
    return json.loads((PACKS / f"{name}.json").read_text())


def write(tmp_path, pack, folder):
    path = tmp_path / folder / "hidden_pack.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(pack))
    return str(path)


def outcome(capsys, path):
    code = run.main([path])
    return code, capsys.readouterr().out


# -------------------------------------------------------------------------------------- files and folders


@pytest.mark.parametrize(
    "name", ["risurconv/op_point_attention", "ufc/choice_confidence_select", "davit/channel_block"]
)
def test_the_folder_alone_names_the_adapter(tmp_path, capsys, name):
    pack = load(name) | {"source": "", "name": "hidden"}
    code, out = outcome(capsys, write(tmp_path, pack, name.split("/")[0]))
    assert code == 0, out


def test_an_unknown_folder_fails(tmp_path, capsys):
    code, out = outcome(capsys, write(tmp_path, load("davit/channel_block"), "nobody"))
    assert code == 1
    assert "no adapter for packs of the folder 'nobody'" in out
    assert len(out.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("{", "no pack can be read"), ("[]", "a pack must have"), ('{"build": {}}', "state_dict")],
)
def test_an_unreadable_pack_fails(tmp_path, capsys, text, wanted):
    path = tmp_path / "davit/broken.json"
    path.parent.mkdir()
    path.write_text(text)
    code, out = outcome(capsys, str(path))
    assert code == 1
    assert wanted in out
    assert len(out.splitlines()) == 1


def test_a_missing_file_fails(tmp_path, capsys):
    code, out = outcome(capsys, str(tmp_path / "davit/absent.json"))
    assert (code, len(out.splitlines())) == (1, 1)
    assert "No such file" in out


def test_one_bad_pack_does_not_hide_the_others(tmp_path, capsys):
    good = str(PACKS / "davit/channel_attention.json")
    assert run.main([str(tmp_path / "absent.json"), good]) == 1
    assert f"ok   {good}" in capsys.readouterr().out


def test_a_wrong_value_fails(tmp_path, capsys):
    pack = load("risurconv/op_point_attention")
    pack["outputs"]["y"]["value"][3] += 0.01
    code, out = outcome(capsys, write(tmp_path, pack, "risurconv"))
    assert code == 1
    assert "too large" in out


def test_an_output_that_nobody_computes_fails(tmp_path, capsys):
    pack = load("risurconv/op_point_attention")
    pack["outputs"]["z"] = pack["outputs"]["y"]
    pack["outputs"]["tap.z"] = pack["outputs"]["y"]
    code, out = outcome(capsys, write(tmp_path, pack, "risurconv"))
    assert code == 1
    assert [line.split()[0] for line in out.splitlines() if "not computed" in line] == ["z"]


# --------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("system", run.known_systems())
def test_an_unknown_word_is_named(tmp_path, system):
    path = min((PACKS / system).glob("*.json"), key=lambda path: path.stat().st_size)
    pack = json.loads(path.read_text())
    if isinstance(pack["build"], str):
        pack["build"] = {"text": pack["build"]}
    pack["build"]["no_such_word"] = 1
    copy = write(tmp_path, pack, system)
    with pytest.raises(ValueError, match="no_such_word"):
        made, _ = run.read(copy)
        run.find_adapter(copy).adapt(made)
        made.words.check()


def test_words_that_contradict_the_weights_are_named(tmp_path, capsys):
    for name, word, value in [
        ("davit/channel_attention", "dim", 47),
        ("hornet/op_gnconv_order4", "order", 3),
        ("hat/op_hab_ocab", "window_size", 8),
        ("weighted_conv/choice_dncnn", "depth", 8),
    ]:
        pack = load(name)
        pack["build"][word] = value
        code, out = outcome(capsys, write(tmp_path, pack, name.split("/")[0]))
        assert code == 1
        assert f"word '{word}' is {value}" in out


def test_words_of_options_that_a_model_lacks_are_refused(tmp_path, capsys):
    for name, word, value in [
        ("biformer/biformer_tiny", "topks", [1, 4, 16, -1]),
        ("biformer/biformer_tiny", "side_dwconv", 3),
        ("shvit/shvit_s1", "qk_dim", 32),
        ("hat/hat_small_x2", "upsampler", "nearest+conv"),
        ("hat/hat_small_x2", "pad", "zeros"),
        ("relation_detr/relation_detr_r50_q100", "backbone", "swin"),
        ("relationnet2/bvr_retina_head", "bbox_head", "RepPointsHead"),
    ]:
        pack = load(name)
        pack["build"][word] = value
        code, out = outcome(capsys, write(tmp_path, pack, name.split("/")[0]))
        assert code == 1
        assert f"word {word!r}" in out
        assert len(out.splitlines()) == 1


FROM_WEIGHTS = {  # words that may be left out, for the weights or the sheet's defaults say the same
    "biformer/op_bra_legacy": ("dim", "side_dwconv", "layout"),
    "davit/davit_tiny_dense": ("op", "depths", "embed_dims", "num_heads"),
    "davit/spatial_block": ("dim", "window_size"),
    "hat/op_hab_ocab": ("dim", "num_heads", "window_size", "mlp_ratio", "overlap_ratio"),
    "hornet/op_gnconv_order4": ("dim", "order", "kernel"),
    "rala/op_linear": ("dim", "num_heads", "layout"),
    "relation_detr/op_position_relation": ("embed_dim", "heads"),
    "relation_detr/op_criterion": ("num_classes", "alpha", "gamma", "costs"),
    "relationnet2/op_bvr_transformer": ("channels", "heads", "groups", "base_size", "log_scale"),
    "relationnet2/op_keypoint_head_cornerpool": ("channels", "num_classes", "stacked_convs", "norm"),
    "relationnet2/op_keypoint_targets_loss": ("num_classes", "strides", "gaussian_iou"),
    "risurconv/op_surface_features_k8": ("K", "S"),
    "self_guided_attention/op_attention": ("channels",),
    "shvit/op_shsa": ("dim", "qk_dim", "pdim"),
    "transnext/aggregated_attention_w5": ("op", "dim", "num_heads", "window_size", "qkv_bias"),
    "ufc/cats_aggregator": ("levels", "grid", "proj", "heads", "depth", "mlp_ratio"),
    "ufc/choice_integrative_level": ("grid", "d", "cost_grid", "d_attn"),
    "vad_hybrid/op_blocks": ("encoder_dim", "lstm_features", "lstm_inputs", "kernel"),
    "weighted_conv/choice_nafnet": ("width", "middle", "enc", "dec"),
    "weighted_conv/choice_vgg_small": ("cfg", "classes"),
    "weighted_conv/op_trainable": ("kernel",),
}


@pytest.mark.parametrize("name", FROM_WEIGHTS)
def test_what_the_weights_say_needs_no_words(tmp_path, capsys, name):
    pack = load(name)
    for word in FROM_WEIGHTS[name]:
        del pack["build"][word]
    code, out = outcome(capsys, write(tmp_path, pack, name.split("/")[0]))
    assert code == 0, out


SHALLOW = {  # keys of the blocks to leave out
    "biformer/biformer_tiny": r"stages\.\d\.[1-9]",
    "biformer/biformer_stl_nchw": r"stages\.\d\.blocks\.[1-9]",
    "davit/davit_tiny": r"main_blocks\.2\.[12]",
    "hornet/hornet_tiny_gf": r"stages\.\d\.[1-9]",
    "rala/ravlt_t": r"layers\.\d\.blocks\.[1-9]",
    "shvit/shvit_s1": r"blocks1\.1|blocks[23]\.[4-9]",
    "transnext/transnext_micro": r"block\d\.[1-9]",
    "hat/hat_small_x2": r"layers\.1\.|layers\.0\.residual_group\.blocks\.1",
    "ufc/cats_aggregator": r"blocks\.1",
    "vad_hybrid/white_corner_mask": r"net\.conv_tsfm_(en|de)_[2-5]",
    "weighted_conv/choice_nafnet": r"middle_blks",
    "weighted_conv/choice_vgg_small": r"features\.1[12]",
    "weighted_conv/choice_resnet18_cifar": r"layer\d\.1",
    "relation_detr/relation_detr_train_path": r"transformer\.decoder\.(layers|class_head|bbox_head)\.2",
}
CHANGED = (
    "depth",
    "depths",
    "orders",
    "decoder_layers",
    "middle",
    "cfg",
    "classes",
    "num_classes",
    "num_heads",
)


@pytest.mark.parametrize("name", SHALLOW)
def test_depths_and_classes_come_from_the_weights(tmp_path, name):
    """A pack of fewer blocks and of 7 classes runs."""
    pack = load(name)
    rows = [row for row in pack["state_dict"] if not re.match(SHALLOW[name], row[0])]
    assert len(rows) < len(pack["state_dict"])
    for row in rows:
        if re.fullmatch(r"(head(\.l)?|classifier|fc)\.(weight|bias)", row[0]):
            row[1][0] = 7
    build = {word: value for word, value in pack["build"].items() if word not in CHANGED}
    facts = {key: fact for key, fact in pack["outputs"].items() if not key.startswith(("tap.", "grad."))}
    for key, fact in facts.items():
        if key == "logits":
            fact["shape"][-1] = 7
    if name.startswith("relation_detr"):
        facts = {"enc_logits": facts["enc_logits"]}
    elif list(pack["inputs"]) == ["x"] and pack["inputs"]["x"]["shape"][-1] == 224:
        pack["inputs"]["x"]["shape"] = [1, 3, 64, 64]
        facts["logits"]["shape"] = [1, 7]
    path = write(tmp_path, pack | {"state_dict": rows, "build": build, "outputs": facts}, name.split("/")[0])
    made, _ = run.read(path)
    case = run.find_adapter(path).adapt(made)
    made.words.check()
    found = run.run_case(case, made)
    own = sum(value.numel() for key, value in made.weights.items() if not key.endswith(packs.STATISTICS))
    assert 0 < own < pack["parameters"]
    for key, fact in facts.items():
        assert list(found[key].shape) == fact["shape"]
        assert found[key].isfinite().all()


# ------------------------------------------------------------------------------------------------ the case


@pytest.fixture
def linear(tmp_path):
    """A pack's file, and how to run a case of it; the weights are those of `nn.Linear(3, 2)`."""
    pack = {
        "name": "linear",
        "build": {},
        "inputs": {"x": {"kind": "normal", "shape": [4, 3], "seed": 0}},
        "state_dict": [["weight", [2, 3], "learned"], ["bias", [2], "learned"]],
        "outputs": {"y": {"shape": [4, 2]}, "grad.x.of.y": {"shape": [4, 3]}},
    }
    made, _ = run.read(write(tmp_path, pack, "linear"))
    return made


def test_a_case_is_run_twice_or_once(linear):
    seen = []

    def watched(once):
        model = nn.Linear(3, 2)

        def forward(inputs):
            seen.append((torch.is_inference_mode_enabled(), model.training, model.weight.requires_grad))
            return model(inputs["x"])

        return run.run_case(Case(model, linear.weights, run=forward, once=once), linear)

    first, second = watched(False), watched(True)
    assert seen == [(True, False, False), (False, False, False), (False, False, True)]
    wanted = run.probe((4, 2)) @ linear.weights["weight"]
    for found in (first, second):
        torch.testing.assert_close(found["grad.x.of.y"], wanted)
        torch.testing.assert_close(
            found["y"], linear.inputs["x"] @ linear.weights["weight"].T + linear.weights["bias"]
        )


def test_gradients_can_be_taken_in_float64(linear):
    found = run.run_case(Case(nn.Linear(3, 2), linear.weights, double=True), linear)
    assert (found["y"].dtype, found["grad.x.of.y"].dtype) == (torch.float32, torch.float64)


def test_gradients_of_unknown_inputs_and_outputs_are_named(linear):
    for name, match in (("grad.z.of.y", "no input 'z'"), ("grad.x.of.z", "no output 'z'")):
        linear.facts[name] = {"shape": [4, 3]}
        with pytest.raises(ValueError, match=match):
            run.run_case(Case(nn.Linear(3, 2), linear.weights), linear)
        del linear.facts[name]


def test_weights_are_loaded_strictly():
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2))
    state = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    run.load(model, state)
    with pytest.raises(ValueError, match="lack 1 keys of Sequential, as '0.weight'"):
        run.load(model, {key: value for key, value in state.items() if key != "0.weight"})
    with pytest.raises(ValueError, match="have unknown 1 keys of Sequential, as 'other'"):
        run.load(model, {**state, "other": torch.ones(1)})
    run.load(model, {key: value for key, value in state.items() if key != "0.weight"}, r"0\.weight")


def test_taps_are_kept_as_they_were_in_the_published_order():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(2, 1, 1))
    taps = {}
    run.watch("tap.first", model[0], taps)
    run.watch("tap.sum", (model[0], lambda y, x: y.sum() + x.sum()), taps)
    x = torch.randn(1, 1, 3, 3)
    model(x)
    wanted = nn.functional.conv2d(x, model[0].weight, model[0].bias)
    torch.testing.assert_close(taps["tap.first"], wanted)
    torch.testing.assert_close(taps["tap.sum"], wanted.sum() + x.sum())
    for published in (wanted, wanted.permute(0, 2, 3, 1), wanted.flatten(2).mT):
        fact = packs.summarise(published.detach().numpy())
        torch.testing.assert_close(run.arrange(taps["tap.first"], fact), published.detach())
    assert run.arrange(taps["tap.first"], {"shape": [5]}) is None


def test_of_orders_of_equal_shape_the_nearest_counts():
    y = torch.randn(1, 4, 4, 4)
    for published in (y, y.permute(0, 3, 1, 2)):
        assert torch.equal(run.arrange(y, packs.summarise(published.numpy())), published)


def test_maps_that_a_pack_leaves_out_are_found_by_their_shapes(linear):
    linear.facts = {name: {"shape": [1, channels]} for name, channels in (("f1", 2), ("f3", 8))}
    maps = [torch.full((1, channels), float(channels)) for channels in (2, 4, 8)]
    found = run.by_name(maps, linear)
    assert {name: int(y[0, 0]) for name, y in found.items()} == {"f1": 2, "f3": 8}


def test_words():
    words = Words({"dim": 3, "op": "A", "other": None, "size": [1, 2]})
    words.agree(dim=3, size=(1, 2), absent=5)
    words.only("op", "A", "B")
    words.only("absent", "A")
    with pytest.raises(ValueError, match="does not know 'other' of build"):
        words.check()
    with pytest.raises(ValueError, match="word 'dim' is 3, but the pack shows 4"):
        words.agree(dim=4)
    with pytest.raises(ValueError, match=r"word 'op' must be one of \['B'\] here, found 'A'"):
        words.only("op", "B")
    with pytest.raises(ValueError, match="build has no word 'absent'"):
        words["absent"]
    words.skip("other")
    words.check()
    with pytest.raises(ValueError, match="does not know 'text'"):
        Words("the published network").check()

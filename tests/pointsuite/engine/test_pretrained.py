"""The weights that are shipped, and their cards."""

import json
from dataclasses import replace

import pytest
import torch

import dense
import pointsuite
from dense.registry import ZOO
from pointsuite.engine.checkpoint import load_checkpoint, sha256
from pointsuite.engine.command import CONFIGS
from pointsuite.engine.files import FileError
from pointsuite.engine.pretrained import FOLDER, find_cards, read_card
from pointsuite.engine.publishing import write_card
from pointsuite.engine.zoo import ZOO as CLOUD_ZOO
from tests.tools.load import load_tool

CARDS = find_cards()
ZOOS = {name: zoo for name in CARDS for zoo in (CLOUD_ZOO, ZOO) if name in zoo}
TOLERANCES = {"accuracy": 1 / 16 * 100, "iou": 0.5, "psnr": 0.01, "ssim": 1e-4}  # a shape, %, dB, 1


def test_their_names_and_sizes():
    assert list(CARDS) == ["edsr_s", "risurconv_partseg_s", "risurconv_s_cls"]
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12e6
    assert {path.suffix for path in FOLDER.iterdir()} == {".safetensors", ".json"}
    wanted = ["risurconv_partseg_s", "risurconv_s", "risurconv_s_cls", "risurconv_s_partseg"]
    assert pointsuite.list_models(pretrained=True) == wanted
    assert pointsuite.list_models("*cls", pretrained=True) == ["risurconv_s_cls"]
    assert dense.list_models(pretrained=True) == ["edsr_s"]


@pytest.mark.parametrize("name", CARDS)
def test_cards_say_what_the_files_are(name):
    card = CARDS[name]
    assert sha256(card.path) == card.sha256 and card.path.stem == f"{name}-{card.sha256[:8]}"
    assert (CONFIGS / card.config).is_file() and card.config in card.command and card.config in card.test
    assert card.seed == 0 and card.results and card.data and card.data_licence and card.licence
    meta = load_checkpoint(card.path)["meta"]
    assert set(meta) <= {"model", "pipeline", "dataset_meta", "seed", "epoch", "iter"}
    assert meta["model"]["type"] == card.model and "/" not in json.dumps(meta)
    model = ZOOS[name].create_model(name, pretrained=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == card.parameters
    state = {
        key.removeprefix("network."): value for key, value in load_checkpoint(card.path)["state_dict"].items()
    }
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def measure(card, indices=None):
    publish = load_tool("publish")
    cfg = publish.command.read_config(CONFIGS / card.config)
    if indices is not None:
        cfg.test_dataloader.dataset.indices = indices
    return publish.run_test(cfg, card.path)[0]


def assert_near(found, wanted):
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        (tolerance,) = {TOLERANCES[word] for word in TOLERANCES if word in key.lower()}
        assert found[key] == pytest.approx(value, abs=tolerance), key


@pytest.mark.parametrize("name", CARDS)
def test_a_few_samples_give_the_results_of_the_card(name):
    card = CARDS[name]
    assert_near(measure(card, card.sampled["indices"]), card.sampled["results"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_the_whole_test_gives_the_results_of_the_card(name):
    assert_near(measure(CARDS[name]), CARDS[name].results)


def test_docs_say_what_the_cards_say():
    text = (CONFIGS.resolve().parent / "docs/pretrained.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    for name, card in CARDS.items():
        (row,) = [row for row in rows if f"`{name}`" in row]
        assert all(f"{value:.3f}" in row or f"{value:.2f}" in row for value in card.results.values())
        assert f"{card.path.stat().st_size / 1e6:.1f} MB" in row and card.command.split(" --seed")[0] in text


def test_results_are_far_above_what_untrained_networks_have():
    assert CARDS["risurconv_s_cls"].results["overall_accuracy"] > 80
    restored = {key.rpartition("/")[2]: value for key, value in CARDS["edsr_s"].results.items()}
    assert restored["psnr"] > restored["psnr_input"] + 0.5


def test_other_classes_keep_the_backbone():
    whole = pointsuite.create_model("risurconv_s", pretrained=True).state_dict()
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=r"left as initialised: (head\.\d\.(weight|bias)(, )?){2}$"):
        network = pointsuite.create_model("risurconv_s", pretrained=True, num_classes=3)
    other = [key for key, value in network.state_dict().items() if not torch.equal(value, whole[key])]
    assert len(other) == 2 and all(len(network.state_dict()[key]) == 3 for key in other)
    with pytest.warns(UserWarning, match=r"left as initialised: head"):
        parts = pointsuite.create_model("risurconv_s_partseg", pretrained=True, num_parts=7)
    points = parts.example_inputs(1, 256)[0]
    assert parts.eval()(points, torch.tensor([0])).shape == (1, 256, 7)


def test_weights_that_are_not_shipped():
    wanted = r"^risurconv_cls: pretrained=True, but its weights are not shipped, as those of .*risurconv_s, "
    with pytest.raises(ValueError, match=wanted) as caught:
        pointsuite.create_model("risurconv_cls", pretrained=True)
    assert "\n" not in str(caught.value)


def test_predictors_take_the_names():
    assert pointsuite.Classifier("risurconv_s", device="cpu").classes == CARDS["risurconv_s_cls"].classes
    with pytest.raises(Exception, match="risurconv_cls"):
        pointsuite.Classifier("risurconv_cls", device="cpu")


def test_bad_cards(tmp_path):
    card = replace(CARDS["edsr_s"], folder=tmp_path)
    path = write_card(card)
    with pytest.raises(FileError, match="wanted a file of weights beside the card"):
        read_card(path)
    (tmp_path / "elsewhere.safetensors").touch()
    (tmp_path / "in").mkdir()
    outside = {**card.to_dict(), "file": "../elsewhere.safetensors"}
    (tmp_path / "in/card.json").write_text(json.dumps(outside))
    with pytest.raises(FileError, match="found '../elsewhere.safetensors', wanted a file of weights beside"):
        read_card(tmp_path / "in/card.json")
    card.path.touch()
    assert read_card(path) == card and find_cards(tmp_path) == {"edsr_s": card}
    second = replace(card, file="edsr_s-00000000.safetensors")
    second.path.touch()
    write_card(second)
    with pytest.raises(FileError, match="found a second card of edsr_s, wanted one"):
        find_cards(tmp_path)
    path.write_text(json.dumps({**card.to_dict(), "more": 1}))
    with pytest.raises(FileError, match=r"found \['more'\] too much or too little"):
        read_card(path)
